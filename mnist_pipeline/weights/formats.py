"""Reads the arrays that .safetensors and .npz files declare, and each array's values when they are asked for."""

import io
import json
import math
import struct
import zipfile
from functools import partial
from typing import Any

import safetensors
from numpy.lib import format as npy

from mnist_pipeline.core.network.architecture import MAX_LAYERS
from mnist_pipeline.errors import listed, shown
from mnist_pipeline.weights.arrays import Floats, StoredArray, check_names, check_shape, float_array, weights_error

MAX_ARRAYS = 2 * MAX_LAYERS
MAX_HEADER_BYTES = 64 * 1024  # of a safetensors file; of the directory of an archive
# NumPy writes 128 bytes. A Python literal as short as this cannot nest deep enough to exhaust the literal parser.
MAX_NPY_HEADER_BYTES = 512
LENGTH_BYTES = 8  # of the header length a safetensors file starts with
ENCRYPTED = 0x1  # bit of a zip member's flags (APPNOTE.TXT, 4.4.4)
END_BYTES = 22  # of a zip file's end record without a comment (APPNOTE.TXT, 4.3.16)
LOCATOR_BYTES = 20  # of what stands before it in a file of more than 4 GiB (4.3.15)
DTYPES = {
    f"{letter}{bits}": f"{kind}{bits}"
    for letter, kind in [("F", "float"), ("I", "int"), ("U", "uint")]
    for bits in (8, 16, 32, 64)
}


def read_safetensors(data: bytes) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Read the header of a safetensors file.

    Returns:
        The arrays by their names, and the metadata.

    Raises:
        WeightsError: the header is none. The caller adds the name of the file to the message.
        Exception: of any kind, from the library, for hostile bytes.
    """
    if len(data) < LENGTH_BYTES:
        raise weights_error("a safetensors header", f"{len(data)} bytes")
    (header_bytes,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    limit = min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES)
    if header_bytes > limit:
        raise weights_error(f"a safetensors header of at most {limit} bytes", f"{header_bytes}")
    # The library rejects overlaps, holes, trailing bytes and shapes that disagree with the offsets; its copies are as
    # large as the file. Of a duplicate name, which the format forbids, it takes the last.
    entries = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]  # it declares no types
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + header_bytes], object_pairs_hook=_unique)
    check_names(entries)
    metadata, arrays = header.pop("__metadata__", None), {}
    for name in header:  # in the order of the file, which the library loses
        entry = entries[name]
        shape, dtype = tuple(entry["shape"]), DTYPES.get(entry["dtype"], entry["dtype"])
        check_shape(shown(name), shape)
        arrays[name] = StoredArray(dtype, shape, partial(float_array, entry["data"], dtype, shape, False))
    return arrays, metadata or {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) != len(pairs):
        raise weights_error("each key of the header once", "one twice")
    return unique


def read_npz(data: bytes) -> tuple[dict[str, StoredArray], dict[str, str]]:
    """Read the headers of the arrays in an .npz file, and decompress no more than these.

    Returns:
        The arrays by their names, and no metadata: the format has none.

    Raises:
        WeightsError: it is not such an archive. The caller adds the name of the file to the message.
        Exception: of any kind, from the libraries, for hostile bytes.
    """
    _check_directory(data)
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    names = [member.orig_filename for member in members]  # as stored; `filename` is cut at a NUL
    check_names(names)
    if others := [name for name in names if not name.endswith(".npy")]:
        raise weights_error("only .npy files in it", listed(others))
    if len(names) > MAX_ARRAYS:  # each takes as long to read as the whole file, if it is made so
        raise weights_error(f"at most {MAX_ARRAYS} arrays", f"{len(names)}: {listed(names)}")
    if twice := {name for name in names if names.count(name) > 1}:
        raise weights_error("each name once", f"{listed(sorted(twice))} twice")
    return {
        name.removesuffix(".npy"): _read_npy(archive, member) for name, member in zip(names, members, strict=True)
    }, {}


def _check_directory(data: bytes) -> None:
    """Check the size of an archive's directory: the library makes an object of some 500 bytes from 46 there."""
    end = data[-END_BYTES:]
    if len(end) < END_BYTES or not end.startswith(b"PK\x05\x06"):
        raise weights_error("an .npz file with its directory at the end", "another end")
    (size_bytes,) = struct.unpack_from("<I", end, 12)
    if size_bytes > MAX_HEADER_BYTES or data[-END_BYTES - LOCATOR_BYTES :].startswith(b"PK\x06\x07"):
        raise weights_error(f"an .npz file with a directory of at most {MAX_HEADER_BYTES} bytes", "more")


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray:
    """Read the header of one array (NumPy, "NEP 1: a simple file format for NumPy arrays")."""
    name = member.orig_filename
    if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise weights_error(f"{name} stored or deflated", "another compression, or encryption")
    with archive.open(member) as stream:
        start = stream.read(npy.MAGIC_LEN + 4 + MAX_NPY_HEADER_BYTES)
    file = io.BytesIO(start)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise weights_error(f"{name} of .npy version 1.0 or 2.0", f"{version}")
    (header_bytes,) = struct.unpack_from("<H" if version == (1, 0) else "<I", start, file.tell())
    if header_bytes > MAX_NPY_HEADER_BYTES:  # NumPy's own error message suggests allowing pickles
        raise weights_error(f"{name} with a header of at most {MAX_NPY_HEADER_BYTES} bytes", f"{header_bytes}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    check_shape(shown(name), shape)
    read = partial(_read_values, archive, member, file.tell(), str(dtype), shape, fortran_order)
    return StoredArray(str(dtype), shape, read)


def _read_values(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    start: int,
    dtype: str,
    shape: tuple[int, ...],
    fortran_order: bool,
) -> Floats:
    """Read the values of one array, which begin at byte `start` of its file."""
    size_bytes = start + {"float32": 4, "float64": 8}[dtype] * math.prod(shape)
    if member.file_size != size_bytes:
        raise weights_error(f"{member.orig_filename} of {size_bytes} bytes by its shape", f"{member.file_size}")
    with archive.open(member) as stream:
        # The decompressor stops at this length; without it, it would decompress everything first.
        content = stream.read(size_bytes)
    return float_array(memoryview(content)[start:], dtype, shape, fortran_order)
