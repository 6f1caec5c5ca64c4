"""Checks a location before outputs are kept there, and leaves no trace.

Quotas and some permissions show only to those who really write: `problem_with_writing` does.
"""

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import STAGING, Address, Location
from mnist_pipeline.store.opening import open_store


def free_bytes(location: Location) -> int | None:
    """How much may still be written there; None if that is unknown, as in a bucket."""
    if isinstance(location, Address):
        return None
    there = next(folder for folder in (location, *location.parents) if folder.exists())
    return shutil.disk_usage(there).free


def require_usable(location: Location) -> None:
    """Find out whether something can be kept there, as far as that is known without writing and without waiting.

    Raises:
        StoreError: nothing can be read there, or the folder is not there and cannot be created.
    """
    open_store(location).children("")
    if isinstance(location, Path) and (end := dead_end(location)):
        raise StoreError(
            f"{location}: expected a folder that this user can write to, got {end}, which is none; "
            "give the permission, or name another one"
        )


def dead_end(folder: Path) -> Path | None:
    """The folder itself, or what is in its place or above it, if this user can neither write to it nor create it."""
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    return None if os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK) else there  # noqa: PTH112


def problem_with_writing(location: Location) -> str | None:
    """Why outputs cannot be kept there, or None.

    Runs are published by files that are created only if absent and replaced only if unchanged: both are tried.
    """
    made = [] if isinstance(location, Address) else _missing(location / STAGING)
    store, name, calls = open_store(location), f"{STAGING}/doctor-{uuid.uuid4().hex}", 0

    def make() -> Mapping[str, bytes]:
        nonlocal calls
        calls += 1
        if calls == 1 and not store.has_rename:  # another process is faster
            store.write(name, b"3")
        return {name: b"4"}

    try:
        kept = store.create(name, b"1") and not store.create(name, b"2")
        store.update([name], make)
        kept = kept and calls == (1 if store.has_rename else 2) and store.read(name) == b"4"
        store.delete(name)
        return (
            None
            if kept
            else (
                f"{location} replaces objects that it was asked not to replace; keep outputs in a store that knows "
                "conditional writes (If-None-Match, If-Match)"
            )
        )
    except StoreError as error:
        return str(error)
    finally:
        for folder in made:
            with suppress(OSError):  # another process may be using it by now
                folder.rmdir()


def _missing(folder: Path) -> list[Path]:
    return [each for each in (folder, *folder.parents) if not each.exists()]
