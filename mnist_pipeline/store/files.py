"""Single files, on disk or in an object store: hash, replace in one step, outlive a power cut, say what went wrong.

Knows no formats.
"""

import hashlib
import os
import re
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from mnist_pipeline.errors import DamagedError, OutputsError, StoreError
from mnist_pipeline.store.objects import Location, ObjectPath

# Digits of its sha256 in the name of an object: attempts that made other bytes never meet under one name.
CONTENT_DIGITS = 16
PREFETCHED = 8  # files
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}")  # the name of a file that is not yet in its place

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class FileRecord:
    """What a finished file must be: path relative to its root, rows, size in bytes, sha256 in hex."""

    path: str
    rows: int
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def is_named(self, name: str) -> bool:
        """Whether this is the file of that name; its content may be part of the name it has."""
        return self.name in (name, content_name(name, self.sha256))

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


def reason_of(error: OSError) -> str:
    """What went wrong, and with which file if that is known."""
    return f"{error.strerror} ({error.filename})" if error.strerror and error.filename else str(error)


def read_expected(path: Location, expected: str) -> bytes:
    """The bytes of a file that has to be there.

    Raises:
        DamagedError: it is not, or cannot be read.
        StoreError: the object store does not answer, which says nothing about the object.
    """
    try:
        return path.read_bytes()
    except StoreError:
        raise
    except OSError as error:
        raise DamagedError(f"{path}: expected {expected}, got no readable file ({error.strerror})") from error


def read_if_there(path: Location, expected: str) -> bytes | None:
    """The bytes of a file that need not be there, or None.

    Raises:
        DamagedError: it is there and cannot be read.
        StoreError: as `read_expected`.
    """
    try:
        return read_expected(path, expected)
    except DamagedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def replace_file(path: Location, data: bytes, scratch: Location | None = None, sync: bool = True) -> None:
    """Write `data` so that `path` holds either its old content or all of the new, never a part.

    Args:
        path: the file to create or replace; its folder is made if need be.
        data: the whole content.
        scratch: folder for the unfinished file, on the same file system; beside `path` if None. Give one
            where `path` lies in a folder that others read as a table.
        sync: whether the content must outlive a power cut. If not, what is found afterwards may be anything: only
            for a file that carries its own checksum and can be made again.
    """
    if isinstance(path, ObjectPath):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = scratch if isinstance(scratch, Path) else path.parent
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


def create_file(path: Location, data: bytes, scratch: Location) -> bool:
    """Write `data` to a file that must not exist yet; False if it does, with other content or in a race.

    Args:
        path: the file to create; its folder is made if need be.
        data: the whole content.
        scratch: folder for the unfinished file, on the same file system.
    """
    if isinstance(path, ObjectPath):
        return path.create(data)
    make_folder(path.parent)
    ready = scratch / f"{path.name}-{uuid.uuid4().hex}"
    replace_file(ready, data)
    try:
        os.link(ready, path)  # unlike a rename, refuses a name that is taken
    except FileExistsError:
        return False
    finally:
        ready.unlink()
    sync_folder(path.parent)
    return True


def put_file(
    folder: Location, name: str, rows: int, data: bytes, scratch: Location | None = None, sync: bool = True
) -> FileRecord:
    """Put a file of what will be published into its folder, as `replace_file` does; its record.

    Attempts share the folder if it is in an object store. There the name has the content in it, so that none replaces
    what another has published.
    """
    file = record(name, rows, data)
    if isinstance(folder, ObjectPath):
        file = replace(file, path=content_name(name, file.sha256))
    replace_file(folder / file.path, data, scratch, sync)
    return file


def put_finished(folder: Location, path: Path, rows: int) -> FileRecord:
    """Put a file that may be too large to hold into the folder of what will be published, as `put_file` does.

    On disk it was written where it belongs, and is only made to last.
    """
    file = record_of(path, path.name, rows)
    if isinstance(folder, ObjectPath):
        file = replace(file, path=content_name(path.name, file.sha256))
        (folder / file.path).upload(path)
    return file


def content_name(name: str, sha256: str) -> str:
    """The name of a file with its content in it: `part-00003-0a1b2c3d4e5f6071.parquet`."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{sha256[:CONTENT_DIGITS]}{dot}{suffix}"


def record_of(path: Path, name: str, rows: int) -> FileRecord:
    """The record of a finished file that may be too large to hold; makes sure that it is on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return FileRecord(name, rows, path.stat().st_size, digest)


def publish_files(staged: Location, target: Location, document: str, content: bytes, scratch: Location) -> bool:
    """Make finished files visible in one step, with the document that lists them.

    On disk their folder is renamed. In an object store they stay where they are, and the document is created below
    `target`, unless there is one: readers find the files through it.

    Args:
        staged: the folder of the files.
        target: where they, or their document, shall be found; on the same file system or in the same bucket.
        document: name of the document.
        content: what it holds.
        scratch: folder for unfinished files.

    Returns:
        False if the name is taken: then nothing was changed.

    Raises:
        OSError: refused, or not known to be done. What is visible is what was, or all of it.
    """
    if isinstance(target, ObjectPath):
        return (target / document).create(content)
    assert isinstance(staged, Path), f"{staged} and {target} are not in the same place"
    replace_file(staged / document, content, scratch)
    return publish_folder(staged, target)


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


def make_folder(folder: Location) -> None:
    """Make a folder and those above it that are missing, in a way that survives a power cut."""
    if isinstance(folder, ObjectPath):
        return
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nobody needs any more; what cannot be removed stays."""
    with suppress(OSError):  # there are some that `ignore_errors` does not ignore
        shutil.rmtree(folder, ignore_errors=True)


def sync_file(path: Location) -> None:
    """Make the content of a file survive a power cut."""
    if isinstance(path, ObjectPath):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Location) -> None:
    """Make the names in `folder` survive a power cut."""
    if isinstance(folder, ObjectPath):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prefetch(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, a few of them begun before they are asked for.

    An object store makes one wait for each, a disk can do with several at once, and hashing lets go of the interpreter.
    """
    pool = ThreadPoolExecutor(PREFETCHED)
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) == PREFETCHED:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        # Not waited for: given up half-way, this may be closed by the garbage collector, in any thread and in the
        # middle of anything. In a thread that is just starting, waiting for another would be for ever.
        pool.shutdown(wait=False, cancel_futures=True)


def each_document(outputs: Location, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, where it reads a small document of `outputs`.

    On disk one after the other: there the threads take longer than the reading.
    """
    return prefetch(function, items) if isinstance(outputs, ObjectPath) else map(function, items)


@dataclass(frozen=True)
class Found:
    """A file that was met: its path relative to where the walk began, its size, and when it was last written."""

    path: PurePosixPath
    size_bytes: int
    written_at: datetime


def walk(folder: Location) -> Iterator[Found]:
    """All files below a folder, which need not exist; what vanishes on the way is passed over."""
    if isinstance(folder, ObjectPath):
        start = len(folder.parts)
        for each, size_bytes, written_at in folder.walk():
            yield Found(PurePosixPath(*each.parts[start:]), size_bytes, written_at)
        return
    for here, folders, names in os.walk(folder):  # unlike rglob, goes on where a folder vanishes
        folders.sort()
        for path in (Path(here, name) for name in sorted(names)):
            with suppress(FileNotFoundError):
                about = path.lstat()
                written_at = datetime.fromtimestamp(about.st_mtime, UTC)
                yield Found(PurePosixPath(path.relative_to(folder)), about.st_size, written_at)


def subfolders(folder: Location) -> list[Location]:
    """The folders in a folder, which need not exist."""
    if isinstance(folder, ObjectPath):
        return list(folder.subfolders())
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
