"""Finds the columns of images and labels in Parquet from other tools, and decodes them into NumPy arrays.

It reads no files. Errors name the file and row through `name_row`, called with the row's number in the column.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import AS_GIVEN_VERSION, DIGITS, PIXELS, SIDE, TRANSFORM_VERSION, check_range, normalise
from mnist_pipeline.errors import DataError, ImagesError, LabelError

RowName = Callable[[int], str]

PIXEL_COLUMNS = ("pixels", "image", "images")
LABEL_COLUMN = "label"
# Fixed-size binary columns that can hold an image: uint8, or little-endian float32 as in our shards.
BINARY: dict[int, np.dtype[Any]] = {PIXELS: np.dtype(np.uint8), 4 * PIXELS: np.dtype("<f4")}


@dataclass(frozen=True)
class Layout:
    """The layout of a file: column and dtype of the images, and the type of the labels if it has any."""

    pixels: str
    numbers: str  # a NumPy dtype
    label: str | None  # an Arrow type

    @property
    def columns(self) -> list[str]:
        return [self.pixels] if self.label is None else [self.pixels, LABEL_COLUMN]

    @property
    def transform_version(self) -> str:
        return AS_GIVEN_VERSION if np.issubdtype(self.numbers, np.floating) else TRANSFORM_VERSION

    def __str__(self) -> str:
        labels = "no labels" if self.label is None else f"{LABEL_COLUMN} of {self.label}"
        return f"{self.pixels} of {self.numbers} and {labels}"


def layout_of(schema: pa.Schema, name: str) -> Layout:
    """Choose the columns of a file.

    Args:
        schema: the schema of the file.
        name: the name of the file in errors.

    Raises:
        ImagesError: no column holds images, or several do and none has a name of `PIXEL_COLUMNS`.
        LabelError: the labels are not integers.
    """
    images = [field for field in schema if field.name != LABEL_COLUMN and _numbers(field.type)]
    by_name = [field for wanted in PIXEL_COLUMNS for field in images if field.name == wanted]
    images = [field for field in by_name if field.name == by_name[0].name] or images
    if len(images) != 1:
        listed = ", ".join(f"{field.name}: {field.type}" for field in schema) or "no columns"
        raise ImagesError(
            f"{name}: expected one column of lists of {PIXELS} numbers, or one of them named "
            f"{', '.join(PIXEL_COLUMNS)}; got {listed}; rename, add or drop columns"
        )
    labels = [field.type for field in schema if field.name == LABEL_COLUMN]
    if len(labels) > 1 or not all(pa.types.is_integer(label) for label in labels):
        raise LabelError(
            f"{name}: column {LABEL_COLUMN}: expected integers 0-9, got {', '.join(map(str, labels))}; "
            "store integers, or drop the column"
        )
    (pixels,) = images
    return Layout(pixels.name, str(_numbers(pixels.type)), str(labels[0]) if labels else None)


def decode_pixels(column: pa.Array, name_row: RowName, out: NDArray[np.float32]) -> None:
    """Check images and write them into `out` as input of the network.

    Args:
        column: `[n]` images of any type that `layout_of` accepts.
        name_row: names a row.
        out: `[n, 784]` float32; receives integers divided by 255, floats unchanged.

    Raises:
        ImagesError: an image is null or does not have 784 pixels; a pixel is null, not finite, or out of 0..1 for
            floats or 0..255 for integers.
    """
    _require_values(column, name_row, 1, "an image", ImagesError)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        pixels = np.frombuffer(column.buffers()[1], BINARY[width], len(column) * PIXELS, offset=column.offset * width)
    else:
        pixels = _flat_lists(column, name_row)
    pixels = pixels.reshape(-1, PIXELS)
    if pixels.dtype != np.uint8:
        check_range(pixels, name_row)
    if np.issubdtype(pixels.dtype, np.floating):
        np.copyto(out, pixels, casting="same_kind")
    else:
        normalise(pixels.astype(np.uint8, copy=False), out=out)


def decode_labels(column: pa.Array, name_row: RowName) -> NDArray[np.int8]:
    """Check and decode labels: `[n]` int8 in 0..9.

    Raises:
        LabelError: a label is null or not a digit.
    """
    _require_values(column, name_row, 1, "a label 0-9", LabelError)
    labels = np.from_dlpack(column)
    if (wrong := (labels < 0) | (labels >= DIGITS)).any():
        where = int(np.argmax(wrong))
        raise LabelError(
            f"{name_row(where)}: expected a label 0-9, got {labels[where]}; correct the labels, or drop the column"
        )
    return labels.astype(np.int8)


def _numbers(type: pa.DataType) -> str | None:  # noqa: A002  Arrow's word
    """The dtype of the numbers in a column of images; None if the type cannot hold images."""
    if pa.types.is_fixed_size_binary(type):
        return BINARY[type.byte_width].name if type.byte_width in BINARY else None
    for _ in range(2):  # flat, or row by row
        if not _is_list(type):
            return None
        type = type.value_type  # noqa: A001
        if pa.types.is_integer(type) or pa.types.is_floating(type):
            return str(np.dtype(type.to_pandas_dtype()))
    return None


def _is_list(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    return isinstance(type, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def _flat_lists(column: pa.Array, name_row: RowName) -> NDArray[Any]:
    """The flat numbers of lists of 784, or of 28 lists of 28."""
    lengths, lists = ([SIDE, SIDE] if _is_list(column.type.value_type) else [PIXELS]), 1
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
