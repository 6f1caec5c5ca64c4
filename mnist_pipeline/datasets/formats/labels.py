"""Labels as tables hold them: integers, or floats, texts and categories of digits, as other tools write them."""

import difflib
import re

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.datasets.formats.interface import NO_LABELS, RowName
from mnist_pipeline.errors import DataError, LabelError, shown

# Other names that columns of labels have, and how near to one of them a misspelt name is, as a ratio of difflib.
LABEL_NAMES = frozenset({
    "label", "labels", "lbl", "target", "targets", "tgt", "class", "cls", "classlabel", "category", "digit", "digits",
    "truth", "groundtruth", "gt", "y",
})  # fmt: skip
NEAR = 0.8


def may_be_labels(type: pa.DataType) -> bool:  # noqa: A002  Arrow's word
    """Whether a column of this type may hold labels; its values say whether they are digits."""
    if pa.types.is_dictionary(type):  # categories
        type = type.value_type  # noqa: A001
    types = pa.types
    kinds = (types.is_integer, types.is_float32, types.is_float64, types.is_string, types.is_large_string)
    return any(each(type) for each in kinds)


def digits_of(labels: pa.Array, name_row: RowName) -> NDArray[np.int8]:
    """Check labels: `[n]` int8 in 0..9, or NO_LABEL for null and, as pandas writes it among floats, for NaN.

    Args:
        labels: of a type that `may_be_labels`.
        name_row: names a row in errors.

    Raises:
        LabelError: one is no digit.
    """
    if pa.types.is_integer(labels.type) and not labels.null_count:  # as nearly always: the rest imports pandas
        values = np.from_dlpack(labels)
        if ((values >= 0) & (values < DIGITS)).all():
            return values.astype(np.int8)
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


def is_near_label(name: str) -> bool:
    """Whether a column of this name may have been meant as the labels."""
    words = re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold()
    whole = re.sub(r"[^a-z]", "", words)
    return not LABEL_NAMES.isdisjoint({whole, *re.split(r"[^a-z]+", words)}) or any(
        difflib.SequenceMatcher(None, whole, word).ratio() >= NEAR for word in LABEL_NAMES if len(word) > 3
    )


def require_two(name: str, label: str | None, key: str | None) -> None:
    """Raise DataError if labels and the images' own names are the same column."""
    if key is not None and key == label:
        raise DataError(
            f"{name}: expected labels and the images' own names in two columns, got {shown(key)} for both; name "
            f"another with --id-column, or with --label-column, or say --label-column {NO_LABELS}"
        )
