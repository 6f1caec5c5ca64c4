"""Labels as other tools write them are digits, or refused by row."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.datasets.formats.labels import digits_of, may_be_labels
from mnist_pipeline.errors import LabelError

TYPES = [
    pa.int8(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint32(), pa.large_string()),
    pa.dictionary(pa.int32(), pa.int64()),
]


def row(number: int) -> str:
    return f"row {number}"


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_digits_of_any_type_are_labels_and_null_is_none(type: pa.DataType) -> None:  # noqa: A002  Arrow's word
    found = digits_of(pa.array([7, 0, None, 9]).cast(pa.string()).cast(type)[:], row)
    np.testing.assert_array_equal(found, np.array([7, 0, NO_LABEL, 9], np.int8), strict=True)
    assert may_be_labels(type)


def test_nan_among_floats_is_no_label() -> None:
    assert digits_of(pa.array([1.0, float("nan")]), row).tolist() == [1, NO_LABEL]


@pytest.mark.parametrize(
    ("value", "got"), [(10, "10"), (-1, "-1"), (7.5, "7.5"), (float("inf"), "inf"), ("", "''"), ("x\n", r"'x\n'")]
)
def test_what_is_no_digit_is_refused_by_row(value: Any, got: str) -> None:
    digit = type(value)(5)
    with pytest.raises(LabelError) as raised:
        digits_of(pa.array([digit, None, value, value]), row)
    assert str(raised.value).startswith(f"row 2: expected a label 0-9, got {got}; correct the labels")


@pytest.mark.parametrize("type", [pa.bool_(), pa.binary(), pa.null(), pa.list_(pa.int8()), pa.float16()], ids=str)
def test_other_types_are_no_labels(type: pa.DataType) -> None:  # noqa: A002  Arrow's word
    assert not may_be_labels(type)
