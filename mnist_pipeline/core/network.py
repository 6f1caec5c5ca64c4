"""The book's three-layer network, 784-50-100-10: sigmoid, sigmoid, softmax. No files, no training.

Source: K. Saito, Deep Learning from Scratch, chapter 3 ("Implementing a three-layer network").
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS
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
        tensors: exactly the names and shapes of `SHAPES`, float32, every value finite. They are copied.

    Raises:
        WeightsError: a name, shape, dtype or value is not as expected; all that is wrong is listed.
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
        """Whether both are networks of the same tensors, bit for bit but for the sign of zero."""
        if not isinstance(other, Network):
            return NotImplemented
        return all(np.array_equal(self[name], other[name]) for name in SHAPES)

    __hash__ = None  # type: ignore[assignment]  # equality looks at every weight; a hash would have to as well

    def __reduce__(self) -> tuple[type["Network"], tuple[dict[str, NDArray[np.float32]]]]:
        return Network, (self._tensors,)  # through the constructor, so that a copy is read-only too

    def __repr__(self) -> str:
        return "Network(784-50-100-10, float32)"


class Workspace:
    """Buffers for forward passes of up to `batch_rows` images; one per thread, owned by the caller.

    Args:
        batch_rows: most images of a batch.
        tile_rows: images that the first layer multiplies at once; all of a batch if None. Some BLAS libraries
            are faster one way, some the other; the results differ in their last bits.
    """

    def __init__(self, batch_rows: int, tile_rows: int | None = None) -> None:
        self.batch_rows = batch_rows
        self.tile_rows = tile_rows
        self.hidden_1 = np.empty((batch_rows, HIDDEN_1), np.float32)
        self.hidden_2 = np.empty((batch_rows, HIDDEN_2), np.float32)


def predict(network: Mapping[str, NDArray[np.float32]], x: NDArray[Any]) -> NDArray[np.float32]:
    """Probabilities of the ten digits, as the book's `predict`.

    Args:
        network: a `Network`, or any mapping with its six tensors.
        x: one image `[784]` or a batch `[B, 784]`, normally 0..1.

    Returns:
        `[10]` or `[B, 10]` float32, each row summing to 1.

    Raises:
        ImagesError: `x` has another shape.
        NumericalError: a pixel, or a sum of one of the layers, is not finite.
    """
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused below as such
        images = np.asarray(x, np.float32)
    if images.ndim not in (1, 2) or images.shape[-1] != PIXELS:
        raise ImagesError(f"x: expected shape (784,) or (B, 784), got {images.shape}; flatten each image to 784 pixels")
    if not np.isfinite(images).all():
        raise NumericalError(
            f"x: expected finite pixels, got {np.count_nonzero(~np.isfinite(images))} NaN or infinite; mend the images"
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
    """One forward pass without temporaries, digits along axis 0.

    Digits come first because softmax and the columns of the predictions table both want
    each digit's probabilities side by side.

    Args:
        network: the six tensors.
        images: `[B, 784]` float32.
        workspace: buffers for at least B rows; overwritten.
        out: `[10, B]` float32; receives the probabilities.

    Raises:
        NumericalError: a sum of one of the layers is not finite. Of finite sums softmax makes finite probabilities.
    """
    rows = len(images)
    hidden_1, hidden_2 = workspace.hidden_1[:rows], workspace.hidden_2[:rows]
    # No warnings: a sum that is not finite is refused where it could become a finite number again.
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
    """The digit of each image and its confidence.

    Args:
        probabilities: `[10, B]` float32, as `forward` writes them.

    Returns:
        `[B]` int8, the most probable digit, the lowest among equals; `[B]` float32, its probability.
    """
    return probabilities.argmax(axis=0).astype(np.int8), probabilities.max(axis=0)


def _multiply(
    images: NDArray[np.float32], weights: NDArray[np.float32], tile_rows: int | None, out: NDArray[np.float32]
) -> None:
    tiled = 0
    if tile_rows is not None:
        # A stack of small matrices: NumPy calls BLAS for one after the other, with no Python in between.
        tiled = len(images) - len(images) % tile_rows
        tiles, products = (rows[:tiled].reshape(-1, tile_rows, rows.shape[1]) for rows in (images, out))
        np.matmul(tiles, weights, out=products)
    np.matmul(images[tiled:], weights, out=out[tiled:])


def _require_finite(values: NDArray[np.float32], what: str) -> None:
    """Refuse `[B, n]` values of B images; sigmoid and softmax turn infinity into 0 or 1, as if all had been well."""
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
