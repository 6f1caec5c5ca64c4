"""Converts NumPy arrays and Python lists to Arrow columns and back, without pandas.

`pa.array`, `pa.scalar` and `to_numpy` import pandas wherever it is installed (pyarrow 26): 0.3 s and 50 MB in every
process, a quarter of the time of a run of 10,000 images. The functions here use buffers only. Accepted for that: they
know just the types of our tables.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from operator import index
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def column_of(
    values: NDArray[Any] | Sequence[Any],
    type: pa.DataType,  # noqa: A002  Arrow's word
    known: NDArray[np.bool_] | None = None,
) -> pa.Array:
    """Build an Arrow array of the given type.

    Args:
        values: `[N]`; an array of the exact dtype (bool, integer or float) is not copied. In a list, None is null.
        type: boolean, integer, float, timestamp in microseconds, string, or a dictionary of strings.
        known: `[N]`, False where a value of an array is null; None if none is.

    Raises:
        TypeError: a value is not of that type.
        OverflowError: an integer is beyond the range of the type.
    """
    if isinstance(values, np.ndarray):
        return _from_numpy(values, type, None if known is None else _validity(known))
    if pa.types.is_dictionary(type):
        positions: dict[Any, int] = {value: 0 for value in values if value is not None}
        positions |= {value: position for position, value in enumerate(positions)}
        indices = column_of([None if value is None else positions[value] for value in values], type.index_type)
        return pa.DictionaryArray.from_arrays(indices, column_of(list(positions), type.value_type))
    validity = _validity([value is not None for value in values])
    if pa.types.is_string(type):
        texts = [b"" if value is None else _text(value).encode() for value in values]
        offsets = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(type, len(values), buffers)
    if pa.types.is_timestamp(type):
        numbers = np.array([0 if value is None else _microseconds(value) for value in values], np.int64)
    elif pa.types.is_integer(type):
        numbers = np.array([0 if value is None else index(value) for value in values], type.to_pandas_dtype())
    elif pa.types.is_boolean(type) or pa.types.is_floating(type):
        numbers = np.array([0 if value is None else value for value in values], type.to_pandas_dtype())
    else:
        raise TypeError(f"column of {type}: expected an Arrow array")
    return _from_numpy(numbers, type, validity)


def numpy_of(column: pa.ChunkedArray, null: int | None = None) -> NDArray[Any]:
    """The values of an integer or float column, `[N]`, read-only and not copied if in one chunk.

    `null` is what stands for a null; None if the column has none.
    """
    if null is not None and column.null_count == len(column):  # needs no module that is slow to import
        return np.full(len(column), null, column.type.to_pandas_dtype())
    if null is not None and column.null_count:
        column = column.fill_null(column_of([null], column.type)[0])
    assert column.null_count == 0, "NumPy has no nulls"
    return np.from_dlpack(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())


def _from_numpy(values: NDArray[Any], type: pa.DataType, validity: pa.Buffer | None = None) -> pa.Array:  # noqa: A002
    wanted = np.dtype(np.int64 if pa.types.is_timestamp(type) else type.to_pandas_dtype())
    if values.dtype != wanted or values.ndim != 1:
        raise TypeError(f"column of {type}: expected {wanted} values [N], got {values.dtype} {list(values.shape)}")
    data = np.packbits(values, bitorder="little") if values.dtype == np.bool_ else np.ascontiguousarray(values)
    return pa.Array.from_buffers(type, len(values), [validity, pa.py_buffer(data)])


def _validity(valid: Sequence[bool] | NDArray[np.bool_]) -> pa.Buffer | None:
    return None if np.all(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"column of strings: expected str, got {value!r}")
    return value


def _microseconds(value: date | datetime) -> int:
    """Microseconds since 1970 in UTC; a date or a datetime without a time zone counts as UTC."""
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
