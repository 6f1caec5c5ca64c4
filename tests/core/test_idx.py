import gzip
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mnist_pipeline.core.idx import MAX_HEADER_BYTES, IdxHeader, check_size, decode, encode, parse_header
from mnist_pipeline.errors import IdxFormatError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
GOOD = encode(IMAGES)
HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


@settings(deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)))
def test_what_is_encoded_is_decoded(array: NDArray[np.uint8]) -> None:
    decoded = decode(encode(array), "x", array.ndim)
    assert decoded.dtype == np.uint8
    assert decoded.shape == array.shape
    assert np.array_equal(decoded, array)


def test_bytes_are_those_of_the_specification() -> None:
    assert encode(np.array([7, 2, 255], np.uint8)) == bytes.fromhex("00000801 00000003 0702ff")
    assert GOOD[:16] == struct.pack(">4i", 2051, 2, 3, 4)  # 2051 is the magic number MNIST documents for images


def test_an_array_in_another_memory_order_is_written_row_by_row() -> None:
    assert encode(np.asfortranarray(IMAGES)) == GOOD


def test_decoding_copies_nothing_and_cannot_be_written_to() -> None:
    decoded = decode(GOOD, "x", 3)
    assert not decoded.flags.writeable
    assert np.shares_memory(decoded, np.frombuffer(GOOD, np.uint8))


def test_header_tells_shape_and_sizes_before_the_body_is_read() -> None:
    header = parse_header(GOOD[:16], "x", 3)
    assert header == IdxHeader((2, 3, 4))
    assert (header.header_bytes, header.file_bytes) == (16, len(GOOD))
    assert IdxHeader((1,) * 255).header_bytes == MAX_HEADER_BYTES


@pytest.mark.parametrize("size", range(16))
def test_truncated_header_is_refused(size: int) -> None:
    message = f"images.idx: expected an IDX header of 16 bytes, got {size} bytes; the file is truncated"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        parse_header(GOOD[:size], "images.idx", 3)


@pytest.mark.parametrize("size", [16, 17, len(GOOD) - 1])
def test_truncated_body_is_refused(size: int) -> None:
    message = f"images.idx: expected 40 bytes for shape (2, 3, 4), got {size}; the file is truncated: replace it"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        decode(GOOD[:size], "images.idx", 3)


@pytest.mark.parametrize("extra", [b"\0", GOOD])
def test_oversized_file_is_refused(extra: bytes) -> None:
    message = f"images.idx: expected 40 bytes for shape (2, 3, 4), got {40 + len(extra)}; the file is oversized"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        decode(GOOD + extra, "images.idx", 3)


def test_the_size_can_be_judged_without_the_body() -> None:
    check_size(IdxHeader((60_000, 28, 28)), 47_040_016, "x")
    with pytest.raises(IdxFormatError, match=re.escape("expected 47040016 bytes for shape (60000, 28, 28), got 9")):
        check_size(IdxHeader((60_000, 28, 28)), 9, "x")


@pytest.mark.parametrize("magic", [">I", "<I"])
def test_little_endian_headers_are_known(magic: str) -> None:
    data = struct.pack(magic, 0x0803) + struct.pack("<III", 2, 28, 28) + bytes(2 * 784)
    with pytest.raises(IdxFormatError, match=r"write the file again with (a )?big-endian"):
        decode(data, "images.idx", 3)


def test_gzip_is_known_by_its_first_bytes() -> None:
    with pytest.raises(IdxFormatError, match=r"this is gzip: end its name with \.gz"):
        decode(gzip.compress(GOOD), "images.idx", 3)


@pytest.mark.parametrize("data", [HTML, b"\x1f\x8b\x08\x00" + bytes(40), b"PK\x03\x04" + bytes(40)])
def test_another_kind_of_file_is_refused_and_its_beginning_shown(data: bytes) -> None:
    message = f"images.idx: expected an IDX file, which starts with bytes 00 00, got {repr(data[:16])[1:]}"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        decode(data, "images.idx", 3)


@pytest.mark.parametrize("code", [0x00, 0x09, 0x0B, 0x0C, 0x0D, 0x0E])
def test_another_type_than_unsigned_byte_is_refused(code: int) -> None:
    data = GOOD[:2] + bytes([code]) + GOOD[3:]
    message = f"images.idx: expected IDX type 0x08 (unsigned byte), got 0x{code:02x}; only uint8"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        decode(data, "images.idx", 3)


@pytest.mark.parametrize(("array", "dimensions"), [(IMAGES, 1), (np.zeros(40, np.uint8), 3)])
def test_another_number_of_dimensions_is_refused(array: NDArray[np.uint8], dimensions: int) -> None:
    message = f"x.idx: expected {dimensions} dimension(s), got {array.ndim}; are images and labels swapped?"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        decode(encode(array), "x.idx", dimensions)


@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.int64, np.bool_])
def test_only_unsigned_bytes_are_encoded(dtype: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a uint8 array, got {np.dtype(dtype)}"):
        encode(np.zeros(3, dtype))


def test_dimensions_that_no_array_can_have_are_refused() -> None:
    header = struct.pack(">HBBIII", 0, 0x08, 3, 0, 2**32 - 1, 2**32 - 1)
    with pytest.raises(IdxFormatError, match=r"small\.idx: expected an array's shape"):
        decode(header, "small.idx", 3)
