"""Pickles that attack the process that unpickles them, and pickles that are not dictionaries of arrays of floats."""

import builtins
import functools
import gzip
import os
import pickle
import struct
import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mnist_pipeline.weights.pickles import MAX_OPCODES
from tests.attacks.networks import ARRAYS

ONE = {"b": np.array([1, -2.5], np.float32)}
RECONSTRUCT = ONE["b"].__reduce__()[0]
F4, F8 = np.dtype("<f4"), np.dtype("<f8")
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


def touch(sentinel: Path) -> Call:
    return Call(os.system, f"touch {sentinel}")


def opening(sentinel: Path) -> bytes:
    return text(f"open({str(sentinel)!r}, 'w')")


def mapped(sentinel: Path, new: bytes) -> bytes:
    """A map that evaluates when a list is made of it; `new` makes the map from its class and its arguments."""
    return b"cbuiltins\nlist\ncbuiltins\nmap\n(cbuiltins\neval\n(" + opening(sentinel) + b"tt" + new + b"\x85R."


NAMESPACE = b"ctypes\nSimpleNamespace\n)R}"


# Each of these, unpickled, creates the sentinel.
HOSTILE: dict[str, Callable[[Path], bytes]] = {
    **{
        f"os.system as a value, protocol {protocol}": lambda s, p=protocol: pickle.dumps({"W1": touch(s)}, p)  # type: ignore[misc]
        for protocol in range(6)
    },
    "os.system as a name": lambda s: pickle.dumps({touch(s): ARRAYS["b1"]}, 3),
    "os.system instead of a dictionary": lambda s: pickle.dumps(touch(s), 3),
    "os.system before the dictionary": lambda s: pickle.dumps(touch(s), 3)[:-1] + b"0" + pickle.dumps(ARRAYS, 3)[2:],
    "os.system beside good arrays": lambda s: pickle.dumps(ARRAYS | {"W1": touch(s)}, 3),
    "a process": lambda s: pickle.dumps({"W1": Call(subprocess.check_call, ["touch", str(s)])}, 4),
    "eval": lambda s: pickle.dumps({"W1": Call(eval, f"open({str(s)!r}, 'w')")}, 3),
    "exec": lambda s: pickle.dumps({"W1": Call(exec, f"open({str(s)!r}, 'w')")}, 5),
    "open": lambda s: pickle.dumps({"W1": Call(open, str(s), "w")}, 4),
    "a function within a function": lambda s: pickle.dumps({"W1": Call(eval, Call(str, f"open({str(s)!r}, 'w')"))}, 4),
    "a partial call": lambda s: pickle.dumps({"W1": Call(Call(functools.partial, eval, f"open({str(s)!r}, 'w')"))}, 4),
    "a chain of getattr": lambda s: pickle.dumps(
        {"W1": Call(Call(getattr, Call(builtins.__import__, "os"), "system"), f"touch {s}")}, 4
    ),
    "a global with dots": lambda s: (
        b"\x80\x04" + text("shutil") + text("os.system") + b"\x93" + text(f"touch {s}") + b"\x85R."
    ),
    "a global of NumPy with dots": lambda s: (
        b"\x80\x04" + text("numpy") + text("ma.core.builtins.eval") + b"\x93" + opening(s) + b"\x85R."
    ),
    "NumPy's tofile": lambda s: (
        b"\x80\x04"
        + text("numpy")
        + text("ndarray.tofile")
        + b"\x93"
        + pickle.dumps(ONE["b"], 3)[2:-1]
        + text(str(s))
        + b"\x86R."
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
    "a call from the memo": lambda s: (
        b"\x80\x04" + text("os") + text("system") + b"\x93\x94" + text(f"touch {s}") + b"\x9400h\x00h\x01\x85R."
    ),
    "opcode INST": lambda s: b"\x80\x03(" + text(f"touch {s}") + b"ios\nsystem\n.",
    "opcode OBJ": lambda s: b"\x80\x03(cbuiltins\neval\n" + opening(s) + b"o.",
    "opcode NEWOBJ": lambda s: b"\x80\x04" + mapped(s, b"\x81"),
    "opcode NEWOBJ_EX": lambda s: b"\x80\x04" + mapped(s, b"}\x92"),
    "opcode BUILD with a state that is called": lambda s: (
        b"\x80\x04" + NAMESPACE + text("__setstate__") + b"cbuiltins\neval\nsb" + opening(s) + b"b."
    ),
    "opcode APPEND with an append that is called": lambda s: (
        b"\x80\x04" + NAMESPACE + text("append") + b"cbuiltins\neval\nsb" + opening(s) + b"a."
    ),
    "opcode ADDITEMS with an add that is called": lambda s: (
        b"\x80\x04" + NAMESPACE + text("add") + b"cbuiltins\neval\nsb(" + opening(s) + b"\x90."
    ),
    "arrays, then os.system and no more": lambda s: pickle.dumps(ARRAYS, 3)[:-1] + pickle.dumps(touch(s), 3)[2:],
}


def harmless_until_unpickled(sentinel: Path) -> list[tuple[bytes, str]]:
    """What a reader might run that goes on where it should have ended or unpacks what it should not."""
    call = pickle.dumps(touch(sentinel), 3)
    return [
        (pickle.dumps(ARRAYS, 3) + call, "nothing after the pickle, got [0-9]+ more bytes"),
        (gzip.compress(call), "the protocol first and once|a complete pickle"),
        (gzip.compress(pickle.dumps(ARRAYS, 3)), "the protocol first and once|a complete pickle"),
        (b"\n" + call, "the protocol first and once|a complete pickle"),
        (f"Pos.system('touch {sentinel}')\n.".encode(), "the protocol first and once, got opcode PERSID"),
        (b"\x80\x03" + text(f"touch {sentinel}") + b"Q.", "got opcode BINPERSID"),
        (b"\x80\x02\x82\x01" + text(f"touch {sentinel}") + b"\x85R.", "got opcode EXT1"),
        (b"\x80\x02\x83\x01\x00" + text(f"touch {sentinel}") + b"\x85R.", "got opcode EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00" + text(f"touch {sentinel}") + b"\x85R.", "got opcode EXT4"),
    ]


GLOBALS: list[tuple[bytes, str]] = [
    (data, f"expected no global but NumPy's, got {got}")
    for data, got in [
        (pickle.dumps({"W1": Call(os.system, "true")}, 3), "'posix' 'system', which was not looked up"),
        (pickle.dumps({"W1": Call(os.system, "true")}, 4), "'posix' 'system', which was not looked up"),
        (pickle.dumps({"W1": types.SimpleNamespace}, 4), "'types' 'SimpleNamespace', which was not looked up"),
        (b"\x80\x03cnumpy\nload\n.", "'numpy' 'load'"),
        (b"\x80\x03cnumpy\nndarray.tofile\n.", "'numpy' 'ndarray.tofile'"),
        (b"\x80\x03cnumpy.core.multiarray\n_reconstruct.__globals__\n.", "'numpy.core.multiarray' '_reconstruct.__glo"),
        (b"\x80\x03cnumpy \ndtype\n.", "'numpy' ' dtype'"),
        (b"\x80\x03cmodule_that_is_nowhere\nx\n.", "'module_that_is_nowhere' 'x'"),
        (b"\x80\x03cantigravity\nx\n.", "'antigravity' 'x', which was not looked up"),
        (b"\x80\x03cnumpy." + b"x" * 1000 + b"\ny\n.", r"'numpy\.x{54}' 'y'"),
        (b"\x80\x03c" + b"x" * 1_000_000 + b"\ny\n.", "'x{60}' 'y'"),
        (b"\x80\x04K\x01K\x02\x93.", "int int, which was not looked up"),
    ]
]

VALUES: list[tuple[object, str]] = [
    (np.zeros(2), r"expected W1 \(784, n\), .*, got 'x' \(2,\); give another weights file"),
    (np.zeros(2, np.float16), r"expected dtype 'f4' or 'f8' \(float32, float64\), got dtype 'f2'; save each"),
    (np.zeros(2, ">f4"), "expected little-endian floats, got big-endian"),
    (np.zeros(2, ">f8"), "expected little-endian floats, got big-endian"),
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
    (dtype("f4", True, True, state=None), r"expected dtype 'f4' or 'f8' \(float32, float64\), got dtype 'f4'"),
    (dtype(state=None), "got a call of dtype with other"),
    (array((1, (2**31 - 1,) * 8, F4, False, b"")), "expected [0-9]{76} bytes for shape .*, got 0 bytes"),
    (array((1, (2**31 - 1,) * 8, F8, False, b"")), "expected [0-9]{76} bytes for shape .*, got 0 bytes"),
    (array((1, (2,), F8, False, bytes(8))), r"expected 16 bytes for shape \(2,\), got 8 bytes"),
    (array((1, (3,), F4, False, bytes(8))), r"expected 12 bytes for shape \(3,\), got 8 bytes"),
    (array((1, (1,), F4, False, bytes(8))), r"expected 4 bytes for shape \(1,\), got 8 bytes"),
    (array((1, (-2,), F4, False, bytes(8))), "expected a shape of positive integers for an array, got 1 dimension"),
    (array((1, (-1, -2), F4, False, bytes(8))), "expected a shape of positive integers for an array, got 2 dimension"),
    (array((1, (0, 2**31 - 1), F4, False, b"")), "expected a shape of positive integers"),
    (array((1, (True, 2), F4, False, bytes(8))), "expected a shape of positive integers"),
    (array((1, ("2",), F4, False, bytes(8))), "expected a shape of positive integers"),
    (array((1, (1,) * 33, F4, False, bytes(4))), "expected a shape of positive integers for an array, got 33"),
    (array((1, 2, F4, False, bytes(8))), "expected the state of an array of floats, got another state for array"),
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
]

FROMBUFFER = [(bytes(8), F4, (2,), "A"), (bytes(8), F4, 2, "C"), (b"", "f4", (2,), "C"), (F4,)]

PROGRAMS: list[tuple[bytes, str]] = [
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
    (b"L" + b"9" * 1_000_000 + b"L\n.", "expected a complete pickle"),
    (b"F" + b"9" * 1_000_000 + b"\n.", "got opcode FLOAT"),
    (b"S'" + b"\\x41" * 250_000 + b"'\n.", "got opcode STRING"),
    (b"S" + b"\\x41" * 250_000 + b"\n.", "expected a complete pickle"),
    (b"V" + b"\\U0001F600" * 100_000 + b"\n.", "got opcode UNICODE"),
    (text("\U0001f600" + "x" * 1_000_000) + b".", "expected a dictionary and nothing else"),
    (
        b"X" + struct.pack("<I", 5_000_000) + b"\xff" * 5_000_000 + b".",
        "expected a complete pickle.*UnicodeDecodeError",
    ),
    (b"\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".", "got opcode LONG4"),
    (b"NNNN" * MAX_OPCODES, "expected at most 1000 opcodes, got more"),
    (b"(" * 1_000_000, "expected at most 1000 opcodes, got more"),
    (b"(" * 900 + b".", r"got 0 value\(s\) within 900 mark\(s\)"),
    (b")" + b"\x85" * 900 + b".", "expected a dictionary and nothing else"),
    (b"}" + text("x") + b")" + b"\x85" * 900 + b"s.", "expected names with arrays, got 'x' with tuple"),
    (b"}r\xff\xff\xff\xff" * 200 + b".", "expected a dictionary and nothing else"),
    (b"\x95" + b"\xff" * 8 + b"}.", "expected W1 .*, got no arrays; give"),  # FRAME only says what to read ahead
    *((opcode, "got opcode (POP|DUP|POP_MARK)") for opcode in (b"N0.", b"N2.", b"(1.")),
    *((opcode, "got opcode (EMPTY_LIST|LIST|APPENDS?)") for opcode in (b"]", b"(l.", b"Na.", b"(e.")),
    *((opcode, "got opcode (DICT|EMPTY_SET|FROZENSET)") for opcode in (b"(d.", b"\x8f.", b"(\x91.")),
    *((opcode, "got opcode (BIN)?PERSID") for opcode in (b"Pid\n.", b"NQ.")),
    *((opcode, "got opcode EXT") for opcode in (b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.")),
    *((opcode, "got opcode (OBJ|NEWOBJ)") for opcode in (b"(No.", b")\x81.", b"N)}\x92.")),
    *((opcode, "got opcode (NEXT|READONLY)_BUFFER") for opcode in (b"\x97.", b"N\x98.")),
]

# 240 tuples, each holding the one before twice: 1 kB here, 2**240 items if anybody walks them.
LAUGHS = b")" + b"".join(struct.pack("<cBcB", b"q", n % 256, b"h", n % 256) + b"\x86" for n in range(240))
LAUGHING: list[tuple[bytes, str]] = [
    (b"\x80\x03" + LAUGHS + b".", "a dictionary and nothing else"),
    (b"\x80\x03}" + LAUGHS + b"Ns.", "got tuple with nonetype"),
    (b"\x80\x03}" + text("x") + LAUGHS + b"s.", "got 'x' with tuple"),
    (b"\x80\x03cnumpy\ndtype\n" + LAUGHS + b"R.", "got dtype tuple"),
    (b"\x80\x04" + LAUGHS + text("x") + b"\x93.", "got tuple 'x'"),
    (NUMPY_1[:-2].removesuffix(b"b") + LAUGHS + b"b.", "another state for tuple"),
    (NUMPY_1[: NUMPY_1.index(b"(K\x01")] + LAUGHS + b"b.", "another state for array"),
]

# BINBYTES8, BYTEARRAY8, BINUNICODE8, BINBYTES, BINUNICODE, LONG4, BINSTRING: a length that is not there.
LENGTHS = [(b"\x8e", "<Q"), (b"\x96", "<Q"), (b"\x8d", "<Q"), (b"B", "<I"), (b"X", "<I"), (b"\x8b", "<i"), (b"T", "<i")]


def others() -> list[tuple[bytes, str]]:
    """What a reader must refuse that runs nothing in any unpickler."""
    one = pickle.dumps({"x": array(GOOD_STATE)}, 3)
    assert one.endswith(b"\x10bs.")  # the state's memo number, BUILD, SETITEM, STOP
    named = f"c{__name__}\nCall\n".encode()
    item = NUMPY_1[5:-2]
    encoding = b"\x80\x02c_codecs\nencode\n"
    again = encoding + b"q\x00" + text("x" * 900_000) + b"q\x01" + text("latin1") + b"q\x02"
    return [
        *GLOBALS,
        *((pickle.dumps({"x": value}, 3), message) for value, message in VALUES),
        (one[:-2] + b"h\x10bs.", "another state for array"),
        *(
            (
                pickle.dumps({"x": Call(Call, *arguments)}, 3).replace(named, b"cnumpy._core.numeric\n_frombuffer\n"),
                "expected only calls .*, got a call of buffer with other arguments",
            )
            for arguments in FROMBUFFER
        ),
        *((b"\x80\x03" + body, message) for body, message in PROGRAMS),
        *(
            (data, "expected (the protocol first and once|a complete pickle)")
            for data in [b".", b"garbage", b"PK\x03\x04", pickle.dumps(ONE, 0), pickle.dumps(ONE, 1)]
        ),
        *(
            (bytes([0x80, protocol]) + NUMPY_1[2:], f"protocol 2 to 5, got {protocol}|a complete pickle")
            for protocol in (0, 1, 6, 255)
        ),
        (b"\x80\x03}q\x00" + item + b"s" + item + b"s.", "expected each name once, got 'b' twice"),
        *LAUGHING,
        (pickle.dumps({"x" * 60000: ONE["b"]}, 3), "names of at most 200 characters, got 60000"),
        *(
            (
                b"\x80\x05" + opcode + struct.pack(length, 2 ** (8 * struct.calcsize(length) - 2)) + b"abc",
                "expected a complete pickle",
            )
            for opcode, length in LENGTHS
        ),
        # Protocol 2 writes bytes as text to be encoded: here one text 150 times.
        (again + b"h\x00h\x01h\x02\x86R" * 150 + b".", "expected each text encoded once, got one encoded again"),
        (encoding + text("\u20ac") + text("latin1") + b"\x86R.", "expected a complete pickle.*UnicodeEncodeError"),
        (encoding + text("\u20ac") + text("base64") + b"\x86R.", "got a call of encode with other arguments"),
        (encoding + text("x") + text("unicode_escape") + b"\x86R.", "got a call of encode with other arguments"),
    ]
