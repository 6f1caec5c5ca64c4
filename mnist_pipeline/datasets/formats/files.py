"""A split of one or more files of the same format: what all formats share.

What the numbers mean, which labels are digits, and where the images of a file lie in the split is decided
here, for all of them alike.
"""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import BY_TYPE, PIXELS, PixelFormat
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.interface import (
    LABEL_COLUMN,
    MAX_NAME_BYTES,
    Format,
    Reader,
    RowName,
    Rows,
    Wanted,
)
from mnist_pipeline.datasets.formats.labels import digits_of
from mnist_pipeline.datasets.source_files import SourceFile, Verify
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, listed
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.documents import canonical_sha256

logger = logging.getLogger(__name__)

# Where files allow decoding to start at smaller distances, not every start is kept: a split is pickled with every task.
ENTRY_SPACING = 1000


@dataclass(frozen=True)
class ImagesFile:
    """One verified file, and the range of images of the split that it holds."""

    source_file: SourceFile
    start: int
    stop: int

    def name_row(self, row: int) -> str:
        """The name of an image of the split in errors: its file, and its number there."""
        return f"{self.source_file.location}: row {row - self.start}"


@dataclass(frozen=True)
class FileSplit:
    """The images of one or more files of a format, in order.

    `entries` are the rows where decoding can start, in order, including the first row of each file.
    """

    dataset: str
    split: str
    files: tuple[ImagesFile, ...]
    reader: Reader
    files_sha256: str
    entries: tuple[int, ...]
    pixel_format: PixelFormat = BY_TYPE

    @property
    def rows(self) -> int:
        return self.files[-1].stop

    @property
    def images_sha256(self) -> str:
        column = self.reader.image_column
        if column is None:
            return self.files_sha256
        return canonical_sha256({"images_sha256": self.files_sha256, "image_column": column})

    @property
    def labels_sha256(self) -> str | None:
        column = self.reader.label_column
        if column in (None, LABEL_COLUMN):
            return column and self.files_sha256
        return canonical_sha256({"images_sha256": self.files_sha256, "label_column": column})

    @property
    def keys_from(self) -> str | None:
        return self.reader.id_column

    @property
    def transform_version(self) -> str:
        return self.pixel_format.transform_version(np.dtype(self.reader.numbers))

    def decoded_from(self, row: int) -> int:
        """The row where decoding must start, as the format allows it."""
        return self.entries[bisect_right(self.entries, row) - 1]

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read the images of each range, see `OpenSplit`. Rows between ranges may be decoded but are not checked.

        Raises:
            DataError: a file is missing, damaged or has changed since it was verified.
            ImagesError: an image does not have 784 pixels, all in the range of their type.
            LabelError: a label is not a digit.
        """
        if not ranges:
            return
        blocks = self._blocks(ranges)
        block = next(blocks)
        buffer = np.empty((max(rows.rows for rows in ranges), PIXELS), np.float32)
        for rows in ranges:
            pixels, done = buffer[: rows.rows], rows.start
            labels: list[NDArray[np.int8]] = []
            keys: list[pa.StringArray] = []
            while done < rows.stop:
                while block.stop <= done:
                    block = next(blocks)
                stop = min(rows.stop, block.stop)
                name_row = _named(block.file, done)
                found = block.content.slice(done - block.start, stop - done).decode(name_row)
                self.pixel_format.to_input(found.pixels, name_row, pixels[done - rows.start : stop - rows.start])
                if found.labels is not None:
                    labels.append(digits_of(found.labels, name_row))
                if found.keys is not None:
                    keys.append(_names(found.keys, name_row))
                done = stop
            yield ImageRows(
                pixels, np.concatenate(labels) if labels else None, pa.concat_arrays(keys) if keys else None
            )

    def _blocks(self, ranges: Sequence[RowRange]) -> Iterator["_Block"]:
        """Decode, in order, what holds rows of `ranges`."""
        for file in self.files:
            here = [
                RowRange(max(rows.start, file.start) - file.start, min(rows.stop, file.stop) - file.start)
                for rows in ranges
                if max(rows.start, file.start) < min(rows.stop, file.stop)
            ]
            if not here:
                continue
            file.source_file.confirm()
            with file.source_file.open() as source:
                stop = 0
                for start, rows in self.reader.read(source, here):
                    stop = start + len(rows)
                    if stop > file.stop - file.start:
                        break
                    yield _Block(file, file.start + start, file.start + stop, rows)
                if not here[-1].stop <= stop <= file.stop - file.start:
                    raise DataError(
                        f"{source.location}: expected {file.stop - file.start} rows, got "
                        f"{'more' if stop > here[-1].stop else stop}; replace it"
                    )


@dataclass(frozen=True)
class _Block:
    """Decoded rows of a file; `start` and `stop` are their positions in the split."""

    file: ImagesFile
    start: int
    stop: int
    content: Rows


def _named(file: ImagesFile, start: int) -> RowName:
    return lambda row: file.name_row(start + row)


def _names(keys: pa.StringArray, name_row: RowName) -> pa.StringArray:
    """Check the images' own names: none is null, empty or long."""
    if keys.null_count:
        where = keys.is_null().to_pylist().index(True)
        raise DataError(f"{name_row(where)}: expected the image's own name, got none; fill it in, or drop the row")
    sizes = np.diff(np.frombuffer(keys.buffers()[1], np.int32, len(keys) + 1, 4 * keys.offset))
    if (wrong := (sizes == 0) | (sizes > MAX_NAME_BYTES)).any():
        where = int(np.argmax(wrong))
        raise DataError(
            f"{name_row(where)}: expected the image's own name, of 1 to {MAX_NAME_BYTES} bytes, got {sizes[where]}; "
            "correct it"
        )
    return keys


def open_files(
    dataset: str,
    location: Location,
    folder: bool,
    paths: Sequence[Location],
    kind: Format,
    wanted: Wanted,
    verify: Verify,
) -> FileSplit:
    """Verify files of one format and look at each.

    Args:
        dataset: the name of the data set in its runs.
        location: the file, or the folder of the files.
        folder: whether it is a folder.
        paths: the files, in order.
        kind: their format.
        wanted: what the settings say of them.
        verify: hashes a file, or looks its hash up in the cache.

    Raises:
        DataError: a file cannot be read or is damaged, there are no images, or the files differ in layout.
        ImagesError: no column holds images, or several do.
        LabelError: the labels are neither numbers nor texts, or it is not clear which column holds them.
    """
    files: list[ImagesFile] = []
    hashes: list[dict[str, str]] = []
    entries: list[int] = []
    reader, start = None, 0
    for path in paths:
        source_file = verify(path)
        with source_file.open() as source:
            found, rows, starts = kind.look(source, source_file, wanted)
        if (reader := reader or found) != found:
            raise DataError(
                f"{path}: expected {reader}, as in {paths[0]}, got {found}; write all files of a folder alike"
            )
        files.append(ImagesFile(source_file, start, start + rows))
        if rows:
            entries += [start + row for row in _spaced(starts)]
        hashes.append({"name": path.name, "sha256": source_file.sha256})
        start += rows
    if reader is None or start == 0:
        raise DataError(f"{location}: expected at least one image, got none; give a data set with images")
    if reader.label_column is None and wanted.label_column is None and reader.unread:
        logger.warning("%s: no labels; columns that are not read: %s", location, listed(reader.unread))
    sha256 = canonical_sha256(hashes) if folder else files[0].source_file.sha256
    return FileSplit(dataset, wanted.split, tuple(files), reader, sha256, tuple(entries), wanted.pixel_format)


def _spaced(starts: Sequence[int]) -> Iterator[int]:
    last = -ENTRY_SPACING
    for start in starts:
        if start >= last + ENTRY_SPACING:
            last = start
            yield start
