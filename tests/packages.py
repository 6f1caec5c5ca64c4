"""Fake package registries: clients that serve archives made by a test, and builders of such archives."""

import gzip
import io
import pickle
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.datasets.catalogue import NpmSource, PipSource
from tests.builders import random_images, random_labels
from tests.mirror import CONTENT, sha256


class Client:
    """Replaces pip and npm: a program that records its arguments and copies an archive to the requested folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        self.become("")

    def brings(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)
        archive = self.folder / name
        self.become(
            'for word in "$@"; do\n'
            f'case "$before" in --dest|--pack-destination) /bin/cp "{archive}" "$word";; esac\n'
            'before="$word"\n'
            "done"
        )

    def become(self, script: str) -> None:
        for name in ("npm", "python"):
            program = self.folder / name
            program.write_text(f'#!/bin/sh\necho "$@" >> "{self.folder}/calls"\n{script}\n')
            program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


def tgz(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def wheel(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2 wrote its strings."""

    dispatch: ClassVar[Any] = dict(pickle._Pickler.dispatch)

    def save_python2_string(self: Any, value: str | bytes) -> None:  # Any: typeshed knows little of this class
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_python2_string


Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def pickled(training: Part, validation: Part, test: Part) -> bytes:
    """Three splits as the package holds them: float32 pixel/256 and int64 labels, pickled by Python 2, gzipped."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(
        tuple(
            (images.reshape(-1, PIXELS).astype(np.float32) / np.float32(256), labels.astype(np.int64))
            for images, labels in (training, validation, test)
        )
    )
    return gzip.compress(file.getvalue())


def part(rows: int, seed: int) -> Part:
    return random_images(rows, seed), random_labels(rows, seed)


TEST_PART = part(5, 0)
PICKLE = pickled(part(4, 1), part(3, 2), TEST_PART)
WHEEL = wheel({"toy/toy.pkl.gz": PICKLE, "toy/__init__.py": b"raise SystemExit('imported')"})
TGZ = tgz({f"package/data/{name}": data for name, data in CONTENT.items()} | {"package/package.json": b"{}"})


def pip_source(archive: bytes = WHEEL, **changes: Any) -> PipSource:
    pins = {
        "archive_sha256": sha256(archive),
        "member": "toy/toy.pkl.gz",
        "member_size_bytes": len(PICKLE),
        "member_sha256": sha256(PICKLE),
    }
    return PipSource.model_validate({"kind": "pip", "package": "toy-hub==0.1", **pins, **changes})


def npm_source(archive: bytes = TGZ, folder: str = "package/data") -> NpmSource:
    return NpmSource(kind="npm", package="toy-data@1.2", archive_sha256=sha256(archive), folder=folder)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that is found under the names of pip and npm."""
    client = Client(tmp_path / "client")
    monkeypatch.setenv("PATH", str(client.folder))
    monkeypatch.setattr(sys, "executable", str(client.folder / "python"))
    return client
