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


def replace_file(path: Path, data: bytes, scratch: Path | None = None, sync: bool = True) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, never a part.

    Args:
        path: the file to create or replace; its folder is made if need be.
        data: the whole content.
        scratch: folder for the unfinished file, on the same file system; beside `path` if None. Give one
            where `path` lies in a folder that others read as a table.
        sync: whether the content must outlive a power cut. If not, what is found afterwards may be anything: only
            for a file that carries its own checksum and can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = scratch or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def record_of(path: Path, name: str, rows: int) -> FileRecord:
    """The record of a finished file that may be too large to hold; makes sure that it is on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return FileRecord(name, rows, path.stat().st_size, digest)


def publish_folder(staged: Path, target: Path) -> bool:
    """Make a finished folder visible under its final name by one rename.

    Args:
        staged: the folder; each file in it is on the disk already.
        target: where it shall be, on the same file system.

    Returns:
        False if the name is taken: then nothing was changed.

    Raises:
        OSError: the file system refused. What is visible is what was.
    """
    # Each file was synced when it was written; the folders make their names last.
    for folder in {path.parent for path in staged.rglob("*")} | {staged}:
        sync_folder(folder)
    make_folder(target.parent)
    try:
        staged.rename(target)
    except OSError:
        # The rename refuses a folder that exists, and may have happened although it reported an error.
        if not target.exists():
            raise
        if staged.exists():
            return False
    sync_folder(target.parent)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, in a way that survives a power cut."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
