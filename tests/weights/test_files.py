"""What is loaded and written. Attacks, and that none runs: tests/promises/test_weights_execute_nothing.py."""

import hashlib
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_pipeline.core.network import BOOK, Activation, Architecture, Network
from mnist_pipeline.core.network.architecture import shapes_of
from mnist_pipeline.errors import DamagedError, OutputsError, WeightsError
from mnist_pipeline.runs.layout import weights
from mnist_pipeline.weights.files import (
    MAX_FILE_BYTES,
    SHIPPED_WEIGHTS,
    decode_weights,
    encode_weights,
    load_weights,
    weights_sha256,
)
from tests.attacks.archives import NPY_HEADER, archive_with, literal, npy
from tests.attacks.networks import ARRAYS, MEBIBYTE, VALID, WRITERS, Arrays, npz, random_tensors
from tests.attacks.tensors import HEADER, TWICE, file_with
from tests.builders import random_network
from tests.published import on_disk, opened, snapshot

ZEROS = {name: np.zeros(shape, np.float32) for name, shape in BOOK.shapes.items()}


every_format = pytest.mark.parametrize("suffix", WRITERS)


def assert_same(network: Network, arrays: Arrays) -> None:
    assert isinstance(network, Network)
    assert list(network) == list(BOOK.shapes)
    for name in BOOK.shapes:
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


widths = st.lists(st.integers(1, 12), max_size=7).map(lambda hidden: (784, *hidden, 10))


@settings(max_examples=30)
@given(widths, st.sampled_from([*get_args(Activation)]), st.integers(0, 9))
def test_every_dense_network_comes_back_from_every_format(
    widths: tuple[int, ...], activation: Activation, seed: int
) -> None:
    tensors = random_tensors(widths, seed)
    network = Network(tensors, activation)
    for suffix, write in WRITERS.items():
        found = decode_weights(write(tensors), suffix, "x", activation)
        assert found == network
        assert list(found) == list(network)
        assert weights_sha256(found) == weights_sha256(network)
    assert decode_weights(encode_weights(network), ".safetensors", "x") == network


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
        ({"W1": ARRAYS["W1"].T}, r"shape \(784, (?:n|50)\).*\(50, 784\)"),
        ({"b1": np.zeros(1, np.float32)}, r"b1.*shape \(50,\).*\(1,\)"),
        ({"b1": np.zeros((50, 1), np.float32)}, r"b1.*shape \(50,\).*\(50, 1\)"),
        ({"b2": np.full(100, np.nan, np.float32)}, "b2: expected finite values, got 100 NaN or infinite"),
        ({"b2": np.float32([np.inf] + 99 * [0])}, "b2: expected finite values, got 1 NaN or infinite"),  # type: ignore[arg-type]
        ({"W2": ARRAYS["W2"].astype(np.float16)}, "expected .*float32.*, got .*(float16|f2)"),
        ({"W2": ARRAYS["W2"].astype(np.int32)}, "expected .*float32.*, got .*(int32|i4)"),
        ({"b4": ARRAYS["b3"]}, r"missing W4; found .*'b[1-4]' \([0-9]+,\), .* and 1 more"),
        ({"w1": ARRAYS["W1"]}, "unexpected 'w1"),
        ({"\x1b[2J": ARRAYS["b3"]}, r"unexpected '\\x1b\[2J"),
        ({"W1": None}, r"missing W1; found .*'W2' \(50, 100\)"),
        ({"b1": None, "b3": None, "c": ARRAYS["b3"]}, r"missing b1, b3; unexpected 'c'; found .*'c' \(10,\)"),
        (dict.fromkeys(BOOK.shapes), r"expected W1 \(784, n\), b1 \(n,\) .. WL \(m, 10\), bL \(10,\), got no arrays"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_another_network_is_refused(suffix: str, change: dict[str, Any], message: str) -> None:
    arrays = {name: array for name, array in (ARRAYS | change).items() if array is not None}
    refused(WRITERS[suffix](arrays), suffix, message)


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
@pytest.mark.parametrize("dtype", [">f4", ">f8", object, [("x", "<f4")], "S4", "M8[s]"])
def test_arrays_of_another_dtype_are_refused(suffix: str, dtype: Any) -> None:
    arrays = ARRAYS | {"b3": np.zeros(10, dtype)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(WRITERS[suffix](arrays), suffix, "expected .*float.*, got ")


@pytest.mark.parametrize("suffix", ["", ".h5", ".pt", ".npy", ".pickle", ".pkl.gz"])
def test_other_suffixes_are_refused(suffix: str) -> None:
    refused(VALID[".pkl"], suffix, r"expected a name ending in \.safetensors, \.npz, \.pkl, got '")


@every_format
def test_too_many_bytes_are_refused_before_they_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    with path.open("wb") as file:
        file.truncate(100 * MEBIBYTE)  # sparse: takes no room on the disk

    def load() -> None:
        with pytest.raises(WeightsError, match=f"weights{suffix}: expected at most {MAX_FILE_BYTES} bytes, got more"):
            load_weights(path)

    assert peak_bytes(load) < MAX_FILE_BYTES + MEBIBYTE
    refused(VALID[suffix] + bytes(MAX_FILE_BYTES), suffix, f"expected at most {MAX_FILE_BYTES} bytes, got more")


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


def test_the_cause_of_an_error_is_kept() -> None:
    with pytest.raises(WeightsError, match=r"valid \.safetensors file, got SafetensorError") as caught:
        decode_weights(VALID[".safetensors"][:-1], ".safetensors", "x")
    assert type(caught.value.__cause__).__name__ == "SafetensorError"


# Activations

RELU = encode_weights(Network(random_tensors((784, 5, 10)), "relu"))


def test_the_activation_that_a_file_says_is_taken_and_may_be_given_too() -> None:
    assert str(decode_weights(RELU, ".safetensors", "x").architecture) == "784-5-10 relu"
    assert decode_weights(RELU, ".safetensors", "x", "relu") == decode_weights(RELU, ".safetensors", "x")


def test_an_activation_other_than_that_of_the_file_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"^x: the file says relu, sigmoid is given \(.*\); leave it out$"):
        decode_weights(RELU, ".safetensors", "x", "sigmoid")


@every_format
def test_a_file_that_does_not_say_its_activation_is_refused_until_it_is_given(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(WRITERS[suffix](random_tensors((784, 5, 10))))
    with pytest.raises(WeightsError, match=rf"weights\{suffix}: .*784-5-10: expected the activation .* got none; say "):
        load_weights(path)
    assert str(load_weights(path, "relu").architecture) == "784-5-10 relu"


def test_an_activation_that_nobody_knows_is_refused_whoever_gives_it() -> None:
    with pytest.raises(WeightsError, match=r"^x: expected activation sigmoid or relu, got 'gelu'; give one of them$"):
        decode_weights(VALID[".npz"], ".npz", "x", "gelu")  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"^x: expected activation sigmoid or relu, got '5'; give one of them$"):
        decode_weights(VALID[".npz"], ".npz", "x", 5)  # type: ignore[arg-type]
    data = safetensors.numpy.save(dict(ARRAYS), {"activation": "ReLU"})
    refused(data, ".safetensors", "expected activation sigmoid or relu, got 'ReLU'; give another weights file")


@every_format
def test_the_books_shapes_are_sigmoid_unless_it_is_said(suffix: str) -> None:
    assert decode_weights(VALID[suffix], suffix, "x").architecture == BOOK
    relu = decode_weights(VALID[suffix], suffix, "x", "relu")
    assert relu.architecture == Architecture(BOOK.hidden, "relu")
    assert decode_weights(encode_weights(relu), ".safetensors", "x") == relu


def test_a_network_without_hidden_layers_has_no_activation() -> None:
    data = WRITERS[".npz"](random_tensors((784, 10)))
    assert decode_weights(data, ".npz", "x", "relu").architecture == Architecture((), None)


# float64


@every_format
def test_float64_is_rounded_to_float32_and_said_so(suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    doubles = {name: array.astype(np.float64) * (1 + 1e-9) for name, array in ARRAYS.items() if name != "b1"}
    data = WRITERS[suffix]({"b1": ARRAYS["b1"], **doubles})
    assert_same(decode_weights(data, suffix, "some/file"), ARRAYS)
    assert caplog.messages == ["some/file: float64 weights, rounded to float32"]


@every_format
def test_float64_beyond_the_range_of_float32_is_refused(suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    data = WRITERS[suffix](ARRAYS | {"b3": np.array([1e39, *range(9)])})
    refused(data, suffix, r"expected b3 within the range of float32, got 1 beyond 3\.4e\+38; give another")
    assert caplog.messages == []


# Sizes


@every_format
def test_the_largest_network_is_read_in_float64_and_no_larger_one(suffix: str) -> None:
    for width, outcome in [(5031, "finite values, got 10 NaN"), (5032, "at most 4,000,000 parameters, got 4,000,450")]:
        zeros = {name: np.zeros(shape) for name, shape in shapes_of((784, width, 10)).items()}
        data = WRITERS[suffix](zeros | {"b2": np.full(10, np.nan)})
        refused(data, suffix, outcome)


def test_an_archive_takes_no_more_memory_than_the_largest_network() -> None:
    zeros = {name: np.zeros(shape) for name, shape in shapes_of((784, 5031, 10)).items()}
    data = npz(zeros | {"b2": np.full(10, np.nan)}, compressed=True)
    assert len(data) < MEBIBYTE / 10
    assert peak_bytes(lambda: refused(data, ".npz", "finite values, got 10 NaN")) < 3 * MAX_FILE_BYTES


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
    values = b"".join(struct.pack(f"<{ARRAYS[name].size}f", *ARRAYS[name].ravel()) for name in BOOK.shapes)
    assert encode_weights(ARRAYS) == struct.pack("<Q", len(header)) + header + values


def test_the_sha256_of_a_known_network_never_changes() -> None:
    # Made with struct, json and hashlib alone from the header above, 400 bytes long, and 181,440 zeros.
    # If this fails, every published run's fingerprint has lost its network: fix the encoder, not the number.
    assert weights_sha256(ZEROS) == "329092b526a7714f75cdd763f01232e4f6826ec1ad833463cf478371e837c705"


def test_the_sha256_of_the_shipped_network_never_changes() -> None:
    shipped = "a879db9fcc99956f58899174a59a79411a9d01d737ea8f758c238ac9fb333e99"
    assert weights_sha256(load_weights(SHIPPED_WEIGHTS)) == shipped
    assert hashlib.sha256(SHIPPED_WEIGHTS.read_bytes()).hexdigest() == shipped


def test_neither_order_nor_layout_changes_the_canonical_bytes() -> None:
    fortran = {name: np.asfortranarray(ARRAYS[name]) for name in sorted(ARRAYS)}
    assert encode_weights(fortran) == encode_weights(ARRAYS)


def test_one_bit_of_one_tensor_changes_the_sha256() -> None:
    bias = ARRAYS["b3"].copy()
    bias[9] = np.nextafter(bias[9], np.float32(9))
    assert weights_sha256(ARRAYS | {"b3": bias}) != weights_sha256(ARRAYS)


def test_what_is_no_network_is_not_encoded() -> None:
    with pytest.raises(WeightsError, match=r"W1: expected shape \(784, n\), got \(50, 784\)"):
        encode_weights(ARRAYS | {"W1": ARRAYS["W1"].T})


# What the formats allow


def test_metadata_is_passed_over() -> None:
    assert_same(decode_weights(file_with({"__metadata__": {"format": "pt"}} | HEADER), ".safetensors", "x"), ARRAYS)


def test_npy_headers_of_versions_1_and_2_are_read() -> None:
    assert_same(decode_weights(archive_with(b3=npy(ARRAYS["b3"], (2, 0))), ".npz", "x"), ARRAYS)


def test_the_crafted_files_of_the_gallery_are_good_but_for_what_is_crafted() -> None:
    assert safetensors.numpy.load(TWICE)  # the library alone takes it
    assert_same(decode_weights(archive_with(), ".npz", "x"), ARRAYS)
    assert_same(decode_weights(archive_with(zipfile.ZIP_DEFLATED), ".npz", "x"), ARRAYS)
    assert_same(decode_weights(archive_with(b3=literal(NPY_HEADER, ARRAYS["b3"].tobytes())), ".npz", "x"), ARRAYS)


# The archive


def test_archived_weights_are_named_by_the_sha256_of_their_bytes_and_come_back(tmp_path: Path) -> None:
    outputs, network = opened(tmp_path / "outputs"), random_network()
    path = on_disk(outputs.archive_weights(network))
    assert path == tmp_path / "outputs" / weights(weights_sha256(network))
    assert path.read_bytes() == encode_weights(network)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert weights_sha256(load_weights(path)) == path.stem == weights_sha256(outputs.load_weights(path.stem))
    other = outputs.archive_weights(random_network(1))
    assert sorted(path.parent.iterdir()) == sorted([path, on_disk(other)])


def test_weights_that_are_archived_already_are_not_written_again(tmp_path: Path) -> None:
    path = opened(tmp_path).archive_weights(random_network())
    before = snapshot(tmp_path)
    assert opened(tmp_path).archive_weights(random_network()) == path
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("damage", ["bits", "cut short", "empty"])
def test_damaged_weights_in_the_archive_are_refused_and_written_again(damage: str, tmp_path: Path) -> None:
    outputs = opened(tmp_path)
    path = on_disk(outputs.archive_weights(random_network()))
    whole = path.read_bytes()
    path.write_bytes({"bits": bytes([whole[0] ^ 1]) + whole[1:], "cut short": whole[:-1], "empty": b""}[damage])
    with pytest.raises(DamagedError, match=f"^{path}: .*; run again with these weights to restore them$"):
        outputs.load_weights(path.stem)
    assert outputs.archive_weights(random_network()) == path
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_archived_weights_that_are_gone_or_others_are_damage(tmp_path: Path) -> None:
    outputs, name = opened(tmp_path), weights_sha256(random_network())
    with pytest.raises(DamagedError, match=f"{name}.safetensors: expected the weights its name says, got no file; run"):
        outputs.load_weights(name)
    outputs.store.write(weights(name), encode_weights(random_network(1)))
    with pytest.raises(
        DamagedError, match=f"expected the weights its name says, got {weights_sha256(random_network(1))}"
    ):
        outputs.load_weights(name)


def test_an_archive_that_cannot_be_written_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("in the way")
    with pytest.raises(OutputsError, match=f"^cannot write {tmp_path}/weights/.*; a file is where a folder is"):
        opened(tmp_path).archive_weights(random_network())
