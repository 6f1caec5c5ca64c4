"""Finds the columns of images and labels in Parquet from other tools, and decodes them into NumPy arrays.

It reads no files. Errors name the file and row through `name_row`, called with the row's number in the column.
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, PIXELS, SIDE, PixelFormat
from mnist_pipeline.errors import DataError, ImagesError, LabelError, listed, shown

RowName = Callable[[int], str]

PIXEL_COLUMNS = ("pixels", "image", "images")
LABEL_COLUMN = "label"
NO_LABELS = "none"  # as the name of the label column
# Other names that columns of labels have, and how near to one of them a misspelt name is, as a ratio of difflib.
LABEL_NAMES = frozenset({
    "label", "labels", "lbl", "target", "targets", "tgt", "class", "cls", "classlabel", "category", "digit", "digits",
    "truth", "groundtruth", "gt", "y",
})  # fmt: skip
NEAR = 0.8
# Fixed-size binary columns that can hold an image: uint8, or little-endian float32 as in our shards.
BINARY: dict[int, np.dtype[Any]] = {PIXELS: np.dtype(np.uint8), 4 * PIXELS: np.dtype("<f4")}


@dataclass(frozen=True)
class Layout:
    """The layout of a file: column and dtype of the images, and column and type of the labels if it has any."""

    pixels: str
    numbers: str  # a NumPy dtype
    label: str | None
    label_type: str | None  # an Arrow type
    unread: tuple[str, ...] = field(default=(), compare=False)  # the other columns

    @property
    def columns(self) -> list[str]:
        return [self.pixels] if self.label is None else [self.pixels, self.label]

    def __str__(self) -> str:
        labels = "no labels" if self.label is None else f"{shown(self.label)} of {self.label_type}"
        return f"{shown(self.pixels)} of {self.numbers} and {labels}"


def layout_of(schema: pa.Schema, name: str, label_column: str | None = None) -> Layout:
    """Choose the columns of a file.

    Args:
        schema: the schema of the file.
        name: the name of the file in errors.
        label_column: the column of the labels, "none" for images without; `label`, if there is one, if left out.

    Raises:
        ImagesError: no column holds images, or it is not clear which does.
        LabelError: the labels are not integers, or it is not clear which column holds them.
    """
    pixels = _pixel_field(schema, name, LABEL_COLUMN if label_column is None else label_column)
    label = _label_field(schema, name, label_column, pixels)
    unread = tuple(field.name for field in schema if field.name not in (pixels.name, label and label.name))
    return Layout(pixels.name, str(_numbers(pixels.type)), label and label.name, label and str(label.type), unread)


def _pixel_field(schema: pa.Schema, name: str, label_column: str) -> pa.Field:
    by_name = [field for wanted in PIXEL_COLUMNS for field in schema if field.name == wanted]
    found = [field for field in by_name if field.name == by_name[0].name] or [
        field for field in schema if field.name != label_column and (_numbers(field.type) or _may_be_images(field.type))
    ]
    if len(found) == 1 and _numbers(found[0].type):
        return found[0]
    if len(found) == 1:
        raise ImagesError(
            f"{name}: column {shown(found[0].name)}: expected lists of {PIXELS} numbers, got {shown(found[0].type)}; "
            "convert it, or drop it if other columns hold the images"
        )
    described = listed(f"{field.name}: {field.type}" for field in schema)
    raise ImagesError(
        f"{name}: expected one column of lists of {PIXELS} numbers, or one of them named {', '.join(PIXEL_COLUMNS)}; "
        f"got {described}; rename, add or drop columns"
    )


def _label_field(schema: pa.Schema, name: str, label_column: str | None, pixels: pa.Field) -> pa.Field | None:
    if label_column == NO_LABELS:
        return None
    wanted = LABEL_COLUMN if label_column is None else label_column
    found = [field for field in schema if field.name == wanted]
    if not found:
        others = [each for each in schema.names if each != pixels.name]
        near = [each for each in others if _is_near_label(each)] if label_column is None else schema.names
        if near or label_column is not None:
            raise LabelError(
                f"{name}: expected the labels in a column {shown(wanted)}, got none, but {listed(near)}; name the "
                f"column with --label-column, or say --label-column {NO_LABELS} if there are no labels"
            )
        return None
    if len(found) > 1 or not pa.types.is_integer(found[0].type):
        got = shown(found[0].type) if len(found) == 1 else f"{len(found)} columns of that name"
        raise LabelError(
            f"{name}: column {shown(wanted)}: expected integers 0-9, got {got}; store integers, or name another column "
            "with --label-column"
        )
    return found[0]


def _is_near_label(name: str) -> bool:
    """Whether a column of this name may have been meant as the labels."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold()
    whole = re.sub(r"[^a-z]", "", words)
    return not LABEL_NAMES.isdisjoint({whole, *re.split(r"[^a-z]+", words)}) or any(
        difflib.SequenceMatcher(None, whole, word).ratio() >= NEAR for word in LABEL_NAMES if len(word) > 3
    )


def decode_pixels(column: pa.Array, name_row: RowName, out: NDArray[np.float32], pixel_format: PixelFormat) -> None:
    """Check images and write them into `out` as input of the network.

    Args:
        column: `[n]` images of any type that `layout_of` accepts.
        name_row: names a row.
        out: `[n, 784]` float32 in 0..1.
        pixel_format: what the numbers mean.

    Raises:
        ImagesError: an image is null or does not have 784 pixels; a pixel is null, not finite, or out of range.
    """
    _require_values(column, name_row, 1, "an image", ImagesError)
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        pixels = np.frombuffer(column.buffers()[1], BINARY[width], len(column) * PIXELS, offset=column.offset * width)
    else:
        pixels = _flat_lists(column, name_row)
    pixel_format.to_input(pixels.reshape(-1, PIXELS), name_row, out)


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


def _may_be_images(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    """Whether people keep images in columns of such a type, though they are not read: encoded, or in other shapes."""
    if isinstance(type, pa.StructType):
        return any(_may_be_images(field.type) for field in type)
    if pa.types.is_dictionary(type):
        return _may_be_images(type.value_type)
    if _is_list(type) or isinstance(type, pa.ListViewType | pa.LargeListViewType):
        inner = type.value_type
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        return _may_be_images(inner) or any(each(inner) for each in numbers)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return isinstance(type, pa.BaseExtensionType) or any(each(type) for each in binary)


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
