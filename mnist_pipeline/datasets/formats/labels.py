"""Labels as tables hold them: integers, or floats, texts and categories of digits, as other tools write them."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.errors import LabelError, shown


def may_be_labels(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    """Whether a column of this type may hold labels; its values say whether they are digits."""
    if pa.types.is_dictionary(type):  # categories
        type = type.value_type  # noqa: A001
    types = pa.types
    kinds = (types.is_integer, types.is_float32, types.is_float64, types.is_string, types.is_large_string)
    return any(each(type) for each in kinds)


def digits_of(labels: pa.Array, name_row: Callable[[int], str]) -> NDArray[np.int8]:
    """Check labels: `[n]` int8 in 0..9, or NO_LABEL for null and, as pandas writes it among floats, for NaN.

    Args:
        labels: of a type that `may_be_labels`.
        name_row: names a row in errors.

    Raises:
        LabelError: one is no digit.
    """
    import pyarrow.compute as pc

    if isinstance(labels, pa.DictionaryArray):
        labels = labels.dictionary_decode()
    if pa.types.is_floating(labels.type):
        labels = pc.if_else(pc.is_nan(labels), pa.scalar(None, labels.type), labels)
    digits = pc.index_in(labels, value_set=pa.array(range(DIGITS)).cast(labels.type), skip_nulls=True)
    if digits.null_count != labels.null_count:
        where = pc.and_(digits.is_null(), labels.is_valid()).to_pylist().index(True)
        value = labels[where].as_py()
        got = shown(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else value
        raise LabelError(
            f"{name_row(where)}: expected a label 0-9, got {got}; correct the labels, leave those out that are not "
            "known, or drop the column"
        )
    return np.asarray(digits.fill_null(NO_LABEL), np.int8)
