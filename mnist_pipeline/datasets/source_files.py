"""Source files of images and labels on disk, identified by their hashes. It parses no format."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mnist_pipeline.errors import DataError
from mnist_pipeline.store import disk


@dataclass(frozen=True)
class SourceFile:
    """One file with its verified hash and its file system metadata at that time.

    The bytes are read later, a range at a time; `stamp` detects changes since. `remembered_in` is the cache file with
    the hash if the bytes themselves were not hashed, else None.
    """

    path: Path
    sha256: str
    stamp: tuple[int, ...] = field(compare=False)
    remembered_in: Path | None = field(default=None, compare=False)

    @property
    def size_bytes(self) -> int:
        return self.stamp[0]

    def problem_with(self, file: IO[bytes]) -> str | None:
        """Why an open file is not the verified one; None if it is."""
        return None if stamp_of(file) == self.stamp else "expected the file that was verified, got one changed since"

    def confirm(self) -> None:
        """Hash the bytes if their hash comes from the cache; callers do so before they use the bytes.

        Raises:
            DataError: the bytes have another hash, or cannot be read.
        """
        if self.remembered_in is None or (found := verified_file(self.path).sha256) == self.sha256:
            return
        # Delete the cache file, or the next run would trust it again. Its other entries are no more reliable.
        with suppress(OSError):
            self.remembered_in.unlink()
        raise DataError(
            f"{self.path}: expected sha256 {self.sha256}, as when it was hashed last, got {found} although its size "
            "and times are the same; replace it if it is damaged, and run again to verify it again"
        )


Verify = Callable[[Path], SourceFile]


def stamp_of(file: IO[bytes]) -> tuple[int, ...]:
    """Size in bytes, modification time in ns and inode of an open file."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino


def verified_file(path: Path) -> SourceFile:
    """Hash a file. The stamp is taken first, so that a change during hashing is detected later.

    Raises:
        DataError: the file cannot be read.
    """
    with open_regular(path) as file:
        return verified_open(path, file)


def verified_open(path: Path, file: io.BufferedReader) -> SourceFile:
    """Hash an open file, as `verified_file`."""
    stamp = stamp_of(file)
    return SourceFile(path, hashlib.file_digest(file, "sha256").hexdigest(), stamp)


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """Open an input file for reading. A pipe or a device is refused: it might be read for ever.

    Raises:
        DataError: it is no regular file, or cannot be read.
    """
    with input_errors(path):
        try:
            opened = disk.open_regular(path)
        except disk.MisplacedError as error:
            raise DataError(f"{path}: {error.strerror}; name a file, or copy it into one") from error
        with opened as file:
            yield file


@contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Translate an OSError about an input file into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, got {error.strerror or error}; check the path") from error
