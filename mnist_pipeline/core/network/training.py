"""Trains the 784-50-100-10 network on labelled images by backpropagation in plain NumPy.

It uses no files, clock, logging or test set: it reports progress on the training images only.

The backward pass follows K. Saito, Deep Learning from Scratch, chapter 5 ("Backpropagation").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS, SIDE, flatten, normalise, one_hot
from mnist_pipeline.core.network import Network
from mnist_pipeline.core.network.architecture import BOOK
from mnist_pipeline.core.plan import cut
from mnist_pipeline.errors import ImagesError, LabelError, NumericalError, SettingsError

# Defaults of Kingma & Ba 2015, algorithm 1.
BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8

Tensors = Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; the defaults are those of the weights that ship with the package.

    The defaults were chosen on a validation set, the last 10,000 training images; the test set was not used.

    Attributes:
        epochs: passes over all images.
        batch_rows: images per step; the short last batch of an epoch is kept.
        learning_rate: Adam's initial step size (Kingma & Ba 2015); it falls along half a cosine towards 0
            (Loshchilov & Hutter, SGDR, 2017, equation 5 without restarts).
        weight_decay: decoupled weight decay of W1, W2 and W3 per step and unit of learning rate (Loshchilov & Hutter
            2019); biases do not decay.
        shift_pixels: data augmentation: each image is shifted by -shift_pixels..shift_pixels pixels down and across,
            uniformly at random in each epoch; blank pixels fill the gap.
        seed: of the initial weights, the order of the images and their shifts.

    Raises:
        SettingsError: a value is out of range.
    """

    epochs: int = 120
    batch_rows: int = 128
    learning_rate: float = 0.02
    weight_decay: float = 0.02
    shift_pixels: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        minimums = {"epochs": 1, "batch_rows": 1, "shift_pixels": 0, "seed": 0}
        problems = [f"{name} >= {bound}" for name, bound in minimums.items() if getattr(self, name) < bound]
        problems += [] if 0 < self.learning_rate < math.inf else ["learning_rate > 0 and finite"]
        problems += [] if 0 <= self.weight_decay < math.inf else ["weight_decay >= 0 and finite"]
        if problems:
            raise SettingsError(f"expected {', '.join(problems)}; got {self}")


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
    rng = np.random.default_rng(recipe.seed)
    margin = recipe.shift_pixels
    # [N, 2 * margin + 1, 2 * margin + 1, 28, 28]: every shift of every image, as views of one padded copy.
    shifted = sliding_window_view(np.pad(images, ((0, 0), (margin, margin), (margin, margin))), (SIDE, SIDE), (1, 2))
    targets = one_hot(labels).astype(np.float32)
    adam = _Adam(_first_weights(rng), recipe.weight_decay)
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
                step = backward(
                    adam.tensors, flatten(normalise(shifted[rows, down[positions], across[positions]])), targets[rows]
                )
                adam.update(step.gradients, recipe.learning_rate * (1 + math.cos(math.pi * adam.step / steps)) / 2)
                loss += step.loss * batch.rows / len(images)
                correct += step.correct
        if not (math.isfinite(loss) and all(np.isfinite(tensor).all() for tensor in adam.tensors.values())):
            raise NumericalError(
                f"epoch {epoch} of {recipe.epochs}: expected a finite loss and weights, got a loss of {loss}; "
                f"lower the learning_rate, now {recipe.learning_rate}"
            )
        if on_epoch is not None:
            on_epoch(EpochReport(epoch, recipe.epochs, loss, correct / len(images)))
    return Network(adam.tensors)


def backward(tensors: Tensors, images: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]]) -> Backward:
    """The loss of a batch and its gradients, in the precision of the arguments.

    Args:
        tensors: the six tensors, float32 or float64.
        images: `[B, 784]`, 0..1.
        targets: `[B, 10]`, one-hot labels.

    Returns:
        The mean cross-entropy of softmax, the correct predictions, and one gradient per tensor, in its shape.
    """
    hidden_1 = _sigmoid(images @ tensors["W1"] + tensors["b1"])
    hidden_2 = _sigmoid(hidden_1 @ tensors["W2"] + tensors["b2"])
    scores = hidden_2 @ tensors["W3"] + tensors["b3"]
    scores -= scores.max(axis=1, keepdims=True)
    exponentials = np.exp(scores)
    sums = exponentials.sum(axis=1, keepdims=True)
    # log softmax = score - log(sum): stays finite where softmax itself underflows to 0.
    losses = np.log(sums[:, 0]) - (scores * targets).sum(axis=1)

    d_scores = (exponentials / sums - targets) / len(images)  # softmax with cross-entropy: (y - t) / B
    d_hidden_2 = (d_scores @ tensors["W3"].T) * hidden_2 * (1 - hidden_2)  # sigmoid: y (1 - y)
    d_hidden_1 = (d_hidden_2 @ tensors["W2"].T) * hidden_1 * (1 - hidden_1)
    gradients = {
        "W1": images.T @ d_hidden_1,
        "b1": d_hidden_1.sum(axis=0),
        "W2": hidden_1.T @ d_hidden_2,
        "b2": d_hidden_2.sum(axis=0),
        "W3": hidden_2.T @ d_scores,
        "b3": d_scores.sum(axis=0),
    }
    correct = int(np.count_nonzero(scores.argmax(axis=1) == targets.argmax(axis=1)))
    return Backward(float(losses.mean()), correct, gradients)


class _Adam:
    """Adam with decoupled weight decay; it updates its weights in place.

    All six tensors are views of one flat array, so that a step takes 12 NumPy calls instead of 72.
    """

    def __init__(self, tensors: Tensors, weight_decay: float) -> None:
        self._values = np.concatenate([tensors[name].ravel() for name in BOOK.shapes])
        edges = np.cumsum([math.prod(shape) for shape in BOOK.shapes.values()])[:-1]
        slices = zip(BOOK.shapes.items(), np.split(self._values, edges), strict=True)
        self.tensors: Tensors = {name: values.reshape(shape) for (name, shape), values in slices}
        self.step = 0
        self._weight_decay = weight_decay
        self._mean, self._square, self._gradient, self._scratch = np.zeros((4, self._values.size), np.float32)

    def update(self, gradients: Tensors, learning_rate: float) -> None:
        """Take one step of gradient descent."""
        self.step += 1
        gradient, scratch = self._gradient, self._scratch
        np.concatenate([gradients[name].ravel() for name in BOOK.shapes], out=gradient)
        self._mean *= BETA_1
        self._mean += np.multiply(gradient, 1 - BETA_1, out=scratch)
        self._square *= BETA_2
        np.square(gradient, out=scratch)
        scratch *= 1 - BETA_2
        self._square += scratch
        for name in ("W1", "W2", "W3"):
            self.tensors[name][...] *= 1 - learning_rate * self._weight_decay
        # Bias correction of both moments, folded into two scalars.
        np.sqrt(self._square, out=scratch)
        scratch /= math.sqrt(1 - BETA_2**self.step)
        scratch += EPSILON
        np.divide(self._mean, scratch, out=scratch)
        scratch *= learning_rate / (1 - BETA_1**self.step)
        self._values -= scratch


def _first_weights(rng: np.random.Generator) -> Tensors:
    # Glorot & Bengio 2010, equation 16: uniform, variance 2 / (inputs + outputs); biases start at 0.
    return {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * np.float32(math.sqrt(6 / sum(shape)))
        if len(shape) == 2
        else np.zeros(shape, np.float32)
        for name, shape in BOOK.shapes.items()
    }


def _sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2: the same function without overflow.
    return 0.5 + 0.5 * np.tanh(0.5 * x)


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
