"""A location -> the store below it, or the content of one file there: the only module that knows every store."""

from mnist_pipeline.store.base import Address, Location, Store
from mnist_pipeline.store.disk import translated, write_file
from mnist_pipeline.store.local import LocalStore
from mnist_pipeline.store.objects import ObjectStore


def open_store(location: Location) -> Store:
    """The store below a location. Nothing is asked of it yet."""
    if isinstance(location, Address):
        return ObjectStore(location)
    return LocalStore(location)


def read_location(location: Location, limit_bytes: int) -> bytes:
    """The start of any one file, on disk or in a bucket.

    Raises:
        FileNotFoundError: there is no regular file.
        StoreError: it cannot be read.
    """
    return open_store(location.parent).read(location.name, limit_bytes)


def write_location(location: Location, data: bytes) -> None:
    """Create or replace any one file, on disk or in a bucket, in one step.

    Raises:
        StoreError: it cannot be written.
    """
    if isinstance(location, Address):
        open_store(location.parent).write(location.name, data)
        return
    with translated(f"cannot write {location}"):
        write_file(location, data)  # no staging directory beside files that are not in an outputs folder
