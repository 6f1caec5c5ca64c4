"""Zip archives of .npy files that unpack to more than they say, or hold other things than arrays of floats."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.weights.files import MAX_FILE_BYTES
from tests.attacks.networks import ARRAYS, MEBIBYTE, VALID, npz
from tests.attacks.pickles import Call


def npy(array: NDArray[Any], version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions 2 and 3
        np.lib.format.write_array(file, array, version)
    return file.getvalue()


MEMBERS = {f"{name}.npy": npy(array) for name, array in ARRAYS.items()}


def archive(members: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as written:
        warnings.simplefilter("ignore")  # about names that are there twice
        for name, content in members:
            written.writestr(name, content)
    return file.getvalue()


def archive_with(compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    return archive((MEMBERS | {f"{name}.npy": content for name, content in changes.items()}).items(), compression)


def directory_with(data: bytes, member: str, offset: int, field: bytes) -> bytes:
    """Overwrite a field of a member's entry in the zip's central directory (APPNOTE.TXT, 4.3.12)."""
    at = data.rindex(member.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return data[: at + offset] + field + data[at + offset + len(field) :]


def declaring(data: bytes, member: str, size_bytes: int) -> bytes:
    return directory_with(data, member, 24, struct.pack("<I", size_bytes))


def directory_of(entries: int, name: bytes = b"") -> bytes:
    """An archive that is all directory: one empty member, listed again and again."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s4B4H3I5H2I", b"PK\x01\x02", 20, 3, 20, *[0] * 8, len(name), *[0] * 6) + name
    size, listed = len(entry) * entries, entries & 0xFFFF
    return local + entry * entries + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, listed, listed, size, len(local), 0)


def literal(text: str, values: bytes) -> bytes:
    """Make an .npy of version 1.0 with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + values


def renamed(name: str) -> bytes:
    return archive([(each.replace("b3.npy", name), content) for each, content in MEMBERS.items()])


def declaring_shapes(*shapes: tuple[int, ...]) -> bytes:
    """An archive of W1, b1, ... that declare these shapes, and have no values."""
    names = [f"{kind}{layer}.npy" for layer in range(1, len(shapes) // 2 + 1) for kind in "Wb"]
    texts = [f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}" for shape in shapes]
    return archive(zip(names, [literal(f"{text:118}", b"") for text in texts], strict=True))


def in_64_bits(data: bytes) -> bytes:
    """An archive with the end record of a large one, of which the ordinary one says nothing (APPNOTE.TXT, 4.3.14)."""
    data, end = data[:-22], struct.unpack("<4s4H2IH", data[-22:])
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, end[3], end[4], end[5], end[6])
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(data), 1)
    return data + record + locator + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)


NPY_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (10,)}"


def headed(text: str) -> bytes:
    return archive_with(b3=literal(text, ARRAYS["b3"].tobytes()))


BROKEN: list[tuple[bytes, str]] = [
    (archive([*MEMBERS.items(), ("b3.npy", MEMBERS["b3.npy"])]), r"expected each name once, got 'b3\.npy' twice"),
    (archive([*MEMBERS.items(), ("../W1.npy", MEMBERS["W1.npy"])]), r"unexpected '\.\./W1'"),
    (archive([*MEMBERS.items(), ("/etc/W1.npy", MEMBERS["W1.npy"])]), "unexpected '/etc/W1'"),
    (archive([*MEMBERS.items(), ("x/", b"")]), r"expected only \.npy files in it, got 'x/'"),
    (archive([*MEMBERS.items(), ("x.py", b"import os")]), r"only \.npy files in it, got 'x\.py'"),
    (archive([*MEMBERS.items(), ("data.pkl", pickle.dumps(1))]), r"only \.npy files in it, got 'data\.pkl'"),
    (renamed("../b3.npy"), r"missing b3; unexpected '\.\./b3'"),
    (renamed("..\\b3.npy"), r"missing b3; unexpected '\.\.\\\\b3"),
    (renamed("b3xnpy").replace(b"b3xnpy", b"b3.np\0"), r"only \.npy files in it, got 'b3\.np\\x00'"),
    (renamed("b3.npyxy").replace(b"b3.npyxy", b"b3.npy\0y"), r"only \.npy files in it, got 'b3\.npy\\x00y'"),
    (renamed("x" * 30000 + ".npy"), "names of at most 200 characters, got 30004"),
    (renamed("b3.pkl"), r"only \.npy files in it, got 'b3\.pkl'"),
    (renamed("\u0432\u0417.npy"), "missing b3; unexpected '\u0432\u0417'"),
    (archive([(n.removesuffix(".npy"), m) for n, m in MEMBERS.items()]), "got 'b2', 'W1', .* and 1 more; give"),
    (archive([("x.npz", VALID[".npz"])]), r"only \.npy files in it, got 'x\.npz'"),
    (archive([(f"{n:05}", b"") for n in range(2000)]), "a directory of at most 65536 bytes, got more"),
    (archive([(f"{n:05}", b"") for n in range(1000)]), "got '00000', .* and 995 more; give"),
    (
        archive([(f"{n:05}.npy", MEMBERS["b3.npy"]) for n in range(1000)]),
        "at most 16 arrays, got 1000: ",
    ),
    (directory_of((MAX_FILE_BYTES - 100) // 46), "a directory of at most 65536 bytes, got more"),
    (directory_of(1000, b"b3.npy"), "at most 16 arrays, got 1000: 'b3.npy', .* and 995 more; give"),
    (directory_of(16, b"b3.npy"), r"each name once, got 'b3\.npy' twice"),
    (in_64_bits(directory_of(MEBIBYTE // 46)), "a directory of at most 65536 bytes, got more"),
    (archive_with()[:-2] + b"\x01\x00!", r"expected an \.npz file with its directory at the end, got another end"),
    (bytes(33 * MEBIBYTE), "expected at most 32065536 bytes, got more"),
    (b"PK\x05\x06" * MEBIBYTE, "with its directory at the end, got another end"),
    (archive_with(zipfile.ZIP_LZMA), "stored or deflated, got another compression, or encryption"),
    (archive_with(zipfile.ZIP_BZIP2), "stored or deflated, got another compression, or encryption"),
    (directory_with(archive_with(), "b3.npy", 10, b"\x09\x00"), "stored or deflated, got another compression"),
    (directory_with(archive_with(), "b3.npy", 10, b"\x08\x00"), "valid .npz file, got "),
    (directory_with(archive_with(), "b3.npy", 8, b"\x01\x00"), r"b3\.npy stored or deflated, got another comp"),
    (directory_with(archive_with(), "b3.npy", 8, b"\x20\x00"), "valid .npz file, got NotImplementedError"),
    (directory_with(archive_with(), "b3.npy", 8, b"\x40\x00"), "valid .npz file, got NotImplementedError"),
    (directory_with(archive_with(), "b3.npy", 6, b"\xff\x00"), "valid .npz file, got NotImplementedError"),
    (directory_with(archive_with(), "b3.npy", 16, bytes(4)), "valid .npz file, got BadZipFile"),  # CRC
    (directory_with(archive_with(), "b3.npy", 20, b"\x09\0\0\0"), "valid .npz file, got "),  # compressed size
    (directory_with(archive_with(), "b3.npy", 42, bytes(4)), "valid .npz file, got BadZipFile"),  # offset of another
    (directory_with(archive_with(), "b3.npy", 42, b"\xff" * 4), "valid .npz file, got "),
    (archive_with(b3=MEMBERS["b3.npy"] + b"\0"), r"b3\.npy of 168 bytes by its shape, got 169"),
    (archive_with(b3=MEMBERS["b3.npy"][:-1]), r"b3\.npy of 168 bytes by its shape, got 167"),
    (archive_with(b3=MEMBERS["b3.npy"] * 2), r"b3\.npy of 168 bytes by its shape, got 336"),
    (archive_with(b3=MEMBERS["b3.npy"][:-1])[:-300], "expected "),
    (archive_with(b3=pickle.dumps(ARRAYS["b3"])), "valid .npz file, got ValueError.*magic"),
    (archive_with(b3=b""), "valid .npz file, got ValueError"),
    (archive_with(b3=b"\x93NUMPY\x01\x00"), "valid .npz file, got error.*unpack"),
    (archive_with(b3=b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "header of at most 512 bytes, got 4294967295"),
    (archive_with(b3=npy(ARRAYS["b3"], (3, 0))), r"b3\.npy of \.npy version 1\.0 or 2\.0, got \(3, 0\)"),
    (archive_with(b3=b"\x93NUMPY\xff\xff" + bytes(100)), r"of \.npy version 1\.0 or 2\.0, got \(255, 255\)"),
    (archive_with(b3=npy(np.array([None] * 10))), "b3: expected float32, got object; save each array as"),
    (archive_with(b3=npy(np.zeros(10, "<f4,<f4"))), r"b3: expected float32, got \[\('f0'"),
    (archive_with(b3=npy(np.zeros(10, [("x", object)]))), r"b3: expected float32, got \[\('x', 'O'"),
    (archive_with(b3=npy(np.zeros(10, "V4"))), r"b3: expected float32, got \|V4"),
    (archive_with(b3=npy(ARRAYS["b3"].astype(">f4"))), r"b3: expected float32, got >f4; .*\.astype\('f4'\)"),
    (
        archive_with(b3=npy(np.full(10, 1e300))),
        r"b3 within the range of float32, got 10 beyond 3\.4e\+38; give",
    ),
    (archive_with(b3=npy(np.full(10, np.inf))), "b3: expected finite values, got 10 NaN or infinite"),
    (
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-10,)}"),
        r"integers for 'b3\.npy', got 1 dim",
    ),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"), r"shape"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"), r"got \(1000000000000,\)"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2**60,)}"), "ValueError"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (10**10**10,)}"), "ValueError"),
    (headed("{'descr': '<f4', 'fortran_order': 0, 'shape': (10,)}"), "ValueError"),
    (headed("{'descr': ('<f4', (3,)), 'fortran_order': 0, 'shape': (10,)}"), "ValueError"),
    (
        headed("{'descr': ('<f4', (1000000000,)), 'fortran_order': False, 'shape': (10,)}"),
        "valid .npz file, got ValueError",
    ),
    (headed("{'descr': '<f4', 'descr': '|O', 'fortran_order': False, 'shape': (10,)}"), "got object"),
    (
        headed("{'descr': '" + "O," * 150 + "', 'fortran_order': False, 'shape': (10,)}"),
        "valid .npz|b3: expected",
    ),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (10,), 'x': 1}"), "ValueError"),
    (headed("__import__('os').system('true')"), "valid .npz file, got ValueError"),
    (headed("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (10,)}"), "ValueError"),
    (headed("[None for _ in iter(int, 1)]"), "valid .npz file, got ValueError"),
    (headed("'x' * 10**10"), "valid .npz file, got ValueError"),
    (headed("(" * 500), "valid .npz file, got "),
    (headed("-" * 500 + "1"), "valid .npz file, got "),
    (headed("9" * 500), "valid .npz file, got "),
    (headed("\0" * 500), "valid .npz file, got "),
    (headed(f"{NPY_HEADER:600}"), r"b3\.npy with a header of at most 512 bytes, got 600"),
    (npy(ARRAYS["b3"]), "with its directory at the end, got another end"),
    (directory_with(archive_with(), "b3.npy", 20, bytes(8)), "b3.npy of 168 bytes by its shape, got 0|valid .npz file"),
    (declaring_shapes((784, 10**9), (10**9,), (10**9, 10), (10,)), "at most 4,000,000 parameters, got 795,000,000,010"),
    (declaring_shapes((784, 5032), (5032,), (5032, 10), (10,)), "at most 4,000,000 parameters, got 4,000,450"),
    (declaring_shapes((784, 10**60), (10**60,), (10**60, 10), (10,)), "expected at most 4,000,000 parameters, got"),
    (
        declaring_shapes((9,) * 32, (9,) * 32),
        r"W1: expected .*, got \(9, 9, .*; only dense layers are read",
    ),
    (declaring_shapes(*[(784, 784), (784,)] * 8, (784, 10), (10,)), "expected at most 16 arrays, got 18: 'W1"),
    (declaring_shapes((784, 10), (10,)), r"W1\.npy of 31488 bytes by its shape, got 128"),
]

BOMB = npy(ARRAYS["b3"]) + bytes(30 * MEBIBYTE)
BOMB_SIZES = [
    (len(BOMB), r"b3\.npy of 168 bytes by its shape, got 31457448"),
    (2**32 - 2, r"b3\.npy of 168 bytes by its shape, got 4294967294"),
    (len(MEMBERS["b3.npy"]), "valid .npz file, got BadZipFile"),
]


def bombs() -> list[tuple[bytes, str]]:
    """A megabyte or less that unpacks to 30, whatever size it declares; and members that are less than they say."""
    packed = archive_with(zipfile.ZIP_DEFLATED, b3=BOMB)
    assert len(packed) < MEBIBYTE
    large = archive_with(zipfile.ZIP_DEFLATED, W1=MEMBERS["W1.npy"] + bytes(30 * MEBIBYTE))
    longer = declaring(archive_with(zipfile.ZIP_DEFLATED), "b3.npy", len(MEMBERS["b3.npy"]) + 1)
    return [
        *((declaring(packed, "b3.npy", size_bytes), message) for size_bytes, message in BOMB_SIZES),
        (large, r"W1\.npy of 156928 bytes by its shape, got 31614208"),
        (declaring(large, "W1.npy", len(MEMBERS["W1.npy"])), "valid .npz file, got BadZipFile"),
        (longer, r"b3\.npy of 168 bytes by its shape, got 169"),
    ]


def of_objects(sentinel: Path) -> bytes:
    """An archive that runs a command in a reader that allows pickles."""
    return npz(ARRAYS | {"b3": np.array([Call(os.system, f"touch {sentinel}")] * 10, object)})
