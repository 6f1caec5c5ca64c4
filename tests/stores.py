"""Stores for tests: one in memory, and one that fails or dies at a chosen operation."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import Entry, Location, Opened, Store


@dataclass
class File:
    """Content, when it was written, how often the store had been written to before, and whether it outlives a cut."""

    data: bytes
    written_at: datetime
    version: int
    synced: bool


@dataclass(eq=False)
class MemoryStore:
    """A dictionary as a store; `location` is only a name that nothing exists under.

    With renames and locks it behaves as a disk does, and without as a bucket.
    """

    location: Location = Path("/nowhere")
    files: dict[str, File] = field(default_factory=dict)
    locks: dict[str, tuple[bool, int]] = field(default_factory=dict)  # by name: shared, and by how many it is held
    has_rename: bool = True
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _released: threading.Condition = field(default_factory=threading.Condition)
    _writes: int = 0

    def read(self, name: str, limit_bytes: int | None = None) -> bytes:
        with self._guard:
            if name not in self.files:
                raise FileNotFoundError(name)
            return self.files[name].data[:limit_bytes]

    @contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        data, version = self.read(name), str(self.files[name].version)
        stream = io.BytesIO(data)
        yield Opened(stream, len(data), version, lambda: str(self.files[name].version))

    def list(self, folder: str, tolerant: bool = False) -> Iterator[Entry]:
        with self._guard:
            found = [name for name in sorted(self.files) if not folder or name.startswith(f"{folder}/")]
            entries = [(name, self.files[name]) for name in found]
        for name, file in entries:
            yield Entry(name, len(file.data), file.written_at, str(file.version))

    def find(self, folders: str, files: Sequence[str]) -> Iterator[Entry]:
        for entry in self.list(folders.partition("*")[0].rstrip("/")):
            folder, _, name = entry.name.rpartition("/")
            same_depth = folder.count("/") == folders.count("/")
            if name in files and same_depth and PurePosixPath(folder).match(folders):
                yield entry

    def children(self, folder: str) -> Sequence[str]:
        start = len(PurePosixPath(folder).parts)
        return sorted({PurePosixPath(entry.name).parts[start] for entry in self.list(folder)})

    def write(self, name: str, data: bytes | Path, sync: bool = True) -> None:
        content = data if isinstance(data, bytes) else data.read_bytes()
        with self._guard:
            self._writes += 1
            # A put into a bucket lasts at once.
            self.files[name] = File(content, datetime.now(UTC), self._writes, sync or not self.has_rename)

    def create(self, name: str, data: bytes) -> bool:
        with self._guard:
            if name in self.files:
                # A bucket cannot tell the answer to a second try from that to another process with the same content.
                return not self.has_rename and self.files[name].data == data
            self.write(name, data)
            return True

    def update(self, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
        if self.has_rename:
            with self.lock(names[0]):
                for name, data in make().items():
                    self.write(name, data)
            return
        while True:
            before = {name: self.files.get(name) for name in names}
            if all(self._replace(name, data, before[name]) for name, data in make().items()):
                return

    def publish(self, staged: str, target: str, document: str, data: bytes) -> bool:
        if not self.has_rename:
            return self.create(f"{target}/{document}", data)
        with self._guard:
            if next(self.list(target), None):
                return False
            self.write(f"{staged}/{document}", data)
            for entry in self.list(staged):
                self.files[entry.name].synced = True
            return self.move(staged, target)

    def move(self, source: str, target: str, first: str = "") -> bool:
        with self._guard:
            if source == target:
                return True
            names = [entry.name for entry in self.list(source)]
            if not names or (self.has_rename and next(self.list(target), None)):
                return False
            for name in names:
                self.files[target + name.removeprefix(source)] = self.files.pop(name)
            return True

    def delete(self, name: str) -> None:
        with self._guard:
            for each in [entry.name for entry in self.list(name)] + [name]:
                self.files.pop(each, None)

    @contextmanager
    def lock(self, name: str, wait: bool = True, shared: bool = False) -> Iterator[bool]:
        if not self.has_rename:
            yield True
            return
        with self._released:
            while not (free := self._is_free(name, shared)) and wait:
                self._released.wait()
            if free:
                self.locks[name] = shared, self.locks.get(name, (shared, 0))[1] + 1
        try:
            yield free
        finally:
            if free:
                self._let_go(name)

    def local_folder(self, name: str) -> None:
        return None

    def held_locks(self) -> Sequence[str]:
        return [name.replace("/", "-") for name in self.locks]

    def after_power_cut(self) -> "MemoryStore":
        """The store that is found after a power cut: what was not synced is gone, and no lock is held."""
        return self.restarted({name: file for name, file in self.files.items() if file.synced})

    def restarted(self, files: dict[str, File] | None = None) -> "MemoryStore":
        """The store that the next process finds: the same files, and no lock is held."""
        return MemoryStore(self.location, dict(self.files if files is None else files), has_rename=self.has_rename)

    def _replace(self, name: str, data: bytes, before: File | None) -> bool:
        with self._guard:
            if self.files.get(name) is not before:
                return False
            self.write(name, data)
            return True

    def _is_free(self, name: str, shared: bool) -> bool:
        return name not in self.locks or (shared and self.locks[name][0])

    def _let_go(self, name: str) -> None:
        with self._released:
            how, count = self.locks.pop(name, (False, 1))
            if count > 1:
                self.locks[name] = how, count - 1
            self._released.notify_all()


class DiedError(BaseException):
    """The process that used the store is no more; nothing may catch this and go on."""


@dataclass(eq=False)
class FaultyStore:
    """Counts the operations of a store, and fails the n-th, or dies there: then every later one fails too."""

    store: Store
    fails_at: int = 0  # from 1; never if 0
    dies: bool = False
    calls: list[tuple[str, str]] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def location(self) -> Location:
        return self.store.location

    @property
    def has_rename(self) -> bool:
        return self.store.has_rename

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self.store, name)

        def counted(*args: Any, **named: Any) -> Any:
            self._count(name, str(args[0]) if args else "")
            return operation(*args, **named)

        return counted

    def _count(self, operation: str, name: str) -> None:
        with self._guard:
            self.calls.append((operation, name))
            number = len(self.calls)
        if self.dies and self.fails_at and number >= self.fails_at:
            raise DiedError(f"{operation} {name}")
        if number == self.fails_at:
            raise StoreError(f"{operation} {name}: planted failure of operation {number}; run again")
