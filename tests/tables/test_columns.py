"""Our columns against pyarrow's own, which are right but import pandas."""

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_pipeline.tables.columns import column_of, numpy_of

INTEGERS = [pa.int8(), pa.uint8(), pa.int32(), pa.int64()]
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.none() | values, max_size=30)


@given(st.data(), st.sampled_from([pa.string(), pa.dictionary(pa.int32(), pa.string())]))
def test_strings_are_as_pyarrow_has_them(data: st.DataObject, type: pa.DataType) -> None:  # noqa: A002  Arrow's word
    values = data.draw(lists(st.text()))
    column = column_of(values, type)
    column.validate(full=True)
    assert column.equals(pa.array(values, type))


@given(st.data(), st.sampled_from(INTEGERS))
def test_integers_are_as_pyarrow_has_them(data: st.DataObject, type: pa.DataType) -> None:  # noqa: A002
    limits = np.iinfo(type.to_pandas_dtype())
    values = data.draw(lists(st.integers(int(limits.min), int(limits.max))))
    assert column_of(values, type).equals(pa.array(values, type))


@given(lists(st.floats(allow_nan=False)), lists(st.booleans()))
def test_floats_and_booleans_are_as_pyarrow_has_them(floats: list[float], booleans: list[bool]) -> None:
    assert column_of(floats, pa.float64()).equals(pa.array(floats, pa.float64()))
    assert column_of(booleans, pa.bool_()).equals(pa.array(booleans, pa.bool_()))


@given(lists(MOMENTS), st.integers(-12, 12))
def test_moments_are_as_pyarrow_has_them(moments: list[datetime | None], hours: int) -> None:
    assert column_of(moments, pa.timestamp("us")).equals(pa.array(moments, pa.timestamp("us")))
    zoned = [moment and moment.replace(tzinfo=timezone(timedelta(hours=hours))) for moment in moments]
    assert column_of(zoned, pa.timestamp("us", "UTC")).equals(pa.array(zoned, pa.timestamp("us", "UTC")))


def test_a_date_is_its_midnight() -> None:
    assert column_of([date(1969, 12, 31)], pa.timestamp("us")).to_pylist() == [datetime(1969, 12, 31)]
    assert column_of([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us")).to_pylist() == [datetime(2026, 1, 1)]


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_an_array_is_not_copied_and_comes_back(dtype: Any) -> None:
    values = np.arange(100, dtype=dtype)
    column = column_of(values, pa.from_numpy_dtype(dtype))
    assert column.equals(pa.array(values))
    back = numpy_of(pa.chunked_array([column]))
    assert back.dtype == dtype
    assert np.shares_memory(back, values)


@given(st.lists(st.booleans()), st.integers(1, 3))
def test_an_array_of_booleans_is_packed(values: list[bool], step: int) -> None:
    array = np.array(values, bool)[::step]
    column = column_of(array, pa.bool_())
    column.validate(full=True)
    assert column.to_pylist() == array.tolist()


def test_a_slice_with_gaps_and_several_chunks_come_back() -> None:
    column = column_of(np.arange(100)[::7], pa.int64())
    assert numpy_of(pa.chunked_array([column.slice(3, 2), column])).tolist() == [21, 28, *range(0, 100, 7)]


@pytest.mark.parametrize(
    ("values", "type", "error", "said"),
    [
        (np.arange(3), pa.int8(), TypeError, r"column of int8: expected int8 values \[N\], got int64 \[3\]"),
        (np.zeros((2, 2), np.int8), pa.int8(), TypeError, r"got int8 \[2, 2\]"),
        ([1.5], pa.int64(), TypeError, "float"),
        ([300], pa.int8(), OverflowError, "300"),
        ([b"x"], pa.string(), TypeError, "expected str, got b'x'"),
        ([b"x"], pa.binary(1), TypeError, r"column of fixed_size_binary\[1\]: expected an Arrow array"),
    ],
)
def test_what_does_not_fit_is_refused(values: Any, type: pa.DataType, error: type[Exception], said: str) -> None:  # noqa: A002
    with pytest.raises(error, match=said):
        column_of(values, type)


def test_no_column_imports_pandas() -> None:
    program = """
import sys
import numpy as np, pyarrow as pa
from datetime import date
from mnist_pipeline.tables.columns import column_of, numpy_of
for values, type in [(["a", None], pa.dictionary(pa.int32(), pa.string())), ([date(2026, 1, 1)], pa.timestamp("us")),
                     ([None, 1], pa.int8()), ([None, 1.5], pa.float64()), (np.ones(3, bool), pa.bool_())]:
    column_of(values, type)
numpy_of(pa.chunked_array([column_of([1, 2], pa.int64())]))
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
