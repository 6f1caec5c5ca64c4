import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.core.network import BOOK, Architecture, Kernels, Network, Workspace, forward, predict
from mnist_pipeline.core.network.activations import SigmoidKernel
from mnist_pipeline.core.network.forward import SIGMOIDS
from mnist_pipeline.errors import ImagesError, NumericalError, WeightsError

seeds = st.integers(0, 2**32 - 1)


ARCHITECTURES = [
    BOOK,
    Architecture((50, 100), "relu"),
    Architecture((), None),
    Architecture((200,), "relu"),
    Architecture((30,), "sigmoid"),
    Architecture((20, 12, 7, 5, 11, 9, 30), "sigmoid"),
    Architecture((20, 12, 7, 5, 11, 9, 30), "relu"),
]
KERNELS = [Kernels(sigmoid, small) for sigmoid in SIGMOIDS for small in (None, 1_000, 1_000_000)]


def tensors(seed: int = 0, gain: float = 2.0, architecture: Architecture = BOOK) -> dict[str, NDArray[np.float32]]:
    """Random weights that leave the network unsure, so that a mistake shows in the probabilities."""
    rng = np.random.default_rng(seed)
    gain = 1.0 if architecture.activation == "relu" else gain
    return {
        name: (gain * rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in architecture.shapes.items()
    }


def images(seed: int, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((rows, 784), np.float32)


def with_b3(values: list[float]) -> Network:
    """A network whose probabilities depend on nothing but its last biases."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in BOOK.shapes.items()}
    return Network(zeros | {"b3": np.array(values, np.float32)})


def book_predict(
    network: Mapping[str, NDArray[Any]], x: NDArray[Any], activation: str | None = "sigmoid"
) -> NDArray[np.float64]:
    """The judge: the formulas of the book in float64, one image at a time, nothing shared with the package."""

    def sigmoid(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-a)))

    w = {name: np.array(tensor, np.float64) for name, tensor in network.items()}
    z, last = np.array(x, np.float64), len(w) // 2
    for layer in range(1, last):
        a = np.dot(z, w[f"W{layer}"]) + w[f"b{layer}"]
        z = sigmoid(a) if activation == "sigmoid" else np.where(a > 0, a, 0)
    a = np.dot(z, w[f"W{last}"]) + w[f"b{last}"]
    return np.asarray(np.exp(a - a.max()) / np.exp(a - a.max()).sum())


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 20), st.sampled_from(ARCHITECTURES))
def test_predict_equals_the_book(seed: int, rows: int, architecture: Architecture) -> None:
    network = Network(tensors(seed, architecture=architecture), architecture.activation)
    batch = images(seed, rows)
    expected = np.array([book_predict(network, image, architecture.activation) for image in batch])
    assert np.abs(predict(network, batch) - expected).max() < 2e-6


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 40), st.integers(1, 50), st.sampled_from(KERNELS), st.sampled_from(ARCHITECTURES))
def test_any_batch_and_kernel_gives_the_same_digits_and_probabilities(
    seed: int, rows: int, batch_rows: int, kernels: Kernels, architecture: Architecture
) -> None:
    network = Network(tensors(seed, architecture=architecture), architecture.activation)
    everything = images(seed, rows)
    whole = predict(network, everything)
    workspace = Workspace(network, batch_rows, kernels)
    batched = np.full((10, rows), np.nan, np.float32)
    for start in range(0, rows, batch_rows):
        batch = everything[start : start + batch_rows]
        forward(workspace, batch, out=batched[:, start : start + batch_rows])
    second, best = np.sort(whole, axis=1)[:, -2:].T
    clear = best - second > 1e-5
    assert np.abs(batched.T - whole).max() < 2e-6
    assert np.array_equal(batched.argmax(axis=0)[clear], whole.argmax(axis=1)[clear])


def test_a_single_image_gives_ten_probabilities() -> None:
    network, batch = Network(tensors()), images(0, 3)
    assert predict(network, batch[1]).shape == (10,)
    assert predict(network, batch[1]) == pytest.approx(predict(network, batch)[1], abs=2e-6)


def test_a_batch_gives_a_row_of_float32_per_image() -> None:
    probabilities = predict(Network(tensors()), images(0, 5))
    assert probabilities.shape == (5, 10)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert (probabilities > 0).all()


def test_no_images_give_no_rows() -> None:
    assert predict(Network(tensors()), np.zeros((0, 784))).shape == (0, 10)


def test_plain_dictionaries_and_lists_are_accepted() -> None:
    batch = images(0, 2)
    assert np.array_equal(predict(tensors(), batch.tolist()), predict(Network(tensors()), batch))


def test_the_images_are_not_changed() -> None:
    batch = images(0, 4)
    predict(Network(tensors()), batch)
    assert np.array_equal(batch, images(0, 4))


def test_a_workspace_may_be_larger_than_the_batch_and_used_again() -> None:
    network = Network(tensors())
    workspace = Workspace(network, 64)
    first, second = np.empty((10, 5), np.float32), np.empty((10, 5), np.float32)
    forward(workspace, images(0, 5), out=first)
    forward(workspace, images(1, 64), out=np.empty((10, 64), np.float32))
    forward(workspace, images(0, 5), out=second)
    assert np.array_equal(first, second)
    assert np.abs(first.T - predict(network, images(0, 5))).max() < 2e-6


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_saturated_layers_are_exact(sigmoid: SigmoidKernel) -> None:
    network, out = tensors(), np.empty((10, 1), np.float32)
    network["b1"][:] = [1e30, -1e30] * 25
    forward(Workspace(Network(network), 1, Kernels(sigmoid)), images(0, 1), out=out)
    assert out[:, 0] == pytest.approx(book_hidden_at(network, 1.0, 0.0), abs=2e-6)


def book_hidden_at(network: Mapping[str, NDArray[np.float32]], even: float, odd: float) -> NDArray[np.float64]:
    """The judge when the first hidden layer is fixed at two alternating values."""
    z1 = np.tile([even, odd], 25)
    z2 = 1 / (1 + np.exp(-(z1 @ network["W2"] + network["b2"])))
    a3 = z2 @ network["W3"] + network["b3"]
    return np.asarray(np.exp(a3) / np.exp(a3).sum())


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])  # of infinity a sigmoid makes 0 or 1
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("kernels", [Kernels("tanh"), Kernels("exp")])
def test_a_pixel_in_a_batch_that_is_no_number_is_a_numerical_error_that_counts_the_images(
    kernels: Kernels, rows: int, pixel: float
) -> None:
    batch = images(0, rows)
    batch[0, 300] = pixel
    message = f"1 of {rows} images: expected finite sums in layer 1, got NaN or infinity; check the images"
    with pytest.raises(NumericalError, match=re.escape(message)):
        forward(Workspace(Network(tensors()), rows, kernels), batch, out=np.empty((10, rows), np.float32))


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf, 1e300])
def test_predict_refuses_a_pixel_that_is_not_a_finite_float32(pixel: float) -> None:
    batch = images(0, 2).astype(np.float64)
    batch[1, 300] = pixel
    with pytest.raises(NumericalError, match="x: expected finite pixels, got 1 NaN or infinite"):
        predict(Network(tensors()), batch)


def test_networks_of_the_same_tensors_are_equal_and_others_are_not() -> None:
    other = tensors()
    other["b3"][9] += 1
    assert Network(tensors()) == Network(tensors())
    assert Network(tensors()) != Network(other)
    assert Network(tensors()) != "a network"
    assert Network(tensors()) != Network(tensors(), "relu")


def test_a_pickled_network_comes_back_equal_and_read_only() -> None:
    network = Network(tensors(), "relu")
    copy = pickle.loads(pickle.dumps(network))
    assert copy == network
    assert not copy["W1"].flags.writeable


def test_weights_that_overflow_in_the_last_layer_are_a_numerical_error_and_no_warning() -> None:
    network = tensors()
    network["W3"][:] = 3e38
    with pytest.raises(NumericalError, match="2 of 2 images: expected finite sums in layer 3"):
        predict(Network(network), images(0, 2))


@pytest.mark.parametrize("shape", [(), (783,), (28, 28), (1, 28, 28), (2, 1, 784), (784, 1), (0,)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = f"x: expected shape (784,) or (B, 784), got {shape}; flatten each image to 784 pixels"
    with pytest.raises(ImagesError, match=re.escape(message)):
        predict(Network(tensors()), np.zeros(shape))


@given(st.sets(st.integers(0, 9), min_size=1))
@settings(deadline=None, max_examples=30)
def test_ties_go_to_the_lowest_digit(best: set[int]) -> None:
    network = with_b3([1.0 if digit in best else 0.0 for digit in range(10)])
    probabilities = predict(network, images(0, 3))
    assert len(set(probabilities[0, sorted(best)].tolist())) == 1
    assert probabilities.argmax(axis=1).tolist() == [min(best)] * 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30, width=32), min_size=10, max_size=10))
def test_probabilities_are_the_softmax_of_the_last_biases(b3: list[float]) -> None:
    exact = np.exp(np.array(b3) - max(b3))
    assert predict(with_b3(b3), images(0, 1))[0] == pytest.approx(exact / exact.sum(), abs=1e-6)


def test_a_network_is_a_mapping_of_the_six_names() -> None:
    network = Network(tensors())
    assert isinstance(network, Mapping)
    assert list(network) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    assert len(network) == 6
    assert {name: network[name].shape for name in network} == BOOK.shapes
    assert repr(network) == "Network(784-50-100-10 sigmoid, float32)"
    with pytest.raises(KeyError, match="W4"):
        network["W4"]


@pytest.mark.parametrize("name", BOOK.shapes)
def test_a_network_is_read_only(name: str) -> None:
    network: Any = Network(tensors())
    with pytest.raises(ValueError, match="read-only"):
        network[name][...] = 0
    with pytest.raises(TypeError, match="does not support item assignment"):
        network[name] = np.zeros(BOOK.shapes[name], np.float32)


def test_a_network_keeps_its_values_when_the_given_tensors_change() -> None:
    given_tensors = tensors()
    network = Network(given_tensors)
    for tensor in given_tensors.values():
        tensor[...] = 7
    assert all(np.array_equal(network[name], tensor) for name, tensor in tensors().items())


def test_tensors_in_another_memory_order_make_the_same_network() -> None:
    network = Network({name: np.asfortranarray(tensor) for name, tensor in tensors().items()})
    assert all(network[name].flags.c_contiguous for name in network)
    assert np.array_equal(predict(network, images(0, 4)), predict(Network(tensors()), images(0, 4)))


def test_everything_wrong_with_weights_is_listed_at_once() -> None:
    bad: dict[str, NDArray[Any]] = dict(tensors())
    del bad["b1"], bad["b2"]
    bad["extra"] = np.zeros(3, np.float32)
    bad["W1"] = bad["W1"].T
    bad["W2"] = bad["W2"].astype(np.float64)
    bad["W3"][0, :3] = [np.nan, np.inf, -np.inf]
    bad["b3"] = np.zeros(9, np.int32)
    with pytest.raises(WeightsError) as caught:
        Network(bad)
    assert str(caught.value) == (
        "weights are not a dense network: missing b1, b2; unexpected 'extra'; "
        "W1: expected shape (784, n), got (50, 784); b3: expected shape (10,), got (9,); "
        "W2: expected float32, got float64; W3: expected finite values, got 3 NaN or infinite; "
        "b3: expected float32, got int32; give another weights file"
    )


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4", ">f4" if np.little_endian else "<f4"])
def test_another_dtype_is_refused(dtype: str) -> None:
    wrong = {name: tensor.astype(dtype) for name, tensor in tensors().items()}
    message = f"W1: expected float32, got {np.dtype(dtype)}"
    with pytest.raises(WeightsError, match=re.escape(message)):
        Network(wrong)


def test_no_tensors_at_all_are_refused() -> None:
    with pytest.raises(WeightsError, match="missing W1, b1;"):
        Network({})


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(BOOK.shapes)), seeds, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_bad_value_anywhere_is_refused(name: str, seed: int, value: float) -> None:
    bad = tensors()
    bad[name].flat[seed % bad[name].size] = value
    with pytest.raises(WeightsError, match=f"{name}: expected finite values, got 1 NaN or infinite"):
        Network(bad)


@pytest.mark.parametrize("x", [np.full(PIXELS, 255, np.uint8), np.full((2, PIXELS), 1.1), np.full(PIXELS, -0.5)])
def test_pixels_out_of_range_give_a_warning(x: NDArray[Any]) -> None:
    with pytest.warns(UserWarning, match=r"expected pixels in 0..1, got .* divide bytes by 255"):
        predict(tensors(), x)


def test_pixels_in_range_give_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(tensors(), np.ones((2, PIXELS), np.uint8))
        predict(tensors(), np.full(PIXELS, 1.0000001))


def test_the_activation_of_other_shapes_than_the_book_s_has_to_be_said() -> None:
    message = (
        "weights of 784-200-10: expected the activation of the hidden layers, got none; say --activation sigmoid or "
        "--activation relu"
    )
    given_tensors = tensors(architecture=Architecture((200,), "relu"))
    with pytest.raises(WeightsError, match=re.escape(message)):
        Network(given_tensors)
    with pytest.raises(WeightsError, match=re.escape(message)):
        predict(given_tensors, images(0, 1))
    assert str(Network(given_tensors, "relu").architecture) == "784-200-10 relu"


def test_a_network_of_a_network_has_its_activation() -> None:
    assert Network(Network(tensors(), "relu")) == Network(tensors(), "relu")


def test_without_a_hidden_layer_there_is_no_activation() -> None:
    softmax_regression = Architecture((), None)
    network = Network(tensors(architecture=softmax_regression), "relu")
    assert network.architecture == softmax_regression
    assert repr(network) == "Network(784-10, float32)"


def test_sums_that_overflow_behind_a_relu_are_a_numerical_error() -> None:
    network = tensors()
    network["W2"][:] = 3e38
    with pytest.raises(NumericalError, match="2 of 2 images: expected finite sums in layer 2"):
        predict(Network(network, "relu"), images(0, 2))
