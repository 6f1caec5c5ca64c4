"""What every format of files offers, and what it is told: protocols and values, no code that reads.

A format looks at a verified file once (`look`) and says how it is read: a `Reader` of plain values, which travels with
every task. `files.py` does what all formats share.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import BY_TYPE, PixelFormat
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.source_files import OpenSource, SourceFile

RowName = Callable[[int], str]  # the name of a row in errors
PIXEL_COLUMNS = ("pixels", "image", "images")  # usual names of what holds the images
LABEL_COLUMN = "label"
NO_LABELS = "none"  # as the name of the label column
MAX_NAME_BYTES = 1024  # of an image's own name


@dataclass(frozen=True)
class Wanted:
    """What the settings say of the images: their columns, if there are several that may be meant, and their pixels.

    Attributes:
        split: the name of the split, which may be part of a column's name.
        image_column, label_column, id_column: see the settings.
        pixel_format: what the numbers of the images mean.
    """

    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    pixel_format: PixelFormat = BY_TYPE


class Decoded(NamedTuple):
    """Rows as they are stored: `[n, 784]` numbers, and labels and keys if there are any."""

    pixels: NDArray[Any]
    labels: pa.Array | None = None  # [n] of a type that `may_be_labels`, null where an image has none
    keys: pa.StringArray | None = None


class Rows(Protocol):
    """Consecutive rows of a file, of which some may be wanted."""

    def __len__(self) -> int: ...

    def slice(self, start: int, rows: int) -> Self:
        """Some of them, without a copy."""

    def decode(self, name_row: RowName) -> Decoded:
        """Their content.

        Raises:
            DataError: a row is not as it should be; `name_row` names it by its number among these.
        """


class Reader(Protocol):
    """How the files of a split are read: plain values, equal for files of the same layout."""

    @property
    def numbers(self) -> str:
        """The NumPy dtype of the pixels, as they are stored."""

    @property
    def image_column(self) -> str | None:
        """The column of the images, if another might have been meant; it is part of what identifies them."""

    @property
    def label_column(self) -> str | None:
        """The column of the labels; None if there are none."""

    @property
    def id_column(self) -> str | None:
        """The column of the images' own names; None if they have none."""

    @property
    def unread(self) -> Sequence[str]:
        """The other columns."""

    def read(self, source: OpenSource, ranges: Sequence[RowRange]) -> Iterator[tuple[int, Rows]]:
        """Decode at least the rows of some ranges, in order, each with the number of its first row in the file.

        Raises:
            DataError: the file is damaged, or has changed since it was verified.
        """


class Look(NamedTuple):
    """What a format finds in a file: how to read it, the number of its rows, and those where decoding can start."""

    reader: Reader
    rows: int
    entries: Sequence[int] = (0,)


class Format(Protocol):
    """A format of files, each with some images."""

    @property
    def name(self) -> str:
        """For messages: `Parquet`."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of its files' names, in lower case; without .gz."""

    @property
    def may_be_gzip(self) -> bool:
        """Whether its files may be compressed whole, with .gz after their names."""

    def look(self, source: OpenSource, source_file: SourceFile, wanted: Wanted) -> Look:
        """Look at a verified file, without decoding its images.

        Raises:
            DataError: it is none of the format, or holds no images that can be meant.
        """
