"""Reads a pickled dictionary of arrays of floats by parsing opcodes; it imports, calls and unpickles nothing.

It accepts what Python 3's `pickle.dumps({"W1": array, ...}, protocol)` writes in protocols 2 to 5 for little-endian
float32 or float64 arrays of NumPy 1 or 2; the book's sample_weight.pkl is protocol 3. It rejects everything else, even
if a real unpickler would accept it: other opcodes, globals, calls, dtypes and states, protocols 0 and 1, Python 2,
out-of-band buffers.

Format: the standard library's pickletools; calls and states are those of ndarray's and dtype's `__reduce__`. An
Unpickler with a list of allowed globals is not safe: NumPy's own three, called with other arguments, can crash the
process or allocate 100 GiB. Here a global is only a symbol, and a call is accepted only in the exact form that NumPy
writes.
"""

import io
import pickletools
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from mnist_pipeline.errors import WeightsError
from mnist_pipeline.weights.arrays import CONVERT, Floats, float_array, shown_error

PROTOCOLS = range(2, 6)
DTYPES = {"f4": "float32", "f8": "float64"}
# Sixteen arrays take up to 530 opcodes. An opcode adds at most one value to the stack and one to the memo, so this
# bounds both.
MAX_OPCODES = 1000
ADVICE = "a pickle is read only if it is a plain dictionary of float arrays: save the weights as .safetensors or .npz"


class _Symbol(Enum):
    RECONSTRUCT = auto()
    BUFFER = auto()
    NDARRAY = auto()
    DTYPE = auto()
    ENCODE = auto()


_SYMBOLS = {
    ("numpy.core.multiarray", "_reconstruct"): _Symbol.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Symbol.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _Symbol.BUFFER,  # protocol 5
    ("numpy._core.numeric", "_frombuffer"): _Symbol.BUFFER,
    ("numpy", "ndarray"): _Symbol.NDARRAY,
    ("numpy", "dtype"): _Symbol.DTYPE,
    ("_codecs", "encode"): _Symbol.ENCODE,  # protocol 2 has no opcode for bytes: it writes text encoded as latin1
}


# Compared by identity (eq=False): the patterns below must never call an `==` that compares contents.
@dataclass(eq=False)
class _Dtype:
    """The dtype float32 or float64, of unknown byte order until BUILD sets its state."""

    name: str
    built: bool = False


@dataclass(eq=False)
class _Array:
    """An array, without values until BUILD sets its state."""

    values: Floats | None = None


def read_arrays(data: bytes) -> dict[str, Floats]:
    """Read the arrays of a pickled dictionary.

    Args:
        data: the whole pickle, with nothing after it.

    Returns:
        The dictionary, with any names and shapes; the arrays are float32 or float64 views of slices of the pickle.

    Raises:
        WeightsError: the pickle holds anything else. The caller adds the name of the file to the message.
    """
    try:
        return _walk(data)
    except WeightsError:
        raise
    except Exception as error:  # hostile bytes: pickletools and an empty stack or memo raise any exception
        raise WeightsError(f"expected a complete pickle, got {shown_error(error)}; {ADVICE}") from error


def _walk(data: bytes) -> dict[str, Floats]:
    machine = _Machine(encodable_bytes=len(data))
    stream = io.BytesIO(data)  # a too large length reads no further than its end
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count == MAX_OPCODES:
            raise _weights_error(f"at most {MAX_OPCODES} opcodes", "more")
        if (opcode.name == "PROTO") != (count == 0):
            raise _weights_error("the protocol first and once", f"opcode {opcode.name} as number {count + 1}")
        if opcode.name != "STOP":
            machine.step(opcode.name, argument)
    if rest := stream.read():
        raise _weights_error("nothing after the pickle", f"{len(rest)} more bytes")
    return machine.result()


@dataclass
class _Machine:
    """The stack and memo of an unpickler, with inert values only."""

    encodable_bytes: int  # text that may still become bytes
    stack: list[object] = field(default_factory=list)  # values since the last mark
    outer: list[list[object]] = field(default_factory=list)  # values before it, mark by mark
    memo: dict[int, object] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        # Long because it is a table: one case per opcode, each a line or two.
        stack = self.stack
        match name:
            case "PROTO":
                if argument not in PROTOCOLS:
                    raise _weights_error("pickle protocol 2 to 5", f"{argument}")
            case "FRAME":  # a hint for buffering
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = self.since_mark()
                _set_items(self.stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(_symbol(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_symbol(module, attribute))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(value := _reduce(function, arguments))
                # Each text may be encoded once: one text encoded 200 times would exhaust memory.
                self.encodable_bytes -= len(value) if isinstance(value, bytes) else 0
                if self.encodable_bytes < 0:
                    raise _weights_error("each text encoded once", "one encoded again")
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case _:
                raise _weights_error("only the opcodes of a dictionary of arrays", f"opcode {name}")

    def since_mark(self) -> list[object]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def result(self) -> dict[str, Floats]:
        match self.outer, self.stack:
            case [], [dict() as arrays]:
                return arrays
        raise _weights_error(
            "a dictionary and nothing else", f"{len(self.stack)} value(s) within {len(self.outer)} mark(s)"
        )


# A file can nest one tuple in itself thousands of times, so messages never print a value of unknown size: they truncate
# text, and show only the type of other values.


def _symbol(module: object, attribute: object) -> _Symbol:
    if isinstance(module, str) and isinstance(attribute, str) and (module, attribute) in _SYMBOLS:
        return _SYMBOLS[module, attribute]
    raise _weights_error("no global but NumPy's", f"{_shown(module)} {_shown(attribute)}, which was not looked up")


def _reduce(function: object, arguments: object) -> object:
    match function, arguments:
        case _Symbol.RECONSTRUCT, (_Symbol.NDARRAY, (0,), b"b"):
            return _Array()
        case _Symbol.DTYPE, ("f4" | "f8" as code, 0, 1):  # also False, True: they are equal
            return _Dtype(DTYPES[code])
        case _Symbol.ENCODE, (str() as text, "latin1"):
            return text.encode("latin1")
        case (
            _Symbol.BUFFER,
            (bytes() | bytearray() as raw, _Dtype(built=True) as dtype, tuple() as shape, "C" | "F" as order),
        ):
            return _Array(float_array(raw, dtype.name, shape, order == "F"))
        case _Symbol.DTYPE, (code, *_):
            advice = CONVERT if isinstance(code, str) and re.fullmatch("[fiu][0-9]+", code) else ADVICE
            raise WeightsError(f"expected dtype 'f4' or 'f8' (float32, float64), got dtype {_shown(code)}; {advice}")
    raise _weights_error("only calls that make arrays of floats", f"a call of {_shown(function)} with other arguments")


def _build(target: object, state: object) -> None:
    match target, state:
        case _Dtype(built=False) as dtype, (3, "<", None, None, None, -1, -1, 0):
            dtype.built = True
        case (
            _Array(values=None) as array,
            (1, tuple() as shape, _Dtype(built=True) as dtype, 0 | 1 as fortran, bytes() as raw),
        ):
            array.values = float_array(raw, dtype.name, shape, bool(fortran))
        case _Dtype(), (_, ">", *_):
            raise WeightsError(f"expected little-endian floats, got big-endian; {CONVERT}")
        case _:
            raise _weights_error("the state of an array of floats", f"another state for {_shown(target)}")


def _set_items(target: object, items: list[object]) -> None:
    if not isinstance(target, dict):
        raise _weights_error("a dictionary", _shown(target))
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str) or not isinstance(value, _Array) or value.values is None:
            raise _weights_error("names with arrays", f"{_shown(key)} with {_shown(value)}")
        if key in target:
            raise _weights_error("each name once", f"{_shown(key)} twice")
        target[key] = value.values


def _shown(value: object) -> str:
    match value:
        case str():
            return repr(value[:60])
        case _Symbol():
            return value.name.lower()
    return type(value).__name__.strip("_").lower()


def _weights_error(expected: str, got: str) -> WeightsError:
    return WeightsError(f"expected {expected}, got {got}; {ADVICE}")
