"""Trains a dense network on labelled images by backpropagation in plain NumPy.

It uses no files, clock, logging or test set: it reports progress on the training images only.

The backward pass follows K. Saito, Deep Learning from Scratch, chapter 5 ("Backpropagation").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS, SIDE, flatten, normalise, one_hot
from mnist_pipeline.core.network import BOOK, Activation, Architecture, Network
from mnist_pipeline.core.network.activations import apply_relu, apply_sigmoid_by_tanh
from mnist_pipeline.core.plan import cut
from mnist_pipeline.errors import ImagesError, LabelError, NumericalError, SettingsError

# Defaults of Kingma & Ba 2015, algorithm 1.
BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8

LEARNING_RATES: Mapping[Activation | None, float] = {"sigmoid": 0.02, "relu": 0.005, None: 0.02}

Tensors = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters and architecture of a network; the defaults are those of the weights that ship with the package.

    The defaults were chosen on a validation set, the last 10,000 training images; the test set was not used.
    The recipe is the same for every architecture but for the learning rate. The slope of ReLU is 1 and that of sigmoid
    at most 1/4, so that a step changes four times as much, and a quarter of the rate was best.

    Attributes:
        epochs: passes over all images.
        batch_rows: images per step; the short last batch of an epoch is kept.
        learning_rate: Adam's initial step size (Kingma & Ba 2015); it falls along half a cosine towards 0
            (Loshchilov & Hutter, SGDR, 2017, equation 5 without restarts). None for 0.02, with ReLU 0.005.
        weight_decay: decoupled weight decay of W1 .. WL per step and unit of learning rate (Loshchilov & Hutter
            2019); biases do not decay.
        shift_pixels: data augmentation: each image is shifted by -shift_pixels..shift_pixels pixels down and across,
            uniformly at random in each epoch; blank pixels fill the gap.
        seed: of the initial weights, the order of the images and their shifts.
        hidden: the width of each hidden layer, 0 to 7 of them, at most 4 million parameters in all.
        activation: of the hidden layers.

    Raises:
        SettingsError: a value is out of range.
    """

    epochs: int = 120
    batch_rows: int = 128
    learning_rate: float | None = None
    weight_decay: float = 0.02
    shift_pixels: int = 1
    seed: int = 1
    hidden: tuple[int, ...] = BOOK.hidden
    activation: Activation = "sigmoid"

    def __post_init__(self) -> None:
        minimums = {"epochs": 1, "batch_rows": 1, "shift_pixels": 0, "seed": 0}
        problems = [f"{name} >= {bound}" for name, bound in minimums.items() if getattr(self, name) < bound]
        rate = self.learning_rate
        problems += [] if rate is None or 0 < rate < math.inf else ["learning_rate > 0 and finite"]
        problems += [] if 0 <= self.weight_decay < math.inf else ["weight_decay >= 0 and finite"]
        problems += [] if self.activation in get_args(Activation) else ["activation sigmoid or relu"]
        if problems:
            raise SettingsError(f"expected {', '.join(problems)}; got {self}")
        self.architecture.check()

    @property
    def architecture(self) -> Architecture:
        """Of the network to train."""
        return Architecture(self.hidden, self.activation if self.hidden else None)

    @property
    def initial_rate(self) -> float:
        """The learning rate of the first step."""
        return LEARNING_RATES[self.architecture.activation] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class EpochReport:
    """The metrics of one epoch, measured during training: on shifted images, with weights that still change.

    Attributes:
        epoch: number of the epoch, from 1.
        epochs: number of epochs in total.
        loss: mean cross-entropy per image, in nats.
        accuracy: share of images predicted correctly, 0..1.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Backward:
    """The result of a backward pass: mean loss in nats, correct predictions, and d loss / d tensor by name."""

    loss: float
    correct: int
    gradients: dict[str, NDArray[np.floating[Any]]]


def fit(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    recipe: Recipe,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> Network:
    """Train a network from scratch.

    The same arguments give the same bits on the same machine with the same number of BLAS threads.

    Args:
        images: `[N, 28, 28]` uint8, 0..255, N >= 1.
        labels: `[N]` uint8, 0..9.
        recipe: the hyperparameters.
        on_epoch: called after each epoch, in this thread.

    Returns:
        The network after the last step.

    Raises:
        ImagesError: images have another shape or dtype.
        LabelError: labels have another shape or dtype, or are not digits.
        NumericalError: the loss or a weight became NaN or infinite in an epoch, which is not reported.
    """
    _check(images, labels)
    rng, architecture = np.random.default_rng(recipe.seed), recipe.architecture
    margin = recipe.shift_pixels
    # [N, 2 * margin + 1, 2 * margin + 1, 28, 28]: every shift of every image, as views of one padded copy.
    shifted = sliding_window_view(np.pad(images, ((0, 0), (margin, margin), (margin, margin))), (SIDE, SIDE), (1, 2))
    targets = one_hot(labels).astype(np.float32)
    adam = _Adam(_first_weights(architecture, rng), recipe.weight_decay)
    batches = cut(len(images), recipe.batch_rows)
    steps = recipe.epochs * len(batches)

    for epoch in range(1, recipe.epochs + 1):
        order = rng.permutation(len(images))
        down, across = rng.integers(0, 2 * margin + 1, (2, len(images)))
        loss, correct = 0.0, 0
        # Diverging training overflows; the check below reports it once.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for batch in batches:
                positions = slice(batch.start, batch.stop)
                rows = order[positions]
                pixels = flatten(normalise(shifted[rows, down[positions], across[positions]]))
                step = backward(adam.tensors, architecture.activation, pixels, targets[rows])
                adam.update(step.gradients, recipe.initial_rate * (1 + math.cos(math.pi * adam.step / steps)) / 2)
                loss += step.loss * batch.rows / len(images)
                correct += step.correct
        if not (math.isfinite(loss) and all(np.isfinite(tensor).all() for tensor in adam.tensors.values())):
            raise NumericalError(
                f"epoch {epoch} of {recipe.epochs}: expected a finite loss and weights, got a loss of {loss}; "
                f"lower the learning_rate, now {recipe.initial_rate}"
            )
        if on_epoch is not None:
            on_epoch(EpochReport(epoch, recipe.epochs, loss, correct / len(images)))
    return Network(adam.tensors, architecture.activation)


def backward(
    tensors: Tensors,
    activation: Activation | None,
    images: NDArray[np.floating[Any]],
    targets: NDArray[np.floating[Any]],
) -> Backward:
    """The loss of a batch and its gradients, in the precision of the arguments.

    Args:
        tensors: those of a network, `W1`, `b1` .. `bL`, float32 or float64.
        activation: of its hidden layers; None if there are none.
        images: `[B, 784]`, 0..1.
        targets: `[B, 10]`, one-hot labels.

    Returns:
        The mean cross-entropy of softmax, the correct predictions, and one gradient per tensor, in its shape.
    """
    activate = apply_relu if activation == "relu" else apply_sigmoid_by_tanh
    layers = len(tensors) // 2
    values = [images]  # what each layer is given
    for layer in range(1, layers):
        sums = values[-1] @ tensors[f"W{layer}"] + tensors[f"b{layer}"]
        activate(sums)
        values.append(sums)
    scores = values[-1] @ tensors[f"W{layers}"] + tensors[f"b{layers}"]
    scores -= scores.max(axis=1, keepdims=True)
    exponentials = np.exp(scores)
    sums = exponentials.sum(axis=1, keepdims=True)
    # log softmax = score - log(sum): stays finite where softmax itself underflows to 0.
    losses = np.log(sums[:, 0]) - (scores * targets).sum(axis=1)

    gradients: dict[str, NDArray[Any]] = {}
    d_sums = (exponentials / sums - targets) / len(images)  # softmax with cross-entropy: (y - t) / B
    for layer in range(layers, 0, -1):
        given = values[layer - 1]
        gradients |= {f"W{layer}": given.T @ d_sums, f"b{layer}": d_sums.sum(axis=0)}
        if layer > 1:
            d_given = d_sums @ tensors[f"W{layer}"].T
            d_sums = d_given * (given > 0) if activation == "relu" else d_given * given * (1 - given)
    correct = int(np.count_nonzero(scores.argmax(axis=1) == targets.argmax(axis=1)))
    return Backward(float(losses.mean()), correct, gradients)


class _Adam:
    """Adam with decoupled weight decay; it updates its weights in place.

    All tensors are views of one flat array, so that a step takes 12 NumPy calls, not 12 for each.
    """

    def __init__(self, tensors: Tensors, weight_decay: float) -> None:
        self._values = np.concatenate([tensor.ravel() for tensor in tensors.values()])
        edges = np.cumsum([tensor.size for tensor in tensors.values()])[:-1]
        slices = zip(tensors.items(), np.split(self._values, edges), strict=True)
        self.tensors: Tensors = {name: values.reshape(tensor.shape) for (name, tensor), values in slices}
        self.step = 0
        self._weight_decay = weight_decay
        self._mean, self._square, self._gradient, self._scratch = np.zeros((4, self._values.size), np.float32)

    def update(self, gradients: Tensors, learning_rate: float) -> None:
        """Take one step of gradient descent."""
        self.step += 1
        gradient, scratch = self._gradient, self._scratch
        np.concatenate([gradients[name].ravel() for name in self.tensors], out=gradient)
        self._mean *= BETA_1
        self._mean += np.multiply(gradient, 1 - BETA_1, out=scratch)
        self._square *= BETA_2
        np.square(gradient, out=scratch)
        scratch *= 1 - BETA_2
        self._square += scratch
        for name, tensor in self.tensors.items():
            if name.startswith("W"):
                tensor *= 1 - learning_rate * self._weight_decay
        # Bias correction of both moments, folded into two scalars.
        np.sqrt(self._square, out=scratch)
        scratch /= math.sqrt(1 - BETA_2**self.step)
        scratch += EPSILON
        np.divide(self._mean, scratch, out=scratch)
        scratch *= learning_rate / (1 - BETA_1**self.step)
        self._values -= scratch


def _first_weights(architecture: Architecture, rng: np.random.Generator) -> Tensors:
    # Glorot & Bengio 2010, equation 16: uniform, variance 2 / (inputs + outputs); biases start at 0. With ReLU the
    # larger variance of He et al. 2015 gives the same accuracy.
    return {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(math.sqrt(6 / sum(shape)))
        if len(shape) == 2
        else np.zeros(shape, np.float32)
        for name, shape in architecture.shapes.items()
    }


def _check(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE) or len(images) == 0 or images.dtype != np.uint8:
        raise ImagesError(
            f"training images: expected (N, {SIDE}, {SIDE}) uint8 with N >= 1, got {images.shape} {images.dtype}; "
            f"give uint8 pixels, not normalised and not flattened to {PIXELS}"
        )
    if labels.shape != (len(images),) or labels.dtype != np.uint8:
        raise LabelError(
            f"training labels: expected ({len(images)},) uint8, one per image, got {labels.shape} {labels.dtype}"
        )
    if labels.max() >= DIGITS:
        raise LabelError(
            f"training labels: expected digits 0-{DIGITS - 1}, got {labels.max()}; is this the label file?"
        )
