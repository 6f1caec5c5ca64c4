"""Reads weights files without executing anything in them, and writes canonical safetensors bytes.

A file is read once and parsed by the reader of its suffix: .safetensors, .npz or .pkl. No other reader is tried if that
one rejects it. Nothing is unpickled.
"""

import hashlib
import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import safetensors
from numpy.lib import format as npy
from numpy.typing import NDArray

from mnist_pipeline.core.network import BOOK, Activation, Network
from mnist_pipeline.errors import StoreError, WeightsError, shown
from mnist_pipeline.store.base import Address, Location, Store, is_remote
from mnist_pipeline.store.opening import read_location
from mnist_pipeline.weights.pickles import CONVERT, float32_array, read_arrays, shown_error

SHIPPED_WEIGHTS = Path(__file__).with_name("mnist.safetensors")
# The six tensors take 181,440 bytes, so this is ample, and no reader below can be made to hold much more.
MAX_FILE_BYTES = 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
# NumPy writes 128 bytes. A Python literal as short as this cannot nest deep enough to exhaust the literal parser.
MAX_NPY_HEADER_BYTES = 512
LENGTH_BYTES = 8  # of the header length a safetensors file starts with
ENCRYPTED = 0x1  # bit of a zip member's flags (APPNOTE.TXT, 4.4.4)
ADVICE = "give another weights file"


def load_weights(path: Location, activation: Activation | None = None) -> Network:
    """Read a network from a .safetensors, .npz or .pkl file.

    Args:
        path: the file.
        activation: of the hidden layers, for a file that does not say it.

    Raises:
        WeightsError: the file is missing, is not exactly a dense network of finite float32, says another activation, or
            none though one is needed.
    """
    if is_remote(path) and not isinstance(path, Address):  # not repeated: there may be a password in it
        raise WeightsError(f"weights: expected a path, or SCHEME://BUCKET/NAME, got another address; {ADVICE}")
    _check_suffix(path.suffix, str(path))
    try:
        # One byte more than allowed tells a file that is too big, even one that grew since anybody looked.
        data = read_location(path, MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        got = "something else" if not is_remote(path) and Path(path).exists() else "nothing there"
        raise WeightsError(f"{path}: expected a weights file, got {got}; check the path, or {ADVICE}") from None
    except StoreError as error:
        if is_remote(path):
            raise
        raise WeightsError(f"{path}: expected a readable weights file, got {error}; check the path") from error
    return decode_weights(data, path.suffix, str(path), activation)


def decode_weights(data: bytes, suffix: str, name: str, activation: Activation | None = None) -> Network:
    """Read a network from the bytes of a weights file.

    Args:
        data: the whole file.
        suffix: .safetensors, .npz or .pkl, in either case; selects the reader.
        name: the name of the file in errors.
        activation: of the hidden layers, for a file that does not say it.

    Raises:
        WeightsError: the bytes are not exactly a dense network of finite float32, say another activation, or none
            though one is needed.
    """
    read = READERS[_check_suffix(suffix, name)]
    try:
        if len(data) > MAX_FILE_BYTES:
            raise _weights_error(f"at most {MAX_FILE_BYTES} bytes", "more")
        arrays, metadata = read(data)
        return Network(arrays, _activation(metadata.get("activation"), activation))
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except Exception as error:  # hostile bytes: safetensors, zipfile, zlib and the .npy parser raise any exception
        raise WeightsError(f"{name}: expected a valid {suffix} file, got {shown_error(error)}; {ADVICE}") from error


def archive_weights(network: Network, store: Store, folder: str) -> str:
    """Keep a network under the sha256 of its bytes, so that any run can be recomputed; the name of the file.

    Raises:
        StoreError: it cannot be written.
    """
    data = encode_weights(network)
    name = f"{folder}/{hashlib.sha256(data).hexdigest()}.safetensors"
    try:
        kept = store.read(name, MAX_FILE_BYTES + 1) == data
    except FileNotFoundError:
        kept = False
    if not kept:
        store.write(name, data)
    return name


def encode_weights(network: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Encode a network as safetensors, in one canonical form.

    Format (Hugging Face, safetensors, "Format"): the header's length as little-endian uint64, the header as JSON padded
    with spaces, then the tensors in C order, little-endian, without gaps.

    This does not use the library: the sha256 of these bytes identifies the tensors in every run's fingerprint, so they
    must not depend on an installed version. Any change (the order is W1, b1 .. WL, bL; the metadata are the activation,
    and of the book's architecture there are none) makes every network look new.

    Raises:
        WeightsError: `network` does not have exactly the names, shapes and dtype of a `Network`.
    """
    network = Network(network)
    blobs = {name: tensor.astype("<f4").tobytes() for name, tensor in network.items()}
    architecture, start = network.architecture, 0
    header: dict[str, Any] = {}
    if architecture.activation and architecture != BOOK:
        header["__metadata__"] = {"activation": architecture.activation}
    for name, blob in blobs.items():
        header[name] = {"dtype": "F32", "shape": network[name].shape, "data_offsets": (start, start + len(blob))}
        start += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)  # so that the tensors start at a multiple of 8
    return struct.pack("<Q", len(text)) + text + b"".join(blobs.values())


def weights_sha256(network: Mapping[str, NDArray[np.float32]]) -> str:
    """The hex sha256 of `encode_weights`: identifies the tensors bit for bit, whatever file they came from."""
    return hashlib.sha256(encode_weights(network)).hexdigest()


def _activation(said: str | None, given: str | None) -> Activation | None:
    """The activation that a file says, or that the caller gives for it."""
    known = get_args(Activation)
    if wrong := [each for each in (said, given) if each is not None and each not in known]:
        raise _weights_error(f"activation {' or '.join(known)}", shown(wrong[0]))
    if said and given and said != given:
        raise WeightsError(f"the file says {said}, --activation (in Python activation=) says {given}; leave it out")
    return cast("Activation | None", said or given)


def _read_safetensors(data: bytes) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]:
    if len(data) < LENGTH_BYTES:
        raise _weights_error("a safetensors header", f"{len(data)} bytes")
    (header_bytes,) = struct.unpack("<Q", data[:LENGTH_BYTES])
    limit = min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES)
    if header_bytes > limit:
        raise _weights_error(f"a safetensors header of at most {limit} bytes", f"{header_bytes}")
    # The library rejects overlaps, holes, trailing bytes and shapes that disagree with the offsets. Of a duplicate
    # name, which the format forbids, it takes the last.
    entries = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]  # it declares no types
    header = json.loads(data[LENGTH_BYTES : LENGTH_BYTES + header_bytes], object_pairs_hook=_unique)
    _check_names(list(entries))
    if wrong := [f"{name}: {entry['dtype']}" for name, entry in entries.items() if entry["dtype"] != "F32"]:
        raise WeightsError(f"expected dtype F32 (float32), got {', '.join(sorted(wrong))}; {CONVERT}")
    arrays = {name: float32_array(entry["data"], tuple(entry["shape"]), False) for name, entry in entries.items()}
    return arrays, header.get("__metadata__") or {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) != len(pairs):
        raise _weights_error("each key of the header once", "one twice")
    return unique


def _read_npz(data: bytes) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # orig_filename is the stored name; filename is cut at a NUL.
        members = {member.orig_filename: member for member in archive.infolist()}
        _check_names([member.orig_filename for member in archive.infolist()], ".npy")
        return {name: _read_npy(archive, members[f"{name}.npy"], shape) for name, shape in BOOK.shapes.items()}, {}


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read one array of an .npz file (NumPy, "NEP 1: a simple file format for NumPy arrays")."""
    name = member.orig_filename
    limit = 4 * math.prod(shape) + MAX_HEADER_BYTES
    if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _weights_error(f"{name} stored or deflated", "another compression, or encryption")
    if member.file_size > limit:
        raise _weights_error(f"{name} of at most {limit} bytes", f"{member.file_size}")
    with archive.open(member) as stream:
        # The decompressor stops at this length; without it, it would decompress everything first.
        content = stream.read(limit)
    if len(content) != member.file_size:
        raise _weights_error(f"{name} of {member.file_size} bytes as declared", f"{len(content)}")
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _weights_error(f"{name} of .npy version 1.0 or 2.0", f"{version}")
    (header_bytes,) = struct.unpack_from("<H" if version == (1, 0) else "<I", content, file.tell())
    if header_bytes > MAX_NPY_HEADER_BYTES:  # NumPy's own error message suggests allowing pickles
        raise _weights_error(f"{name} with a header of at most {MAX_NPY_HEADER_BYTES} bytes", f"{header_bytes}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    found_shape, fortran_order, dtype = read_header(file)
    if dtype != np.dtype("<f4"):
        raise WeightsError(f"expected {name}: '<f4' (little-endian float32), got {dtype!s:.60}; {CONVERT}")
    if found_shape != shape:
        raise _weights_error(f"{name}: shape {shape}", f"{found_shape!s:.60}")
    return float32_array(content[file.tell() :], shape, fortran_order)


def _read_pickle(data: bytes) -> tuple[Mapping[str, NDArray[Any]], Mapping[str, str]]:
    arrays = read_arrays(data)
    _check_names(list(arrays))
    return arrays, {}


READERS = {".safetensors": _read_safetensors, ".npz": _read_npz, ".pkl": _read_pickle}


def _check_suffix(suffix: str, name: str) -> str:
    if suffix.lower() not in READERS:
        raise WeightsError(f"{name}: expected a name ending in {', '.join(READERS)}, got {suffix!r:.60}; {ADVICE}")
    return suffix.lower()


def _check_names(found: Sequence[str], ending: str = "") -> None:
    expected = [name + ending for name in BOOK.shapes]
    if sorted(found) == sorted(expected):
        return
    problems = [f"no {name}" for name in expected if name not in found]
    problems += [f"two of {name}" for name in expected if found.count(name) > 1]
    # Names come from the file: repr keeps control characters out of terminals and logs, and the list is limited.
    problems += [f"unexpected {name[:40]!r}" for name in found if name not in expected][:10]
    raise _weights_error(f"exactly {', '.join(expected)}", "; ".join(problems))


def _weights_error(expected: str, got: str) -> WeightsError:
    return WeightsError(f"expected {expected}, got {got}; {ADVICE}")
