"""Reads weights files without executing anything in them, and writes canonical safetensors bytes.

A file is read once and parsed by the reader of its suffix: .safetensors, .npz or .pkl. No other reader is tried if that
one rejects it. Nothing is unpickled.
"""

import hashlib
import json
import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.network import BOOK, Activation, Network
from mnist_pipeline.core.network.architecture import MAX_PARAMETERS
from mnist_pipeline.errors import MAX_SHOWN, StoreError, WeightsError, printable, shown
from mnist_pipeline.store.base import Address, Location, Store, is_remote
from mnist_pipeline.store.opening import read_location
from mnist_pipeline.weights.arrays import ADVICE, StoredArray, check_names, rounded, shown_error, weights_error
from mnist_pipeline.weights.formats import MAX_HEADER_BYTES, read_npz, read_safetensors
from mnist_pipeline.weights.layouts import advice_of_suffix, check
from mnist_pipeline.weights.pickles import read_arrays

logger = logging.getLogger(__name__)

SHIPPED_WEIGHTS = Path(__file__).with_name("mnist.safetensors")
# Of float64. No reader can be made to hold much more.
MAX_FILE_BYTES = 8 * MAX_PARAMETERS + MAX_HEADER_BYTES
TORCH = b"/data.pkl"  # in the name of the first file of the archives that torch.save writes


def load_weights(path: Location, activation: Activation | None = None) -> Network:
    """Read a network from a .safetensors, .npz or .pkl file; warn of float64, which is rounded to float32.

    Args:
        path: the file.
        activation: of the hidden layers, for a file that does not say it.

    Raises:
        WeightsError: the file is missing, is not exactly a dense network of finite numbers, says another activation, or
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
        WeightsError: the bytes are not exactly a dense network of finite numbers, say another activation, or none
            though one is needed.
    """
    read = READERS[_check_suffix(suffix, name)]
    try:
        if len(data) > MAX_FILE_BYTES:
            raise weights_error(f"at most {MAX_FILE_BYTES} bytes", "more")
        if not data:
            raise weights_error("a weights file", "an empty one")
        if TORCH in data[: len(TORCH) + 200]:
            raise WeightsError(
                f"expected a {suffix.lower()} file, got one of torch.save; {advice_of_suffix('.pt', name)}"
            )
        arrays, metadata = read(data)
        check(arrays, suffix.lower(), name)
        said = _activation(metadata.get("activation"), activation)
        network = Network({each: rounded(each, stored.read()) for each, stored in arrays.items()}, said)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    except Exception as error:  # hostile bytes: safetensors, zipfile, zlib and the .npy parser raise any exception
        raise WeightsError(f"{name}: expected a valid {suffix} file, got {shown_error(error)}; {ADVICE}") from error
    if any(stored.dtype == "float64" for stored in arrays.values()):
        logger.warning("%s: float64 weights, rounded to float32", printable(name))
    return network


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
    network = Network.of(network)
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
    for each, advice in ((said, ADVICE), (given, "give one of them")):
        if each is not None and each not in known:
            expected = f"activation {' or '.join(known)}"
            raise WeightsError(f"expected {expected}, got {shown(str(each)[: MAX_SHOWN + 1])}; {advice}")
    if said and given and said != given:
        given_by = "--activation or setting activation, in Python activation="
        raise WeightsError(f"the file says {said}, {given} is given ({given_by}); leave it out")
    return cast("Activation | None", said or given)


def _read_pickle(data: bytes) -> tuple[dict[str, StoredArray], dict[str, str]]:
    arrays = read_arrays(data)
    check_names(arrays)
    return {name: StoredArray(str(each.dtype), each.shape, each.view) for name, each in arrays.items()}, {}


READERS = {".safetensors": read_safetensors, ".npz": read_npz, ".pkl": _read_pickle}


def _check_suffix(suffix: str, name: str) -> str:
    if suffix.lower() not in READERS:
        advice = advice_of_suffix(suffix, name)
        raise WeightsError(f"{name}: expected a name ending in {', '.join(READERS)}, got {suffix!r:.60}; {advice}")
    return suffix.lower()
