"""Records of files: what a file must hold, and whether it does. Reads through a `Store` and writes nothing."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.store.base import Store
from mnist_pipeline.store.disk import open_regular
from mnist_pipeline.store.documents import MAX_DOCUMENT_BYTES, Count, Sha256

CONTENT_DIGITS = 16  # of its sha256 in the name of a file: attempts that made other bytes never meet under one name
PREFETCHED = 8  # files

T = TypeVar("T")
R = TypeVar("R")


def _below(path: str) -> str:
    if not path.isprintable() or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("expected a path below its folder")
    return path


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: path relative to its root, rows, size in bytes, sha256 in hex.

    The types hold for records that are read from documents.
    """

    path: Annotated[str, AfterValidator(_below)]
    rows: Count
    size_bytes: Count
    sha256: Sha256

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def is_named(self, name: str) -> bool:
        """Whether this is the file of that name; its content may be part of the name it has."""
        return self.name in (name, content_name(name, self.sha256))

    def problem_with(self, data: bytes) -> str | None:
        """Why `data` is not this file's content, or None if it is."""
        if len(data) != self.size_bytes:
            got = "more" if len(data) > self.size_bytes else len(data)  # of larger ones the rest was not read
            return f"expected {self.size_bytes} bytes, got {got}"
        if (got := hashlib.sha256(data).hexdigest()) != self.sha256:
            return f"expected sha256 {self.sha256}, got {got}"
        return None


def record(path: str, rows: int, data: bytes | Path) -> FileRecord:
    """The record of a file that holds `data`, or the content of the file at that path."""
    if isinstance(data, bytes):
        return FileRecord(path, rows, len(data), hashlib.sha256(data).hexdigest())
    with open_regular(data) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(path, rows, file.tell(), digest)


def content_name(name: str, sha256: str) -> str:
    """The name of a file with its content in it: `part-00003-0a1b2c3d4e5f6071.parquet`."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{sha256[:CONTENT_DIGITS]}{dot}{suffix}"


def read_expected(store: Store, name: str, expected: str, limit_bytes: int | None = None) -> bytes:
    """The bytes of a file that has to exist, or its first `limit_bytes`.

    Raises:
        DamagedError: it does not.
        StoreError: it cannot be read, which says nothing about its content.
    """
    try:
        return store.read(name, limit_bytes)
    except FileNotFoundError as error:
        raise DamagedError(f"{store.location / name}: expected {expected}, got no file") from error


def read_document(store: Store, name: str, expected: str) -> bytes:
    """The bytes of a document that has to exist; of one that is too large, enough to see that.

    Raises:
        DamagedError: it does not.
        StoreError: it cannot be read, which says nothing about its content.
    """
    return read_expected(store, name, expected, MAX_DOCUMENT_BYTES + 1)


def read_if_there(store: Store, name: str) -> bytes | None:
    """The bytes of a document as by `read_document`, or None if it does not exist.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return store.read(name, MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        return None


def read_recorded(store: Store, folder: str, file: FileRecord) -> bytes:
    """The bytes of a file below a folder, one more than its record says at the utmost.

    Raises:
        DamagedError: it is missing.
        StoreError: it cannot be read.
    """
    return read_expected(store, f"{folder}/{file.path}", f"{file.size_bytes} bytes", file.size_bytes + 1)


def read_checked(store: Store, folder: str, file: FileRecord) -> bytes:
    """The bytes of a file below a folder, if they are what its record says.

    Raises:
        DamagedError: it is missing, or holds other bytes.
        StoreError: it cannot be read.
    """
    data = read_recorded(store, folder, file)
    if problem := file.problem_with(data):
        path = store.location / folder / file.path
        raise DamagedError(f"{path}: {problem}; the file was altered after it was published")
    return data


def prefetch(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of each item, in order, a few of them computed in threads before they are asked for.

    A request to a bucket is mostly waiting, a disk can do several reads at once, and hashing releases the interpreter.
    A single item needs no thread: a night has one new run to add to the views.
    """
    items = list(items)
    if len(items) == 1:
        yield function(items[0])
        return
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
        # Not waited for: an abandoned iterator may be closed by the garbage collector, in any thread and in the
        # middle of anything. In a thread that is just starting, waiting for another would be for ever.
        pool.shutdown(wait=False, cancel_futures=True)
