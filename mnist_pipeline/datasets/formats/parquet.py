"""Streams images from Parquet files that other tools wrote. `shards.py` reads this package's own shards.

The input is a file or a folder of files with a column of 784 numbers (or 28 lists of 28) per image and, if there are
labels, a column of them. Integers in 0..255 are divided by 255 like MNIST's bytes; floats in 0..1 are used as they are.

Threat: a small file that would decode to gigabytes. The footer is checked before anything is decoded: schema, values
per image, and the size of what is read, at most `MAX_RATIO` (10,000) times that of the file. A row may hold many more
values than 784 while others hold fewer: that much may be decoded at once. Accepted: a footer that lies about its sizes,
as no writer's does by mistake; what is decoded then is not bounded.
"""

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline.core.images import BY_TYPE, PIXELS, PixelFormat
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.parquet_columns import (
    LABEL_COLUMN,
    Layout,
    decode_labels,
    decode_pixels,
    layout_of,
)
from mnist_pipeline.datasets.source_files import SourceFile, Verify, input_errors, open_regular, verified_file
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, ImagesError, SettingsError, listed
from mnist_pipeline.store.documents import canonical_sha256

logger = logging.getLogger(__name__)

DECODED_AT_ONCE = 1024  # rows
# Without a buffer size the whole column of a row group, however large, is read before its first row is decoded.
BUFFER_BYTES = 1 << 20
# Of what is decoded to what the file holds. Images that differ compress 10 times; only repetition gives more than 1000.
MAX_RATIO = 10_000
ALWAYS_DECODED_BYTES = 64 << 20
MAX_VALUES = 2  # times 784 for each image; fewer are decoded, so that the message can name the row
# Names of files that people keep images or labels in. In a folder of images they must not be passed over in silence.
DATA_NAMES = re.compile(
    r"image|label|\.(parquet|parq|pq|arrow|feather|npz|npy|csv|tsv|jsonl|png|jpe?g|bmp|gif|tiff?|webp)"
    r"(\.(gz|zst|bz2|xz|lz4|snappy))?$|ubyte(\.gz)?$",
    re.IGNORECASE,
)
# With row groups smaller than this, not every start is kept: a split is pickled with every task.
ENTRY_SPACING = 1000


@dataclass(frozen=True)
class ImagesFile:
    """One verified Parquet file, and the range of images of the split that it holds."""

    source_file: SourceFile
    start: int
    stop: int


@dataclass(frozen=True)
class ParquetSplit:
    """The images of one or more Parquet files, in order.

    `entries` are the rows where decoding can start, in order, including the first row of each file.
    """

    dataset: str
    split: str
    files: tuple[ImagesFile, ...]
    layout: Layout
    images_sha256: str
    entries: tuple[int, ...]
    pixel_format: PixelFormat = BY_TYPE

    @property
    def rows(self) -> int:
        return self.files[-1].stop

    @property
    def labels_sha256(self) -> str | None:
        if self.layout.label in (None, LABEL_COLUMN):
            return self.layout.label and self.images_sha256
        return canonical_sha256({"images_sha256": self.images_sha256, "label_column": self.layout.label})

    @property
    def keys_from(self) -> None:
        return None

    @property
    def transform_version(self) -> str:
        return self.pixel_format.transform_version(np.dtype(self.layout.numbers))

    def decoded_from(self, row: int) -> int:
        """The row where decoding must start: Parquet decodes from the start of a row group only."""
        return self.entries[bisect_right(self.entries, row) - 1]

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read the images of each range, see `OpenSplit`. Rows between ranges are decoded but not checked.

        Raises:
            DataError: a file is missing, damaged or has changed since it was verified.
            ImagesError: an image does not have 784 pixels, all in the range of their type.
            LabelError: a label is not a digit.
        """
        if not ranges:
            return
        batches = self._batches(ranges)
        batch = next(batches)
        buffer = np.empty((max(rows.rows for rows in ranges), PIXELS), np.float32)
        for rows in ranges:
            pixels, labels = buffer[: rows.rows], None if self.layout.label is None else np.empty(rows.rows, np.int8)
            done = rows.start
            while done < rows.stop:
                while batch.stop <= done:
                    batch = next(batches)
                chunk = batch.cut(RowRange(done, min(rows.stop, batch.stop)))
                target = slice(done - rows.start, chunk.stop - rows.start)
                column = chunk.content.column(self.layout.pixels)
                decode_pixels(column, chunk.name_row, pixels[target], self.pixel_format)
                if labels is not None:
                    labels[target] = decode_labels(chunk.content.column(self.layout.label), chunk.name_row)
                done = chunk.stop
            yield ImageRows(pixels, labels)

    def _batches(self, ranges: Sequence[RowRange]) -> Iterator["_Batch"]:
        """Decode the row groups that hold rows of `ranges`, in order."""
        for file in self.files:
            here = [rows for rows in ranges if rows.start < file.stop and file.start < rows.stop]
            if here:
                file.source_file.confirm()
                with _opened(file.source_file) as opened:
                    yield from opened.batches(file, here, self.layout.columns)


def open_parquet(
    dataset: str,
    split: str,
    path: Path,
    verify: Verify = verified_file,
    label_column: str | None = None,
    pixel_format: PixelFormat = BY_TYPE,
) -> ParquetSplit:
    """Verify a Parquet file, or the Parquet files of a folder in order of name, and read their schemas.

    Pixels and labels are checked only when they are read.

    Args:
        dataset: the name of the data set in its runs.
        split: the name of the split in its runs.
        path: a file, or a folder with files *.parquet; names that start with a dot or an underscore are skipped.
        verify: hashes a file, or looks its hash up in the cache.
        label_column: the column of the labels, see `layout_of`.
        pixel_format: what the numbers of the images mean.

    Raises:
        SettingsError: `path` does not exist.
        DataError: a file cannot be read or is damaged, there are no images, the files differ in layout, or the folder
            holds other data.
        ImagesError: no column holds images, several do, or it holds many more values than images have pixels.
        LabelError: the labels are not integers, or it is not clear which column holds them.
    """
    with input_errors(path):
        folder = path.is_dir()
        if not (folder or path.exists()):
            raise SettingsError(
                f"--images {path}: expected a Parquet file or a folder of them, got nothing there; check the path"
            )
        paths = _files_of(path) if folder else [path]
    if not paths:
        raise DataError(f"{path}: expected files *.parquet, got none; give a folder that holds them, or one file")
    files: list[ImagesFile] = []
    entries: list[int] = []
    layout, start = None, 0
    for each in paths:
        source_file = verify(each)
        with _opened(source_file) as opened:
            found = layout_of(opened.parquet.schema_arrow, str(each), label_column)
            *groups, rows = opened.group_starts()
            opened.require_sizes(found)
        if (layout := layout or found) != found:
            raise DataError(
                f"{each}: expected {layout}, as in {paths[0]}, got {found}; write all files of a folder alike"
            )
        files.append(ImagesFile(source_file, start, start + rows))
        for row in groups:
            if row == 0 or start + row >= entries[-1] + ENTRY_SPACING:
                entries.append(start + row)
        start += rows
    if layout is None or start == 0:
        raise DataError(f"{path}: expected at least one image, got none; give a data set with images")
    if layout.label is None and label_column is None and layout.unread:
        logger.warning("%s: no labels; columns that are not read: %s", path, listed(layout.unread))
    hashes = [{"name": file.source_file.path.name, "sha256": file.source_file.sha256} for file in files]
    sha256 = canonical_sha256(hashes) if folder else files[0].source_file.sha256
    return ParquetSplit(dataset, split, tuple(files), layout, sha256, tuple(entries), pixel_format)


def _files_of(folder: Path) -> list[Path]:
    """The Parquet files of a folder in order of name.

    Raises:
        DataError: there are other files of data: they would be missing in the runs.
    """
    there = sorted(each for each in folder.iterdir() if each.name[0] not in "._")
    found = [each for each in there if each.name.endswith(".parquet")]
    others = [each.name for each in there if each not in found]
    if left_out := [name for name in others if DATA_NAMES.search(name)]:
        raise DataError(
            f"{folder}: expected no data but files *.parquet, got {listed(left_out)}; they would be left out: move "
            "them away, or name the folder or file that is meant"
        )
    if others:
        logger.warning("%s: only files *.parquet are read, and not %s", folder, listed(others))
    return found


@dataclass(frozen=True)
class _Batch:
    """Decoded rows of a file; `start` and `stop` are their positions in the split."""

    file: ImagesFile
    start: int
    stop: int
    content: pa.RecordBatch

    def cut(self, rows: RowRange) -> "_Batch":
        return _Batch(self.file, rows.start, rows.stop, self.content.slice(rows.start - self.start, rows.rows))

    def name_row(self, row: int) -> str:
        """The name of a row of the batch in errors: its file, and its number there."""
        return f"{self.file.source_file.path}: row {self.start + row - self.file.start}"


@dataclass(frozen=True)
class _Opened:
    source_file: SourceFile
    stream: IO[bytes]
    parquet: pq.ParquetFile

    def group_starts(self) -> list[int]:
        """The first row of each row group, followed by the number of rows."""
        metadata = self.parquet.metadata
        rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
            raise DataError(
                f"{self.source_file.path}: expected row groups of {metadata.num_rows} rows in all, "
                f"got {sum(rows)}; replace it"
            )
        return [0, *accumulate(rows)]

    def require_sizes(self, layout: Layout) -> None:
        """Compare what would be decoded, as the footer has it, with the number of images and the size of the file.

        Raises:
            ImagesError: there are many more values than pixels.
            DataError: the file would decode to far more than it holds.
        """
        path, metadata = self.source_file.path, self.parquet.metadata
        paths = [f"{metadata.schema.column(index).path}." for index in range(metadata.num_columns)]
        read = tuple(f"{name}." for name in layout.columns)  # there may be dots in a name, too
        wanted = [index for index, path in enumerate(paths) if path.startswith(read)]
        decoded_bytes, width = 0, np.dtype(layout.numbers).itemsize
        for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
            for chunk in map(group.column, wanted):
                if chunk.num_values > MAX_VALUES * PIXELS * group.num_rows:
                    raise ImagesError(
                        f"{path}: expected {PIXELS} values for each of {group.num_rows:,} images, got "
                        f"{chunk.num_values:,} in all; only images of 28x28 pixels are read"
                    )
                decoded_bytes += max(chunk.num_values * width, chunk.total_uncompressed_size)
        decoded_bytes = max(decoded_bytes, metadata.num_rows * PIXELS * width)  # a binary image counts as one value
        limit = max(ALWAYS_DECODED_BYTES, MAX_RATIO * self.source_file.size_bytes)
        if decoded_bytes > limit:
            raise DataError(
                f"{path}: expected at most {limit:,} bytes decoded from {self.source_file.size_bytes:,}, got "
                f"{decoded_bytes:,} by its footer; write it again without compression if it is meant"
            )

    def batches(self, file: ImagesFile, ranges: Sequence[RowRange], columns: list[str]) -> Iterator[_Batch]:
        starts = self.group_starts()
        for first, stop in _spans(starts, [(rows.start - file.start, rows.stop - file.start) for rows in ranges]):
            row = file.start + starts[first]
            decoded = self.parquet.iter_batches(
                DECODED_AT_ONCE, row_groups=range(first, stop), columns=columns, use_threads=False
            )
            while (content := self._next(decoded)) is not None:
                yield _Batch(file, row, row := row + content.num_rows, content)
            if row != file.start + starts[stop]:
                raise DataError(
                    f"{self.source_file.path}: expected {starts[stop]} rows, got {row - file.start}; replace it"
                )

    def _next(self, decoded: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        with _whole(self.source_file, self.stream):
            return next(decoded, None)


def _spans(starts: Sequence[int], ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (first, stop) of row groups that hold rows of the ranges, without overlaps."""
    spans: list[tuple[int, int]] = []
    for start, stop in ranges:
        first, last = bisect_right(starts, max(start, 0)) - 1, min(bisect_left(starts, stop), len(starts) - 1)
        if spans and first <= spans[-1][1]:
            first, _ = spans.pop()
        spans.append((first, last))
    return spans


@contextmanager
def _opened(source_file: SourceFile) -> Iterator[_Opened]:
    with open_regular(source_file.path) as stream:
        with _whole(source_file, stream):
            parquet = pq.ParquetFile(
                stream, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        yield _Opened(source_file, stream, parquet)


@contextmanager
def _whole(source_file: SourceFile, stream: IO[bytes]) -> Iterator[None]:
    """Translate decoding errors into DataError; raise it too if the file has changed, decoded or not."""
    damage: Exception | None = None
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        damage = error
    if problem := source_file.problem_with(stream):
        raise DataError(f"{source_file.path}: {problem}; run again to verify it again") from damage
    if damage:
        raise DataError(f"{source_file.path}: expected a whole Parquet file, got {damage}; replace it") from damage
