"""A store on a local disk: atomic writes, fsync, renames, and locks between processes.

Threats: a process killed, a power cut, a full or failing disk, other processes at the same time, and links, pipes and
devices where files of ours are expected. Unfinished files and locks are kept in `.staging`, where no reader looks. A
file is written there, synced and renamed; a folder is published by one rename once everything in it is synced.

What cannot be read is a StoreError and never a missing file; a folder, pipe, socket or device is no file, and is never
waited for.

What fails to sync is written again. The system reports lost pages once, and the next fsync of the same file succeeds:
a file that fails to sync never gets its name, and a staging directory of which anything fails to sync is deleted.
Accepted: what was written with `sync=False` may hold anything after a power cut, and is verified by its checksum before
use; a process killed between a failed fsync and that deletion; a name whose folder fails to sync after the rename, as
the journal of a file system that loses names stops it.

Nothing is created or deleted through a link, but that a link at the top, such as `runs`, may lead to another folder of
the same disk: what is there is read and published, and never deleted. Accepted: whoever puts a link in a folder's place
between look and use may write there anyway; on a file system without flock (some NFS) locks exclude nobody.
"""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import LOCK, STAGING, Entry, Opened
from mnist_pipeline.store.disk import (
    MISSING,
    MisplacedError,
    make_folder,
    open_regular,
    read_regular,
    sync_path,
    sync_tree,
    translated,
    write_file,
)
from mnist_pipeline.store.locks import acquire, is_held, release

# Two writes within one tick of the file system's clock leave the same times, so a later change of a file that was
# written just before may go unnoticed. FAT has the coarsest clock, 2 s.
RACY_NS = 2_000_000_000


@dataclass(frozen=True)
class LocalStore:
    """Files below a folder, which is created when something is written. See `base.Store` for the operations."""

    location: Path

    @property
    def has_rename(self) -> bool:
        return True

    def read(self, name: str, limit_bytes: int | None = None) -> bytes:
        path = self.location / name
        with translated(f"cannot read {path}"), suppress(*MISSING, MisplacedError):
            return read_regular(path, limit_bytes)
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))

    @contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        path = self.location / name
        stream, reason = None, os.strerror(errno.ENOENT)
        with translated(f"cannot read {path}"), suppress(*MISSING):
            if path.is_dir():
                reason = "a folder"
            else:
                stream = open_regular(path)
        if stream is None:
            raise FileNotFoundError(errno.ENOENT, reason, str(path))
        with stream:
            status = os.fstat(stream.fileno())
            yield Opened(
                stream,
                status.st_size,
                _version_of(status),
                lambda: _version_of(os.fstat(stream.fileno())),
                _signature_of(status),
            )

    def list(self, folder: str, tolerant: bool = False) -> Iterator[Entry]:
        top, unread = str(self.location / folder), list[str]()

        def note(error: OSError) -> None:
            if isinstance(error, MISSING):  # vanished meanwhile
                return
            if not tolerant or error.filename in (top, None):
                raise error
            unread.append(error.filename)

        with translated(f"cannot look through {top}"):
            for here, folders, names in os.walk(top, onerror=note):  # unlike rglob, goes on where a folder vanishes
                folders.sort()
                yield from self._entries((f"{here}/{name}" for name in sorted(names)), tolerant)
            yield from map(self._unread, unread)

    def find(self, folders: str, files: Sequence[str]) -> Iterator[Entry]:
        with translated(f"cannot look through {self.location / folders}"):
            matching, unread = _matching(str(self.location), folders.split("/"))
            yield from self._entries([f"{folder}/{name}" for folder in matching for name in files], tolerant=True)
            yield from map(self._unread, unread)

    def children(self, folder: str) -> Sequence[str]:
        with translated(f"cannot look through {self.location / folder}"), suppress(*MISSING):
            return sorted(os.listdir(self.location / folder))  # noqa: PTH208  of strings: there may be very many
        return []

    def write(self, name: str, data: bytes | Path, sync: bool = True) -> None:
        path = self.location / name
        with translated(f"cannot write {path}"):
            self._forbid_links(name)
            if sync:
                make_folder(path.parent)
            write_file(path, data, self._staging, sync)
            if sync:
                sync_path(path.parent)

    def create(self, name: str, data: bytes) -> bool:
        path = self.location / name
        with translated(f"cannot create {path}"):
            self._forbid_links(name)
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
            self._forbid_links(source)
            self._forbid_links(target)
            try:
                sync_tree(old)  # what appears under its new name outlives a power cut
            except OSError:
                if source.startswith(f"{STAGING}/"):  # else the next attempt would take it over
                    with suppress(StoreError):
                        self.delete(source)
                raise
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
            self._forbid_links(name, deleted=True)
            if not path.is_dir() or path.is_symlink():
                with suppress(*MISSING):
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
        path = self.location / STAGING / f"{name.replace('/', '-')}{LOCK}"
        with translated(f"cannot lock {path}"):
            self._staging.mkdir(parents=True, exist_ok=True)
            handle = acquire(path, wait, shared)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                release(path, handle, shared)

    def local_folder(self, name: str) -> Path:
        path = self.location / name
        with translated(f"cannot create {path}"):
            self._forbid_links(f"{name}/")
            path.mkdir(parents=True, exist_ok=True)
        return path

    def held_locks(self) -> Sequence[str]:
        with translated(f"cannot look through {self.location / STAGING}"):
            self._forbid_links(f"{STAGING}/")
            names = [name for name in self.children(STAGING) if name.endswith(LOCK)]
        return [name.removesuffix(LOCK) for name in names if is_held(self.location / STAGING / name)]

    @property
    def _staging(self) -> Path:
        self._forbid_links(f"{STAGING}/")
        return self.location / STAGING

    def _forbid_links(self, name: str, deleted: bool = False) -> None:
        """Raise MisplacedError if a folder of this name is a link; at the top one may be, unless it is deleted from."""
        folder = str(self.location)
        for depth, part in enumerate(name.split("/")[:-1]):
            folder = f"{folder}/{part}"
            if (deleted or depth or part.startswith(".")) and os.path.islink(folder):  # noqa: PTH114  asked very often
                raise MisplacedError(errno.ELOOP, f"expected {folder} to be a folder, got a link", folder)

    def _entries(self, paths: Iterable[str], tolerant: bool) -> Iterator[Entry]:
        start = len(str(self.location)) + 1
        for path in paths:
            try:
                status = os.lstat(path)
            except MISSING:  # vanished meanwhile
                continue
            except OSError:
                if not tolerant:
                    raise
                yield self._unread(path)
                continue
            written_at = datetime.fromtimestamp(status.st_mtime, UTC)
            yield Entry(path[start:], status.st_size, written_at, _version_of(status))

    def _unread(self, path: str) -> Entry:
        """The entry of a file or folder of which nothing is known but that it is there."""
        return Entry(path[len(str(self.location)) + 1 :], 0, datetime.now(UTC), "cannot be read")

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.read(name) == data
        except (FileNotFoundError, StoreError):
            return False


def _matching(folder: str, pattern: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The folders below one that match a pattern, one item a level: a name, or `*` for each; and those not readable."""
    found, unread = [folder], []
    for depth, name in enumerate(pattern):
        above, found = found, []
        for each in above:
            try:
                found += [f"{each}/{child}" for child in (_folders(each) if name == "*" else (name,))]
            except OSError:
                if depth < 2:  # else one of many, which must not hide the others
                    raise
                unread.append(each)
    return found, unread


def _version_of(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _signature_of(status: os.stat_result) -> str | None:
    """Values that change when a file is written to or replaced; None if it was a moment ago."""
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) <= RACY_NS:
        return None
    values = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
    return "-".join(map(str, values))


def _folders(folder: str) -> Sequence[str]:
    try:
        with os.scandir(folder) as found:
            return sorted([each.name for each in found if _may_be_folder(each)])
    except MISSING:
        return ()


def _may_be_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return True


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # some that `ignore_errors` does not ignore; what is left is an orphan
        shutil.rmtree(folder, ignore_errors=True)
