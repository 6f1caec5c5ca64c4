"""Finds the images, labels and names among NumPy arrays that other tools saved, and decodes their rows.

It reads no files, and unpickles nothing: an array of Python objects is refused by its header.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE
from mnist_pipeline.datasets.formats.interface import MAX_NAME_BYTES, NO_LABELS, PIXEL_COLUMNS, Decoded, RowName, Wanted
from mnist_pipeline.datasets.formats.labels import is_near_label, require_two
from mnist_pipeline.errors import DataError, ImagesError, LabelError, listed, shown
from mnist_pipeline.tables.columns import column_of

MAX_HEADER_BYTES = 10_000  # of an array's header; NumPy writes some hundred
SHAPES = ((SIDE, SIDE), (PIXELS,))  # of an image, but for axes of size one
IMAGES, LABELS = "x_", "y_"  # begin the names of arrays that belong together, as in Keras's mnist.npz
NUMBERED = re.compile(r"arr_\d+")  # what `numpy.savez` calls arrays without names


@dataclass(frozen=True)
class Array:
    """What the header of an array says, and its size in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    column_major: bool
    header_bytes: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def size_bytes(self) -> int:
        """Of the header and the values."""
        return self.header_bytes + self.rows * self.row_bytes

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row without axes of size one, which decide nothing."""
        return tuple(size for size in self.shape[1:] if size != 1)

    @property
    def is_images(self) -> bool:
        return self.row_shape in SHAPES and self.dtype.kind in "biuf" and self.dtype.itemsize <= 8

    @property
    def is_column(self) -> bool:
        """Whether it has one value a row."""
        return len(self.shape) > 0 and self.row_shape == ()

    @property
    def is_labels(self) -> bool:
        return self.is_column and self.dtype.kind in "iu"

    @property
    def may_be_labels(self) -> bool:
        """Whether its values may be digits; they say so themselves."""
        is_text = self.dtype.kind == "U" and 0 < self.dtype.itemsize <= 4 * MAX_NAME_BYTES
        is_float = self.dtype.kind == "f" and self.dtype.itemsize in (4, 8)
        return self.is_labels or (self.is_column and (is_text or is_float))

    @property
    def stored(self) -> np.dtype[Any]:
        """The dtype to read the values as. Those of bool are bytes, of which some may be neither 0 nor 1."""
        return np.dtype(np.uint8) if self.dtype.kind == "b" else self.dtype

    @property
    def numbers(self) -> str:
        """The dtype of the values as pixels. Those of bool are 0 and 1, as floats are."""
        return "float32" if self.dtype.kind == "b" else self.dtype.newbyteorder("=").name

    def __str__(self) -> str:
        return f"{'pickled objects' if self.dtype.hasobject else self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class ArrayLayout:
    """Which arrays hold the images, their labels and their names; the fields are those of `files.Reader`."""

    images: str
    numbers: str
    image_column: str | None
    label_column: str | None
    id_column: str | None
    unread: tuple[str, ...] = field(default=(), compare=False)

    @property
    def arrays(self) -> list[str]:
        """The arrays to read."""
        return [self.images, *filter(None, (self.label_column, self.id_column))]

    def __str__(self) -> str:
        labels = "no labels" if self.label_column is None else shown(self.label_column)
        return f"{shown(self.images)} of {self.numbers} and {labels}"


@dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays, see `files.Rows`."""

    pixels: NDArray[Any]
    labels: NDArray[Any] | None
    keys: NDArray[Any] | None
    numbers: str

    def __len__(self) -> int:
        return len(self.pixels)

    def slice(self, start: int, rows: int) -> "ArrayRows":
        part = slice(start, start + rows)
        labels, keys = (values if values is None else values[part] for values in (self.labels, self.keys))
        return ArrayRows(self.pixels[part], labels, keys, self.numbers)

    def decode(self, name_row: RowName) -> Decoded:
        """The content of the rows.

        Raises:
            DataError: a name is no text.
        """
        labels = None
        if self.labels is not None:
            values = self.labels.astype(self.labels.dtype.newbyteorder("="), copy=False)
            texts = values.dtype.kind == "U"
            labels = _texts(values, name_row) if texts else column_of(values, pa.from_numpy_dtype(values.dtype))
        keys = None if self.keys is None else _texts(self.keys, name_row)
        return Decoded(self.pixels.astype(self.numbers, copy=False), labels, keys)


def parse_header(data: bytes) -> Array:
    """The header of an array.

    Args:
        data: the start of a file in NumPy's format, `MAX_HEADER_BYTES` or all of it.

    Raises:
        ValueError: it is none.
    """
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, column_major, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    except (SyntaxError, TokenError, TypeError, RecursionError, MemoryError, AttributeError, LookupError) as error:
        raise ValueError(f"no header ({error})") from error  # from the parser of Python
    if min(shape, default=0) < 0:
        raise ValueError(f"no shape: {shape}")
    # Of two axes or more the order of the values matters.
    return Array(shape, dtype, column_major and sum(size != 1 for size in shape) > 1, stream.tell())


def layout_of(arrays: Mapping[str, Array], name: str, wanted: Wanted) -> ArrayLayout:
    """Choose the arrays of a file.

    Args:
        arrays: the arrays by their names.
        name: the name of the file in errors.
        wanted: the split, and the arrays that the settings name.

    Raises:
        ImagesError: no array holds images, or it is not clear which does.
        LabelError: the labels are neither numbers nor texts, or it is not clear which array holds them, or there are
            more or fewer of them than images.
        DataError: there is no such array of names, or it holds neither text nor integers, one an image.
    """
    images, image_column = _images(arrays, name, wanted)
    key = _key(arrays, name, images, wanted.id_column)
    label = _label(arrays, name, images, key, wanted.label_column)
    require_two(name, label, key)
    unread = tuple(each for each in arrays if each not in (images, label, key))
    return ArrayLayout(images, arrays[images].numbers, image_column, label, key, unread)


def _images(arrays: Mapping[str, Array], name: str, wanted: Wanted) -> tuple[str, str | None]:
    """The array of the images, and its name if the file alone does not decide it."""
    possible = [each for each, array in arrays.items() if array.is_images]
    usual = [each for each in PIXEL_COLUMNS if each in possible][:1] or possible
    images = f"{IMAGES}{wanted.split}"
    if wanted.image_column is not None:
        images = wanted.image_column
    elif images not in arrays:
        if len(usual) > 1:
            raise ImagesError(
                f"{name}: expected one array of images, got {listed(usual)}; name the one that is meant with "
                "--image-column"
            )
        if usual and usual[0].startswith(IMAGES):
            raise ImagesError(
                f"{name}: expected the images of the split in {shown(images)}, got {shown(usual[0])}; name their "
                "split with --split, or the array with --image-column"
            )
        images = usual[0] if usual else ""
    if images not in arrays:
        what = f"images in an array {shown(images)}" if images else "an array of images"
        raise ImagesError(
            f"{name}: expected {what}, [N, {SIDE}, {SIDE}] or [N, {PIXELS}] numbers, got {_described(arrays)}; "
            "save such an array, or name another with --image-column"
        )
    array = arrays[images]
    if not array.is_images:
        raise ImagesError(
            f"{name}: array {shown(images)}: expected [N, {SIDE}, {SIDE}] or [N, {PIXELS}] numbers, got "
            f"{shown(array)}; {_advice(array)}, or name another array with --image-column"
        )
    if array.column_major:
        raise ImagesError(
            f"{name}: array {shown(images)}: expected image after image, got column-major (Fortran) order; save "
            "numpy.ascontiguousarray(images)"
        )
    return images, None if usual == [images] else images


def _key(arrays: Mapping[str, Array], name: str, images: str, key: str | None) -> str | None:
    if key is None:
        return None
    if key not in arrays:
        raise DataError(
            f"{name}: expected the images' own names in an array {shown(key)}, got none, but {listed(arrays)}; name "
            "another with --id-column"
        )
    array, rows = arrays[key], arrays[images].rows
    # A character of a text has four bytes.
    if not array.is_column or array.dtype.kind not in "USiu" or not 0 < array.dtype.itemsize <= 4 * MAX_NAME_BYTES:
        raise DataError(
            f"{name}: array {shown(key)}: expected [N] texts of at most {MAX_NAME_BYTES} characters, or integers, got "
            f"{shown(array)}; name another array with --id-column"
        )
    if array.rows != rows:
        raise DataError(
            f"{name}: array {shown(key)}: expected {rows} names, one for each image of {shown(images)}, got "
            f"{array.rows}; name another array with --id-column"
        )
    return key


def _label(
    arrays: Mapping[str, Array], name: str, images: str, key: str | None, label_column: str | None
) -> str | None:
    if label_column == NO_LABELS:
        return None
    rows = arrays[images].rows
    near = [
        each
        for each, array in arrays.items()
        if each not in (images, key) and not array.is_images and (is_near_label(each) or NUMBERED.fullmatch(each))
    ]
    label = f"{LABELS}{images.removeprefix(IMAGES)}" if images.startswith(IMAGES) else None
    if label_column is not None:
        label, near = label_column, list(arrays)
    advice = f"name the array with --label-column, or say --label-column {NO_LABELS} if there are no labels"
    if label is None:
        near = [each for each in near if arrays[each].is_labels and arrays[each].rows == rows] or near
        if len(near) > 1:
            raise LabelError(f"{name}: expected one array of labels, got {listed(near)}; {advice}")
        label = near[0] if near else None
    if label is None or (label not in arrays and not near):
        return None
    if label not in arrays:
        raise LabelError(
            f"{name}: expected the labels in an array {shown(label)}, got none, but {listed(near)}; {advice}"
        )
    array = arrays[label]
    if not array.may_be_labels:
        one_hot = "store numpy.argmax(labels, axis=1)" if array.row_shape == (10,) else "store integers"
        raise LabelError(
            f"{name}: array {shown(label)}: expected [N] digits 0-9, got {shown(array)}; {one_hot}, or {advice}"
        )
    if array.rows != rows:
        raise LabelError(
            f"{name}: array {shown(label)}: expected {rows} labels, one for each image of {shown(images)}, got "
            f"{array.rows}; {advice}"
        )
    return label


def _advice(array: Array) -> str:
    if array.dtype.hasobject:
        return "nothing is unpickled: save an array of numbers"
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return "save integers, float32 or float64"
    return f"only images of {SIDE}x{SIDE} pixels are read"


def _described(arrays: Mapping[str, Array]) -> str:
    return listed(f"{name}: {array}" for name, array in arrays.items())


def _texts(values: NDArray[Any], name_row: RowName) -> pa.StringArray:
    """The images' own names, as texts."""
    return column_of([*_decoded(values, name_row)], pa.string())


def _decoded(values: NDArray[Any], name_row: RowName) -> Iterable[str]:
    for row in range(len(values)):
        try:
            value = values[row]
            text = value.decode() if isinstance(value, bytes) else str(value)
            text.encode()
        except (UnicodeError, ValueError, SystemError) as error:
            raise DataError(f"{name_row(row)}: expected the image's own name in UTF-8, got other bytes") from error
        yield text
