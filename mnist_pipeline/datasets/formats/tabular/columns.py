"""Decodes the columns of images, labels and names of a table from another tool. It reads no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE
from mnist_pipeline.datasets.formats.interface import Decoded, RowName
from mnist_pipeline.datasets.formats.pictures.decoding import decode_picture
from mnist_pipeline.datasets.formats.tabular.layout import BINARY, BYTES, Candidate, Layout, is_list
from mnist_pipeline.errors import DataError, ImagesError, shown


@dataclass(frozen=True)
class ColumnReader:
    """What readers of tables have in common: everything but how they read, see `files.Reader`."""

    layout: Layout

    @property
    def numbers(self) -> str:
        return self.layout.numbers

    @property
    def image_column(self) -> str | None:
        return self.layout.chosen

    @property
    def label_column(self) -> str | None:
        return self.layout.label

    @property
    def id_column(self) -> str | None:
        return self.layout.key

    @property
    def unread(self) -> Sequence[str]:
        return self.layout.unread

    def __str__(self) -> str:
        return str(self.layout)


@dataclass(frozen=True)
class ColumnRows:
    """Rows of a table of that layout, see `files.Rows`."""

    content: pa.RecordBatch
    layout: Layout

    def __len__(self) -> int:
        return int(self.content.num_rows)

    def slice(self, start: int, rows: int) -> "ColumnRows":
        return ColumnRows(self.content.slice(start, rows), self.layout)

    def decode(self, name_row: RowName) -> Decoded:
        """The content of the rows.

        Raises:
            ImagesError: an image is null or does not have 784 pixels; a pixel is null; a picture is not 28x28 grey.
        """
        layout = self.layout
        return Decoded(
            _pixels(self.content, layout.images, name_row),
            None if layout.label is None else self.content.column(layout.label),
            None if layout.key is None else self.content.column(layout.key).cast(pa.string()),
        )


def _pixels(content: pa.RecordBatch, images: Candidate, name_row: RowName) -> NDArray[Any]:
    """The numbers of images, `[n, 784]`, of any form that `layout_of` accepts."""
    if images.form == "columns":
        numbers = content.select(list(images.columns))
        try:
            return np.asarray(numbers.to_tensor()).astype(images.numbers, copy=False)
        except pa.ArrowTypeError:  # there is a null
            for name, column in zip(images.columns, numbers.columns, strict=True):
                _require_values(column, name_row, 1, f"a number in column {shown(name)}", ImagesError)
            raise
    column = content.column(images.columns[0])
    _require_values(column, name_row, 1, "an image", ImagesError)
    if images.form == "encoded":
        return _decoded(column, name_row)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        flat = np.frombuffer(column.buffers()[1], BINARY[width], len(column) * PIXELS, offset=column.offset * width)
    else:
        flat = _flat_lists(column, name_row)
    return flat.reshape(-1, PIXELS)


def _decoded(column: pa.Array, name_row: RowName) -> NDArray[np.uint8]:
    """The pixels of encoded pictures, `[n, 784]`."""
    if isinstance(column.type, pa.StructType):
        column = column.field(BYTES)
        what = "the bytes of a picture (its path alone does not hold it)"
        _require_values(column, name_row, 1, what, ImagesError)
    pixels = np.empty((len(column), PIXELS), np.uint8)
    for row, each in enumerate(column):
        pixels[row] = decode_picture(each.as_buffer(), name_row(row))
    return pixels


def _flat_lists(column: pa.Array, name_row: RowName) -> NDArray[Any]:
    """The flat numbers of lists of 784, or of 28 lists of 28."""
    lengths, lists = ([SIDE, SIDE] if is_list(column.type.value_type) else [PIXELS]), 1
    for expected in lengths:
        got = _lengths(column)
        if (wrong := got != expected).any():
            where = int(np.argmax(wrong))
            form = f"{PIXELS} pixels" if lengths == [PIXELS] else f"{SIDE} rows of {SIDE} pixels"
            raise ImagesError(
                f"{name_row(where // lists)}: expected {form}, got a list of {got[where]}; "
                f"only images of {SIDE}x{SIDE} pixels are read"
            )
        column, lists = column.flatten(), lists * expected
        _require_values(column, name_row, lists, f"{PIXELS} pixels", ImagesError)
    return np.from_dlpack(column)


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    if pa.types.is_fixed_size_list(column.type):
        return np.full(len(column), column.type.list_size, np.int64)
    offsets: NDArray[np.int64] = np.from_dlpack(column.offsets).astype(np.int64)
    return offsets[1:] - offsets[:-1]


def _require_values(column: pa.Array, name_row: RowName, each: int, what: str, error: type[DataError]) -> None:
    """Reject nulls; `each` values belong to one row."""
    if column.null_count:
        where = column.is_null().to_pylist().index(True)
        raise error(f"{name_row(where // each)}: expected {what}, got null; fill it in, or drop the row")
