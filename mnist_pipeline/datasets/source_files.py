"""Source files of images and labels, on disk or in a bucket, identified by their hashes. It parses no format.

A file whose name ends in .gz is read as what it decompresses to: its hash is that of the content, and its stream can
only be read from the beginning.
"""

import gzip
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from mnist_pipeline.errors import DataError, PipelineError, StoreError, UnavailableError
from mnist_pipeline.store.base import Location, Opened
from mnist_pipeline.store.disk import MisplacedError
from mnist_pipeline.store.opening import open_store

GZIP = ".gz"
# Of a .gz once decompressed: forty million images as IDX, some ten million as CSV.
MAX_DECOMPRESSED_BYTES = 32 << 30
HASHED_AT_ONCE = 1 << 20
LINE_ENDS = b"\r\n"
CHANGED = "expected the file that was verified, got one changed since; run again to verify it again"


@dataclass(frozen=True)
class SourceFile:
    """One file with its verified hash and its version at that time.

    The bytes are read later, a range at a time; `version` detects changes since. `remembered_in` is the cache file with
    the hash if the bytes themselves were not hashed, else None.

    Attributes:
        location: of the file.
        sha256: of its content.
        size_bytes: of its content.
        version: see `store.base.Entry`.
        lines: of its content if that is text, up to the last one that is not empty.
    """

    location: Location
    sha256: str
    size_bytes: int
    version: str = field(compare=False)
    remembered_in: Path | None = field(default=None, compare=False)
    lines: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return str(self.location)

    @property
    def is_gzip(self) -> bool:
        """Whether its stream can only be read from the beginning."""
        return is_gzip(self.location)

    def confirm(self, opening: "Opening | None" = None) -> None:
        """Hash the bytes if their hash comes from the cache; callers do so before they use the bytes.

        Args:
            opening: opens it; `open_source` if None.

        Raises:
            DataError: the bytes have another hash, or cannot be read.
        """
        if self.remembered_in is None:
            return
        if (found := verified_file(self.location, opening=opening).sha256) == self.sha256:
            return
        # Delete the cache file, or the next run would trust it again. Its other entries are no more reliable.
        with suppress(OSError):
            self.remembered_in.unlink()
        raise DataError(
            f"{self.location}: expected sha256 {self.sha256}, as when it was hashed last, got {found} although its "
            "size and times are the same; replace it if it is damaged, and run again to verify it again"
        )

    @contextmanager
    def open(self) -> Iterator["OpenSource"]:
        """Open the verified file; whoever uses more than its header calls `confirm` first.

        Raises:
            DataError: it is gone, or has changed since.
        """
        with open_source(self.location) as opened:
            source = replace(opened, verified=self.version)
            source.require_unchanged()
            yield source


@dataclass(frozen=True)
class OpenSource:
    """An open source file; errors of reading it are DataErrors that name it.

    Attributes:
        location: of the file.
        stream: of its content.
        opened: the file itself.
        verified: its version when it was verified.
    """

    location: Location
    stream: io.BufferedIOBase
    opened: Opened
    verified: str

    def require_unchanged(self) -> None:
        """Raise DataError if what the stream reads is another version than the verified one."""
        if self.opened.current_version() != self.verified:
            raise DataError(f"{self.location}: {CHANGED}")

    @contextmanager
    def decoding(self, what: str, *damage: type[Exception]) -> Iterator[None]:
        """Translate errors of a decoder into DataErrors; raise one too if the file has changed, decoded or not.

        Args:
            what: the format, for messages.
            damage: what the decoder raises on content that it cannot take.

        Raises:
            UnavailableError: the file's bucket stopped answering.
        """
        found: Exception | None = None
        try:
            yield
        except PipelineError:
            self.require_unchanged()
            with source_errors(self.location):  # here: the block of `open_source` may read other files, too
                raise
        except Exception as error:
            if not isinstance(error, (*damage, OSError, EOFError, zlib.error)):
                raise
            found = error
        self.require_unchanged()
        if found:
            raise DataError(f"{self.location}: expected a whole {what} file, got {found}; replace it") from found


Opening = Callable[[Location], AbstractContextManager[OpenSource]]


class Verify(Protocol):
    """Hashes a file, or looks its hash up; of a .gz no more than `limit_bytes` once decompressed.

    `opening` opens what is no file but is identified like one, such as a folder; `open_source` if None.
    """

    def __call__(
        self, location: Location, limit_bytes: int = MAX_DECOMPRESSED_BYTES, opening: Opening | None = None
    ) -> SourceFile: ...


def is_gzip(location: Location) -> bool:
    """Whether a file of that name is compressed with gzip."""
    return location.name.lower().endswith(GZIP)


def verified_file(
    location: Location, limit_bytes: int = MAX_DECOMPRESSED_BYTES, opening: Opening | None = None
) -> SourceFile:
    """Hash a file. Its version is looked up first, so that a change during hashing is detected later.

    Raises:
        DataError: the file cannot be read.
        UnavailableError: its bucket does not answer.
    """
    with (opening or open_source)(location) as source:
        return verified_open(source, limit_bytes)


def verified_open(source: OpenSource, limit_bytes: int = MAX_DECOMPRESSED_BYTES) -> SourceFile:
    """Hash an open file, as `verified_file`."""
    digest, size_bytes, lines, empty = hashlib.sha256(), 0, 0, 0
    with source.decoding("gzip" if is_gzip(source.location) else "readable"):
        while some := source.stream.read(HASHED_AT_ONCE):
            digest.update(some)
            size_bytes += len(some)
            if content := some.rstrip(LINE_ENDS):
                lines, empty = max(lines, 1) + empty + newlines_in(content), 0
            empty += newlines_in(some[len(content) :])
            if size_bytes > limit_bytes and is_gzip(source.location):
                raise DataError(
                    f"{source.location}: expected at most {limit_bytes} bytes decompressed, got more; replace it, or "
                    "decompress it if it is meant"
                )
    return SourceFile(source.location, digest.hexdigest(), size_bytes, source.opened.version, lines=lines)


def newlines_in(text: bytes) -> int:
    """The number of newlines. `bytes.count` takes three times as long, half as long as SHA-256."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("\n")))


@contextmanager
def open_source(location: Location) -> Iterator[OpenSource]:
    """Open a file of images or labels. A pipe or a device is refused: it might be read for ever.

    Raises:
        DataError: it is no regular file, or cannot be read.
        UnavailableError: its bucket does not answer.
    """
    with ExitStack() as stack:
        with source_errors(location):
            opened = stack.enter_context(open_store(location.parent).open(location.name))
        stream: io.BufferedIOBase = opened.stream
        if is_gzip(location):
            stream = gzip.GzipFile(fileobj=opened.stream, mode="rb")
        yield OpenSource(location, stream, opened, opened.version)


def is_file(location: Location) -> bool:
    """Whether there is a file.

    Raises:
        DataError: there is something else, or it cannot be opened.
        UnavailableError: its bucket does not answer.
    """
    with source_errors(location):
        try:
            with open_store(location.parent).open(location.name):
                return True
        except FileNotFoundError:
            return False


@contextmanager
def source_errors(location: Location) -> Iterator[None]:
    """Translate errors of reading a file or a folder of source files."""
    try:
        yield
    except StoreError as error:
        reason = error.__cause__
        if isinstance(reason, MisplacedError):
            raise DataError(f"{location}: {reason.strerror}; name a file, or copy it into one") from error
        if isinstance(reason, OSError):
            raise DataError(
                f"{location}: expected a readable file, got {reason.strerror or reason}; check the path"
            ) from error
        raise UnavailableError(str(error)) from error  # it names the object
    except PipelineError:
        raise
    except OSError as error:
        raise DataError(
            f"{location}: expected a readable file, got {error.strerror or error}; check the path"
        ) from error
