import warnings

import numpy as np
import pytest
from scipy import special

from mnist_pipeline import sigmoid, softmax
from mnist_pipeline.core.network.activations import apply_relu, apply_sigmoid_by_exp, apply_sigmoid_by_tanh


def test_sigmoid_is_that_of_the_book() -> None:
    assert sigmoid(np.array([-1.0, 1.0, 2.0])) == pytest.approx([0.26894142, 0.73105858, 0.88079708])
    assert sigmoid(0) == 0.5


def test_sigmoid_keeps_its_precision_far_from_zero_and_overflows_nowhere() -> None:
    x = np.linspace(-1000, 1000, 2001)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sigmoid(x) == pytest.approx(special.expit(x), rel=1e-14, abs=0)
    assert sigmoid(np.ones((1, 2), np.float32)).dtype == np.float32


def test_softmax_is_that_of_the_book() -> None:
    assert softmax(np.array([0.3, 2.9, 4.0])) == pytest.approx([0.01821127, 0.24519181, 0.73659691])
    assert softmax([1010, 1000, 990]) == pytest.approx([9.99954600e-01, 4.53978686e-05, 2.06106005e-09])


def test_softmax_of_scores_far_apart_is_0_and_1_without_a_warning() -> None:
    with np.errstate(all="raise"):
        assert softmax([1e308, -1e308, 0]).tolist() == [1, 0, 0]
        assert softmax(np.array([0, -104], np.float32)) == pytest.approx([1, 0], abs=1e-40)


def test_softmax_of_a_batch_is_that_of_each_row() -> None:
    x = np.random.default_rng(0).normal(0, 9, (4, 10)).astype(np.float32)
    batch = softmax(x)
    assert batch.dtype == np.float32
    assert np.array_equal(batch, [softmax(row) for row in x])
    assert batch == pytest.approx(special.softmax(x.astype(float), axis=1), abs=1e-6)


def test_the_arguments_are_not_changed() -> None:
    x = np.array([1.0, 2.0])
    sigmoid(x), softmax(x)
    assert x.tolist() == [1.0, 2.0]


def test_both_kernels_of_sigmoid_differ_by_rounding_only() -> None:
    x = np.linspace(-100, 100, 100_001, dtype=np.float32)
    by_tanh, by_exp = x.copy(), -x
    with np.errstate(over="ignore"):
        apply_sigmoid_by_tanh(by_tanh)
        apply_sigmoid_by_exp(by_exp)
    assert np.abs(by_tanh - by_exp).max() < 1.8e-7
    assert np.abs(by_exp - special.expit(x.astype(float))).max() < 1.2e-7


def test_relu_keeps_what_is_positive() -> None:
    x = np.array([-np.inf, -1, -0.0, 0, 2, np.nan], np.float32)
    apply_relu(x)
    assert np.array_equal(x, np.array([0, 0, 0, 0, 2, np.nan], np.float32), equal_nan=True)
