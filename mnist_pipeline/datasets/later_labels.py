"""Labels in a file of their own, which may come after the images: Parquet or CSV, an image and its label in each row.

The column `label` has 0-9, or nothing where an image has none. An image is named by its key where the images have keys
(a column called as the images' own, or `image_key`), else by its position (`image_id`). The file is streamed.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.datasets.image_keys import Keys
from mnist_pipeline.datasets.source_files import OpenSource, SourceFile, verified_file
from mnist_pipeline.errors import LabelError, PipelineError, listed, printable, shown
from mnist_pipeline.store.base import Location
from mnist_pipeline.tables.columns import numpy_of

LABEL, KEY, POSITION = "label", "image_key", "image_id"
READ_ROWS, BLOCK_BYTES = 65_536, 1 << 20
MAX_SAID = 200  # characters of an error of a library
A_LABEL, A_POSITION = r"^[0-9](\.0*)?$", r"^[0-9]{1,18}$"


@dataclass(frozen=True)
class _Rows:
    """Some rows of the file, as text: the images' names, and labels that are digits or null."""

    first: int
    names: pa.ChunkedArray
    labels: pa.ChunkedArray


def find_labels(location: Location) -> SourceFile:
    """Hash a file of labels; it is not parsed yet.

    Raises:
        LabelError: it is empty.
        DataError: it cannot be read.
        UnavailableError: its bucket does not answer.
    """
    file = verified_file(location)
    if not file.size_bytes:
        raise LabelError(f"{location}: expected labels in Parquet or CSV, got an empty file; write it again")
    return file


def read_labels(file: SourceFile, images: int, keys_from: str | None, keys: Keys) -> NDArray[np.int8]:
    """Read the labels of all images: `[images]` int8 in 0..9, NO_LABEL where one has none.

    Args:
        file: as it was found.
        images: how many there are.
        keys_from: where their keys come from; None if they have none.
        keys: of all images; called only if they have some.

    Raises:
        LabelError: it is no Parquet or CSV file, has not the columns, names an image that is not there or one twice, or
            holds something else than digits, or not a single one.
        DataError: it has changed since it was found.
    """
    index = None if keys_from is None else _Index.of(keys(), images)
    labels, row_of = np.full(images, NO_LABEL, np.int8), np.full(images, -1, np.int32)
    for rows in _read(file, [POSITION] if keys_from is None else [keys_from, KEY]):
        positions = _positions(file, rows, images) if index is None else index.find(file, rows)
        _enter(file, rows, positions, labels, row_of)
    if (labels == NO_LABEL).all():
        raise LabelError(
            f"{file}: expected the label of one image at least, got none; run without it until some are known"
        )
    return labels


@dataclass(frozen=True)
class _Index:
    """The images by two 64-bit hashes of their keys, sorted by the first: 24 bytes an image.

    Both are salted for each process. That a key has both in common with another's is not to be expected in any file,
    nor that two keys have the first in common: the second of these would be refused as unknown.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    positions: NDArray[np.intp]

    @classmethod
    def of(cls, keys: Iterator[pa.StringArray], images: int) -> "_Index":
        first, second, start = np.empty(images, np.int64), np.empty(images, np.int64), 0
        for some in keys:
            here = slice(start, start := start + len(some))
            first[here], second[here] = _hashes(some.to_pylist())
        order = np.argsort(first)
        first = first[order]  # one after the other: for millions of images each takes some memory
        second = second[order]
        return cls(first, second, order)

    def find(self, file: SourceFile, rows: _Rows) -> NDArray[np.intp]:
        """The positions of the images that some rows name."""
        first, second = _hashes(rows.names.to_pylist())
        nearest = np.minimum(np.searchsorted(self.first, first), len(self.first) - 1)
        unknown = (self.first[nearest] != first) | (self.second[nearest] != second)
        if unknown.any():
            row = int(np.argmax(unknown))
            raise LabelError(
                f"{file}: row {rows.first + row}: expected the key of one of the {len(self.first):,} images, got "
                f"{shown(rows.names[row].as_py())}; are these the labels of other images?"
            )
        return self.positions[nearest]


def _hashes(keys: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first = np.fromiter(map(hash, keys), np.int64, len(keys))
    return first, np.fromiter((hash(f"{key}\n") for key in keys), np.int64, len(keys))


def _positions(file: SourceFile, rows: _Rows, images: int) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    _require(file, rows.first, rows.names, pc.match_substring_regex(rows.names, A_POSITION), "the position of an image")
    positions: NDArray[np.int64] = numpy_of(rows.names.cast(pa.int64()))
    if (beyond := positions >= images).any():
        row = int(np.argmax(beyond))
        raise LabelError(
            f"{file}: row {rows.first + row}: expected a position from 0 to {images - 1:,}, got {positions[row]}; "
            "are these the labels of other images?"
        )
    return positions


def _enter(
    file: SourceFile,
    rows: _Rows,
    positions: NDArray[np.int64],
    labels: NDArray[np.int8],
    row_of: NDArray[np.int32],
) -> None:
    """Enter the labels of some rows at the positions of their images."""
    numbers, before = rows.first + np.arange(len(positions)), row_of[positions]
    row_of[positions] = numbers
    again = (before >= 0) | (row_of[positions] != numbers)
    if again.any():
        at = int(np.argmax(again))
        other = before[at] if before[at] >= 0 else row_of[positions[at]]
        first, second = sorted((int(other), int(numbers[at])))
        raise LabelError(
            f"{file}: row {second}: expected each image once, got {shown(rows.names[at].as_py())}, as in row {first}; "
            "keep one of the two"
        )
    labels[positions] = numpy_of(rows.labels.cast(pa.int8()), null=NO_LABEL)


def _read(file: SourceFile, names: list[str]) -> Iterator[_Rows]:
    """The rows of the file, some at a time; the images are named in one of the columns `names`."""
    import pyarrow.compute as pc

    with file.open() as source, _parsed(source):
        first, stream = 0, source.stream
        for batch in _parquet(file, stream, names) if _is_parquet(stream) else _csv(file, stream, names):
            if not batch.num_rows:
                continue
            given = pa.Table.from_batches([batch])
            rows = _Rows(first, given[0], given[1])
            _require(file, first, rows.names, pc.not_equal(rows.names, ""), "the name of an image")
            in_a_line = pc.invert(pc.match_substring_regex(rows.names, "[\r\n]"))
            _require(file, first, rows.names, in_a_line, "the name of an image in one line")
            fits = pc.or_kleene(pc.is_null(rows.labels), pc.match_substring_regex(rows.labels, A_LABEL))
            _require(file, first, rows.labels, fits, "a label 0-9, or nothing")
            yield _Rows(first, rows.names, pc.utf8_slice_codeunits(rows.labels, 0, 1))
            first += batch.num_rows
        if not first:
            raise LabelError(f"{file}: expected the label of one image at least, got no rows; write it again")


def _is_parquet(stream: BufferedIOBase) -> bool:
    magic = stream.read(4)
    stream.seek(0)
    return magic == b"PAR1"


def _parquet(file: SourceFile, stream: BufferedIOBase, names: list[str]) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(pa.PythonFile(stream, mode="r"), page_checksum_verification=True)
    wanted = _columns(file, parquet.schema_arrow.names, names)
    for batch in parquet.iter_batches(READ_ROWS, columns=wanted, use_threads=False):
        yield pa.RecordBatch.from_arrays([_text(file, batch[name], name) for name in wanted], wanted)


def _csv(file: SourceFile, stream: BufferedIOBase, names: list[str]) -> Iterator[pa.RecordBatch]:
    how: dict[str, Any] = {
        "read_options": pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        "parse_options": pa_csv.ParseOptions(newlines_in_values=True),
    }
    header = pa_csv.open_csv(pa.PythonFile(stream, mode="r"), **how).schema.names
    wanted = _columns(file, header, names)
    stream.seek(0)
    options = pa_csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    yield from pa_csv.open_csv(pa.PythonFile(stream, mode="r"), convert_options=options, **how)


def _columns(file: SourceFile, there: list[str], names: list[str]) -> list[str]:
    """The column that names the images, and that of the labels."""
    found = [name for name in there if name in names]
    labels = there.count(LABEL)
    if len(found) != 1 or labels != 1:
        expected = " or ".join(shown(name) for name in dict.fromkeys(names))
        why = "" if names != [POSITION] or KEY not in there else "; the images have no keys, so name them by position"
        raise LabelError(
            f"{file}: expected one column {expected} and one {LABEL!r}, got {listed(there)}"
            f"{why or '; rename or drop columns'}"
        )
    return [found[0], LABEL]


def _text(file: SourceFile, column: pa.Array, name: str) -> pa.Array:
    """The values of a column of numbers or text as text; NaN, as pandas writes a missing integer, is null."""
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.nulls(1, column.type)[0], column)
    try:
        return column.cast(pa.string())
    except (pa.ArrowException, NotImplementedError) as error:
        raise LabelError(
            f"{file}: column {shown(name)}: expected numbers or text, got {shown(column.type)}; convert it"
        ) from error


def _require(file: SourceFile, first: int, values: pa.ChunkedArray, fits: pa.ChunkedArray, expected: str) -> None:
    """Reject the first value that does not fit; `fits` is null where the value is."""
    import pyarrow.compute as pc

    if pc.all(fits, skip_nulls=False).as_py() is True:
        return
    row = [each is True for each in fits.to_pylist()].index(False)
    got = shown(values[row].as_py()) if values[row].as_py() else "nothing"
    raise LabelError(f"{file}: row {first + row}: expected {expected}, got {got}; correct it")


@contextmanager
def _parsed(source: OpenSource) -> Iterator[None]:
    try:
        yield
        source.require_unchanged()
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        if isinstance(error, PipelineError):
            raise
        source.require_unchanged()
        # Arrow counts the header, and from 1.
        said = re.sub(r"Row #(\d+)", lambda found: f"row {int(found[1]) - 2}", printable(error))[:MAX_SAID]
        raise LabelError(
            f"{source.location}: expected Parquet, or CSV in UTF-8 with a header, got {said}; correct it"
        ) from error
