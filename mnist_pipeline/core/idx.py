"""Converts between IDX bytes and arrays: of bytes, and of QMNIST's labels. It reads no files: callers pass bytes.

Format (Y. LeCun, "The MNIST database", section "The IDX file format"): two zero bytes, a type
code (0x08 = unsigned byte, 0x0C = big-endian int32), the number of dimensions, one big-endian uint32
per dimension, then the values in C order with nothing after them.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import IdxFormatError

UNSIGNED_BYTE = 0x08
INT32 = 0x0C
QMNIST_COLUMNS = 8  # of its labels: the digit, and where it comes from
PREFIX_BYTES = 4
# The format allows 255 dimensions. MNIST's headers have 16 bytes (images) and 8 bytes (labels).
MAX_HEADER_BYTES = PREFIX_BYTES + 4 * 255


@dataclass(frozen=True)
class IdxHeader:
    """The shape of an IDX array, and the bytes of each value."""

    shape: tuple[int, ...]
    value_bytes: int = 1

    @property
    def header_bytes(self) -> int:
        return PREFIX_BYTES + 4 * len(self.shape)

    @property
    def file_bytes(self) -> int:
        """Size in bytes of the file that has this header."""
        return self.header_bytes + self.row_bytes * self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size in bytes of one image, or one label."""
        return self.value_bytes * math.prod(self.shape[1:])


def parse_header(data: bytes, name: str, dimensions: int) -> IdxHeader:
    """Read the header at the start of an IDX file.

    Args:
        data: the start of the file, at least `4 + 4 * dimensions` of them.
        name: the name of the file in errors.
        dimensions: the expected number of dimensions, 3 for images and 1 for labels.

    Raises:
        IdxFormatError: there are too few bytes, or the magic number, type or number of dimensions is another one.
    """
    if len(data) < PREFIX_BYTES + 4 * dimensions:
        raise IdxFormatError(
            f"{name}: expected an IDX header of {PREFIX_BYTES + 4 * dimensions} bytes, got {len(data)} bytes; "
            "the file is truncated: replace it"
        )
    zeros, code, rank = struct.unpack(">HBB", data[:PREFIX_BYTES])
    if zeros != 0:
        raise IdxFormatError(
            f"{name}: expected an IDX file, which starts with bytes 00 00, got {_preview(data)}; {_kind(data)}"
        )
    if code != UNSIGNED_BYTE:
        raise IdxFormatError(
            f"{name}: expected IDX type 0x08 (unsigned byte), got 0x{code:02x}; only uint8 data sets are read, "
            "and labels in the form of QMNIST's"
        )
    if rank != dimensions:
        raise IdxFormatError(f"{name}: expected {dimensions} dimension(s), got {rank}; are images and labels swapped?")
    return IdxHeader(struct.unpack(f">{rank}I", data[PREFIX_BYTES : PREFIX_BYTES + 4 * rank]))


def parse_labels_header(data: bytes, name: str) -> IdxHeader:
    """Read the header of a file of labels: bytes, one an image, or QMNIST's int32, eight an image, the digit first.

    Args:
        data: the start of the file.
        name: the name of the file in errors.

    Raises:
        IdxFormatError: it is another one.
    """
    if data[:PREFIX_BYTES] != bytes([0, 0, INT32, 2]) or len(data) < PREFIX_BYTES + 8:
        return parse_header(data, name, dimensions=1)
    rows, columns = struct.unpack(">2I", data[PREFIX_BYTES : PREFIX_BYTES + 8])
    if columns != QMNIST_COLUMNS:
        raise IdxFormatError(
            f"{name}: expected {QMNIST_COLUMNS} numbers for each label of int32, as in QMNIST, got {columns}; "
            "store the labels as unsigned bytes, one an image"
        )
    return IdxHeader((rows, columns), value_bytes=4)


def decode_labels(data: bytes, header: IdxHeader) -> NDArray[np.int32]:
    """The digits of some labels: `[n]` int32, of the bytes of n rows."""
    values = np.frombuffer(data, np.uint8 if header.value_bytes == 1 else ">i4").reshape(-1, *header.shape[1:])
    return (values if values.ndim == 1 else values[:, 0]).astype(np.int32)


def check_size(header: IdxHeader, size_bytes: int, name: str) -> None:
    """Raise IdxFormatError unless the file has exactly the size that its header implies."""
    if size_bytes != header.file_bytes:
        sizes = (int.from_bytes(size.to_bytes(4, "little"), "big") for size in header.shape)
        swapped = IdxHeader(tuple(sizes), header.value_bytes)
        if swapped.file_bytes == size_bytes:
            raise IdxFormatError(
                f"{name}: expected big-endian sizes in the header, got little-endian ones of shape {swapped.shape}; "
                "write the file again with big-endian sizes"
            )
        kind = "truncated" if size_bytes < header.file_bytes else "oversized"
        raise IdxFormatError(
            f"{name}: expected {header.file_bytes} bytes for shape {header.shape}, got {size_bytes}; "
            f"the file is {kind}: replace it"
        )


def decode(data: bytes, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Decode a whole IDX file.

    Returns:
        Read-only uint8 array of the header's shape, a view of `data`.

    Raises:
        IdxFormatError: as `parse_header`, or the size does not match the header.
    """
    header = parse_header(data, name, dimensions)
    check_size(header, len(data), name)
    try:
        return np.frombuffer(data, np.uint8, offset=header.header_bytes).reshape(header.shape)
    except ValueError as error:  # an empty array with more or larger dimensions than NumPy allows
        raise IdxFormatError(f"{name}: expected an array's shape, got {header.shape}; replace the file") from error


def encode(array: NDArray[np.uint8]) -> bytes:
    """Encode a uint8 array of any shape as an IDX file."""
    if array.dtype != np.uint8:
        raise TypeError(f"expected a uint8 array, got {array.dtype}")
    prefix = struct.pack(f">HBB{array.ndim}I", 0, UNSIGNED_BYTE, array.ndim, *array.shape)
    return prefix + np.ascontiguousarray(array).tobytes()


def _kind(data: bytes) -> str:
    """What a file is that does not start as IDX does, and what to do about it."""
    if data.startswith(b"\x1f\x8b"):
        return "this is gzip: end its name with .gz"
    if data[2:4] == b"\0\0" and 0x08 <= data[1] <= 0x0E:
        return "this is IDX with a little-endian header: write the file again with a big-endian one"
    return "this is some other kind of file: check where it comes from"


def _preview(data: bytes) -> str:
    return repr(bytes(data[:16]))[1:]
