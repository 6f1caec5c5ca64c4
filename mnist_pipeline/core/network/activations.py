"""Sigmoid, ReLU and softmax: the book's functions, and the kernels in place that a forward pass consists of.

Source: K. Saito, Deep Learning from Scratch, chapter 3 (sigmoid, ReLU, softmax without overflow).
"""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Activation: TypeAlias = Literal["sigmoid", "relu"]  # of hidden layers
SigmoidKernel: TypeAlias = Literal["tanh", "exp"]

Floats = NDArray[np.floating[Any]]


def sigmoid(x: ArrayLike) -> Any:
    """1 / (1 + exp(-x)) of every value, like the book's `sigmoid`, without overflow.

    Args:
        x: a number or an array of any shape; what is not float32 is computed in float64.

    Returns:
        Values of 0..1 in the same shape.
    """
    values = np.asarray(-_floats(x))  # also of a number, so that it can be changed in place
    with np.errstate(over="ignore", under="ignore"):
        apply_sigmoid_by_exp(values)
    return values[()]


def softmax(x: ArrayLike) -> Any:
    """exp(x) divided by its sum over the last axis, like the book's `softmax`, without overflow.

    Args:
        x: `[n]`, or a batch `[..., n]`, n >= 1; what is not float32 is computed in float64.

    Returns:
        Probabilities in the same shape, each row summing to 1.
    """
    values = _floats(x).copy()
    with np.errstate(over="ignore", under="ignore"):  # a difference of -inf is a probability of 0, as it should be
        apply_softmax(values, axis=-1)
    return values


def apply_sigmoid_by_tanh(x: Floats) -> None:
    """Replace x by its sigmoid: (1 + tanh(x / 2)) / 2, the same function. The fast one where tanh uses AVX-512."""
    x *= x.dtype.type(0.5)
    np.tanh(x, out=x)
    x += x.dtype.type(1)
    x *= x.dtype.type(0.5)


def apply_sigmoid_by_exp(negated: Floats) -> None:
    """Replace -x by the sigmoid of x: 1 / (1 + exp(-x)). Where exp overflows to infinity, that is 0, as it should."""
    np.exp(negated, out=negated)
    negated += negated.dtype.type(1)
    np.reciprocal(negated, out=negated)


def apply_relu(x: Floats) -> None:
    """Replace what is negative by 0."""
    np.maximum(x, 0, out=x)


def apply_softmax(x: Floats, axis: int) -> None:
    """Replace x by its softmax over an axis."""
    x -= x.max(axis=axis, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=axis, keepdims=True)


def _floats(x: ArrayLike) -> Floats:
    values = np.asarray(x)
    return values if values.dtype == np.float32 else values.astype(np.float64)
