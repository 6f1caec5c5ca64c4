"""Streams images from Parquet files that other tools wrote. `shards.py` reads this package's own shards.

The input is a file or a folder of files with a column of 784 numbers (or 28 lists of 28) per image and, if there are
labels, a column of them. Integers in 0..255 are divided by 255 like MNIST's bytes; floats in 0..1 are used as they are.

Threat: a small file that would decode to gigabytes. The footer is checked before anything is decoded: schema, values
per image, and the size of what is read, at most `MAX_RATIO` (10,000) times that of the file. A row may hold many more
values than 784 while others hold fewer: that much may be decoded at once. Accepted: a footer that lies about its sizes,
as no writer's does by mistake; what is decoded then is not bounded.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats.interface import Look, Rows, Wanted
from mnist_pipeline.datasets.formats.tabular.columns import ColumnReader, ColumnRows
from mnist_pipeline.datasets.formats.tabular.layout import Layout, layout_of
from mnist_pipeline.datasets.source_files import OpenSource, SourceFile
from mnist_pipeline.errors import DataError, ImagesError

DECODED_AT_ONCE = 1024  # rows
# Without a buffer size the whole column of a row group, however large, is read before its first row is decoded. Each
# column has a buffer.
BUFFER_BYTES, MIN_BUFFER_BYTES, BUFFERS_BYTES = 1 << 20, 16 << 10, 48 << 20
# Of a row group with a column for each pixel some 1,600 pages and dictionaries are held, however small the buffers. A
# larger one is decoded a few columns at a time, and again for each part of its rows. A value has up to 8 bytes.
STREAMED_BYTES, PART_BYTES, COLUMNS_BYTES, VALUE_BYTES = 64 << 20, 16 << 20, 4 << 20, 8
# Of what is decoded to what the file holds. Images that differ compress 10 times; only repetition gives more than 1000.
MAX_RATIO = 10_000
ALWAYS_DECODED_BYTES = 64 << 20
MAX_MEAN_PICTURE_BYTES = 16 << 10  # on average: one of 28x28 pixels has some hundred, and a batch is decoded at once
MAX_VALUES = 2  # times 784 for each image; fewer are decoded, so that the message can name the row
DAMAGE = (pa.ArrowException, ValueError, KeyError)  # what its decoder raises


@dataclass(frozen=True)
class ParquetReader(ColumnReader):
    """Reads Parquet files of one layout."""

    def read(self, source: OpenSource, ranges: Sequence[RowRange]) -> Iterator[tuple[int, Rows]]:
        """Decode the row groups that hold rows of the ranges, see `Reader`."""
        opened = _opened(source, len(self.layout.columns))
        starts = opened.group_starts()
        for first, stop in _spans(starts, ranges):
            row = starts[first]
            for content in opened.batches(range(first, stop), self.layout):
                yield row, ColumnRows(content, self.layout)
                row += content.num_rows
            if row != starts[stop]:
                raise DataError(f"{source.location}: expected {starts[stop]} rows, got {row}; replace it")


@dataclass(frozen=True)
class Parquet:
    """The format, see `Format`."""

    name: str = "Parquet"
    endings: tuple[str, ...] = (".parquet", ".parq", ".pq")
    may_be_gzip: bool = False

    def look(self, source: OpenSource, source_file: SourceFile, wanted: Wanted) -> Look:
        """Read the footer; pixels and labels are checked only when they are read."""
        opened = _opened(source)
        layout = layout_of(opened.parquet.schema_arrow, str(source.location), wanted)
        *groups, rows = opened.group_starts()
        opened.require_sizes(layout, source_file.size_bytes)
        return Look(ParquetReader(layout), rows, groups or (0,))


@dataclass(frozen=True)
class _Opened:
    source: OpenSource
    parquet: pq.ParquetFile

    def group_starts(self) -> list[int]:
        """The first row of each row group, followed by the number of rows."""
        metadata = self.parquet.metadata
        rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
            raise DataError(
                f"{self.source.location}: expected row groups of {metadata.num_rows} rows in all, "
                f"got {sum(rows)}; replace it"
            )
        return [0, *accumulate(rows)]

    def require_sizes(self, layout: Layout, size_bytes: int) -> None:
        """Compare what would be decoded, as the footer has it, with the number of images and the size of the file.

        Raises:
            ImagesError: there are many more values than pixels.
            DataError: the file would decode to far more than it holds.
        """
        path, metadata = self.source.location, self.parquet.metadata
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
                if (
                    layout.images.form == "encoded"
                    and chunk.total_uncompressed_size > MAX_MEAN_PICTURE_BYTES * group.num_rows
                ):
                    raise ImagesError(
                        f"{path}: expected pictures of 28x28 pixels, got {chunk.total_uncompressed_size:,} bytes for "
                        f"{group.num_rows:,} of them; scale them down"
                    )
                decoded_bytes += max(chunk.num_values * width, chunk.total_uncompressed_size)
        decoded_bytes = max(decoded_bytes, metadata.num_rows * PIXELS * width)  # a binary image counts as one value
        limit = max(ALWAYS_DECODED_BYTES, MAX_RATIO * size_bytes)
        if decoded_bytes > limit:
            raise DataError(
                f"{path}: expected at most {limit:,} bytes decoded from {size_bytes:,}, got "
                f"{decoded_bytes:,} by its footer; write it again without compression if it is meant"
            )

    def batches(self, groups: range, layout: Layout) -> Iterator[pa.RecordBatch]:
        """Decode row groups, some rows at a time."""
        sizes = [self.parquet.metadata.row_group(group).total_byte_size for group in groups]
        if layout.images.form == "columns" and max(sizes, default=0) > STREAMED_BYTES:
            for group in groups:
                yield from self._parts(group, layout)
            return
        decoded = self.parquet.iter_batches(
            DECODED_AT_ONCE, row_groups=groups, columns=layout.columns, use_threads=False
        )
        while (content := self._next(decoded)) is not None:
            yield content

    def _parts(self, group: int, layout: Layout) -> Iterator[pa.RecordBatch]:
        """Decode a row group that cannot be streamed: a few columns whole, one after the other, again for each part."""
        rows, columns = self.parquet.metadata.row_group(group).num_rows, layout.columns
        width = max(1, COLUMNS_BYTES // (rows * VALUE_BYTES))
        for some in cut(rows, max(1, PART_BYTES // (PIXELS * np.dtype(layout.numbers).itemsize))):
            arrays: list[pa.Array] = []
            for start in range(0, len(columns), width):
                with self.source.decoding(FORMAT.name, *DAMAGE):
                    read = self.parquet.read_row_group(group, columns[start : start + width], use_threads=False)
                # A copy: a slice would hold the whole column.
                arrays += [pa.concat_arrays(each.slice(some.start, some.rows).chunks) for each in read.columns]
            yield pa.RecordBatch.from_arrays(arrays, names=columns)

    def _next(self, decoded: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
        with self.source.decoding(FORMAT.name, *DAMAGE):
            return next(decoded, None)


def _spans(starts: Sequence[int], ranges: Sequence[RowRange]) -> list[tuple[int, int]]:
    """Ranges (first, stop) of row groups that hold rows of the ranges, without overlaps."""
    spans: list[tuple[int, int]] = []
    for rows in ranges:
        first, last = bisect_right(starts, rows.start) - 1, min(bisect_left(starts, rows.stop), len(starts) - 1)
        if spans and first <= spans[-1][1]:
            first, _ = spans.pop()
        spans.append((first, last))
    return spans


def _opened(source: OpenSource, columns: int = 1) -> _Opened:
    buffer_bytes = max(MIN_BUFFER_BYTES, min(BUFFER_BYTES, BUFFERS_BYTES // columns))
    with source.decoding(FORMAT.name, *DAMAGE):
        parquet = pq.ParquetFile(
            source.stream, buffer_size=buffer_bytes, pre_buffer=False, page_checksum_verification=True
        )
    return _Opened(source, parquet)


FORMAT = Parquet()
