import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mnist_pipeline
from mnist_pipeline.api import book, get_data, init_network, load_mnist
from mnist_pipeline.core.network import BOOK, Network, predict, sigmoid, softmax
from mnist_pipeline.errors import WeightsError
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import encode_weights
from tests.attacks.networks import random_tensors
from tests.builders import images_name, make_split, random_images, random_labels, random_network, small_settings

TRAIN_ROWS, TEST_ROWS = 9, 5


@pytest.fixture(autouse=True)
def _small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine images for training and five for testing stand for MNIST."""
    make_split(tmp_path / "data", TEST_ROWS)
    make_split(tmp_path / "data", TRAIN_ROWS, seed=1, split="train")

    def load_settings(dataset: str, split: str) -> Settings:
        assert dataset == "mnist"
        return small_settings(tmp_path, split=split)

    monkeypatch.setattr(book, "load_settings", load_settings)


def test_training_and_test_images_come_with_their_labels_as_in_the_book() -> None:
    (x_train, t_train), (x_test, t_test) = load_mnist()
    assert [array.shape for array in (x_train, t_train, x_test, t_test)] == [(9, 784), (9,), (5, 784), (5,)]
    assert [str(array.dtype) for array in (x_train, t_train)] == ["float32", "uint8"]
    np.testing.assert_array_equal(x_train, random_images(9, 1).reshape(9, 784).astype(np.float32) / 255.0)
    np.testing.assert_array_equal(t_train, random_labels(9, 1))
    np.testing.assert_array_equal(t_test, random_labels(5))
    assert 0 <= x_test.min() < x_test.max() <= 1


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_hot_label", [True, False])
def test_the_three_flags_do_what_they_do_in_the_book(normalize: bool, flatten: bool, one_hot_label: bool) -> None:
    _, (x, t) = load_mnist(normalize, flatten, one_hot_label)
    pixels = random_images(TEST_ROWS)
    assert x.dtype == (np.float32 if normalize else np.uint8)
    assert x.shape == ((5, 784) if flatten else (5, 1, 28, 28))
    np.testing.assert_array_equal(x.reshape(pixels.shape), pixels.astype(np.float32) / 255.0 if normalize else pixels)
    labels = random_labels(TEST_ROWS)
    expected: Any = np.eye(10)[labels] if one_hot_label else labels
    np.testing.assert_array_equal(t, expected, strict=True)


def test_the_flags_have_the_names_of_the_book() -> None:
    named = load_mnist(normalize=False, flatten=True, one_hot_label=False)
    assert named[1][0].dtype == np.uint8


def test_get_data_is_the_test_split_of_load_mnist_and_reads_no_other(tmp_path: Path) -> None:
    _, (x_test, t_test) = load_mnist()
    (tmp_path / "data" / images_name("train")).unlink()
    x, t = get_data()
    np.testing.assert_array_equal(x, x_test, strict=True)
    np.testing.assert_array_equal(t, t_test, strict=True)


def test_the_loop_of_the_book_runs_as_it_is_printed() -> None:
    x, t = get_data()
    network = init_network()
    batch_size, accuracy_cnt = 2, 0
    for i in range(0, len(x), batch_size):
        y_batch = predict(network, x[i : i + batch_size])
        p = np.argmax(y_batch, axis=1)
        accuracy_cnt += np.sum(p == t[i : i + batch_size])
    whole = predict(network, x).argmax(axis=1)
    assert accuracy_cnt == np.sum(whole == t)


def test_the_shipped_weights_are_a_network() -> None:
    network = init_network()
    assert isinstance(network, Network)
    assert {name: network[name].shape for name in network} == BOOK.shapes


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pkl"])
@pytest.mark.parametrize("as_text", [True, False])
def test_weights_of_ones_own_are_read_from_a_path_or_its_text(suffix: str, as_text: bool, tmp_path: Path) -> None:
    path, mine = tmp_path / f"mine{suffix}", random_network(3)
    arrays: dict[str, Any] = dict(mine)
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(encode_weights(mine) if suffix == ".safetensors" else pickle.dumps(arrays, 3))
    assert init_network(str(path) if as_text else path) == mine


def test_the_activation_of_a_network_of_another_size_is_said_by_its_file_or_by_hand(tmp_path: Path) -> None:
    tensors = random_tensors((784, 20, 10))
    np.savez(tmp_path / "mine.npz", **tensors)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match=r"784-20-10: expected the activation .* \(in Python init_network\("):
        init_network(tmp_path / "mine.npz")
    relu = init_network(tmp_path / "mine.npz", activation="relu")
    assert relu == Network(tensors, "relu")
    (tmp_path / "mine.safetensors").write_bytes(encode_weights(relu))
    assert init_network(tmp_path / "mine.safetensors") == relu


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pkl: expected a weights file, got nothing there"):
        init_network(tmp_path / "none.pkl")


def test_the_package_is_the_door_to_all_of_them() -> None:
    for function in (load_mnist, get_data, init_network, predict, sigmoid, softmax):
        assert getattr(mnist_pipeline, function.__name__) is function


def test_the_shipped_weights_are_not_read_with_another_activation() -> None:
    assert init_network(activation="sigmoid") == init_network()
    with pytest.raises(WeightsError, match="activation 'relu': expected none without weights"):
        init_network(activation="relu")
