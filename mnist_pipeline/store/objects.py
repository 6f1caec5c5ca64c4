"""A store in a bucket (S3, Google Cloud Storage, Azure) through obstore: conditional puts instead of locks and renames.

An object appears whole or not at all. It can be created only if it is absent, and replaced only if it is unchanged
(compare-and-swap by ETag or version). Threats: answers that are lost, a store that is busy, other processes at the same
time. On any doubt an object is read back. Credentials come from where the store's own tools look (AWS_ACCESS_KEY_ID and
the like, or the role of the machine); messages hold the address and a word or two of the store's answer, never all of
it: it may repeat a key. Accepted: objects of attempts that were never published stay in the bucket.
"""

import errno
import io
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import Address, Entry, Opened, is_empty
from mnist_pipeline.store.buckets import is_panic, open_bucket, unusable

CREATE_ATTEMPTS = 5
MIN_ATTEMPTS = 20
MAX_SECONDS = 300.0
MAX_PAUSE_SECONDS = 2.0
# Where machines of a cloud ask for their role: a request there means that the environment holds no credentials.
_METADATA_HOST = "169.254.169.254"

READ_BYTES = 1 << 20  # at once: a request to a store on another machine takes as long as it takes to send so many

Version = Mapping[str, str]


@dataclass(frozen=True)
class ObjectStore:
    """Objects below an address. See `base.Store` for the operations."""

    location: Address

    @property
    def has_rename(self) -> bool:
        return False

    def read(self, name: str, limit_bytes: int | None = None) -> bytes:
        key, bucket = self._key(name), self._bucket
        with self._translated(name):
            found = bucket.get(key)  # not its range at once: an empty object has none
            if limit_bytes is None or found.meta["size"] <= limit_bytes:
                return bytes(found.bytes())
            return bytes(bucket.get_range(key, start=0, length=limit_bytes))

    @contextmanager
    def open(self, name: str) -> Iterator[Opened]:
        stream: io.BufferedIOBase
        reader = None
        with self._translated(name):
            found = self._bucket.get(self._key(name))
            about = found.meta
            if about["size"] <= READ_BYTES:  # in one request: of pictures there are very many
                stream = io.BytesIO(bytes(found.bytes()))
            else:
                reader = _Reader(self, name, about["size"], about["e_tag"])
                stream = io.BufferedReader(reader, READ_BYTES)
        version = _version_of(about)
        signature = None if version.startswith("W/") else version
        if reader is None:
            yield Opened(stream, about["size"], version, lambda: version, signature)
        else:
            yield Opened(stream, about["size"], version, lambda: "" if reader.has_changed else version, signature)

    def read_range(self, name: str, start: int, stop: int, e_tag: str | None) -> bytes:
        """Some bytes of an object, if it still has that ETag.

        Raises:
            OSError: it has another, or is gone.
            StoreError: it cannot be read.
        """
        conditions = {"range": (start, stop)} | ({"if_match": e_tag} if e_tag else {})
        try:
            with self._translated(name):
                return bytes(self._bucket.get(self._key(name), options=conditions).bytes())
        except (FileExistsError, FileNotFoundError):
            raise OSError(errno.ESTALE, "changed or deleted while it was read", str(self.location / name)) from None

    def list(self, folder: str, tolerant: bool = False) -> Iterator[Entry]:  # noqa: ARG002  a bucket has no folders
        start = len(f"{self.location.key}/") if self.location.key else 0
        with self._translated(folder):
            for some in self._bucket.list(f"{self._key(folder)}/" if self._key(folder) else None):
                for about in some:
                    yield Entry(about["path"][start:], about["size"], about["last_modified"], _version_of(about))

    def find(self, folders: str, files: Sequence[str]) -> Iterator[Entry]:
        start, pattern = folders.partition("*")[0], folders.split("/")
        for entry in self.list(start.rstrip("/")):
            *above, name = entry.name.split("/")
            if name in files and len(above) == len(pattern) and all(map(_matches, above, pattern)):
                yield entry

    def children(self, folder: str) -> Sequence[str]:
        with self._translated(folder):
            found = self._bucket.list_with_delimiter(self._key(folder))
        names = [each["path"] for each in found["objects"]] + [*found["common_prefixes"]]
        return sorted(PurePosixPath(name).name for name in names)

    def write(self, name: str, data: bytes | Path, sync: bool = True) -> None:  # noqa: ARG002  a put lasts
        with self._translated(name):
            self._bucket.put(self._key(name), data)

    def create(self, name: str, data: bytes) -> bool:
        for attempt in range(CREATE_ATTEMPTS):
            try:
                with self._translated(name):
                    self._bucket.put(self._key(name), data, mode="create", use_multipart=False)
                return True
            except (StoreError, FileExistsError) as error:
                # An answer may have been lost on its way: a second try then meets the object of the first.
                with suppress(FileNotFoundError):
                    return self.read(name) == data
                if not isinstance(error, FileExistsError):
                    raise
            # Refused for an object that is absent: another was created, or deleted, at that moment.
            time.sleep(0.1 * 2**attempt)
        raise StoreError(
            f"{self.location / name}: expected the object store to create it or to show what is there, got neither "
            f"{CREATE_ATTEMPTS} times; run again"
        )

    def update(self, names: Sequence[str], make: Callable[[], Mapping[str, bytes]]) -> None:
        begun, attempt = time.monotonic(), 0
        while attempt < MIN_ATTEMPTS or time.monotonic() - begun < MAX_SECONDS:
            attempt += 1
            # Before `make` reads: what is published later has a writer of its own, who will find these replaced.
            versions = {name: self._version(name) for name in names}
            if all(self._replace(name, data, versions[name]) for name, data in make().items()):
                return
            pause = min(MAX_PAUSE_SECONDS, 0.05 * 2 ** min(attempt, 6))
            time.sleep(random.uniform(0, pause))  # noqa: S311  no secret
        raise StoreError(
            f"cannot update {', '.join(names)} in {self.location}: expected no concurrent update for a moment, got one "
            f"{attempt} times in a row; run `mnist-pipeline reindex` later"
        )

    def publish(self, staged: str, target: str, document: str, data: bytes) -> bool:  # noqa: ARG002  they stay there
        return self.create(f"{target}/{document}", data)

    def move(self, source: str, target: str, first: str = "") -> bool:
        if source == target:  # staged where it stays
            return True
        if not is_empty(self, target):
            return False
        found = sorted(self.list(source), key=lambda entry: entry.name != f"{source}/{first}")
        for entry in found:
            with suppress(FileNotFoundError):
                self.write(target + entry.name.removeprefix(source), self.read(entry.name))
            self._delete(entry.name)
        return bool(found)

    def delete(self, name: str) -> None:
        for entry in self.list(name):
            self._delete(entry.name)
        self._delete(name)

    @contextmanager
    def lock(self, name: str, wait: bool = True, shared: bool = False) -> Iterator[bool]:  # noqa: ARG002
        yield True

    def local_folder(self, name: str) -> None:  # noqa: ARG002
        return None

    def held_locks(self) -> Sequence[str]:
        return ()

    @property
    def _bucket(self) -> Any:
        return open_bucket(self.location.bucket)

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self.location.key, name)))

    def _version(self, name: str) -> Version | None:
        """What changes whenever the object does; None if there is no object."""
        try:
            with self._translated(name):
                about = self._bucket.head(self._key(name))
        except FileNotFoundError:
            return None
        # Some stores go by the one, some by the other.
        version = {field: about[field] for field in ("e_tag", "version") if about[field] is not None}
        if not version or version.get("e_tag", "").startswith("W/"):
            raise StoreError(
                f"{self.location / name}: expected a strong ETag, got none; keep outputs in a store that gives them"
            )
        return version

    def _replace(self, name: str, data: bytes, version: Version | None) -> bool:
        """Put the object if it still has that version, None for absent; whether it had."""
        mode = "create" if version is None else dict(version)
        try:
            with self._translated(name):
                self._bucket.put(self._key(name), data, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def _delete(self, name: str) -> None:
        with self._translated(name), suppress(FileNotFoundError):
            self._bucket.delete(self._key(name))

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Turn what obstore raises into FileNotFoundError, FileExistsError or StoreError, without its cause.

        The original is dropped on purpose: it repeats the store's whole answer, which may name the key that was wrong.
        """
        from obstore import exceptions

        address = self.location / name
        try:
            yield
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise FileExistsError(errno.EEXIST, "another object is there", str(address)) from None
        except (exceptions.BaseError, OSError) as error:
            said = str(error)
            if isinstance(error, FileNotFoundError) and "<Code>NoSuchBucket<" not in said:
                raise FileNotFoundError(errno.ENOENT, "no such object", str(address)) from None
            raise StoreError(
                f"{address}: expected the object store to do as asked, got {_reason(said)}; "
                "check bucket, credentials and network, then run again"
            ) from None
        except BaseException as error:
            if is_panic(error):
                raise unusable(self.location.bucket) from None
            raise


@dataclass(eq=False)
class _Reader(io.RawIOBase):
    """The bytes of one version of an object, a range at a time."""

    store: ObjectStore
    name: str
    size_bytes: int
    e_tag: str | None
    position: int = 0
    has_changed: bool = False  # for decoders that hide the error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size_bytes}[whence]
        self.position = max(0, start + offset)
        return self.position

    def readall(self) -> bytes:
        return self.read(max(0, self.size_bytes - self.position)) or b""  # not in small parts, a request each

    def readinto(self, buffer: Any) -> int:
        stop = min(self.position + len(buffer), self.size_bytes)
        if stop <= self.position:
            return 0
        try:
            data = self.store.read_range(self.name, self.position, stop, self.e_tag)
        except OSError:
            self.has_changed = True
            raise
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def _version_of(about: Any) -> str:
    return str(about["e_tag"] or about["version"]).strip('"')  # Azure lists them without quotes


def _reason(said: str) -> str:
    if _METADATA_HOST in said:
        return "no credentials: none in the environment, and this machine has no role"
    words = [re.search(pattern, said) for pattern in (r"status code: (\d{3})", r"<Code>(\w{1,60})</Code>")]
    return " ".join(word[1] for word in words if word) or "no answer"


def _matches(name: str, pattern: str) -> bool:
    return pattern in ("*", name)
