"""The forward pass of a dense network of digits, such as the book's 784-50-100-10. It reads no files.

Source: K. Saito, Deep Learning from Scratch, chapter 3 ("Implementing a three-layer network").
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS, ROUNDED
from mnist_pipeline.core.network.activations import (
    Floats,
    SigmoidKernel,
    apply_relu,
    apply_sigmoid_by_exp,
    apply_sigmoid_by_tanh,
    apply_softmax,
)
from mnist_pipeline.core.network.tensors import Network
from mnist_pipeline.errors import ImagesError, NumericalError


@dataclass(frozen=True)
class Kernels:
    """How a kind of processor computes a forward pass fastest. The results differ in their last bits.

    Attributes:
        sigmoid: by the tanh or by the exp of NumPy.
        small_product: the multiply-adds up to which BLAS multiplies matrices without packing them first, and so the
            images that a layer multiplies at once; None if it always packs.
    """

    sigmoid: SigmoidKernel = "tanh"
    small_product: int | None = None


ANY_PROCESSOR = Kernels()
SIGMOIDS: dict[SigmoidKernel, Callable[[Floats], None]] = {"tanh": apply_sigmoid_by_tanh, "exp": apply_sigmoid_by_exp}
SMALL_PRODUCT_STEP = 12  # rows: what the small kernels compute at once


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer as a `Workspace` holds it, with the buffer of its sums."""

    weights: NDArray[np.float32]  # [n, m]
    biases: NDArray[np.float32]  # [m]
    tile_rows: int  # images multiplied at once; 0 for the whole batch
    sums: NDArray[np.float32]  # [B, m], the buffer


class Workspace:
    """A network prepared for forward passes of up to `batch_rows` images, with their buffers; one for each thread.

    Args:
        network: the network.
        batch_rows: maximum number of images in a batch.
        kernels: of the processor.
    """

    def __init__(self, network: Network, batch_rows: int, kernels: Kernels = ANY_PROCESSOR) -> None:
        self.batch_rows = batch_rows
        # The sign that exp needs is in the weights, which is exact.
        negated = network.architecture.activation == "sigmoid" and kernels.sigmoid == "exp"
        self.activate = apply_relu if network.architecture.activation == "relu" else SIGMOIDS[kernels.sigmoid]
        self.hidden = tuple(
            HiddenLayer(
                -weights if negated else weights,
                -biases if negated else biases,
                _tile_rows(weights.size, kernels),
                np.empty((batch_rows, len(biases)), np.float32),
            )
            for weights, biases in network.layers[:-1]
        )
        weights, biases = network.layers[-1]
        self.last_weights, self.last_biases = weights.T, biases[:, None]


def predict(network: Mapping[str, NDArray[np.float32]], x: NDArray[Any]) -> NDArray[np.float32]:
    """The probabilities of the ten digits, like the book's `predict`.

    Args:
        network: a `Network`, or the tensors of one in any mapping.
        x: one image `[784]` or a batch `[B, 784]`, 0..1; other pixels give a warning.

    Returns:
        `[10]` or `[B, 10]` float32, each row summing to 1.

    Raises:
        WeightsError: the mapping is not a network, or one of which the activation is not known.
        ImagesError: `x` has another shape.
        NumericalError: a pixel, or a sum in a layer, is not finite.
    """
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and are rejected below
        images = np.asarray(x, np.float32)
    if images.ndim not in (1, 2) or images.shape[-1] != PIXELS:
        raise ImagesError(f"x: expected shape (784,) or (B, 784), got {images.shape}; flatten each image to 784 pixels")
    if not np.isfinite(images).all():
        raise NumericalError(
            f"x: expected finite pixels, got {np.count_nonzero(~np.isfinite(images))} NaN or infinite; "
            "correct the images"
        )
    if images.size and (images.max() > ROUNDED or images.min() < 1 - ROUNDED):
        warnings.warn(
            f"x: expected pixels in 0..1, got {images.min():.9g} to {images.max():.9g}, for which it is not made; "
            "divide bytes by 255, as load_mnist does with normalize=True",
            stacklevel=2,
        )
    batch = images.reshape(-1, PIXELS)
    probabilities = np.empty((DIGITS, len(batch)), np.float32)
    forward(Workspace(Network.of(network), len(batch)), batch, out=probabilities)
    return probabilities.T.reshape(*images.shape[:-1], DIGITS)


def forward(workspace: Workspace, images: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Run one forward pass without temporaries, digits along axis 0.

    Digits come first because softmax and the columns of the predictions table both read the probabilities of one
    digit contiguously.

    Args:
        workspace: the network with buffers for at least B rows, which are overwritten.
        images: `[B, 784]` float32.
        out: `[10, B]` float32; receives the probabilities.

    Raises:
        NumericalError: a sum in a layer is not finite. Softmax of finite sums is finite.
    """
    values = images
    # No warnings: each layer rejects sums that are not finite, before sigmoid or softmax makes them finite again.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for number, layer in enumerate(workspace.hidden, 1):
            sums = layer.sums[: len(images)]
            multiply(values, layer.weights, layer.tile_rows, out=sums)
            sums += layer.biases
            _require_finite(sums, number)
            workspace.activate(sums)
            values = sums
        np.matmul(workspace.last_weights, values.T, out=out)
        out += workspace.last_biases
        _require_finite(out.T, len(workspace.hidden) + 1)
        apply_softmax(out, axis=0)


def choose(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The predicted digit of each image and its confidence.

    Args:
        probabilities: `[10, B]` float32, as `forward` writes them.

    Returns:
        `[B]` int8, the most probable digit, the lowest on a tie; `[B]` float32, its probability.
    """
    return probabilities.argmax(axis=0).astype(np.int8), probabilities.max(axis=0)


def multiply(rows: NDArray[np.float32], weights: NDArray[np.float32], tile_rows: int, out: NDArray[np.float32]) -> None:
    """Write `rows` `[B, n]` times `weights` `[n, m]` into `out` `[B, m]`, `tile_rows` rows at once or, if 0, all."""
    tiled = 0
    if tile_rows:
        # A stack of small matrices: NumPy calls BLAS for each without Python in between.
        tiled = len(rows) - len(rows) % tile_rows
        tiles, products = (each[:tiled].reshape(-1, tile_rows, each.shape[1]) for each in (rows, out))
        np.matmul(tiles, weights, out=products)
    np.matmul(rows[tiled:], weights, out=out[tiled:])


def _tile_rows(weights: int, kernels: Kernels) -> int:
    """The images that a layer of so many weights multiplies at once; 0 for the whole batch."""
    return (kernels.small_product or 0) // weights // SMALL_PRODUCT_STEP * SMALL_PRODUCT_STEP


def _require_finite(values: NDArray[np.float32], layer: int) -> None:
    """Reject `[B, n]` values that are not finite: sigmoid and softmax would turn infinity into a valid 0 or 1."""
    if values.flags.c_contiguous and math.isfinite(np.dot(flat := values.reshape(-1), flat)):
        return  # one pass over them; a sum of squares that overflows says nothing yet
    finite = np.isfinite(values)
    if not finite.all():
        raise NumericalError(
            f"{np.count_nonzero(~finite.all(axis=1))} of {len(values)} images: expected finite sums in layer {layer}, "
            "got NaN or infinity; check the images (0..1) and the weights for huge or missing values"
        )
