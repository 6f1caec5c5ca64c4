"""What is read. What is refused, and that nothing runs: tests/promises/test_weights_execute_nothing.py."""

import pickle
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.weights.arrays import Floats
from mnist_pipeline.weights.pickles import read_arrays
from tests.attacks.networks import ARRAYS
from tests.attacks.pickles import GOOD_STATE, NUMPY_1, ONE, array


def assert_same(found: Mapping[str, Floats], expected: dict[str, NDArray[np.float32]]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values, strict=True)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_dictionary_of_arrays_is_read_as_pickle_reads_it(protocol: int) -> None:
    assert_same(read_arrays(pickle.dumps(ARRAYS, protocol)), ARRAYS)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_the_pure_python_pickler_are_read(protocol: int) -> None:
    assert_same(read_arrays(pickle._dumps(ARRAYS, protocol)), ARRAYS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_fortran_order_read_only_and_dimensionless_arrays_are_read(protocol: int) -> None:
    constant = np.ones((2, 2), np.float32)
    constant.flags.writeable = False
    arrays: dict[str, NDArray[np.float32]] = {
        "f": np.asfortranarray(ARRAYS["W3"]),
        "strided": ARRAYS["W3"][::2],
        "constant": constant,
    }
    arrays["dimensionless"] = np.array(3, np.float32)
    assert_same(read_arrays(pickle.dumps(arrays, protocol)), arrays)


def test_an_empty_dictionary_is_read() -> None:
    assert read_arrays(pickle.dumps({}, 3)) == {}


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_a_pickle_of_numpy_1_is_read_as_pickle_reads_it() -> None:
    assert_same(read_arrays(NUMPY_1), ONE)
    assert_same(pickle.loads(NUMPY_1), ONE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_both_names_of_numpys_private_module_are_read(protocol: int) -> None:
    data = pickle.dumps(ARRAYS, protocol)
    old = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    old = old.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    old = old.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    assert len(old) == len(data) - 1
    assert_same(read_arrays(old), ARRAYS)


def test_the_crafted_pickles_of_the_gallery_are_good_but_for_what_is_crafted() -> None:
    assert_same(read_arrays(pickle.dumps({"x": array(GOOD_STATE)}, 2)), {"x": np.zeros(2, np.float32)})
    item = NUMPY_1[5:-2]
    assert list(read_arrays(b"\x80\x03}q\x00" + item + b"s" + item.replace(b"bq\x01", b"cq\x01") + b"s.")) == ["b", "c"]
