"""A store on a local disk: atomic writes, fsync, renames, and locks between processes.

Threats: a process killed, a power cut, a full disk, other processes at the same time. Unfinished files and locks are
kept in `.staging`, where no reader looks. A file is written there, synced and renamed; a folder is published by one
rename once everything in it is synced. Locks are `flock`s on `.staging/NAME.lock`, released by the system when their
process ends. Accepted: what was written with `sync=False` may hold anything after a power cut, and is verified by its
checksum before use; on a file system without flock (some NFS) locks exclude nobody.
"""

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mnist_pipeline.errors import StoreError, system_line
from mnist_pipeline.store.base import LOCK, STAGING, Entry


@dataclass(frozen=True)
class LocalStore:
    """Files below a folder, which is created when something is written. See `base.Store` for the operations."""

    location: Path

    @property
    def has_rename(self) -> bool:
        return True

    def read(self, name: str, limit_bytes: int | None = None) -> bytes:
        path = self.location / name
        with translated(f"cannot read {path}"), suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISREG(path.stat().st_mode):  # a folder is no file, and a pipe or a device would be read for ever
                with path.open("rb") as file:
                    return file.read() if limit_bytes is None else file.read(limit_bytes)
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))

    def list(self, folder: str) -> Iterator[Entry]:
        with translated(f"cannot look through {self.location / folder}"):
            tops = [self.location / folder]
            if not folder:  # a link at the top leads to another disk of the same outputs
                tops += [path for path in _below(self.location) if path.is_symlink() and path.is_dir()]
            for top in tops:
                for here, folders, names in os.walk(top):  # unlike rglob, goes on where a folder vanishes
                    folders.sort()
                    yield from self._entries(f"{here}/{name}" for name in sorted(names))

    def find(self, folders: str, files: Sequence[str]) -> Iterator[Entry]:
        with translated(f"cannot look through {self.location / folders}"):
            matching = _matching(str(self.location), folders.split("/"))
            yield from self._entries([f"{folder}/{name}" for folder in matching for name in files])

    def children(self, folder: str) -> Sequence[str]:
        with translated(f"cannot look through {self.location / folder}"):
            return [path.name for path in _below(self.location / folder)]

    def write(self, name: str, data: bytes | Path, sync: bool = True) -> None:
        path = self.location / name
        with translated(f"cannot write {path}"):
            if sync:
                make_folder(path.parent)
            write_file(path, data, self._staging, sync)
            if sync:
                sync_path(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self.location / name
        with translated(f"cannot create {path}"):
            make_folder(path.parent)
            ready = self._staging / f"{path.name}-{uuid.uuid4().hex}"
            write_file(ready, data, self._staging)
            try:
                os.link(ready, path)  # unlike a rename, fails if the name is taken
            except FileExistsError:
                return False
            finally:
                ready.unlink()
            sync_path(path.parent)
            return True

    def update(self, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
        with self.lock(names[0]):
            for name, data in make().items():
                if not self._holds(name, data):  # readers that open a file twice keep the one they have begun
                    self.write(name, data)

    def publish(self, staged: str, target: str, document: str, data: bytes) -> bool:
        if self.children(target):
            return False
        self.write(f"{staged}/{document}", data, sync=False)
        return self.move(staged, target)

    def move(self, source: str, target: str, first: str = "") -> bool:  # noqa: ARG002  everything moves at once
        old, new = self.location / source, self.location / target
        with translated(f"cannot move {old} to {new}"):
            for each in [*sorted(old.rglob("*")), old] if old.is_dir() else ():
                sync_path(each)  # what appears under its new name outlives a power cut
            make_folder(new.parent)
            try:
                old.rename(new)
            except OSError:
                # A rename onto a folder fails, and one that succeeded may have reported an error.
                if old.exists() and not new.is_dir():
                    raise
                if old.exists() or not new.exists():
                    return False
            sync_path(new.parent)
            if old.parent.is_dir():
                sync_path(old.parent)
            return True

    def delete(self, name: str) -> None:
        path = self.location / name
        with translated(f"cannot delete {path}"):
            if not path.is_dir() or path.is_symlink():
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
                    sync_path(path.parent)
                return
            self._staging.mkdir(parents=True, exist_ok=True)
            gone = self._staging / f"deleted-{uuid.uuid4().hex}"
            with suppress(FileNotFoundError):
                path.rename(gone)  # first out of sight: readers meet all of it or nothing
            _remove_folder(gone)

    @contextmanager
    def lock(self, name: str, wait: bool = True, shared: bool = False) -> Iterator[bool]:
        path = self._staging / f"{name.replace('/', '-')}{LOCK}"
        with translated(f"cannot lock {path}"):
            self._staging.mkdir(parents=True, exist_ok=True)
            handle = _acquire(path, wait, shared)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                _release(path, handle, shared)

    def local_folder(self, name: str) -> Path:
        path = self.location / name
        with translated(f"cannot create {path}"):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def held_locks(self) -> Sequence[str]:
        names = [name for name in self.children(STAGING) if name.endswith(LOCK)]
        return [name.removesuffix(LOCK) for name in names if _is_held(self._staging / name)]

    @property
    def _staging(self) -> Path:
        return self.location / STAGING

    def _entries(self, paths: Iterable[str]) -> Iterator[Entry]:
        start = len(str(self.location)) + 1
        for path in paths:
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):  # vanished meanwhile
                continue
            version = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
            yield Entry(path[start:], status.st_size, datetime.fromtimestamp(status.st_mtime, UTC), version)

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read(name) == data
        except (FileNotFoundError, StoreError):
            return False


def write_file(path: Path, data: bytes | Path, scratch: Path | None = None, sync: bool = True) -> None:
    """Create or replace one file on disk: `path` holds its old content or all of the new, never a part.

    Args:
        path: the file; its folder is created.
        data: the whole content, or a file that holds it.
        scratch: folder for the unfinished file, on the same file system; beside `path` if None.
        sync: whether the content must survive a power cut at once.

    Raises:
        OSError: it cannot be written.
    """
    folder = scratch or path.parent
    for each in (path.parent, folder):
        each.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with unfinished.open("wb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents so that they survive a power cut."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_path(each.parent)


def sync_path(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _below(folder: Path) -> Sequence[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _matching(folder: str, pattern: Sequence[str]) -> Sequence[str]:
    """The folders below one that match a pattern, one item a level: a name, or `*` for each."""
    found = [folder]
    for name in pattern:
        found = [f"{each}/{child}" for each in found for child in (_folders(each) if name == "*" else (name,))]
    return found


def _folders(folder: str) -> Sequence[str]:
    try:
        with os.scandir(folder) as found:
            return sorted([each.name for each in found if each.is_dir()])
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # some that `ignore_errors` does not ignore; what is left is an orphan
        shutil.rmtree(folder, ignore_errors=True)


def _acquire(path: Path, wait: bool, shared: bool) -> int | None:
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, kind)
            # The last holder may have removed the file between our open and our lock: then we hold nothing.
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _release(path: Path, handle: int, shared: bool) -> None:
    with suppress(OSError):
        if shared:  # the last of those that share it removes the file
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    with suppress(OSError):
        os.close(handle)


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn an operating-system error into a StoreError that says what was being done."""
    try:
        yield
    except OSError as error:
        raise StoreError(system_line(doing, error)) from error
