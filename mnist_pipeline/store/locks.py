"""Locks between processes: `flock`s on files, released by the system when their process ends.

A lock's file is never reached through a link, and opened without blocking, whatever lies under its name.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

_FLAGS = os.O_NONBLOCK | os.O_NOFOLLOW


def acquire(path: Path, wait: bool, shared: bool) -> int | None:
    """Hold the lock of that file, which is created; its handle, or None if another holds it and `wait` is False.

    Raises:
        OSError: it cannot be opened or locked.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | _FLAGS, 0o644)
        try:
            fcntl.flock(handle, kind)
            # The last holder may have removed the file between our open and our lock: then we hold nothing.
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def release(path: Path, handle: int, shared: bool) -> None:
    """Let go of a lock, and remove its file unless others share it."""
    with suppress(OSError):
        if shared:  # the last of those that share it removes the file
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    with suppress(OSError):
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether any process holds the lock of that file; one that cannot be asked is taken for held."""
    for mode in (os.O_RDWR, os.O_RDONLY):  # of another user's file only the second is allowed, on NFS the first needed
        try:
            handle = os.open(path, mode | _FLAGS)
            break
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR):
                return False
    else:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
