"""Converts between IDX bytes and uint8 arrays. It reads no files: callers pass bytes.

Format (Y. LeCun, "The MNIST database", section "The IDX file format"): two zero bytes, a type
code (0x08 = unsigned byte), the number of dimensions, one big-endian uint32 per dimension, then
the values in C order with nothing after them.
"""

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import IdxFormatError

UNSIGNED_BYTE = 0x08
PREFIX_BYTES = 4
# The format allows 255 dimensions. MNIST's headers have 16 bytes (images) and 8 bytes (labels).
MAX_HEADER_BYTES = PREFIX_BYTES + 4 * 255


@dataclass(frozen=True)
class IdxHeader:
    """The shape of an IDX array of unsigned bytes."""

    shape: tuple[int, ...]

    @property
    def header_bytes(self) -> int:
        return PREFIX_BYTES + 4 * len(self.shape)

    @property
    def file_bytes(self) -> int:
        """Size in bytes of the file that has this header."""
        return self.header_bytes + math.prod(self.shape)


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
            f"{name}: expected IDX type 0x08 (unsigned byte), got 0x{code:02x}; only uint8 data sets are read"
        )
    if rank != dimensions:
        raise IdxFormatError(f"{name}: expected {dimensions} dimension(s), got {rank}; are images and labels swapped?")
    return IdxHeader(struct.unpack(f">{rank}I", data[PREFIX_BYTES : PREFIX_BYTES + 4 * rank]))


def check_size(header: IdxHeader, size_bytes: int, name: str) -> None:
    """Raise IdxFormatError unless the file has exactly the size that its header implies."""
    if size_bytes != header.file_bytes:
        swapped = IdxHeader(tuple(int.from_bytes(size.to_bytes(4, "little"), "big") for size in header.shape))
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
