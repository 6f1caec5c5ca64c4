"""One protocol for bytes under names, whatever keeps them. Knows no formats and no domain.

A name is a relative POSIX path, such as `runs/RUN_ID/manifest.json`; a folder is the start of names. `local.py` keeps
files on a disk, `objects.py` objects in a bucket, and nothing outside this folder asks which of the two it has. What
really differs is one capability, `has_rename`: without it a folder cannot appear in one step and no lock can be held,
so what is to be published is put where it stays, under names that hold its content, and becomes visible when the
document that lists it is created.

Failures are translated here: a missing name is a FileNotFoundError, everything else a StoreError.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from mnist_pipeline.errors import SettingsError

STAGING = ".staging"  # below every store: unfinished files, locks, and what attempts gather before it is published
LOCK = ".lock"  # ends the name of the file of a lock in STAGING
SCHEMES = ("s3", "gs", "az")
_URL = re.compile(rf"({'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#@]*)?")
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}):|[A-Za-z][A-Za-z0-9+.-]+:/")


class Address(PurePosixPath):
    """`s3://BUCKET/PREFIX`: a name in a bucket. Nothing is read through it: see `opening.open_store`."""

    __slots__ = ()

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    @property
    def bucket(self) -> str:
        """`s3://BUCKET`."""
        return f"{self.parts[0]}//{self.parts[1]}"

    @property
    def key(self) -> str:
        """The name of the object in its bucket."""
        return "/".join(self.parts[2:])


# A path on disk, or an address in a bucket: what people type and see, and what other tools open.
Location = Path | Address


class Entry(NamedTuple):
    """A file of a store: its name, its size, when it was written, and a version that changes whenever it does."""

    name: str
    size_bytes: int
    written_at: datetime
    version: str


@dataclass(frozen=True)
class Opened:
    """A file opened for reading at any position.

    Attributes:
        stream: its bytes. Reading an object that has changed since is an OSError; a file on a disk just reads on.
        size_bytes: its size when it was opened.
        version: as in its `Entry`.
        current_version: the version of what the stream reads by now.
        signature: as long as it stays the same, so does the content, on every day; None if that is not certain.
    """

    stream: BufferedIOBase
    size_bytes: int
    version: str
    current_version: Callable[[], str]
    signature: str | None = None


class Store(Protocol):
    """Bytes under names below one location. May be sent to other processes."""

    @property
    def location(self) -> Location:
        """What all names are below, for people and for other tools."""

    @property
    def has_rename(self) -> bool:
        """Whether a folder can be renamed in one step, and locks exclude other processes."""

    def read(self, name: str, limit_bytes: int | None = None) -> bytes:
        """The bytes of a file, or its first `limit_bytes`.

        Raises:
            FileNotFoundError: there is no file of that name.
            StoreError: it cannot be read, which says nothing about its content.
        """

    def open(self, name: str) -> AbstractContextManager[Opened]:
        """Open a file that may be too large to hold.

        Raises:
            FileNotFoundError: there is no file of that name.
            StoreError: it cannot be opened or, while it is read from a bucket, the bucket does not answer.
        """

    def list(self, folder: str, tolerant: bool = False) -> Iterator[Entry]:
        """All files below a folder, which need not exist, in any order; those that vanish meanwhile are left out.

        Args:
            folder: the start of their names.
            tolerant: list a folder below that cannot be looked through as one entry, written just now, so that it does
                not hide the others. Only for those who do nothing to what they do not know.

        Raises:
            StoreError: it cannot be looked through.
        """

    def find(self, folders: str, files: Sequence[str]) -> Iterator[Entry]:
        """The files of these names in the folders of a pattern such as `runs/*` or `verdicts/*/*`."""

    def children(self, folder: str) -> Sequence[str]:
        """The last parts of the names one level below a folder, which need not exist, in order."""

    def write(self, name: str, data: bytes | Path, sync: bool = True) -> None:
        """Create or replace a file: readers find the old content or all of the new, never a part.

        Args:
            name: of the file.
            data: its content, or a file on this machine that holds it.
            sync: whether it must survive a power cut at once. If not, `publish` makes it last.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Create a file unless there is one; whether it was created, or already had this very content in a bucket."""

    def update(self, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
        """Replace files by what `make` returns, losing no concurrent update.

        Args:
            names: of the files, always the same ones together.
            make: returns the new content by name; it reads for itself what that depends on, and may be called again.

        Raises:
            StoreError: the files cannot be written, or concurrent updates were faster each time.
        """

    def publish(self, staged: str, target: str, document: str, data: bytes) -> bool:
        """Make staged files visible in one step, with the document that lists them; False if the target exists.

        Args:
            staged: folder of the files. With `has_rename` it becomes the target; without, they are where they stay.
            target: folder of the document, and with `has_rename` of the files.
            document: name of the document in the target.
            data: its content.

        Raises:
            StoreError: it failed, or whether it happened is unknown. What is visible is the old state or the new.
        """

    def move(self, source: str, target: str, first: str = "") -> bool:
        """Move a folder; False if the source is gone or the target exists. Without `has_rename` file by file.

        Args:
            source: the folder.
            target: its new name.
            first: file in it that is moved before the others, where they are moved one by one.
        """

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all files below it, if it exists. A folder disappears in one step."""

    def lock(self, name: str, wait: bool = True, shared: bool = False) -> AbstractContextManager[bool]:
        """Hold a lock during the block; yields False if another process holds it and `wait` is False.

        It is released when the process ends. Without `has_rename` there are no locks: it yields True at once.
        """

    def local_folder(self, name: str) -> Path | None:
        """The folder of that name on a disk of this machine, for files too large to hold; None if it is on none."""

    def held_locks(self) -> Sequence[str]:
        """The names of the locks that are held now by any process, this one included, with `-` for each `/`."""


def exists(store: Store, name: str) -> bool:
    """Whether there is a file of exactly this name."""
    try:
        store.read(name, limit_bytes=1)
    except FileNotFoundError:
        return False
    return True


def is_empty(store: Store, folder: str) -> bool:
    """Whether there is no file below this folder, which need not exist."""
    return next(iter(store.list(folder, tolerant=True)), None) is None


def is_remote(location: object) -> bool:
    """Whether a location, or a text that somebody meant as one, is an address and no path on disk."""
    text = str(location)
    return "://" in text or _COLLAPSED.match(text) is not None


def local_path(text: str) -> Path:
    """An absolute path on disk, of a form that every system call, file format and message can take.

    Raises:
        ValueError: it can be none, whatever is on the disk.
    """
    if not text.strip():
        raise ValueError("expected a path")
    if "\0" in text:
        raise ValueError("expected a path without null characters")
    try:
        path = Path(text).expanduser().absolute()
        str(path).encode()  # Parquet, JSON and logs hold names in UTF-8
    except UnicodeEncodeError as error:
        raise ValueError("expected a path in UTF-8; rename the folder") from error
    except RuntimeError as error:
        raise ValueError("expected a user with a home folder; give the whole path") from error
    except OSError as error:
        raise ValueError("expected a working directory that exists; change it") from error
    return path


def parse_location(given: object) -> Location:
    """A folder on disk, absolute, or an address in a bucket.

    Args:
        given: a text, a path or an address.

    Raises:
        ValueError: something else, or an address of another form. It is not repeated: there may be a password in it.
        SettingsError: the package that buckets need is not installed.
    """
    if isinstance(given, Address):
        return given
    if not isinstance(given, str | Path):
        raise ValueError("expected a path or an address in an object store")
    text = str(given)
    if not is_remote(text):
        return local_path(text)
    if not _URL.fullmatch(text) or ".." in PurePosixPath(text).parts:
        raise ValueError(
            f"expected a folder, or SCHEME://BUCKET/PREFIX with one of {', '.join(SCHEMES)} and nothing else: "
            "credentials come from the environment"
        )
    if importlib.util.find_spec("obstore") is None:
        raise SettingsError(
            f"{text}: expected the package obstore, got none; install it: pip install 'mnist-pipeline[objectstore]'"
        )
    return Address(text)
