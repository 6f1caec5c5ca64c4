"""Chooses which columns of a table from another tool hold images, labels and names. It reads no files."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mnist_pipeline.core.images import PIXELS, SIDE
from mnist_pipeline.datasets.formats.interface import LABEL_COLUMN, NO_LABELS, PIXEL_COLUMNS, Wanted
from mnist_pipeline.datasets.formats.labels import is_near_label, may_be_labels, require_two
from mnist_pipeline.errors import DataError, ImagesError, LabelError, listed, shown

# Fixed-size binary columns that can hold an image: uint8, or little-endian float32 as in our shards.
BINARY: dict[int, np.dtype[Any]] = {PIXELS: np.dtype(np.uint8), 4 * PIXELS: np.dtype("<f4")}
BYTES = "bytes"  # the field of an encoded image in a struct, as Hugging Face datasets write it
MANY = 64  # columns of numbers, from where they are meant as an image

Form = Literal["list", "columns", "encoded"]


@dataclass(frozen=True)
class Candidate:
    """What may hold the images: one column of lists or encoded pictures, or 784 columns of numbers in their order."""

    name: str  # of the column, or what the names of the columns begin with
    columns: tuple[str, ...]
    form: Form
    numbers: str  # a NumPy dtype


@dataclass(frozen=True)
class Layout:
    """The layout of a file: where the images are, and column and type of the labels and names if it has any.

    `chosen` is the column of the images if the file alone does not decide it.
    """

    images: Candidate
    label: str | None
    label_type: str | None  # an Arrow type
    key: str | None = None
    chosen: str | None = None
    unread: tuple[str, ...] = field(default=(), compare=False)  # the other columns

    @property
    def numbers(self) -> str:
        return self.images.numbers

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        return [*self.images.columns, *filter(None, (self.label, self.key))]

    def __str__(self) -> str:
        labels = "no labels" if self.label is None else f"{shown(self.label)} of {self.label_type}"
        what = {"list": "", "columns": f"{PIXELS} columns ", "encoded": "pictures in "}[self.images.form]
        return f"{what}{shown(self.images.name)} of {self.images.numbers} and {labels}"


def layout_of(schema: pa.Schema, name: str, wanted: Wanted) -> Layout:
    """Choose the columns of a file.

    Args:
        schema: the schema of the file.
        name: the name of the file in errors.
        wanted: the columns that the settings name. Labels are in `label`, if there is one and none is named.

    Raises:
        ImagesError: no column holds images, or it is not clear which does.
        LabelError: the labels are neither numbers nor texts, or it is not clear which column holds them.
        DataError: there is no such column of names, or it holds neither text nor integers.
    """
    key = _key_field(schema, name, wanted.id_column)
    label = _label_field(schema, name, wanted.label_column)
    require_two(name, label and label.name, key and key.name)
    not_pixels = {field.name for field in (key, label) if field}
    images, chosen = _images(schema, name, wanted.image_column, not_pixels)
    if label is None:
        _require_no_labels(schema, name, wanted.label_column, images)
    known = {*images.columns, *(field.name for field in (key, label) if field)}
    return Layout(
        images,
        label and label.name,
        label and str(label.type),
        key and key.name,
        chosen,
        tuple(field.name for field in schema if field.name not in known),
    )


def _images(
    schema: pa.Schema, name: str, image_column: str | None, not_pixels: Collection[str | None]
) -> tuple[Candidate, str | None]:
    """What holds the images, and its name if the file alone does not decide it."""
    others = [field for field in schema if field.name not in not_pixels]
    named = [field for wanted in PIXEL_COLUMNS for field in others if field.name == wanted]
    single = [field for field in others if _holds_images(field.type)]
    numbered = _numbered([field for field in others if _is_number(field.type)])
    usual = [field for field in named if field.name == named[0].name] or single
    default = [*filter(None, map(_candidate, usual)), *numbered]
    if image_column is None and len(default) > 1:
        raise ImagesError(
            f"{name}: expected one column of images, got {listed(each.name for each in default)}; drop one, or name "
            "the one that is meant with --image-column"
        )
    if image_column is None and len(usual) == 1 and not _candidate(usual[0]):
        raise ImagesError(
            f"{name}: column {shown(usual[0].name)}: expected lists of {PIXELS} numbers or encoded pictures, got "
            f"{shown(usual[0].type)}; convert it, or drop it if other columns hold the images"
        )
    if image_column is None and len(default) == 1 and len(usual) <= 1:
        return default[0], None
    found = [each for each in (*map(_candidate, single), *numbered) if each and each.name == image_column]
    if len(found) == 1:
        return found[0], None if default == found else image_column
    described = _described(schema, not_pixels)
    what = f"images in {shown(image_column)}" if image_column else "one column of images"
    raise ImagesError(
        f"{name}: expected {what}: lists of {PIXELS} numbers, encoded pictures, or {PIXELS} columns numbered in a row; "
        f"got {described}; rename, add or drop columns, or name another with --image-column"
    )


def _candidate(field: pa.Field) -> Candidate | None:
    if numbers := _numbers(field.type):
        return Candidate(field.name, (field.name,), "list", numbers)
    return Candidate(field.name, (field.name,), "encoded", "uint8") if _is_encoded(field.type) else None


def _numbered(fields: Sequence[pa.Field]) -> list[Candidate]:
    """The groups of 784 columns that are numbered in a row, or by row and column from 0 or 1, in the pixels' order."""
    found = []
    for (name, by_row), members in _groups(fields).items():
        start = members[0][0]
        expected = [(start[0], start[1] + pixel) for pixel in range(PIXELS)]
        if by_row:
            expected = [(start[0] + row, start[1] + column) for row in range(SIDE) for column in range(SIDE)]
        if [numbers for numbers, _ in members] != expected or (by_row and start not in ((0, 0), (1, 1))):
            continue
        types = {each.type for _, each in members}
        if len(types) == 1 or pa.float16() not in types:  # which Arrow casts to no other
            dtype = np.result_type(*(each.to_pandas_dtype() for each in types))
            found.append(Candidate(name, tuple(each.name for _, each in members), "columns", str(dtype)))
    return found


def _described(schema: pa.Schema, not_pixels: Collection[str | None]) -> str:
    """What columns there are: of many numbered ones how many, as one of them may be missing."""
    numbered = _groups([each for each in schema if each.name not in not_pixels and _is_number(each.type)])
    members = max(numbered.values(), key=len, default=[])
    if len(members) >= MANY:
        first, last = members[0][1].name, members[-1][1].name
        return f"{len(members)} columns of numbers from {shown(first)} to {shown(last)}"
    return listed(f"{each.name}: {each.type}" for each in schema)


def _groups(fields: Sequence[pa.Field]) -> dict[tuple[str, bool], list[tuple[tuple[int, int], pa.Field]]]:
    """Columns with a number by what is before it, as `pixel` in `pixel7`, and whether that is `x` in `1x28`."""
    groups: dict[tuple[str, bool], list[tuple[tuple[int, int], pa.Field]]] = defaultdict(list)
    for each in fields:
        if match := re.fullmatch(r"(.*?)(?:([0-9]{1,2})(x))?([0-9]{1,4})", each.name, re.DOTALL):
            groups[match[1] + (match[3] or ""), match[2] is not None].append(
                ((int(match[2] or 0), int(match[4])), each)
            )
    return {key: sorted(members, key=itemgetter(0)) for key, members in groups.items()}


def _key_field(schema: pa.Schema, name: str, id_column: str | None) -> pa.Field | None:
    if id_column is None:
        return None
    found = [field for field in schema if field.name == id_column]
    if len(found) != 1:
        got = f"{len(found)} of that name" if found else f"none, but {listed(schema.names)}"
        raise DataError(
            f"{name}: expected the images' own names in a column {shown(id_column)}, got {got}; name another with "
            "--id-column"
        )
    kind = found[0].type.value_type if pa.types.is_dictionary(found[0].type) else found[0].type
    if not any(each(kind) for each in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)):
        raise DataError(
            f"{name}: column {shown(id_column)}: expected texts or integers, got {shown(kind)}; name another column "
            "with --id-column"
        )
    return found[0]


def _label_field(schema: pa.Schema, name: str, label_column: str | None) -> pa.Field | None:
    """The column of exactly the name that the labels should have, if there is one."""
    wanted = LABEL_COLUMN if label_column is None else label_column
    found = [] if label_column == NO_LABELS else [field for field in schema if field.name == wanted]
    if found and (len(found) > 1 or not may_be_labels(found[0].type)):
        got = shown(found[0].type) if len(found) == 1 else f"{len(found)} columns of that name"
        raise LabelError(
            f"{name}: column {shown(wanted)}: expected digits 0-9, got {got}; store integers, or name another column "
            "with --label-column"
        )
    return found[0] if found else None


def _require_no_labels(schema: pa.Schema, name: str, label_column: str | None, images: Candidate) -> None:
    """Raise LabelError if labels are wanted, or if a column may have been meant as labels."""
    others = [each for each in schema.names if each not in images.columns]
    near = [each for each in others if is_near_label(each)] if label_column is None else [*schema.names]
    if label_column != NO_LABELS and (near or label_column is not None):
        wanted = LABEL_COLUMN if label_column is None else label_column
        raise LabelError(
            f"{name}: expected the labels in a column {shown(wanted)}, got none, but {listed(near)}; name the "
            f"column with --label-column, or say --label-column {NO_LABELS} if there are no labels"
        )


def _is_number(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    return bool(pa.types.is_integer(type) or pa.types.is_floating(type))


def _holds_images(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    return _numbers(type) is not None or _may_be_images(type)


def _is_encoded(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    if isinstance(type, pa.StructType):
        index = type.get_field_index(BYTES)
        return index >= 0 and _is_encoded(type.field(index).type)
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type))


def _numbers(type: pa.DataType) -> str | None:  # noqa: A002  Arrow's word
    """The dtype of the numbers in a column of images; None if the type cannot hold images."""
    if pa.types.is_fixed_size_binary(type):
        return BINARY[type.byte_width].name if type.byte_width in BINARY else None
    for _ in range(2):  # flat, or row by row
        if not is_list(type):
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
    if is_list(type) or isinstance(type, pa.ListViewType | pa.LargeListViewType):
        inner = type.value_type
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
        return _may_be_images(inner) or any(each(inner) for each in numbers)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return isinstance(type, pa.BaseExtensionType) or any(each(type) for each in binary)


def is_list(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    """Whether a column of this type has a list in each row that is read."""
    return isinstance(type, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
