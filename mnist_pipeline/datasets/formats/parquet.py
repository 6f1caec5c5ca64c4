"""Images that other tools wrote as Parquet -> rows for the network, streamed. Our own shards are in `shards.py`.

A file, or a folder of files, with a column of 784 numbers (or 28 lists of 28) an image and, if there are labels, a
column `label`. Integers in 0..255 are divided by 255 as MNIST's bytes are; floats in 0..1 are taken as they are.
"""

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

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.parquet_columns import (
    LABEL_COLUMN,
    Layout,
    decode_labels,
    decode_pixels,
    layout_of,
)
from mnist_pipeline.datasets.source_files import SourceFile, Verify, input_errors, verified_file
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, SettingsError
from mnist_pipeline.store.documents import canonical_sha256

DECODED_AT_ONCE = 1024  # rows
# Without it a whole column of a row group is read before its first row is decoded, however large that is.
BUFFER_BYTES = 1 << 20
# Of row groups smaller than this not every start is kept: a split travels with every task.
ENTRY_SPACING = 1000


@dataclass(frozen=True)
class ImagesFile:
    """One verified Parquet file, and which images of the split it holds."""

    source_file: SourceFile
    start: int
    stop: int


@dataclass(frozen=True)
class ParquetSplit:
    """The images of one or more Parquet files, in order.

    `entries` are rows in order, the first of each file among them, at which decoding can begin.
    """

    dataset: str
    split: str
    files: tuple[ImagesFile, ...]
    layout: Layout
    images_sha256: str
    entries: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.files[-1].stop

    @property
    def labels_sha256(self) -> str | None:
        return None if self.layout.label is None else self.images_sha256

    @property
    def transform_version(self) -> str:
        return self.layout.transform_version

    def decoded_from(self, row: int) -> int:
        """The row from which decoding begins; Parquet can be entered at the start of a row group only."""
        return self.entries[bisect_right(self.entries, row) - 1]

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """The images of each range, see `OpenSplit`. What lies between two ranges is decoded but not looked at.

        Raises:
            DataError: a file is gone, damaged or was changed since it was verified.
            ImagesError: an image has not 784 pixels in the range of their type, or lacks some.
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
                decode_pixels(chunk.content.column(self.layout.pixels), chunk.name_row, out=pixels[target])
                if labels is not None:
                    labels[target] = decode_labels(chunk.content.column(LABEL_COLUMN), chunk.name_row)
                done = chunk.stop
            yield ImageRows(pixels, labels)

    def _batches(self, ranges: Sequence[RowRange]) -> Iterator["_Batch"]:
        """What Parquet decodes of the row groups that hold a row of `ranges`, in order."""
        for file in self.files:
            here = [rows for rows in ranges if rows.start < file.stop and file.start < rows.stop]
            if here:
                file.source_file.confirm()
                with _opened(file.source_file) as opened:
                    yield from opened.batches(file, here, self.layout.columns)


def open_parquet(dataset: str, split: str, path: Path, verify: Verify = verified_file) -> ParquetSplit:
    """Verify a Parquet file, or the Parquet files of a folder in the order of their names, and see what they hold.

    Pixels and labels are not looked at before they are read.

    Args:
        dataset: the name its runs will have.
        split: likewise.
        path: a file; or a folder, of which *.parquet is read but for names that start with a dot or an underscore.
        verify: hashes a file, or remembers its hash.

    Raises:
        SettingsError: there is nothing at `path`.
        DataError: a file cannot be read or is damaged, there are no images, or the files are not of one form.
        ImagesError: no column holds images, or it is not clear which.
        LabelError: the labels are not integers.
    """
    with input_errors(path):
        folder = path.is_dir()
        if not (folder or path.exists()):
            raise SettingsError(
                f"--images {path}: expected a Parquet file or a folder of them, got nothing there; check the path"
            )
        paths = sorted(each for each in path.glob("*.parquet") if each.name[0] not in "._") if folder else [path]
    if not paths:
        raise DataError(f"{path}: expected files *.parquet, got none; give a folder that holds them, or one file")
    files: list[ImagesFile] = []
    entries: list[int] = []
    layout, start = None, 0
    for each in paths:
        source_file = verify(each)
        with _opened(source_file) as opened:
            found, (*groups, rows) = layout_of(opened.parquet.schema_arrow, str(each)), opened.group_starts()
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
    hashes = [{"name": file.source_file.path.name, "sha256": file.source_file.sha256} for file in files]
    sha256 = canonical_sha256(hashes) if folder else files[0].source_file.sha256
    return ParquetSplit(dataset, split, tuple(files), layout, sha256, tuple(entries))


@dataclass(frozen=True)
class _Batch:
    """Rows of a file as Parquet decoded them; `start` and `stop` are their places in the split."""

    file: ImagesFile
    start: int
    stop: int
    content: pa.RecordBatch

    def cut(self, rows: RowRange) -> "_Batch":
        return _Batch(self.file, rows.start, rows.stop, self.content.slice(rows.start - self.start, rows.rows))

    def name_row(self, row: int) -> str:
        """What to call a row of the batch in an error: its file, and its number there."""
        return f"{self.file.source_file.path}: row {self.start + row - self.file.start}"


@dataclass(frozen=True)
class _Opened:
    source_file: SourceFile
    stream: IO[bytes]
    parquet: pq.ParquetFile

    def group_starts(self) -> list[int]:
        """The first row of each row group, and at the end the number of rows."""
        metadata = self.parquet.metadata
        rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
            raise DataError(
                f"{self.source_file.path}: expected row groups of {metadata.num_rows} rows in all, "
                f"got {sum(rows)}; replace it"
            )
        return [0, *accumulate(rows)]

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
    """Row groups (first, stop) that hold rows of the ranges; a row group is in one span only."""
    spans: list[tuple[int, int]] = []
    for start, stop in ranges:
        first, last = bisect_right(starts, max(start, 0)) - 1, min(bisect_left(starts, stop), len(starts) - 1)
        if spans and first <= spans[-1][1]:
            first, _ = spans.pop()
        spans.append((first, last))
    return spans


@contextmanager
def _opened(source_file: SourceFile) -> Iterator[_Opened]:
    with input_errors(source_file.path), source_file.path.open("rb") as stream:
        with _whole(source_file, stream):
            parquet = pq.ParquetFile(
                stream, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        yield _Opened(source_file, stream, parquet)


@contextmanager
def _whole(source_file: SourceFile, stream: IO[bytes]) -> Iterator[None]:
    """Refuse what does not decode; a file that was changed says so, whether it decoded or not."""
    damage: Exception | None = None
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        damage = error
    if problem := source_file.problem_with(stream):
        raise DataError(f"{source_file.path}: {problem}; run again to verify it anew") from damage
    if damage:
        raise DataError(f"{source_file.path}: expected a whole Parquet file, got {damage}; replace it") from damage
