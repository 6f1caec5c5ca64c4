"""What a split offers once it is opened, whatever its files are: its images in order, and the hashes it is known by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.plan import RowRange


@dataclass(frozen=True)
class ImageRows:
    """Consecutive images as the network takes them.

    Attributes:
        pixels: `[n, 784]` float32 in 0..1.
        labels: `[n]` int8 in 0..9, or None if the data set has none.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int8] | None


class OpenSplit(Protocol):
    """The verified images of a split on disk. Plain values: it travels with every task."""

    @property
    def dataset(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def rows(self) -> int:
        """How many images there are; never none."""

    @property
    def images_sha256(self) -> str: ...
    @property
    def labels_sha256(self) -> str | None:
        """None if the images have no labels."""

    @property
    def transform_version(self) -> str:
        """What was done to the stored pixels: part of who a run is."""

    def decoded_from(self, row: int) -> int:
        """The row at or before `row` from which its file must be decoded to reach it."""

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """The images of each range; the pixels of one are overwritten by the next.

        Args:
            ranges: in order, none overlapping another.

        Raises:
            DataError: a file is gone or was changed since it was verified, or what it holds is refused.
        """
