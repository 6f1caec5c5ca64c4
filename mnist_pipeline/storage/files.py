"""Single files: hash, replace in one step, reach the disk, say what went wrong. Knows no formats."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mnist_pipeline.errors import OutputsError


@dataclass(frozen=True)
class FileRecord:
    """What a finished file must be: path relative to its root, rows, size in bytes, sha256 in hex."""

    path: str
    rows: int
    size_bytes: int
    sha256: str

    def problem_with(self, data: bytes) -> str | None:
        """Why `data` is not this file's content, or None if it is."""
        if len(data) != self.size_bytes:
            return f"expected {self.size_bytes} bytes, got {len(data)}"
        if (got := hashlib.sha256(data).hexdigest()) != self.sha256:
            return f"expected sha256 {self.sha256}, got {got}"
        return None


def record(path: str, rows: int, data: bytes) -> FileRecord:
    """The record of a file that holds `data`."""
    return FileRecord(path, rows, len(data), hashlib.sha256(data).hexdigest())


@contextmanager
def outputs_errors(doing: str) -> Iterator[None]:
    """Turn an operating-system error into an OutputsError that says what was being done."""
    try:
        yield
    except OutputsError:
        raise
    except OSError as error:
        raise OutputsError(
            f"{doing}: {error.strerror or error} ({error.filename or 'no file named'}); "
            "check that the folder exists, is writable and has space, then run again"
        ) from error


def replace_file(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, never a part.

    Args:
        path: the file to create or replace; its folder is made if need be.
        data: the whole content.
        scratch: folder for the unfinished file, on the same file system; beside `path` if None. Give one
            where `path` lies in a folder that others read as a table.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = scratch or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
