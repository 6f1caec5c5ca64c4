"""Caches the hashes of files by their signatures, like git's index, so that unchanged files are not hashed again.

It saves 0.9 s of processor a gigabyte (SHA-256) on each run whose shards exist: nothing for MNIST, 7 % of a run
over 600,000 images; of a bucket, all traffic. Accepted for that: a file that a disk alters without changing its size
and times is noticed only when its bytes are used. A cached hash identifies a file and no more: `SourceFile.confirm`
hashes the bytes first.
"""

from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

from mnist_pipeline.datasets.catalogue import Sha256
from mnist_pipeline.datasets.source_files import MAX_DECOMPRESSED_BYTES, Opening, SourceFile, open_source, verified_open
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.disk import write_file
from mnist_pipeline.store.documents import ChecksummedDocument, Count

MAX_FILES = 10_000
MAX_BYTES = 16 << 20

Known = tuple[str, Sha256, Count, Count]  # signature; sha256, size and lines of the content


class _Hashes(ChecksummedDocument):
    """The content of the cache file: by location, the signature of a file when hashed, and what it held."""

    kind: ClassVar[str] = "the hashes of files"
    checksum_field: ClassVar[str] = "content_sha256"

    schema_version: Literal["3"] = "3"  # a cache of another version is ignored
    files: dict[str, Known]


class HashCache:
    """The cached hashes of files, read from the file `path` and written there by `save`."""

    def __init__(self, path: Path) -> None:
        self.hits = 0  # files that were not hashed
        self._path = path
        self._saved = _read(path)
        self._files = dict(self._saved)

    def lookup(
        self, location: Location, limit_bytes: int = MAX_DECOMPRESSED_BYTES, opening: Opening | None = None
    ) -> SourceFile:
        """Return the file with its cached hash; hash it if it is new or has changed.

        Raises:
            DataError: the file cannot be read.
            UnavailableError: its bucket does not answer.
        """
        with (opening or open_source)(location) as source:
            signature, sha256, size_bytes, lines = self._files.get(str(location), ("", "", 0, 0))
            if source.opened.signature == signature:
                self.hits += 1
                version = source.opened.version
                return SourceFile(location, sha256, size_bytes, version, self._path, lines)
        return self.verify(location, limit_bytes, opening)

    def verify(
        self, location: Location, limit_bytes: int = MAX_DECOMPRESSED_BYTES, opening: Opening | None = None
    ) -> SourceFile:
        """Hash the file, and cache the hash unless a later change could go undetected.

        Raises:
            DataError: the file cannot be read.
            UnavailableError: its bucket does not answer.
        """
        self._files.pop(str(location), None)
        with (opening or open_source)(location) as source:  # its signature is of before it is hashed
            source_file = verified_open(source, limit_bytes)
        if source.opened.signature:
            found = source_file.sha256, source_file.size_bytes, source_file.lines
            self._files[str(location)] = source.opened.signature, *found
        return source_file

    def save(self) -> None:
        """Write the cache file if something is new. It ignores write errors: the files are then hashed again next time.

        If two processes save at once, the later one wins; the entries of the other are hashed again.
        """
        if self._files == self._saved:
            return
        newest = dict(list(self._files.items())[-MAX_FILES:])
        with suppress(OSError):
            write_file(self._path, _Hashes(files=newest).to_bytes(), sync=False)


def _read(path: Path) -> dict[str, Known]:
    """The entries of the cache file; none if it is missing or damaged."""
    try:
        if not path.is_file():  # reading a pipe would block
            return {}
        with path.open("rb") as file:
            return _Hashes.from_bytes(file.read(MAX_BYTES), str(path)).files  # one cut off is not as it was written
    except (OSError, DamagedError):
        return {}
