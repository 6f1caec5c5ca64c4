"""Zip archives of .npy files that unpack to more than they say, or hold other things than float32 arrays."""

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


NPY_HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (10,)}"


def headed(text: str) -> bytes:
    return archive_with(b3=literal(text, ARRAYS["b3"].tobytes()))


BROKEN: list[tuple[bytes, str]] = [
    (archive([*MEMBERS.items(), ("b3.npy", MEMBERS["b3.npy"])]), r"exactly W1\.npy, .*, got two of b3\.npy"),
    (archive([*MEMBERS.items(), ("../W1.npy", b"")]), r"unexpected '\.\./W1\.npy'"),
    (archive([*MEMBERS.items(), ("/etc/W1.npy", b"")]), r"unexpected '/etc/W1\.npy'"),
    (archive([*MEMBERS.items(), ("x/", b"")]), "unexpected 'x/'"),
    (archive([*MEMBERS.items(), ("x.py", b"import os")]), r"unexpected 'x\.py'"),
    (archive([*MEMBERS.items(), ("data.pkl", pickle.dumps(1))]), r"unexpected 'data\.pkl'"),
    (renamed("../b3.npy"), r"no b3\.npy; unexpected '\.\./b"),
    (renamed("..\\b3.npy"), r"no b3\.npy; unexpected '\.\.\\\\b3"),
    (renamed("b3xnpy").replace(b"b3xnpy", b"b3.np\0"), "no b3"),
    (renamed("b3.npyxy").replace(b"b3.npyxy", b"b3.npy\0y"), r"unexpected 'b3\.npy\\x00y'"),
    (renamed("b3.pkl"), r"no b3\.npy; unexpected 'b3\.pkl'"),
    (renamed("\u0432\u0417.npy"), r"no b3\.npy; unexpected"),
    (archive([(n.removesuffix(".npy"), m) for n, m in MEMBERS.items()]), r"no W1\.npy; .*unexpected 'W1'"),
    (archive([("x.npz", VALID[".npz"])]), r"no W1\.npy; .*unexpected 'x\.npz'"),
    (archive([(f"{n:05}", b"") for n in range(2000)]), "unexpected '00000'.*; unexpected '00009'; give"),
    (directory_of((MAX_FILE_BYTES - 100) // 46), "got no W1"),
    (directory_of((MAX_FILE_BYTES - 200) // 52, b"b3.npy"), r"two of b3\.npy"),
    ((b"PK\x05\x06" * MAX_FILE_BYTES)[:MAX_FILE_BYTES], "valid .npz file, got BadZipFile"),
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
    (archive_with(b3=MEMBERS["b3.npy"] + b"\0"), r"expected 40 bytes for shape \(10,\), got 41 bytes"),
    (archive_with(b3=MEMBERS["b3.npy"][:-1]), r"expected 40 bytes for shape \(10,\), got 39 bytes"),
    (archive_with(b3=MEMBERS["b3.npy"] * 2), r"expected 40 bytes for shape \(10,\), got 208 bytes"),
    (archive_with(b3=MEMBERS["b3.npy"][:-1])[:-300], "expected "),
    (archive_with(b3=pickle.dumps(ARRAYS["b3"])), "valid .npz file, got ValueError.*magic"),
    (archive_with(b3=b""), "valid .npz file, got ValueError"),
    (archive_with(b3=b"\x93NUMPY\x01\x00"), "valid .npz file, got error.*unpack"),
    (archive_with(b3=b"\x93NUMPY\x02\x00\xff\xff\xff\xff"), "header of at most 512 bytes, got 4294967295"),
    (archive_with(b3=npy(ARRAYS["b3"], (3, 0))), r"b3\.npy of \.npy version 1\.0 or 2\.0, got \(3, 0\)"),
    (archive_with(b3=b"\x93NUMPY\xff\xff" + bytes(100)), r"of \.npy version 1\.0 or 2\.0, got \(255, 255\)"),
    (archive_with(b3=npy(np.array([None] * 10))), r"b3\.npy: '<f4' \(little-endian float32\), got object"),
    (archive_with(b3=npy(np.zeros(10, "<f4,<f4"))), r"b3\.npy: '<f4' .*, got \[\('f0'"),
    (archive_with(b3=npy(np.zeros(10, [("x", object)]))), r"b3\.npy: '<f4' .*, got \[\('x', 'O'"),
    (archive_with(b3=npy(np.zeros(10, "V4"))), r"b3\.npy: '<f4' .*, got \|V4"),
    (archive_with(b3=npy(ARRAYS["b3"].astype(">f4"))), r"b3\.npy: '<f4' .*, got >f4"),
    (headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-10,)}"), r"got \(-10,\)"),
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
    (headed("{'descr': '" + "O," * 150 + "', 'fortran_order': False, 'shape': (10,)}"), "valid .npz file|'<f4'"),
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
    (npy(ARRAYS["b3"]), "valid .npz file, got BadZipFile"),
]

BOMB = npy(ARRAYS["b3"]) + bytes(30 * MEBIBYTE)
BOMB_SIZES = [
    (len(BOMB), r"b3\.npy of at most 65576 bytes, got 31457448"),
    (2**32 - 2, r"b3\.npy of at most 65576 bytes, got 4294967294"),
    (len(MEMBERS["b3.npy"]), "valid .npz file, got BadZipFile"),
    (65576, "valid .npz file, got BadZipFile"),
]


def bombs() -> list[tuple[bytes, str]]:
    """A megabyte or less that unpacks to 30, whatever size it declares; and members that are less than they say."""
    packed = archive_with(zipfile.ZIP_DEFLATED, b3=BOMB)
    assert len(packed) < MEBIBYTE
    longer = declaring(archive_with(zipfile.ZIP_DEFLATED), "b3.npy", len(MEMBERS["b3.npy"]) + 1)
    return [
        *((declaring(packed, "b3.npy", size_bytes), message) for size_bytes, message in BOMB_SIZES),
        (archive_with(zipfile.ZIP_DEFLATED, W1=BOMB), r"W1\.npy of at most 222336 bytes, got 31457448"),
        (longer, r"b3\.npy of 169 bytes as declared, got 168"),
    ]


def of_objects(sentinel: Path) -> bytes:
    """An archive that runs a command in a reader that allows pickles."""
    return npz(ARRAYS | {"b3": np.array([Call(os.system, f"touch {sentinel}")] * 10, object)})
