"""Safetensors files that are not what their headers say, or have headers that trouble who reads them."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from mnist_pipeline.weights.files import encode_weights
from tests.attacks.networks import ARRAYS

CANONICAL = encode_weights(ARRAYS)
HEADER_BYTES = int.from_bytes(CANONICAL[:8], "little")
HEADER: dict[str, dict[str, Any]] = json.loads(CANONICAL[8 : 8 + HEADER_BYTES])
VALUES = CANONICAL[8 + HEADER_BYTES :]


def file_with(header: str | bytes | Mapping[str, object], values: bytes = VALUES) -> bytes:
    if isinstance(header, Mapping):
        header = json.dumps(header)
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text)) + text + values


def changed(name: str, **entries: object) -> dict[str, Any]:
    return HEADER | {name: HEADER[name] | entries}


def given_twice(name: str, again: str) -> bytes:
    return file_with(f"{json.dumps(HEADER)[:-1]}, {again}: {json.dumps(HEADER[name])}}}")


def encoded(shapes: Mapping[str, tuple[int, ...]], dtype: type = np.float32) -> bytes:
    return safetensors.numpy.save({name: np.ones(shape, dtype) for name, shape in shapes.items()})


TWICE = given_twice("b3", '"b3"')
NOTHING = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
DEEP = "[" * 100 + "]" * 100

BROKEN: list[tuple[bytes, str]] = [
    (b"1234567", "expected a safetensors header, got 7 bytes"),
    (struct.pack("<Q", 2**63) + CANONICAL[8:], "expected a safetensors header of at most 65536 bytes, got 9223372"),
    (struct.pack("<Q", 2**64 - 1) + CANONICAL[8:], "expected a safetensors header of at most 65536 bytes, got 18446"),
    (bytes(8) + VALUES, "SafetensorError"),
    (file_with(json.dumps(HEADER) + " " * 65536), "expected a safetensors header of at most 65536 bytes, got 6"),
    (struct.pack("<Q", 93) + b"{" * 92, "expected a safetensors header of at most 92 bytes, got 93"),
    (file_with("[1]"), "valid .safetensors file, got SafetensorError"),
    (file_with("{}"), "SafetensorError"),
    (file_with("{}", b""), r"expected W1 \(784, n\), b1 \(n,\) \.\. WL \(m, 10\), bL \(10,\), got no arrays"),
    (file_with("[" * 60000), "SafetensorError"),
    (file_with('{"x":' * 10000), "SafetensorError"),
    (file_with('{"__metadata__":{"x":' + "[" * 60000), "SafetensorError"),
    (file_with('{"b3":{"x":' + "[" * 60000), "SafetensorError"),
    (file_with(f'{{"b3":{NOTHING[:-1]},"x":{DEEP}}}}}', b""), "positive integers for 'b3'"),
    (file_with(f'{{"b3":{NOTHING[:-1]},"x":{"9" * 60000}}}}}', b""), "SafetensorError"),
    (file_with("{" + ",".join(f'"{n}":{NOTHING}' for n in range(1000)) + "}", b""), "shape of positive integers for '"),
    (file_with(b"\xff"), "SafetensorError"),
    (file_with(b'{"b3\xff":1}'), "SafetensorError"),
    (file_with(json.dumps(HEADER).encode("utf-16")), "SafetensorError"),
    (file_with(b"\xef\xbb\xbf" + json.dumps(HEADER).encode()), "SafetensorError"),
    (file_with(json.dumps(HEADER)[:-1]), "SafetensorError"),
    (file_with(json.dumps(HEADER) + "{}"), "SafetensorError"),
    (file_with(json.dumps(HEADER) + "\0\0"), "SafetensorError"),
    (file_with(json.dumps(HEADER).replace("W1", "\\ud800")), "SafetensorError"),
    (file_with(HEADER, VALUES + b"\0"), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
    (file_with(HEADER, VALUES + CANONICAL), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
    (file_with(HEADER, VALUES[:-1]), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
    (file_with(HEADER, b""), "SafetensorError.*(not fully covered|IncompleteBuffer)"),
    (
        file_with(changed("b3", data_offsets=[181396, 181436]), VALUES[:-4]),
        "SafetensorError.*(invalid o|InvalidO)ffset",
    ),  # overlap
    (
        file_with(changed("b3", data_offsets=[181404, 181444]), VALUES + bytes(4)),
        "SafetensorError.*(invalid o|InvalidO)ffset",
    ),  # hole
    (file_with(changed("b1", data_offsets=[0, 200])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[0, 40])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[-40, 0])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[181440, 181400])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[181400, 2**64 - 1])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[2**64 - 40, 0])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[181400, 2**64])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[181400.0, 181440.0])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=[181400])), "SafetensorError"),
    (file_with(changed("b3", data_offsets=None)), "SafetensorError"),
    (file_with(changed("b3", shape=[11])), "SafetensorError"),
    (file_with(changed("b3", shape=[2, 5])), r"b3: expected shape \(10,\), got \(2, 5\)"),
    (file_with(changed("b3", shape=[-10])), "SafetensorError"),
    (file_with(changed("b3", shape=[2**62, 16])), "SafetensorError.*[oO]verflow"),
    (file_with(changed("b3", shape=[2**63, 2, 10])), "SafetensorError.*[oO]verflow"),
    (
        file_with(changed("b3", shape=[1] * 40 + [10])),
        "shape of positive integers for 'b3', got 41 dimension",
    ),
    (
        file_with(changed("b3", shape=[1] * 20000 + [10])),
        "positive integers for 'b3', got 20001 dimension",
    ),
    (file_with(changed("b3", shape=[0], data_offsets=[181400, 181400]), VALUES[:-40]), "shape of positive integers"),
    (file_with(changed("b3", dtype="BF16", shape=[20])), "b3: expected float32, got BF16; save each array as"),
    (file_with(changed("b3", dtype="I32")), r"b3: expected float32, got int32; .*b3=t\['b3'\]\.astype\('f4'\)"),
    (file_with(changed("b3", dtype="F64", shape=[5])), r"b3: expected shape \(10,\), got \(5,\)"),
    (file_with(changed("b3", dtype="F8_E4M3", shape=[40])), "b3: expected float32, got F8_E4M3"),
    (file_with(changed("b3", dtype="F4", shape=[80])), "b3: expected float32, got F4|SafetensorError"),
    (file_with(changed("b3", dtype=">f4")), "SafetensorError"),
    (file_with(changed("b3", dtype="object")), "SafetensorError"),
    (file_with(changed("b3", dtype=["F32"])), "SafetensorError"),
    (file_with(HEADER | {"b3": None}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": {"x": 1}}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": [1]}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": "relu"}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": {"activation": None}}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": {"activation": ["relu"]}}), "SafetensorError"),
    (file_with(HEADER | {"__metadata__": {"activation": "gelu"}}), "expected activation sigmoid or relu, got 'gelu'"),
    (file_with(HEADER | {"__metadata__": {"activation": ""}}), "expected activation sigmoid or relu, got ''"),
    (file_with(HEADER | {"__metadata__": {"activation": "x" * 60000}}), r"sigmoid or relu, got 'x{60}'\.\.\.; give"),
    (
        file_with('{"__metadata__":{"activation":"relu","activation":"sigmoid"},' + json.dumps(HEADER)[1:]),
        "expected each key of the header once, got one twice|SafetensorError",
    ),
    (encoded({f"W{n}": (1, 1) for n in range(1, 10)}), "expected at most 8 layers, got 9"),
    (encoded({"W1": (784, 11), "b1": (11,)}), r"W1: expected shape \(784, 10\), got \(784, 11\); b1: expected"),
    (encoded({f"x{n}": () for n in range(1000)}), r"got 'x.+' \(\), .* and 994 more; give"),
    (file_with(json.dumps(HEADER).replace("b3", "x" * 60000)), "names of at most 200 characters, got 60000"),
    (TWICE, "expected each key of the header once, got one twice"),
    (given_twice("b3", '"b\\u0033"'), "expected each key of the header once, got one twice"),
    (given_twice("b3", '"W1"'), "SafetensorError|one twice"),
    (
        file_with('{"__metadata__":{"x":"1","x":"2"},' + json.dumps(HEADER)[1:]),
        "expected each key of the header once, got one twice|SafetensorError",
    ),
]
