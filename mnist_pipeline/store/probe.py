"""Checks a location before outputs are kept there, and leaves no trace.

Really writes: permissions, quotas and read-only mounts show nowhere else.
"""

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
