"""Remembers the hashes of files, so that one that has not changed since is recognised unread, as git's index does.

Only a cache, and only good for telling which file it is: `SourceFile.confirm` hashes before a byte of it is relied on.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

from mnist_pipeline.datasets.catalogue import Sha256
from mnist_pipeline.datasets.source_files import SourceFile, input_errors, stamp_of, verified_open
from mnist_pipeline.store.documents import ChecksummedDocument
from mnist_pipeline.store.files import replace_file

# What is written twice between two ticks of its file system's clock has the same times after the second: a file that
# was written just before it was hashed may change once more unseen. FAT has the coarsest clock, of 2 s.
RACY_NS = 2_000_000_000
MAX_FILES = 10_000
MAX_BYTES = 16 << 20

Signs = tuple[int, int, int, int, int]


class _Hashes(ChecksummedDocument):
    """What was hashed, by path: the signs of the file then, and the sha256."""

    kind: ClassVar[str] = "the hashes of files"
    checksum_field: ClassVar[str] = "content_sha256"

    schema_version: Literal["1"] = "1"  # of another version nothing is believed
    files: dict[str, tuple[Signs, Sha256]]


class HashCache:
    """The hashes of files, read from the file `path` and written there by `save`."""

    def __init__(self, path: Path) -> None:
        self.hits = 0  # files that were not hashed
        self._path = path
        self._saved = _read(path)
        self._files = dict(self._saved)

    def lookup(self, path: Path) -> SourceFile:
        """The file by its remembered hash, or hashed if it is new or has changed.

        Raises:
            DataError: the file cannot be read.
        """
        with input_errors(path), path.open("rb") as file:
            signs, sha256 = self._files.get(str(path), (None, ""))
            if _signs_of(os.fstat(file.fileno())) != signs:
                return self.verify(path)
            self.hits += 1
            return SourceFile(path, sha256, stamp_of(file), remembered_in=self._path)

    def verify(self, path: Path) -> SourceFile:
        """The file, hashed; and remembered, if no later change of it can go unseen.

        Raises:
            DataError: the file cannot be read.
        """
        self._files.pop(str(path), None)
        now = time.time_ns()
        with input_errors(path), path.open("rb") as file:
            status = os.fstat(file.fileno())  # before hashing, so that a change meanwhile shows later
            source_file = verified_open(path, file)
        if now - max(status.st_mtime_ns, status.st_ctime_ns) > RACY_NS:
            self._files[str(path)] = _signs_of(status), source_file.sha256
        return source_file

    def save(self) -> None:
        """Write down what is new. That it cannot be written is no failure: the files are hashed again next time.

        Of two that save at once the later wins; what the other knew is hashed again too.
        """
        if self._files == self._saved:
            return
        newest = dict(list(self._files.items())[-MAX_FILES:])
        with suppress(OSError):
            replace_file(self._path, _Hashes(files=newest).to_bytes(), sync=False)


def _read(path: Path) -> dict[str, tuple[Signs, str]]:
    """What the file remembers; nothing if it is not there, or not as it was written."""
    try:
        if not path.is_file():  # of a pipe, reading would not end
            return {}
        with path.open("rb") as file:
            return _Hashes.from_bytes(file.read(MAX_BYTES), str(path)).files  # one cut off is not as it was written
    except OSError:  # DamagedError is one
        return {}


def _signs_of(status: os.stat_result) -> Signs:
    """What differs once a file has been written to or another is in its place."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
