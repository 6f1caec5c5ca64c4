import builtins
import contextlib
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.network import SHAPES
from mnist_pipeline.errors import WeightsError
from mnist_pipeline.storage.pickles import MAX_OPCODES, read_arrays

RANDOM = np.random.default_rng(3)
ARRAYS = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
ONE = {"b": np.array([1, -2.5], np.float32)}
RECONSTRUCT = ONE["b"].__reduce__()[0]
F4 = np.dtype("<f4")
GOOD_STATE = (1, (2,), F4, False, bytes(8))

# As NumPy 1 under Python 3 wrote it, byte by byte: {"b": float32 [1.0, -2.5]} in protocol 3.
NUMPY_1 = (
    b"\x80\x03}q\x00X\x01\x00\x00\x00bq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03"
    b"K\x00\x85q\x04C\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tX\x02\x00\x00\x00f4q\nK\x00K\x01\x87"
    b"q\x0bRq\x0c(K\x03X\x01\x00\x00\x00<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89"
    b"C\x08\x00\x00\x80?\x00\x00 \xc0q\x0ftq\x10bs."
)


class Call:
    """Pickles as the call of `function` with `arguments`, followed by a BUILD with `state` if there is one."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced

    def __call__(self) -> None:
        """A called function must look callable to be pickled."""


def array(state: Any) -> Call:
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


def dtype(*arguments: Any, state: Any) -> Call:
    return Call(np.dtype, *arguments, state=state)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def assert_same(found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]]) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], values, strict=True)


def refused(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_arrays(data)


def peak_bytes(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


def touch(sentinel: Path) -> Call:
    return Call(os.system, f"touch {sentinel}")


# Each of these, unpickled, creates the sentinel: the test below first shows that it does.
HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "os.system as a value": lambda s: pickle.dumps({"W1": touch(s)}, 3),
    "os.system as a value, protocol 2": lambda s: pickle.dumps({"W1": touch(s)}, 2),
    "os.system as a value, protocol 4": lambda s: pickle.dumps({"W1": touch(s)}, 4),
    "os.system as a name": lambda s: pickle.dumps({touch(s): ARRAYS["b1"]}, 3),
    "os.system instead of a dictionary": lambda s: pickle.dumps(touch(s), 3),
    "os.system before the dictionary": lambda s: pickle.dumps(touch(s), 3)[:-1] + b"0" + pickle.dumps(ONE, 3)[2:],
    "eval": lambda s: pickle.dumps({"W1": Call(eval, f"open({str(s)!r}, 'w')")}, 3),
    "a chain of getattr": lambda s: pickle.dumps(
        {"W1": Call(Call(getattr, Call(builtins.__import__, "os"), "system"), f"touch {s}")}, 4
    ),
    "a call among the arguments of an array": lambda s: pickle.dumps(
        {"W1": Call(RECONSTRUCT, np.ndarray, (touch(s),), b"b", state=GOOD_STATE)}, 3
    ),
    "a call as the state of an array": lambda s: pickle.dumps({"W1": array((1, touch(s), F4, False, b""))}, 3),
    "a call as the bytes of an array": lambda s: pickle.dumps({"W1": array((1, (1,), F4, False, touch(s)))}, 3),
    "a call in the state of a dtype": lambda s: pickle.dumps(
        {"W1": dtype("f4", False, True, state=(3, "<", None, None, None, touch(s), -1, 0))}, 3
    ),
    "a call within an array of objects": lambda s: pickle.dumps({"W1": np.array([touch(s)], object)}, 3),
    "a call in numpy's frombuffer": lambda s: pickle.dumps({"W1": Call(np.frombuffer, touch(s))}, 5),
    "opcode INST": lambda s: b"\x80\x03(" + text(f"touch {s}") + b"ios\nsystem\n.",
    "opcode OBJ": lambda s: b"\x80\x03(cbuiltins\neval\n" + text(f"open({str(s)!r}, 'w')") + b"o.",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_run_in_an_unpickler_does_not_run_here(kind: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    data = HOSTILE[kind](sentinel)
    with contextlib.suppress(Exception):
        pickle.loads(data)
    assert sentinel.exists()
    sentinel.unlink()

    with pytest.raises(WeightsError, match=r"expected .*, got .*; a pickle is read only if"):
        read_arrays(data)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (pickle.dumps({"W1": Call(os.system, "true")}, 3), "'posix' 'system', which was not looked up"),
        (pickle.dumps({"W1": Call(os.system, "true")}, 4), "'posix' 'system', which was not looked up"),
        (b"\x80\x03cnumpy\nload\n.", "'numpy' 'load'"),
        (b"\x80\x03cnumpy\nndarray.tofile\n.", "'numpy' 'ndarray.tofile'"),
        (b"\x80\x03cnumpy." + b"x" * 1000 + b"\ny\n.", r"'numpy\.x{54}' 'y'"),
        (b"\x80\x04K\x01K\x02\x93.", "int int, which was not looked up"),
    ],
)
def test_other_globals_are_refused_by_name(data: bytes, got: str) -> None:
    with pytest.raises(WeightsError, match=f"expected no global but NumPy's, got {got}"):
        read_arrays(data)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), "expected dtype 'f4' .float32., got dtype 'f8'"),
        (np.zeros(2, np.float16), "got dtype 'f2'"),
        (np.zeros(2, ">f4"), "expected little-endian float32, got big-endian"),
        (np.zeros(2, object), "got dtype 'O8'"),
        (np.zeros(2, [("x", "<f4")]), "got dtype 'V4'"),
        (np.float32(1), "no global but NumPy's, got 'numpy._core.multiarray' 'scalar'"),
        (1.5, "got opcode BINFLOAT"),
        ([1], "got opcode EMPTY_LIST"),
        ({"W1": ONE["b"]}, "expected names with arrays, got 'x' with dict"),
        (3, "expected names with arrays, got 'x' with int"),
        (np.dtype("f4"), "expected names with arrays, got 'x' with dtype"),
        (np.ndarray, "expected names with arrays, got 'x' with ndarray"),
        (array(None), "expected names with arrays, got 'x' with array"),
        # A real unpickler would take these for shapes, flags and sizes of NumPy's own memory.
        (Call(np.ndarray, (2**30, 2**30), F4), "expected only calls .* got a call of ndarray with other"),
        (Call(RECONSTRUCT, np.ndarray, (2**30,), b"f"), "got a call of reconstruct with other"),
        (Call(RECONSTRUCT, np.dtype, (0,), b"b"), "got a call of reconstruct with other"),
        (dtype("f4", True, True, state=None), "dtype 'f4' .float32., got dtype 'f4'"),
        (dtype(state=None), "got a call of dtype with other"),
        (array((1, (2**31 - 1,) * 8, F4, False, b"")), "expected [0-9]{76} bytes for shape .*, got 0 bytes"),
        (array((1, (3,), F4, False, bytes(8))), r"expected 12 bytes for shape \(3,\), got 8 bytes"),
        (array((1, (1,), F4, False, bytes(8))), r"expected 4 bytes for shape \(1,\), got 8 bytes"),
        (array((1, (-2,), F4, False, bytes(8))), "expected a shape of positive integers, got 1 dimension"),
        (array((1, (-1, -2), F4, False, bytes(8))), "expected a shape of positive integers, got 2 dimension"),
        (array((1, (0, 2**31 - 1), F4, False, b"")), "expected a shape of positive integers"),
        (array((1, (True, 2), F4, False, bytes(8))), "expected a shape of positive integers"),
        (array((1, ("2",), F4, False, bytes(8))), "expected a shape of positive integers"),
        (array((1, (1,) * 33, F4, False, bytes(4))), "expected a shape of positive integers, got 33"),
        (array((1, 2, F4, False, bytes(8))), "expected the state of a float32 array, got another state for array"),
        (array((2, (2,), F4, False, bytes(8))), "another state for array"),
        (array((1, (2,), F4, 7, bytes(8))), "another state for array"),
        (array((1, (2,), "f4", False, bytes(8))), "another state for array"),
        (array((1, (2,), F4, False, "01234567")), "another state for array"),
        (array((1, (2,), dtype("f4", 0, 1, state=None), False, bytes(8))), "another state for array"),
        (dtype("f4", 0, 1, state=(4, "<", None, None, None, -1, -1, 0, {})), "another state for dtype"),
        (dtype("f4", 0, 1, state=(3, "|", None, None, None, -1, -1, 0)), "another state for dtype"),
        (dtype("f4", 0, 1, state=(3, "<", (F4, (9,)), None, None, -1, -1, 0)), "another state for dtype"),
        (dtype("f4", 0, 1, state=(3, "<", None, ("x",), {"x": 1}, -1, -1, 0)), "got 'x' with int"),
        (dtype("f4", 0, 1, state=(3, "<", None, None, None, 2**30, -1, 0)), "another state for dtype"),
        (dtype("f4", 0, 1, state=(3, "<", None, None, None, -1, -1, 63)), "another state for dtype"),
        (dtype("f4", 0, 1, state=(3, ">", None, None, None, -1, -1, 0)), "got big-endian"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_crafted_and_foreign_values_are_refused(value: object, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_arrays(pickle.dumps({"x": value}, 3))


def test_a_state_given_twice_is_refused() -> None:
    assert_same(read_arrays(pickle.dumps({"x": array(GOOD_STATE)}, 2)), {"x": np.zeros(2, np.float32)})
    data = pickle.dumps({"x": array(GOOD_STATE)}, 3)
    assert data.endswith(b"\x10bs.")  # the state's memo number, BUILD, SETITEM, STOP
    with pytest.raises(WeightsError, match="another state for array"):
        read_arrays(data[:-2] + b"h\x10bs.")


@pytest.mark.parametrize(
    "arguments", [(bytes(8), F4, (2,), "A"), (bytes(8), F4, 2, "C"), (b"", "f4", (2,), "C"), (F4,)]
)
def test_other_forms_of_frombuffer_are_refused(arguments: tuple[object, ...]) -> None:
    data = pickle.dumps({"x": Call(Call, *arguments)}, 3)
    data = data.replace(f"c{__name__}\nCall\n".encode(), b"cnumpy._core.numeric\n_frombuffer\n")
    with pytest.raises(WeightsError, match=r"expected only calls .*, got a call of buffer with other arguments"):
        read_arrays(data)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"}" + text("x") + b"K\x01s.", "expected names with arrays, got 'x' with int"),
        (b")" + text("x") + b"K\x01s.", "expected a dictionary, got tuple"),
        (b"}}.", r"expected a dictionary and nothing else, got 2 value\(s\)"),
        (b"(}.", r"got 1 value\(s\) within 1 mark\(s\)"),
        (b"K\x01.", "expected a dictionary and nothing else"),
        (b"}.}.", "expected nothing after the pickle, got 2 more bytes"),
        (b"}.\n", "expected nothing after the pickle, got 1 more bytes"),
        (b"}", "expected a complete pickle.*exhausted before seeing STOP"),
        (b"", "expected a complete pickle"),
        (b"s.", "expected a complete pickle.*IndexError"),
        (b"t.", "expected a complete pickle.*IndexError"),
        (b"}(N\x85u.", "expected a complete pickle"),
        (b"h\x07.", "expected a complete pickle.*KeyError"),
        (b"\x80\x03}.", "expected the protocol first and once, got opcode PROTO as number 2"),
        (b"\xff.", "expected a complete pickle"),
        (b"X\x02\x00\x00\x00\xff\xff.", "expected a complete pickle.*UnicodeDecodeError"),
        (b"I" + b"9" * 5000 + b"\n.", "expected a complete pickle"),
        (b"NNNN" * MAX_OPCODES, "expected at most 1000 opcodes, got more"),
        *(
            (opcode, "expected only the opcodes of a dictionary of arrays, got opcode")
            for opcode in [
                b"N0.",
                b"N2.",
                b"(1.",
                b"]",
                b"Pid\n.",
                b"NQ.",
                b"\x82\x01.",
                b")\x81.",
                b"\x97.",
                b"(d.",
                b"\x8f.",
            ]
        ),
    ],
)
def test_other_programs_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_arrays(b"\x80\x03" + body)


@pytest.mark.parametrize("data", [b"", b".", b"garbage", b"PK\x03\x04", pickle.dumps(ONE, 0), pickle.dumps(ONE, 1)])
def test_without_its_protocol_a_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsError, match=r"expected (the protocol first and once|a complete pickle)"):
        read_arrays(data)


@pytest.mark.parametrize("protocol", [0, 1, 6, 255])
def test_other_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(
        WeightsError, match=f"expected pickle protocol 2 to 5, got {protocol}|expected a complete pickle"
    ):
        read_arrays(bytes([0x80, protocol]) + NUMPY_1[2:])


def test_a_name_given_twice_is_refused() -> None:
    item = NUMPY_1[5:-2]
    assert list(read_arrays(b"\x80\x03}q\x00" + item + b"s" + item.replace(b"bq\x01", b"cq\x01") + b"s.")) == ["b", "c"]
    with pytest.raises(WeightsError, match="expected each name once, got 'b' twice"):
        read_arrays(b"\x80\x03}q\x00" + item + b"s" + item + b"s.")


def test_a_second_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    with pytest.raises(WeightsError, match="nothing after the pickle"):
        read_arrays(NUMPY_1 + pickle.dumps(touch(sentinel), 3))
    assert not sentinel.exists()


# 240 tuples, each holding the one before twice: 1 kB here, 2**240 items if anybody walks them.
BOMB = b")" + b"".join(struct.pack("<cBcB", b"q", n % 256, b"h", n % 256) + b"\x86" for n in range(240))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x03" + BOMB + b".", "a dictionary and nothing else"),
        (b"\x80\x03}" + BOMB + b"Ns.", "got tuple with nonetype"),
        (b"\x80\x03}" + text("x") + BOMB + b"s.", "got 'x' with tuple"),
        (b"\x80\x03cnumpy\ndtype\n" + BOMB + b"R.", "got dtype tuple"),
        (b"\x80\x04" + BOMB + text("x") + b"\x93.", "got tuple 'x'"),
        (NUMPY_1[:-2].removesuffix(b"b") + BOMB + b"b.", "another state for tuple"),
        (NUMPY_1[: NUMPY_1.index(b"(K\x01")] + BOMB + b"b.", "another state for array"),
    ],
)
def test_tuples_within_tuples_cost_nothing(data: bytes, message: str) -> None:
    assert peak_bytes(lambda: refused(data, message)) < 1_000_000


@pytest.mark.parametrize(
    ("opcode", "length"),
    [(b"\x8e", "<Q"), (b"\x96", "<Q"), (b"\x8d", "<Q"), (b"B", "<I"), (b"X", "<I"), (b"\x8b", "<i"), (b"T", "<i")],
)
def test_a_length_that_promises_too_much_allocates_nothing(opcode: bytes, length: str) -> None:
    data = b"\x80\x05" + opcode + struct.pack(length, 2 ** (8 * struct.calcsize(length) - 2)) + b"abc"
    assert peak_bytes(lambda: refused(data, "expected a complete pickle")) < 1_000_000


def test_text_encoded_again_and_again_is_refused() -> None:
    # Protocol 2 writes bytes as text to be encoded: here one text of 1 MB, 150 times.
    start = b"\x80\x02c_codecs\nencode\nq\x00" + text("x" * 1_000_000) + b"q\x01" + text("latin1") + b"q\x02"
    data = start + b"h\x00h\x01h\x02\x86R" * 150 + b"."
    assert peak_bytes(lambda: refused(data, "expected each text encoded once, got one encoded again")) < 8_000_000


def test_text_that_is_no_bytes_is_refused() -> None:
    data = b"\x80\x02c_codecs\nencode\n" + text("\u20ac") + text("latin1") + b"\x86R."
    refused(data, "expected a complete pickle.*UnicodeEncodeError")
    refused(data.replace(b"latin1", b"base64"), "got a call of encode with other arguments")
