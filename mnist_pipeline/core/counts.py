"""Base class of every tally: named arrays that are counted per shard and added up.

Integer sums do not depend on the order. Float sums depend on it in their last bits: merge in shard order, so that a
rerun gives the same bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def counts(*shape: int) -> Any:
    """Declare a field of `Counts`: int64 of that shape, not negative."""
    return field(metadata={"shape": shape, "dtype": np.int64})


def sums(*shape: int) -> Any:
    """Declare a field of `Counts`: float64 of that shape."""
    return field(metadata={"shape": shape, "dtype": np.float64})


@dataclass(frozen=True, eq=False)
class Counts:
    """A set of arrays, each declared with `counts` or `sums`; arrays of disjoint images add up."""

    @classmethod
    def empty(cls) -> Self:
        """The counts of no images, where merging starts."""
        return cls(*(np.zeros(item.metadata["shape"], item.metadata["dtype"]) for item in fields(cls)))

    @classmethod
    def total(cls, counted: Iterable[Self]) -> Self:
        """Merge all of them, in the order given."""
        total = cls.empty()
        for each in counted:
            total += each
        return total

    def merge(self, other: Self) -> Self:
        """The counts of both sets of images together, also written `self + other`."""
        return type(self)(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    __add__ = merge

    def to_json(self) -> dict[str, Any]:
        """Convert to plain lists of int and float, which JSON keeps exactly."""
        return {item.name: np.asarray(getattr(self, item.name)).tolist() for item in fields(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, bit for bit.

        Raises:
            ValueError: a field is missing or unknown, or has another shape, type or range.
        """
        name, known = cls.__name__.lower(), {item.name for item in fields(cls)}
        if problems := [
            *(f"missing {field}" for field in sorted(known - document.keys())),
            *(f"unexpected {field}" for field in sorted(document.keys() - known)),
        ]:
            raise ValueError(f"{name}: " + "; ".join(problems))
        return cls(*(_array(item, document[item.name], f"{name}: {item.name}") for item in fields(cls)))


def _array(declared: "Field[Any]", value: Any, name: str) -> NDArray[Any]:
    shape, dtype = declared.metadata["shape"], declared.metadata["dtype"]
    try:
        values = np.array(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected numbers of shape {shape}, got rows of unequal length") from error
    if values.shape != shape or values.dtype.kind not in "if":
        raise ValueError(f"{name}: expected numbers of shape {shape}, got {values.dtype} {values.shape}")
    if dtype is np.int64 and (values.dtype.kind != "i" or values.min() < 0):
        raise ValueError(f"{name}: expected counts, got {values.dtype} from {values.min()}")
    if not np.isfinite(values).all():  # Python's json accepts NaN and Infinity, which JSON does not have
        raise ValueError(f"{name}: expected finite numbers, got {values[~np.isfinite(values)][0]}")
    return values.astype(dtype)
