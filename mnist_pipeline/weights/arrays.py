"""The arrays of a weights file as it declares them, before their values are read. It knows no format and no network."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import WeightsError

ADVICE = "give another weights file"
CONVERT = "save each array as array.astype(numpy.float32)"
MAX_NAME = 200  # characters
MAX_DIMENSIONS = 32  # NumPy 1's limit

Floats = NDArray[np.floating[Any]]  # float32 or float64


@dataclass(frozen=True)
class StoredArray:
    """An array of a file.

    Attributes:
        dtype: NumPy's name, float32 or float64 of one that can be read; of others the name that the file has for it.
        shape: positive integers, or none.
        read: gives the values, float32 or float64.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Floats]

    @property
    def is_read(self) -> bool:
        """Whether values of its dtype are read."""
        return self.dtype in ("float32", "float64")


def weights_error(expected: str, got: str) -> WeightsError:
    """An error that gives no other advice than another file; the caller adds the name of this one."""
    return WeightsError(f"expected {expected}, got {got}; {ADVICE}")


def check_names(names: Iterable[str]) -> None:
    """Check the lengths of names: to show a very long one takes seconds.

    Raises:
        WeightsError: one is too long.
    """
    if (length := max(map(len, names), default=0)) > MAX_NAME:
        raise weights_error(f"names of at most {MAX_NAME} characters", f"{length}")


def check_shape(what: str, shape: tuple[Any, ...]) -> None:
    """Check what a file says is the shape of an array.

    Raises:
        WeightsError: it does not consist of positive integers. The message shows none of them: they may be anything.
    """
    if len(shape) > MAX_DIMENSIONS or not all(type(length) is int and length > 0 for length in shape):
        raise weights_error(f"a shape of positive integers for {what}", f"{len(shape)} dimension(s) that are not")


def float_array(
    data: bytes | bytearray | memoryview, dtype: str, shape: tuple[Any, ...], fortran_order: bool
) -> Floats:
    """Reshape little-endian numbers, float32 or float64 as `dtype` says, if they are as many as the shape needs.

    Raises:
        WeightsError: `shape` does not consist of positive integers, or does not match the number of bytes.
    """
    check_shape("an array", shape)
    little_endian = np.dtype(dtype).newbyteorder("<")
    if len(data) != (size_bytes := little_endian.itemsize * math.prod(shape)):
        raise weights_error(f"{size_bytes} bytes for shape {shape}", f"{len(data)} bytes")
    values = np.frombuffer(data, little_endian).reshape(shape, order="F" if fortran_order else "C")
    return values.astype(dtype, copy=False)  # copies on big-endian machines only


def rounded(name: str, values: Floats) -> NDArray[np.float32]:
    """The values as float32.

    Raises:
        WeightsError: a finite one is beyond the range of float32.
    """
    with np.errstate(over="ignore"):
        floats = values.astype(np.float32, copy=False)
    if beyond := np.count_nonzero(np.isinf(floats) & np.isfinite(values)):
        raise weights_error(f"{name} within the range of float32", f"{beyond} beyond {np.finfo(np.float32).max:.2g}")
    return floats


def shown_error(error: Exception) -> str:
    """A short text for an error from hostile bytes. Its repr may contain all of the bytes, four characters for each."""
    return f"{type(error).__name__}: {str(error)[:200]!r}"
