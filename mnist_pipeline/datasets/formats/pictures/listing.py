"""Lists a folder of pictures, on disk or in a bucket, and reads their bytes. Decodes none.

Threats: pictures that come, go or change meanwhile; folders without end. Accepted: a file that is altered and keeps its
size, time and inode is not noticed once its hash is cached, as the list of a folder shows no more of it. Links to
folders are refused at the top and passed over below.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.interface import MAX_NAME_BYTES
from mnist_pipeline.datasets.formats.pictures.decoding import ENDINGS, MAX_PICTURE_BYTES
from mnist_pipeline.datasets.source_files import OpenSource, source_errors
from mnist_pipeline.errors import DataError, shown
from mnist_pipeline.store.base import Location, Opened, Store
from mnist_pipeline.store.files import prefetch
from mnist_pipeline.store.opening import open_store

T = TypeVar("T")

MAX_FILES = 1_000_000  # their names are held in memory, about 120 bytes each
READ_AT_ONCE = 64  # pictures, by one thread
# Two writes within one tick of a file system's clock leave the same time; FAT has the coarsest, 2 s.
RACY = timedelta(seconds=2)
UNUSABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and what is not UTF-8 on a disk


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder at one time.

    Attributes:
        location: of the folder.
        files: path, a null character and version of each picture, in order.
        others: the paths of other files.
        tops: the first part of the path of every file, hidden ones too.
        newest: when the newest picture was written.
    """

    location: Location
    files: Sequence[str]
    others: Sequence[str]
    tops: frozenset[str]
    newest: datetime

    @property
    def version(self) -> str:
        """A hash of the paths and versions of all pictures."""
        digest = hashlib.sha256()
        for line in self.files:
            digest.update(f"{line}\0".encode())
        return digest.hexdigest()

    @contextmanager
    def opened(self, location: Location) -> Iterator[OpenSource]:
        """The pictures as one file of their hashes; they are read when it is read."""
        racy = self.newest > datetime.now(UTC) - RACY
        opened = Opened(
            _Lines(self),
            size_bytes=0,  # not known before they are read
            version=self.version,
            current_version=lambda: list_pictures(location).version,
            signature=None if racy else self.version,
        )
        with source_errors(location):
            yield OpenSource(location, opened.stream, opened, opened.version)

    def path(self, row: int) -> str:
        """The path of a picture, relative to the folder."""
        return self.files[row].partition("\0")[0]

    def name_row(self, start: int, row: int) -> str:
        """The name in errors of a picture, the `row`-th after `start`."""
        return f"{self.location}/{self.path(start + row)}"

    def read(self, store: Store, row: int) -> bytes:
        """The bytes of one picture, one more than is allowed at the utmost.

        Raises:
            DataError: it has changed or is gone, or cannot be read.
        """
        name, _, version = self.files[row].partition("\0")
        with source_errors(self.location / name):
            with store.open(name) as opened:
                data = opened.stream.read(MAX_PICTURE_BYTES + 1)
                found = opened.current_version()
            if found != version:
                raise DataError(
                    f"{self.location / name}: expected the file that was listed, got another: it has changed since, "
                    "or is a link; run again, or copy here what it leads to"
                )
            return data


def each(store: Store, function: Callable[[RowRange], T], ranges: Sequence[RowRange]) -> Iterator[T]:
    """`function` of each part of a folder's pictures, in order.

    In a bucket, where reading is waiting, several at once. Not on a disk: threads that read so little at a time wait
    for each other's turn in the interpreter, three times as long as the work takes.
    """
    return prefetch(function, ranges) if store.local_folder("") is None else map(function, ranges)


class _Lines(io.BufferedIOBase):
    """What `sha256sum` prints of all pictures, some lines at a time."""

    def __init__(self, listing: Listing) -> None:
        self._listing, self._store = listing, open_store(listing.location)
        self._lines = each(self._store, self._hashed, parts(RowRange(0, len(listing.files))))

    def read(self, size: int | None = -1, /) -> bytes:  # noqa: ARG002  a few lines are fewer bytes than anybody wants
        return next(self._lines, b"")

    def _hashed(self, rows: RowRange) -> bytes:
        lines = []
        for row in range(rows.start, rows.stop):
            sha256 = hashlib.sha256(self._listing.read(self._store, row)).hexdigest()
            lines.append(f"{sha256}  {self._listing.path(row)}\n")
        return "".join(lines).encode()


def list_pictures(location: Location) -> Listing:
    """List the pictures of a folder and of its subfolders; names that start with a dot or an underscore are skipped.

    Raises:
        DataError: there are too many files, or a name cannot be kept.
        UnavailableError: its bucket does not answer.
    """
    files, others, tops, newest = list[str](), list[str](), set[str](), datetime.fromtimestamp(0, UTC)
    with source_errors(location):
        for name, size_bytes, written_at, version in open_store(location).list(""):
            tops.add(name.partition("/")[0])
            if any(part.startswith((".", "_")) for part in name.split("/")):
                continue
            if name.lower().endswith(ENDINGS):
                _require_usable(location, name)
                files.append(f"{name}\0{version}")
                newest = max(newest, written_at)
            elif size_bytes:  # tools mark folders of a bucket by empty files
                others.append(name)
            if max(len(files), len(others)) > MAX_FILES:
                raise DataError(
                    f"{location}: expected a folder of at most {MAX_FILES:,} files, got more; divide it, or write the "
                    "images as Parquet"
                )
    return Listing(location, sorted(files), others, frozenset(tops), newest)


def parts(rows: RowRange) -> list[RowRange]:
    """The rows that one thread reads at once."""
    return [
        RowRange(start, min(start + READ_AT_ONCE, rows.stop)) for start in range(rows.start, rows.stop, READ_AT_ONCE)
    ]


def _require_usable(location: Location, name: str) -> None:
    if UNUSABLE.search(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise DataError(
            f"{location}: expected names in UTF-8 of at most {MAX_NAME_BYTES} bytes, without control characters, got "
            f"{shown(name)}; rename the file"
        )
