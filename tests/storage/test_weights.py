import hashlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.network import SHAPES, Network
from mnist_pipeline.errors import OutputsError, WeightsError
from mnist_pipeline.storage.weights import (
    MAX_FILE_BYTES,
    archive_weights,
    decode_weights,
    encode_weights,
    load_weights,
    weights_sha256,
)
from tests.builders import random_network
from tests.published import snapshot

Arrays = Mapping[str, NDArray[Any]]

RANDOM = np.random.default_rng(1)
BOOK_ORDER = ["b2", "W1", "b1", "W2", "W3", "b3"]
ARRAYS = {name: RANDOM.normal(size=SHAPES[name]).astype(np.float32) for name in BOOK_ORDER}
ZEROS = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
MEBIBYTE = 2**20


def npz(arrays: Arrays, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


WRITERS: dict[str, Callable[[Arrays], bytes]] = {
    ".safetensors": lambda arrays: safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in arrays.items()}),
    ".npz": npz,
    ".pkl": lambda arrays: pickle.dumps(dict(arrays), 3),
}
VALID = {suffix: write(ARRAYS) for suffix, write in WRITERS.items()}
every_format = pytest.mark.parametrize("suffix", WRITERS)


def assert_same(network: Network, arrays: Arrays) -> None:
    assert isinstance(network, Network)
    assert list(network) == list(SHAPES)
    for name in SHAPES:
        np.testing.assert_array_equal(network[name], arrays[name], strict=True)


def refused(data: bytes, suffix: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        decode_weights(data, suffix, "some/file" + suffix)
    assert str(caught.value).startswith(f"some/file{suffix}: ")
    assert "; " in str(caught.value)
    if suffix in (".npz", ".safetensors"):
        assert "pickle" not in str(caught.value)  # neither our advice about pickles nor NumPy's to allow them


def peak_bytes(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# All formats


@every_format
def test_a_file_is_loaded_bit_for_bit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(VALID[suffix])
    assert_same(load_weights(path), ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_protocols_2_to_5_are_loaded(protocol: int) -> None:
    data = pickle.dumps(ARRAYS, protocol)
    assert_same(decode_weights(data, ".pkl", "x"), ARRAYS)
    old = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert_same(decode_weights(old, ".pkl", "x"), ARRAYS)


def test_compressed_and_fortran_ordered_arrays_are_loaded() -> None:
    fortran = {name: np.asfortranarray(array) for name, array in ARRAYS.items()}
    assert_same(decode_weights(npz(fortran, compressed=True), ".npz", "x"), ARRAYS)
    assert_same(decode_weights(pickle.dumps(fortran, 4), ".pkl", "x"), ARRAYS)


def test_the_case_of_the_suffix_does_not_matter() -> None:
    assert_same(decode_weights(VALID[".pkl"], ".PKL", "x"), ARRAYS)


def test_the_sha256_is_that_of_the_tensors_whatever_the_format() -> None:
    digests = {weights_sha256(decode_weights(data, suffix, "x")) for suffix, data in VALID.items()}
    digests |= {weights_sha256(ARRAYS), hashlib.sha256(encode_weights(Network(ARRAYS))).hexdigest()}
    assert len(digests) == 1


@every_format
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W1": ARRAYS["W1"].T}, r"shape \(784, 50\).*\(50, 784\)"),
        ({"b1": np.zeros(1, np.float32)}, r"b1.*shape \(50,\).*\(1,\)"),
        ({"b1": np.zeros((50, 1), np.float32)}, r"b1.*shape \(50,\).*\(50, 1\)"),
        ({"b2": np.full(100, np.nan, np.float32)}, "b2: expected finite values, got 100 NaN or infinite"),
        ({"b2": np.float32([np.inf] + 99 * [0])}, "b2: expected finite values, got 1 NaN or infinite"),  # type: ignore[arg-type]
        ({"W2": ARRAYS["W2"].astype(np.float64)}, "float32"),
        ({"W2": ARRAYS["W2"].astype(np.float16)}, "float32"),
        ({"W2": ARRAYS["W2"].astype(np.int32)}, "float32"),
        ({"b4": ARRAYS["b3"]}, "unexpected 'b4"),
        ({"w1": ARRAYS["W1"]}, "unexpected 'w1"),
        ({"\x1b[2J": ARRAYS["b3"]}, r"unexpected '\\x1b\[2J"),
        ({"W1": None}, "no W1"),
        ({"b1": None, "b3": None, "c": ARRAYS["b3"]}, r"no b1(.npy)?; no b3(.npy)?; unexpected 'c"),
        (dict.fromkeys(SHAPES), "no W1(.npy)?; no b1"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_another_network_is_refused(suffix: str, change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (ARRAYS | change).items() if array is not None}
    refused(WRITERS[suffix](arrays), suffix, message)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("dtype", [">f4", object, [("x", "<f4")], "<f8", "S4", "M8[s]"])
def test_arrays_of_another_dtype_are_refused(suffix: str, dtype: Any) -> None:
    arrays = ARRAYS | {"b3": np.zeros(10, dtype)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(WRITERS[suffix](arrays), suffix, "expected .*float32.*, got ")


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("other", WRITERS)
def test_bytes_of_another_format_are_not_tried_with_another_reader(suffix: str, other: str) -> None:
    if suffix != other:
        refused(VALID[other], suffix, "expected ")


@every_format
@pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 100, b"<!DOCTYPE html><html></html>", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_weights_file_is_refused(suffix: str, data: bytes) -> None:
    refused(data, suffix, "expected ")


@pytest.mark.parametrize("suffix", ["", ".h5", ".pt", ".npy", ".pickle", ".pkl.gz"])
def test_other_suffixes_are_refused(suffix: str) -> None:
    refused(VALID[".pkl"], suffix, r"expected a name ending in \.safetensors, \.npz, \.pkl, got '")


@every_format
def test_too_many_bytes_are_refused_before_they_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    with path.open("wb") as file:
        file.truncate(100 * MEBIBYTE)  # sparse: takes no room on the disk

    def load() -> None:
        with pytest.raises(WeightsError, match=f"weights{suffix}: expected at most 4194304 bytes, got more"):
            load_weights(path)

    assert peak_bytes(load) < 10 * MEBIBYTE
    refused(VALID[suffix] + bytes(MAX_FILE_BYTES), suffix, "expected at most 4194304 bytes, got more")


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no\.npz: expected a weights file, got nothing there; check the path"):
        load_weights(tmp_path / "no.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.npz: expected a weights file, got something else"):
        load_weights(tmp_path / "folder.npz")
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(WeightsError, match=r"pipe\.pkl: expected a weights file, got something else"):
        load_weights(tmp_path / "pipe.pkl")
    with pytest.raises(WeightsError, match=r"x\.pkl: expected a readable weights file, got .*too long"):
        load_weights(tmp_path / f"{'x' * 300}.pkl")
    with pytest.raises(WeightsError, match=r"weights\.h5: expected a name ending in"):
        load_weights(tmp_path / "weights.h5")


def test_the_cause_of_a_refusal_is_kept() -> None:
    with pytest.raises(WeightsError, match=r"sound \.safetensors file, got SafetensorError") as caught:
        decode_weights(VALID[".safetensors"][:-1], ".safetensors", "x")
    assert type(caught.value.__cause__).__name__ == "SafetensorError"


# The canonical bytes


def test_the_library_reads_the_canonical_bytes() -> None:
    tensors = safetensors.numpy.load(encode_weights(ARRAYS))
    assert_same(Network(tensors), ARRAYS)


def test_encoding_what_was_decoded_changes_nothing() -> None:
    data = encode_weights(ARRAYS)
    assert encode_weights(decode_weights(data, ".safetensors", "x")) == data


def test_the_canonical_bytes_are_these() -> None:
    header = (
        b'{"W1":{"dtype":"F32","shape":[784,50],"data_offsets":[0,156800]},'
        b'"b1":{"dtype":"F32","shape":[50],"data_offsets":[156800,157000]},'
        b'"W2":{"dtype":"F32","shape":[50,100],"data_offsets":[157000,177000]},'
        b'"b2":{"dtype":"F32","shape":[100],"data_offsets":[177000,177400]},'
        b'"W3":{"dtype":"F32","shape":[100,10],"data_offsets":[177400,181400]},'
        b'"b3":{"dtype":"F32","shape":[10],"data_offsets":[181400,181440]}}'
    )
    header += b" "
    assert len(header) % 8 == 0
    values = b"".join(struct.pack(f"<{ARRAYS[name].size}f", *ARRAYS[name].ravel()) for name in SHAPES)
    assert encode_weights(ARRAYS) == struct.pack("<Q", len(header)) + header + values


def test_the_sha256_of_a_known_network_never_changes() -> None:
    # Made with struct, json and hashlib alone from the header above, 400 bytes long, and 181,440 zeros.
    # If this fails, every published run's fingerprint has lost its network: mend the encoder, not the number.
    assert weights_sha256(ZEROS) == "329092b526a7714f75cdd763f01232e4f6826ec1ad833463cf478371e837c705"


def test_neither_order_nor_layout_changes_the_canonical_bytes() -> None:
    fortran = {name: np.asfortranarray(ARRAYS[name]) for name in sorted(ARRAYS)}
    assert encode_weights(fortran) == encode_weights(ARRAYS)


def test_one_bit_of_one_tensor_changes_the_sha256() -> None:
    bias = ARRAYS["b3"].copy()
    bias[9] = np.nextafter(bias[9], np.float32(9))
    assert weights_sha256(ARRAYS | {"b3": bias}) != weights_sha256(ARRAYS)


def test_what_is_no_network_is_not_encoded() -> None:
    with pytest.raises(WeightsError, match=r"W1: expected shape \(784, 50\), got \(50, 784\)"):
        encode_weights(ARRAYS | {"W1": ARRAYS["W1"].T})


# Safetensors

CANONICAL = encode_weights(ARRAYS)
HEADER_BYTES = int.from_bytes(CANONICAL[:8], "little")
HEADER: dict[str, dict[str, Any]] = json.loads(CANONICAL[8 : 8 + HEADER_BYTES])
VALUES = CANONICAL[8 + HEADER_BYTES :]


def file_with(header: str | Mapping[str, object], values: bytes = VALUES) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + values


def changed(name: str, **entries: object) -> dict[str, object]:
    return HEADER | {name: HEADER[name] | entries}


def test_metadata_is_passed_over() -> None:
    assert_same(decode_weights(file_with({"__metadata__": {"format": "pt"}} | HEADER), ".safetensors", "x"), ARRAYS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"1234567", "expected a safetensors header, got 7 bytes"),
        (struct.pack("<Q", 2**63) + CANONICAL[8:], "expected a safetensors header of at most 65536 bytes, got 9223372"),
        (file_with(json.dumps(HEADER) + " " * 65536), "expected a safetensors header of at most 65536 bytes, got 6"),
        (struct.pack("<Q", 93) + b"{" * 92, "expected a safetensors header of at most 92 bytes, got 93"),
        (file_with("[1]"), "sound .safetensors file, got SafetensorError"),
        (file_with("[" * 60000), "SafetensorError"),
        (file_with('{"x":' * 10000), "SafetensorError"),
        (file_with("\xff"), "SafetensorError"),
        (file_with(HEADER, VALUES + b"\0"), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
        (file_with(HEADER, VALUES[:-1]), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
        (
            file_with(changed("b3", data_offsets=[181396, 181436]), VALUES[:-4]),
            "SafetensorError.*(invalid o|InvalidO)ffset",
        ),  # overlap
        (
            file_with(changed("b3", data_offsets=[181404, 181444]), VALUES + bytes(4)),
            "SafetensorError.*(invalid o|InvalidO)ffset",
        ),  # hole
        (file_with(changed("b3", data_offsets=[0, 40])), "SafetensorError"),
        (file_with(changed("b3", data_offsets=[-40, 0])), "SafetensorError"),
        (file_with(changed("b3", data_offsets=[181440, 181400])), "SafetensorError"),
        (file_with(changed("b3", shape=[11])), "SafetensorError"),
        (file_with(changed("b3", shape=[2**62, 16])), "SafetensorError.*[oO]verflow"),
        (file_with(changed("b3", shape=[1] * 40 + [10])), "expected a shape of positive integers, got 41 dimension"),
        (
            file_with(changed("b3", shape=[0], data_offsets=[181400, 181400]), VALUES[:-40]),
            "shape of positive integers",
        ),
        (file_with(changed("b3", dtype="BF16", shape=[20])), r"dtype F32 \(float32\), got b3: BF16"),
        (file_with(changed("b3", dtype="I32")), r"dtype F32 \(float32\), got b3: I32"),
        (file_with(changed("b3", dtype="F64", shape=[5])), r"dtype F32 \(float32\), got b3: F64"),
        (file_with(changed("b3", dtype="F8_E4M3", shape=[40])), r"dtype F32 \(float32\), got b3: F8_E4M3"),
        (file_with(changed("b3", dtype=">f4")), "SafetensorError"),
        (file_with(changed("b3", dtype=["F32"])), "SafetensorError"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_broken_safetensors_are_refused(data: bytes, message: str) -> None:
    refused(data, ".safetensors", message)


def test_a_safetensors_name_given_twice_is_refused() -> None:
    data = file_with(json.dumps(HEADER)[:-1] + ', "b3": ' + json.dumps(HEADER["b3"]) + "}")
    assert safetensors.numpy.load(data)  # the library alone takes it
    refused(data, ".safetensors", "expected each key of the header once, got one twice")


# Zipped .npy


def npy(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions 2 and 3
        np.lib.format.write_array(file, array, version)
    return file.getvalue()


MEMBERS = {f"{name}.npy": npy(array) for name, array in ARRAYS.items()}


def archive(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as written:
        warnings.simplefilter("ignore")  # about names that are there twice
        for name, content in members:
            written.writestr(name, content)
    return file.getvalue()


def archive_with(compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    return archive((MEMBERS | {f"{name}.npy": content for name, content in changes.items()}).items(), compression)


def directory_with(data: bytes, member: str, offset: int, field: bytes) -> bytes:
    """Overwrite a field of a member's entry in the zip's central directory (APPNOTE.TXT, 4.3.12)."""
    at = data.rindex(member.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return data[: at + offset] + field + data[at + offset + len(field) :]


def declaring(data: bytes, member: str, size_bytes: int) -> bytes:
    return directory_with(data, member, 24, struct.pack("<I", size_bytes))


def literal(text: str, values: bytes) -> bytes:
    """Make an .npy of version 1.0 with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + values


NPY_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (10,)}"


def test_npy_headers_of_versions_1_and_2_are_read() -> None:
    assert_same(decode_weights(archive_with(b3=npy(ARRAYS["b3"], (2, 0))), ".npz", "x"), ARRAYS)


def test_the_crafted_archives_below_are_good_but_for_what_is_crafted() -> None:
    assert_same(decode_weights(archive_with(), ".npz", "x"), ARRAYS)
    assert_same(decode_weights(archive_with(zipfile.ZIP_DEFLATED), ".npz", "x"), ARRAYS)
    assert_same(decode_weights(archive_with(b3=literal(NPY_HEADER, ARRAYS["b3"].tobytes())), ".npz", "x"), ARRAYS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive([*MEMBERS.items(), ("b3.npy", MEMBERS["b3.npy"])]), r"exactly W1\.npy, .*, got two of b3\.npy"),
        (archive([*MEMBERS.items(), ("../W1.npy", b"")]), r"unexpected '\.\./W1\.npy'"),
        (archive([*MEMBERS.items(), ("/etc/W1.npy", b"")]), r"unexpected '/etc/W1\.npy'"),
        (archive([*MEMBERS.items(), ("x/", b"")]), "unexpected 'x/'"),
        (
            archive([(n.replace("b3.npy", "../b3.npy"), m) for n, m in MEMBERS.items()]),
            r"no b3\.npy; unexpected '\.\./b",
        ),
        (
            archive([(n.replace("b3.npy", "b3xnpy"), m) for n, m in MEMBERS.items()]).replace(b"b3xnpy", b"b3.np\0"),
            "no b3",
        ),
        (
            archive([(n.replace("b3.npy", "b3.npyxy"), m) for n, m in MEMBERS.items()]).replace(
                b"b3.npyxy", b"b3.npy\0y"
            ),
            r"unexpected 'b3\.npy\\x00y'",
        ),
        (archive([(n.removesuffix(".npy"), m) for n, m in MEMBERS.items()]), r"no W1\.npy; .*unexpected 'W1'"),
        (archive([(f"{n:05}", b"") for n in range(2000)]), "unexpected '00000'.*; unexpected '00009'; give"),
        (archive_with(zipfile.ZIP_LZMA), "stored or deflated, got another compression, or encryption"),
        (archive_with(zipfile.ZIP_BZIP2), "stored or deflated, got another compression, or encryption"),
        (directory_with(archive_with(), "b3.npy", 8, b"\x01\x00"), r"b3\.npy stored or deflated, got another comp"),
        (directory_with(archive_with(), "b3.npy", 8, b"\x20\x00"), "sound .npz file, got NotImplementedError"),
        (directory_with(archive_with(), "b3.npy", 16, bytes(4)), "sound .npz file, got BadZipFile"),  # CRC
        (
            directory_with(archive_with(), "b3.npy", 42, bytes(4)),
            "sound .npz file, got BadZipFile",
        ),  # offset of another
        (archive_with(b3=MEMBERS["b3.npy"] + b"\0"), r"expected 40 bytes for shape \(10,\), got 41 bytes"),
        (archive_with(b3=MEMBERS["b3.npy"][:-1]), r"expected 40 bytes for shape \(10,\), got 39 bytes"),
        (archive_with(b3=MEMBERS["b3.npy"][:-1])[:-300], "expected "),
        (archive_with(b3=pickle.dumps(ARRAYS["b3"])), "sound .npz file, got ValueError.*magic"),
        (archive_with(b3=b""), "sound .npz file, got ValueError"),
        (archive_with(b3=b"\x93NUMPY\x01\x00"), "sound .npz file, got error.*unpack"),
        (archive_with(b3=b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "header of at most 512 bytes, got 4294967295"),
        (archive_with(b3=npy(ARRAYS["b3"], (3, 0))), r"b3\.npy of \.npy version 1\.0 or 2\.0, got \(3, 0\)"),
        (archive_with(b3=npy(np.array([None] * 10))), r"b3\.npy: '<f4' \(little-endian float32\), got object"),
        (archive_with(b3=npy(np.zeros(10, "<f4,<f4"))), r"b3\.npy: '<f4' .*, got \[\('f0'"),
        (archive_with(b3=npy(np.zeros(10, "V4"))), r"b3\.npy: '<f4' .*, got \|V4"),
        (archive_with(b3=npy(ARRAYS["b3"].astype(">f4"))), r"b3\.npy: '<f4' .*, got >f4"),
        (archive_with(b3=literal("{'descr': '<f4', 'fortran_order': False, 'shape': (-10,)}", b"")), r"got \(-10,\)"),
        (archive_with(b3=literal("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}", b"")), r"shape"),
        (archive_with(b3=literal("{'descr': '<f4', 'fortran_order': False, 'shape': (2**60,)}", b"")), "ValueError"),
        (archive_with(b3=literal("__import__('os').system('true')", b"")), "sound .npz file, got ValueError"),
        (archive_with(b3=literal("{'descr': '<f4', 'fortran_order': 0, 'shape': (10,)}", b"")), "ValueError"),
        (archive_with(b3=literal("(" * 500, b"")), "sound .npz file, got "),
        (archive_with(b3=literal("-" * 500 + "1", b"")), "sound .npz file, got "),
        (
            archive_with(b3=literal(f"{NPY_HEADER:600}", ARRAYS["b3"].tobytes())),
            r"b3\.npy with a header of at most 512 bytes, got 600",
        ),
        (archive_with(b3=literal("{'descr': ('<f4', (3,)), 'fortran_order': 0, 'shape': (10,)}", b"")), "ValueError"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_broken_npz_files_are_refused(data: bytes, message: str) -> None:
    refused(data, ".npz", message)


def test_pickled_objects_in_an_npz_are_not_unpickled(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    data = npz(ARRAYS | {"b3": np.array([Touch()] * 10)})
    with np.load(io.BytesIO(data), allow_pickle=True) as unsafe:
        assert unsafe["b3"] is not None
    (tmp_path / "executed").unlink()  # it was there: the file is as hostile as it looks
    refused(data, ".npz", "got object")
    assert not (tmp_path / "executed").exists()


BOMB = npy(ARRAYS["b3"]) + bytes(30 * MEBIBYTE)


@pytest.mark.parametrize(
    ("size_bytes", "message"),
    [
        (len(BOMB), r"b3\.npy of at most 65576 bytes, got 31457448"),
        (2**32 - 2, r"b3\.npy of at most 65576 bytes, got 4294967294"),
        (len(MEMBERS["b3.npy"]), "sound .npz file, got BadZipFile"),
        (65576, "sound .npz file, got BadZipFile"),
    ],
)
def test_a_zip_bomb_is_not_unpacked_whatever_size_it_declares(size_bytes: int, message: str) -> None:
    data = declaring(archive_with(zipfile.ZIP_DEFLATED, b3=BOMB), "b3.npy", size_bytes)
    assert len(data) < MEBIBYTE
    assert peak_bytes(lambda: refused(data, ".npz", message)) < 2 * MEBIBYTE


def test_a_member_shorter_than_it_declares_is_refused() -> None:
    data = declaring(archive_with(zipfile.ZIP_DEFLATED), "b3.npy", len(MEMBERS["b3.npy"]) + 1)
    refused(data, ".npz", r"b3\.npy of 169 bytes as declared, got 168")


# Whatever the bytes

# What is structure, not numbers, is mostly at the beginning and the end, or before and after the small tensors.
SMALL_FIRST = {name: ARRAYS[name] for name in ["b1", "b3", "b2", "W3", "W2", "W1"]}
SUBJECTS = [
    (".safetensors", WRITERS[".safetensors"](SMALL_FIRST)),
    (".npz", npz(SMALL_FIRST)),
    (".npz", npz(SMALL_FIRST, compressed=True)),
    *((".pkl", pickle.dumps(SMALL_FIRST, protocol)) for protocol in (2, 3, 4, 5)),
]
positions = st.one_of(st.integers(0, 900), st.integers(-900, -1), st.integers(0, 200_000))
edits = st.lists(st.tuples(positions, st.integers(0, 255), st.sampled_from([0, 1, 1, 1, 2, 9])), min_size=1, max_size=3)


@pytest.mark.filterwarnings(
    "ignore:invalid escape sequence:DeprecationWarning"
)  # from pickletools, on its way to refuse
@settings(deadline=None, max_examples=800)
@given(st.sampled_from(SUBJECTS), edits)
def test_altered_bytes_give_a_network_or_a_refusal_and_nothing_else(
    subject: tuple[str, bytes], edits: list[tuple[int, int, int]]
) -> None:
    suffix, data = subject
    altered = bytearray(data)
    for position, value, width in edits:  # replaced, inserted before (width 0), or cut shorter
        at = position % len(altered)
        altered[at : at + width] = bytes([value])
    try:
        network = decode_weights(bytes(altered), suffix, "x")
    except WeightsError as error:
        message = str(error)
    else:
        assert {name: network[name].shape for name in network} == SHAPES
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in network.values())
        return
    assert message.startswith(("x: expected ", "x: weights are not a 784-50-100-10 network: "))
    assert len(message) < 2000


@settings(deadline=None)
@given(st.sampled_from(SUBJECTS), positions)
def test_a_file_cut_short_is_refused(subject: tuple[str, bytes], length: int) -> None:
    suffix, data = subject
    refused(data[: length % len(data)], suffix, "expected ")


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.binary(max_size=300))
def test_any_bytes_are_refused(suffix: str, data: bytes) -> None:
    refused(data, suffix, "expected ")
    refused(b"\x80\x04" + data, ".pkl", "expected ")


# The archive


def test_archived_weights_lie_under_the_sha256_of_their_bytes_and_come_back(tmp_path: Path) -> None:
    network = random_network()
    path = archive_weights(network, tmp_path / "outputs" / "weights")
    assert path == tmp_path / "outputs" / "weights" / f"{weights_sha256(network)}.safetensors"
    assert path.read_bytes() == encode_weights(network)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert weights_sha256(load_weights(path)) == path.stem
    other = archive_weights(random_network(1), path.parent)
    assert sorted(path.parent.iterdir()) == sorted([path, other])


def test_weights_that_are_archived_already_are_not_written_again(tmp_path: Path) -> None:
    path = archive_weights(random_network(), tmp_path)
    before = snapshot(tmp_path)
    assert archive_weights(random_network(), tmp_path) == path
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("damage", ["bits", "cut short", "empty"])
def test_damaged_weights_in_the_archive_are_written_anew(damage: str, tmp_path: Path) -> None:
    path = archive_weights(random_network(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"bits": bytes([whole[0] ^ 1]) + whole[1:], "cut short": whole[:-1], "empty": b""}[damage])
    assert archive_weights(random_network(), tmp_path) == path
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_archived_weights_have_reached_the_disk_and_so_has_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    syncing = os.fsync

    def note(handle: int) -> None:
        places = {"outputs": tmp_path, "weights": tmp_path / "weights"}
        found = os.fstat(handle)
        named = [name for name, place in places.items() if place.exists() and os.path.samestat(place.stat(), found)]
        synced.append(named[0] if named else "file")
        syncing(handle)

    monkeypatch.setattr(os, "fsync", note)
    archive_weights(random_network(), tmp_path / "weights")
    assert synced == ["outputs", "file", "weights"]


def test_an_archive_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(
        OutputsError, match=f"^cannot archive the weights in {tmp_path}/weights: .*; check that the fol"
    ):
        archive_weights(random_network(), tmp_path / "weights")
    name = f"{weights_sha256(random_network())}.safetensors"
    (tmp_path / "archive" / name / "x").mkdir(parents=True)
    with pytest.raises(OutputsError, match=f"^cannot archive the weights in {tmp_path}/archive: "):
        archive_weights(random_network(), tmp_path / "archive")
    assert [path.name for path in (tmp_path / "archive").iterdir()] == [name]
