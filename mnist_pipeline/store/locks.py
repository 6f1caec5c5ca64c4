"""Locks between processes on one disk: held by a process, gone when it ends. An object store has none."""

import fcntl
import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def lock_path(root: Path, name: str) -> Path:
    """Where the lock of that name lies."""
    return root / f"{name}.lock"


@contextmanager
def undisturbed(root: Path, name: str) -> Iterator[bool]:
    """Keep attempts of that name from beginning for the length of the block; False if one is at work, or a judge."""
    root.mkdir(parents=True, exist_ok=True)
    own_lock = lock_path(root, name)
    if (handle := try_lock(own_lock)) is None:
        yield False
        return
    try:
        yield not any(is_locked(path) for path in root.glob(f"*{glob.escape(name)}*.lock") if path != own_lock)
    finally:
        unlock(own_lock, handle)


def is_locked(path: Path) -> bool:
    """Whether a process holds that lock. Nothing is created or removed."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made if need be, from being swept for the length of the block; others may too."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):  # swept between our open and our lock: then we hold nothing
            if os.path.samestat(folder.stat(), os.fstat(handle)):
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def take_away(folder: Path, to: Path) -> bool:
    """Rename a folder that nobody shares; whether that was so, or it is gone already."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.rename(to)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the length of the block, waiting for it if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while (handle := try_lock(path, wait=True)) is None:
        pass
    try:
        yield
    finally:
        unlock(path, handle)


def try_lock(path: Path, wait: bool = False) -> int | None:
    """The handle of a lock that is held from now on, or None if another holds it or has just removed it."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last owner may have removed the file between our open and our lock: then we hold nothing.
        if os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def unlock(path: Path, handle: int) -> None:
    """Let go of a lock, and remove its file."""
    # What the lock was for is done, and a file that nobody holds is in nobody's way.
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        os.close(handle)
