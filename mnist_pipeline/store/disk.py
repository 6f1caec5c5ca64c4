"""Single files and folders on a disk: read, written and synced. Why, and what is accepted, is said in `local.py`."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from mnist_pipeline.errors import StoreError, system_line

MISSING = (FileNotFoundError, NotADirectoryError)


COPIED_BYTES = 1 << 20
MAX_SMALL_BYTES = 1 << 20  # of a file that a person writes; the project's have some kB


class MisplacedError(OSError):
    """Something else is where a file or folder of ours is expected: whoever has put it there has to move it away."""


def write_file(path: Path, data: bytes | Path, scratch: Path | None = None, sync: bool = True) -> None:
    """Create or replace one file on disk: `path` holds its old content or all of the new, never a part.

    Args:
        path: the file; its folder is created.
        data: the whole content, or a file that holds it.
        scratch: folder for the unfinished file, on the same file system; beside `path` if None.
        sync: whether the content must survive a power cut at once.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = f"{scratch or path.parent}/.{path.name}.{uuid.uuid4().hex}"
    try:
        handle = _created(unfinished)
        try:
            if isinstance(data, bytes):
                _write_all(handle, data)
            else:
                with data.open("rb") as source:
                    while some := source.read(COPIED_BYTES):
                        _write_all(handle, some)
            if sync:
                os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.replace(unfinished, path)  # noqa: PTH105  of texts: paths would be a tenth of a small file
        except FileNotFoundError:  # its folder, which is there nearly always
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _created(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents so that they survive a power cut."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_path(each.parent)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, without waiting for anybody to write it.

    Raises:
        MisplacedError: it is a folder, pipe, socket or device, which might be read for ever.
        OSError: it cannot be opened.
    """
    handle, _ = _opened(path)
    return os.fdopen(handle, "rb")


def read_regular(path: Path, limit_bytes: int | None = None) -> bytes:
    """The bytes of a file, or its first `limit_bytes`; in as few system calls as can be.

    Raises:
        MisplacedError: as `open_regular`.
        OSError: it cannot be read.
    """
    handle, size_bytes = _opened(path)
    try:
        found, left = [], size_bytes + 1 if limit_bytes is None else min(limit_bytes, size_bytes + 1)
        # One more than its size shows one that grows. As much memory as the limit allows is never asked for.
        while left > 0 and (some := os.read(handle, left)):
            found.append(some)
            left -= len(some)
            if left == 1 and len(found) == 1:  # all of it, as nearly always
                break
        return found[0] if len(found) == 1 else b"".join(found)
    finally:
        os.close(handle)


def read_small(path: Path) -> str:
    """The text of a file that a person writes, in UTF-8.

    Raises:
        OSError: it cannot be read, is too large, or is no regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    data = read_regular(path, MAX_SMALL_BYTES + 1)
    if len(data) > MAX_SMALL_BYTES:
        raise OSError(errno.EFBIG, f"expected at most {MAX_SMALL_BYTES:,} bytes, got more", str(path))
    return data.decode("utf-8")


def _opened(path: Path) -> tuple[int, int]:
    """The handle of a regular file, and its size in bytes."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise MisplacedError(errno.ENXIO, "expected a regular file, got a socket", str(path)) from error
    status = os.fstat(handle)  # of what was opened: what bears the name may be another by now
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe" if stat.S_ISFIFO(status.st_mode) else "device"
        raise MisplacedError(errno.EINVAL, f"expected a regular file, got a {kind}", str(path))
    return handle, status.st_size


def sync_path(path: Path) -> None:
    """Make the content of a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder survive a power cut, if it is one; links and special files hold nothing."""
    for here, _, names in os.walk(folder, topdown=False, onerror=_raise):
        for name in sorted(names):
            path = Path(here, name)
            if stat.S_ISREG(path.lstat().st_mode):
                sync_path(path)
        sync_path(Path(here))


def _raise(error: OSError) -> None:
    if not isinstance(error, MISSING):
        raise error


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn an operating-system error into a StoreError that says what was being done."""
    try:
        yield
    except MisplacedError as error:
        raise StoreError(f"{doing}: {error.strerror}; move it away, then run again") from error
    except OSError as error:
        raise StoreError(system_line(doing, error)) from error
