"""Preprocesses images and labels for the network: what pixel values mean, normalise, flatten, one-hot labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core import DIGITS as DIGITS
from mnist_pipeline.errors import ImagesError, LabelError

T = TypeVar("T", bound=np.generic)

SIDE = 28
PIXELS = SIDE * SIDE
NO_LABEL = -1  # in an array of labels: the image has none

# Every shard and run is identified by it: change it whenever `normalise` or `flatten` changes a bit.
TRANSFORM_VERSION = "divide-by-255-float32-row-major/1"
# For pixels in 0..1 already, which are not normalised.
ROUNDED = 1.01  # up to here a float is 1 that was rounded
AS_GIVEN_VERSION = "as-given-float32-row-major/1"
INVERTED = " inverted"  # ends the version of images that were black on white
TRANSPOSED = " transposed"  # ends the version of images that were stored column by column


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


@dataclass(frozen=True)
class PixelFormat:
    """What the pixel values of a file mean, where the file does not say.

    Attributes:
        scale: the value of full ink: 1 or 255; None is 255 for integers and 1 for floats.
        inverted: whether 0 is ink and `scale` is paper; the network expects the paper to be 0, as in MNIST. None if
            nobody has said so or otherwise: then the images are taken as they are.
        transposed: whether the pixels are stored column by column, as those of EMNIST; None as for `inverted`.
    """

    scale: Literal[1, 255] | None = None
    inverted: bool | None = None
    transposed: bool | None = None

    def top(self, dtype: "np.dtype[Any]") -> int:
        """The largest value that pixels of this type can have."""
        return self.scale or (1 if np.issubdtype(dtype, np.floating) else 255)

    def transform_version(self, dtype: "np.dtype[Any]") -> str:
        """The version of the preprocessing; it is part of a run's identity."""
        version = AS_GIVEN_VERSION if self.top(dtype) == 1 else TRANSFORM_VERSION
        return version + (INVERTED if self.inverted else "") + (TRANSPOSED if self.transposed else "")

    def to_bytes(self, images: NDArray[np.uint8], name_row: Callable[[int], str]) -> NDArray[np.uint8]:
        """Bring bytes to MNIST's form: 0 is paper and 255 is full ink.

        Args:
            images: `[N, 784]` uint8, 0..255, or 0 and 1 if `scale` is 1.
            name_row: names image n in errors.

        Returns:
            `[N, 784]` uint8, the same array if there is nothing to change.

        Raises:
            ImagesError: `scale` is 1, and a pixel is larger.
        """
        if self.scale == 1:
            check_range(images, name_row, 1)
            images = images * np.uint8(255)
        images = np.subtract(255, images, dtype=np.uint8) if self.inverted else images
        return self._upright(images)

    def to_input(self, images: NDArray[Any], name_row: Callable[[int], str], out: NDArray[np.float32]) -> None:
        """Check pixels of any type and write them into `out` as the input of the network.

        Args:
            images: `[N, 784]` integers or floats, 0..`top`.
            name_row: names image n in errors.
            out: `[N, 784]` float32, receives values in 0..1.

        Raises:
            ImagesError: a pixel is NaN, infinite or out of range.
        """
        top = self.top(images.dtype)
        if not np.issubdtype(images.dtype, np.floating):
            if images.dtype != np.uint8:
                check_range(images, name_row, top)
            normalise(self.to_bytes(images.astype(np.uint8, copy=False), name_row), out=out)
            return
        check_range(images, name_row, top)
        np.copyto(out, images, casting="same_kind")
        if self.inverted:
            np.subtract(np.float32(top), out, out=out)
        if top == 255:
            np.divide(out, np.float32(255), out=out)
        if self.transposed:
            out[:] = self._upright(out)

    def _upright(self, images: NDArray[T]) -> NDArray[T]:
        """The pixels row by row: `[N, 784]`."""
        if not self.transposed:
            return images
        return np.ascontiguousarray(images.reshape(-1, SIDE, SIDE).swapaxes(1, 2)).reshape(-1, PIXELS)


BY_TYPE = PixelFormat()  # integers of 0..255 and floats of 0..1, white ink on black paper


def check_range(images: NDArray[Any], name_row: Callable[[int], str], top: int) -> None:
    """Reject images with pixels out of range.

    Args:
        images: `[N, 784]` integers or floats, expected in 0..`top`.
        name_row: names image n in errors.
        top: 1 or 255.

    Raises:
        ImagesError: a pixel is NaN, infinite or out of range; the message names the first such image.
    """
    if images.size == 0 or (images.min() >= 0 and images.max() <= top):  # both comparisons are false for NaN
        return
    first = int(np.argmax(~((images >= 0) & (images <= top))))
    row, pixel = divmod(first, PIXELS)
    advice = _advice(images, images[row], top)
    raise ImagesError(
        f"{name_row(row)}: expected pixels in 0..{top}, got {images[row, pixel]} at pixel {pixel}; {advice}"
    )


def _advice(images: NDArray[Any], image: NDArray[Any], top: int) -> str:
    """What to do about pixels out of range, by the range that they seem to have."""
    floats = np.issubdtype(images.dtype, np.floating)
    if not np.isfinite(image).all():
        return "correct the image, or leave it out"
    known = images[np.isfinite(images)]
    low, high = known.min(), known.max()
    if not floats and low >= -128 and high <= 127 and low < 0:
        return "signed bytes: store them as uint8"
    if floats and -1 <= low < 0 and high <= 1:
        return "pixels of -1..1: store (x + 1) / 2"
    if low < 0:
        return "standardised or signed pixels: store them as they were before, in 0..255 or 0..1"
    if top == 1 and high < ROUNDED:
        return "rounded above 1: clip them to 0..1"
    if top == 1 and 128 <= high <= 255:
        return "pixels of 0..255 need --pixel-scale 255"
    return "correct the image, or leave it out; pixels of another range need to be rescaled to 0..255"


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
