"""The forward pass of the book's 784-50-100-10 network: sigmoid, sigmoid, softmax. It reads no files.

Source: K. Saito, Deep Learning from Scratch, chapter 3 ("Implementing a three-layer network").
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS, ROUNDED
from mnist_pipeline.errors import ImagesError, NumericalError, WeightsError

HIDDEN_1 = 50
HIDDEN_2 = 100
SHAPES: dict[str, tuple[int, ...]] = {
    "W1": (PIXELS, HIDDEN_1),
    "b1": (HIDDEN_1,),
    "W2": (HIDDEN_1, HIDDEN_2),
    "b2": (HIDDEN_2,),
    "W3": (HIDDEN_2, DIGITS),
    "b3": (DIGITS,),
}


class Network(Mapping[str, NDArray[np.float32]]):
    """Six float32 tensors, read-only: `network["W1"]` .. `network["b3"]`, like the book's dictionary.

    Args:
        tensors: exactly the names and shapes of `SHAPES`, float32, every value finite. The network copies them.

    Raises:
        WeightsError: a name, shape, dtype or value is not as expected; the message lists all problems.
    """

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        if problems := list(_problems(tensors)):
            raise WeightsError(
                "weights are not a 784-50-100-10 network: " + "; ".join(problems) + "; give another weights file"
            )
        self._tensors = {name: np.array(tensors[name], np.float32, order="C") for name in SHAPES}
        for tensor in self._tensors.values():
            tensor.flags.writeable = False

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __eq__(self, other: object) -> bool:
        """Whether both are networks with equal tensors; 0 equals -0."""
        if not isinstance(other, Network):
            return NotImplemented
        return all(np.array_equal(self[name], other[name]) for name in SHAPES)

    __hash__ = None  # type: ignore[assignment]  # a hash would have to read every weight, as equality does

    def __reduce__(self) -> tuple[type["Network"], tuple[dict[str, NDArray[np.float32]]]]:
        return Network, (self._tensors,)  # calls the constructor, so that a copy is read-only too

    def __repr__(self) -> str:
        return "Network(784-50-100-10, float32)"


class Workspace:
    """Buffers for forward passes of up to `batch_rows` images; each thread needs its own.

    Args:
        batch_rows: maximum number of images in a batch.
        tile_rows: images that the first layer multiplies at once; the whole batch if None. Which is faster depends on
            the BLAS library; the results differ in their last bits.
    """

    def __init__(self, batch_rows: int, tile_rows: int | None = None) -> None:
        self.batch_rows = batch_rows
        self.tile_rows = tile_rows
        self.hidden_1 = np.empty((batch_rows, HIDDEN_1), np.float32)
        self.hidden_2 = np.empty((batch_rows, HIDDEN_2), np.float32)


def predict(network: Mapping[str, NDArray[np.float32]], x: NDArray[Any]) -> NDArray[np.float32]:
    """The probabilities of the ten digits, like the book's `predict`.

    Args:
        network: a `Network`, or any mapping with its six tensors.
        x: one image `[784]` or a batch `[B, 784]`, 0..1; other pixels give a warning.

    Returns:
        `[10]` or `[B, 10]` float32, each row summing to 1.

    Raises:
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
    forward(network, batch, Workspace(len(batch)), out=probabilities)
    return probabilities.T.reshape(*images.shape[:-1], DIGITS)


def forward(
    network: Mapping[str, NDArray[np.float32]],
    images: NDArray[np.float32],
    workspace: Workspace,
    out: NDArray[np.float32],
) -> None:
    """Run one forward pass without temporaries, digits along axis 0.

    Digits come first because softmax and the columns of the predictions table both read the probabilities of one
    digit contiguously.

    Args:
        network: the six tensors.
        images: `[B, 784]` float32.
        workspace: buffers for at least B rows; overwritten.
        out: `[10, B]` float32; receives the probabilities.

    Raises:
        NumericalError: a sum in a layer is not finite. Softmax of finite sums is finite.
    """
    rows = len(images)
    hidden_1, hidden_2 = workspace.hidden_1[:rows], workspace.hidden_2[:rows]
    # No warnings: each layer rejects sums that are not finite, before sigmoid or softmax makes them finite again.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _multiply(images, network["W1"], workspace.tile_rows, out=hidden_1)
        hidden_1 += network["b1"]
        _require_finite(hidden_1, "sums in layer 1")
        _sigmoid(hidden_1)
        np.matmul(hidden_1, network["W2"], out=hidden_2)
        hidden_2 += network["b2"]
        _require_finite(hidden_2, "sums in layer 2")
        _sigmoid(hidden_2)
        np.matmul(network["W3"].T, hidden_2.T, out=out)
        out += network["b3"][:, None]
        _require_finite(out.T, "sums in layer 3")
        _softmax(out)


def choose(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The predicted digit of each image and its confidence.

    Args:
        probabilities: `[10, B]` float32, as `forward` writes them.

    Returns:
        `[B]` int8, the most probable digit, the lowest on a tie; `[B]` float32, its probability.
    """
    return probabilities.argmax(axis=0).astype(np.int8), probabilities.max(axis=0)


def _multiply(
    images: NDArray[np.float32], weights: NDArray[np.float32], tile_rows: int | None, out: NDArray[np.float32]
) -> None:
    tiled = 0
    if tile_rows is not None:
        # A stack of small matrices: NumPy calls BLAS for each without Python in between.
        tiled = len(images) - len(images) % tile_rows
        tiles, products = (rows[:tiled].reshape(-1, tile_rows, rows.shape[1]) for rows in (images, out))
        np.matmul(tiles, weights, out=products)
    np.matmul(images[tiled:], weights, out=out[tiled:])


def _require_finite(values: NDArray[np.float32], what: str) -> None:
    """Reject `[B, n]` values that are not finite: sigmoid and softmax would turn infinity into a valid 0 or 1."""
    finite = np.isfinite(values)
    if not finite.all():
        raise NumericalError(
            f"{np.count_nonzero(~finite.all(axis=1))} of {len(values)} images: expected finite {what}, "
            "got NaN or infinity; check the images (0..1) and the weights for huge or missing values"
        )


def _sigmoid(x: NDArray[np.float32]) -> None:
    # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2: the same function, no overflow, and a faster kernel.
    x *= np.float32(0.5)
    np.tanh(x, out=x)
    x += np.float32(1)
    x *= np.float32(0.5)


def _softmax(x: NDArray[np.float32]) -> None:
    x -= x.max(axis=0)
    np.exp(x, out=x)
    x /= x.sum(axis=0)


def _problems(tensors: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    if missing := sorted(SHAPES.keys() - tensors.keys()):
        yield f"missing {', '.join(missing)}"
    if unknown := sorted(map(str, tensors.keys() - SHAPES.keys())):
        yield f"unexpected {', '.join(unknown)}"
    for name in (name for name in SHAPES if name in tensors):
        tensor = tensors[name]
        if tensor.shape != SHAPES[name]:
            yield f"{name}: expected shape {SHAPES[name]}, got {tensor.shape}"
        if tensor.dtype != np.float32:
            yield f"{name}: expected float32, got {tensor.dtype}"
        elif not np.isfinite(tensor).all():
            yield f"{name}: expected finite values, got {np.count_nonzero(~np.isfinite(tensor))} NaN or infinite"
