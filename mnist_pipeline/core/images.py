"""Preprocesses images and labels for the network: normalise, flatten, range checks, one-hot labels."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import ImagesError, LabelError

T = TypeVar("T", bound=np.generic)

SIDE = 28
PIXELS = SIDE * SIDE
DIGITS = 10

# Every shard and run is identified by it: change it whenever `normalise` or `flatten` changes a bit.
TRANSFORM_VERSION = "divide-by-255-float32-row-major/1"
# For images that are floats in 0..1 already and are not normalised.
AS_GIVEN_VERSION = "as-given-float32-row-major/1"


def normalise(images: NDArray[np.uint8], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Scale pixel values by 1/255.

    Args:
        images: uint8, any shape, 0..255.
        out: float32, same shape, receives the result; a new array if None.

    Returns:
        float32, same shape, 0..1, as in the book's `load_mnist`.
    """
    scaled: NDArray[np.float32] = np.divide(images, np.float32(255), out=out, dtype=np.float32)
    return scaled


def as_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Invert normalise and flatten: `[N, 784]` float32 in 0..1 -> `[N, 28, 28]` uint8."""
    return np.rint(pixels * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)


def flatten(images: NDArray[T]) -> NDArray[T]:
    """Flatten each image row by row: `[N, 28, 28]` (or `[N, 1, 28, 28]`) -> `[N, 784]`, a view."""
    return images.reshape(-1, PIXELS)


def check_range(images: NDArray[Any], name_row: Callable[[int], str]) -> None:
    """Reject images with pixels out of the range of their type.

    Args:
        images: `[N, 784]`, floats expected in 0..1 or integers expected in 0..255.
        name_row: names image n in errors.

    Raises:
        ImagesError: a pixel is NaN, infinite or out of range; the message names the first such image.
    """
    top = 1 if np.issubdtype(images.dtype, np.floating) else 255
    if images.size == 0 or (images.min() >= 0 and images.max() <= top):  # both comparisons are false for NaN
        return
    first = int(np.argmax(~((images >= 0) & (images <= top))))
    row, pixel = divmod(first, PIXELS)
    value = images[row, pixel]
    advice = "divide by 255, or store uint8" if 1 < value <= 255 else "correct the image, or leave it out"
    raise ImagesError(f"{name_row(row)}: expected pixels in 0..{top}, got {value} at pixel {pixel}; {advice}")


def one_hot(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One-hot encode labels: `[N]` of 0..9 -> `[N, 10]` float64, 1.0 in the label's column.

    Raises:
        LabelError: a label is not a digit.
    """
    if labels.size and labels.max() >= DIGITS:
        raise LabelError(f"labels: expected digits 0-9, got {labels.max()}; correct the labels")
    rows = np.zeros((labels.size, DIGITS))
    rows[np.arange(labels.size), labels] = 1
    return rows
