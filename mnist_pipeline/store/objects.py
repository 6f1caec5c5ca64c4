"""Objects of a store, `s3://bucket/prefix`, behind those calls of `pathlib.Path` that the storage layer makes.

An object appears whole or not at all, and has no lock and no rename: instead, one can be created only if it is absent,
and replaced only if it is unchanged. Credentials come from where the store's own tools look (AWS_ACCESS_KEY_ID and
the like, or the role of the machine), and are named nowhere.
"""

import errno
import functools
import importlib.util
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from mnist_pipeline.errors import SettingsError, StoreError

SCHEMES = ("s3", "gs", "az")
_URL = re.compile(rf"({'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#]*)?")
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}):|[A-Za-z][A-Za-z0-9+.-]+:/")
RETRIES = 8  # with pauses that grow from 0.1 s: some seconds in all
RETRY_SECONDS = 60
REQUEST_SECONDS = 120
CREATE_ATTEMPTS = 5
# Where machines of a cloud are told their role: who is asked has no credentials in its environment.
_METADATA_HOST = "169.254.169.254"


class ObjectPath(PurePosixPath):
    """The address of an object, or of all objects below it; nothing is asked of the store before a method is called.

    What is not there is a FileNotFoundError, as of a `Path`; any other refusal is a StoreError. Messages hold the
    address and what the store said in a word or two, never its whole answer: that may repeat a key.
    """

    __slots__ = ()

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    @property
    def key(self) -> str:
        """The name of the object in its bucket."""
        return "/".join(self.parts[2:])

    @property
    def store(self) -> Any:
        """The bucket, as obstore has it."""
        return _open_store(f"{self.parts[0]}//{self.parts[1]}", os.environ.get("AWS_ENDPOINT_URL", ""))

    def read_bytes(self) -> bytes:
        """The whole object."""
        with _store_errors(self):
            return bytes(self.store.get(self.key).bytes())

    def read_start(self, limit_bytes: int) -> bytes:
        """The object, or its first `limit_bytes` bytes if it is larger."""
        with _store_errors(self):
            return bytes(self.store.get_range(self.key, start=0, length=limit_bytes))

    def read_version(self) -> "Version | None":
        """What changes whenever the object does; None if there is no object."""
        try:
            with _store_errors(self):
                about = self.store.head(self.key)
        except FileNotFoundError:
            return None
        # Some stores go by the one, some by the other.
        version = {name: about[name] for name in ("e_tag", "version") if about[name] is not None}
        if not version or version.get("e_tag", "").startswith("W/"):
            raise StoreError(f"{self}: expected a strong ETag, got none; keep outputs in a store that gives them")
        return version

    def write_bytes(self, data: bytes) -> None:
        """Put the object, in place of any that is there."""
        with _store_errors(self):
            self.store.put(self.key, data)

    def upload(self, source: Path) -> None:
        """Put the content of a file that may be too large to hold."""
        with _store_errors(self):
            self.store.put(self.key, source)

    def create(self, data: bytes) -> bool:
        """Put the object unless there is one; whether the one that is there then holds `data`.

        On any doubt it is read back: an answer may have been lost on its way, and a second try then meets the first.
        """
        for attempt in range(CREATE_ATTEMPTS):
            try:
                with _store_errors(self):
                    self.store.put(self.key, data, mode="create", use_multipart=False)
                return True
            except OSError as error:
                with suppress(FileNotFoundError):
                    return self.read_bytes() == data
                if not isinstance(error, FileExistsError):
                    raise
            # Refused for one that is not there: another was being created, or deleted, at that moment.
            time.sleep(0.1 * 2**attempt)
        raise StoreError(
            f"{self}: expected the object store to create it or to show what is there, got neither "
            f"{CREATE_ATTEMPTS} times; run again"
        )

    def replace_if_unchanged(self, data: bytes, version: "Version | None") -> bool:
        """Put the object if it is still of that version, None for none; whether it was."""
        mode = "create" if version is None else version
        try:
            with _store_errors(self):
                self.store.put(self.key, data, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def unlink(self) -> None:
        """Delete the object if it is there."""
        with _store_errors(self), suppress(FileNotFoundError):
            self.store.delete(self.key)

    def is_file(self) -> bool:
        """Whether there is an object of exactly this name."""
        return self.read_version() is not None

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        with _store_errors(self):
            return any(self.store.list(f"{self.key}/", chunk_size=1))

    def exists(self) -> bool:
        """Whether there is an object of this name or below it."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """What is one level below: objects, and names that have objects below them."""
        with _store_errors(self):
            found = self.store.list_with_delimiter(self.key)
        names = [each["path"] for each in found["objects"]] + list(found["common_prefixes"])
        yield from (self / PurePosixPath(name).name for name in sorted(names))

    def subfolders(self) -> list["ObjectPath"]:
        """Of those, the names that have objects below them."""
        with _store_errors(self):
            found = self.store.list_with_delimiter(self.key)["common_prefixes"]
        return [self / PurePosixPath(name).name for name in sorted(found)]

    def walk(self) -> Iterator[tuple["ObjectPath", int, datetime]]:
        """All objects below this name: address, size in bytes, and when it was put."""
        bucket = ObjectPath(*self.parts[:2])
        with _store_errors(self):
            for some in self.store.list(f"{self.key}/" if self.key else None):
                yield from ((bucket / each["path"], each["size"], each["last_modified"]) for each in some)


# Where something is kept: on disk or in an object store.
Location = Path | ObjectPath
Version = dict[str, str]


def is_address(text: str) -> bool:
    """Whether this is not meant as a path on disk, even if `Path` has taken a slash out of it."""
    return "://" in text or _COLLAPSED.match(text) is not None


def parse_location(text: str) -> Location:
    """A folder on disk, absolute, or an address in an object store.

    Raises:
        ValueError: an address of another form. It is not repeated: there may be a password in it.
        SettingsError: what object stores need is not installed.
    """
    if not is_address(text):
        return Path(text).expanduser().absolute()
    if not _URL.fullmatch(text) or ".." in PurePosixPath(text).parts:
        raise ValueError(
            f"expected a folder, or SCHEME://BUCKET/PREFIX with one of {', '.join(SCHEMES)} and nothing else: "
            "credentials come from the environment"
        )
    if importlib.util.find_spec("obstore") is None:
        raise SettingsError(
            f"{text}: expected the package obstore, got none; install it: pip install 'mnist-pipeline[objectstore]'"
        )
    return ObjectPath(text)


@functools.cache
def _open_store(bucket: str, endpoint: str) -> Any:
    from obstore.store import from_url

    # obstore reads the endpoint from the environment itself; without TLS only where somebody has asked for that.
    return from_url(
        bucket,
        client_options={"allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=REQUEST_SECONDS)},
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


@contextmanager
def _store_errors(path: ObjectPath) -> Iterator[None]:
    """Turn what obstore raises into FileNotFoundError, FileExistsError or StoreError.

    The original is dropped on purpose: it repeats the store's whole answer, which may name the key that was refused.
    """
    from obstore import exceptions

    try:
        yield
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise FileExistsError(errno.EEXIST, "another object is there", str(path)) from None
    except (exceptions.BaseError, OSError) as error:
        said = str(error)
        if isinstance(error, FileNotFoundError) and "<Code>NoSuchBucket<" not in said:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
        raise StoreError(
            f"{path}: expected the object store to do as asked, got {_reason(said)}; "
            "check bucket, credentials and network, then run again"
        ) from None


def _reason(said: str) -> str:
    if _METADATA_HOST in said:
        return "no credentials: none in the environment, and this machine has no role"
    words = [re.search(pattern, said) for pattern in (r"status code: (\d{3})", r"<Code>(\w{1,60})</Code>")]
    return " ".join(word[1] for word in words if word) or "no answer"
