"""The interface of an opened split, whatever its format: images in order, and the hashes that identify them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import PixelFormat
from mnist_pipeline.core.plan import RowRange


@dataclass(frozen=True)
class ImageRows:
    """Consecutive images as input of the network.

    Attributes:
        pixels: `[n, 784]` float32 in 0..1.
        labels: `[n]` int8 in 0..9, NO_LABEL where an image has none; None if no image of the data set has one.
        keys: `[n]` strings, the data set's own names of the images; None if it names none.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int8] | None
    keys: pa.StringArray | None = None


class OpenSplit(Protocol):
    """The verified images of a split on disk. It holds plain values only: it is pickled with every task."""

    @property
    def dataset(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def rows(self) -> int:
        """The number of images; at least one."""

    @property
    def images_sha256(self) -> str: ...
    @property
    def labels_sha256(self) -> str | None:
        """The hash of the labels; None if the images have none."""

    @property
    def keys_from(self) -> str | None:
        """Where the images' own names come from: a column, or `path`; None if they have none."""

    @property
    def pixel_format(self) -> PixelFormat:
        """What the pixel values mean."""

    @property
    def transform_version(self) -> str:
        """The version of the preprocessing; it is part of a run's identity."""

    def decoded_from(self, row: int) -> int:
        """The row, at or before `row`, where decoding must start to reach it."""

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read the images of each range; each item reuses the buffer of the one before.

        Args:
            ranges: in order, without overlaps.

        Raises:
            DataError: a file is missing, has changed since it was verified, or has invalid content.
        """
