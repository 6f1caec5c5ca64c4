"""Where one attempt at a run gathers its files before they are published. One live owner at a time.

The first attempt of a run works in `.staging/<run_id>` and leaves it behind if it is killed, for the next
attempt to take over. An attempt that finds it in use works in a folder of its own, so that nobody waits and
nobody writes into another's files. Ownership is a lock held by the process: it dies with it.

In an object store attempts share one folder, and nobody owns it: their files are named after their content.
"""

import fcntl
import glob
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mnist_pipeline.storage.files import outputs_errors, remove_folder
from mnist_pipeline.storage.objects import ObjectPath, Place
from mnist_pipeline.storage.pieces import Pieces

STAGING = ".staging"
# In an object store nothing is renamed: what will be published is put where it stays.
DATA = "data"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Stage:
    """The folder of one attempt: the files in `run` are published, those in `records` stay behind."""

    folder: Place

    @property
    def run(self) -> Place:
        if isinstance(self.folder, ObjectPath):
            return data_folder(self.folder.parent.parent, self.folder.name)
        return self.folder / "run"

    @property
    def records(self) -> Place:
        return self.folder / "records"

    @property
    def parts(self) -> Pieces:
        return Pieces(folder=self.run / PREDICTIONS, records=self.records, to_publish=True)


def data_folder(outputs: ObjectPath, name: str) -> ObjectPath:
    """Where the files lie that were published from the stage of that name, in an object store."""
    return outputs / DATA / name


@contextmanager
def claim_stage(outputs: Place, run_id: str) -> Iterator[Stage]:
    """Own a staging folder for the length of the block.

    It is removed when the block succeeds. When the block fails or the process is killed, the run's first
    folder stays for the next attempt to take over, which also sweeps up private ones that were left behind.

    Raises:
        OutputsError: the outputs folder cannot be written.
    """
    if isinstance(outputs, ObjectPath):
        yield (shared := Stage(outputs / STAGING / run_id))
        with suppress(OSError):  # what is left there is swept up by the next run of that name
            for record in shared.records.iterdir():
                record.unlink()
        return
    root = outputs / STAGING
    with outputs_errors(f"cannot prepare {root}"):
        root.mkdir(parents=True, exist_ok=True)
        name, handle = _claim_name(root, run_id)
    done = False
    try:
        with outputs_errors(f"cannot prepare {root}"):
            if name == run_id:
                _sweep(root, run_id)
            for folder in (root / name / "run" / PREDICTIONS, root / name / "records"):
                folder.mkdir(parents=True, exist_ok=True)
        yield Stage(root / name)
        done = True
    finally:
        if done or name != run_id:
            remove_folder(root / name)
        _unlock(_lock_of(root, name), handle)


def _claim_name(root: Path, run_id: str) -> tuple[str, int]:
    if (handle := _try_lock(_lock_of(root, run_id))) is not None:
        return run_id, handle
    while (handle := _try_lock(_lock_of(root, name := f"{run_id}.{uuid.uuid4().hex[:8]}"))) is None:
        pass
    return name, handle


def _sweep(root: Path, run_id: str) -> None:
    """Remove private folders of the run whose owners are dead: their locks are free."""
    for folder in root.glob(f"{run_id}.*"):
        path = _lock_of(root, folder.name)
        if folder.is_dir() and (handle := _try_lock(path)) is not None:
            remove_folder(folder)
            _unlock(path, handle)


def _lock_of(root: Path, name: str) -> Path:
    return root / f"{name}.lock"


@contextmanager
def undisturbed(outputs: Path, name: str) -> Iterator[bool]:
    """Keep attempts of that name from beginning for the length of the block; False if one is at work, or a judge."""
    root = outputs / STAGING
    root.mkdir(parents=True, exist_ok=True)
    own = _lock_of(root, name)
    if (handle := _try_lock(own)) is None:
        yield False
        return
    try:
        yield not any(is_locked(path) for path in root.glob(f"*{glob.escape(name)}*.lock") if path != own)
    finally:
        _unlock(own, handle)


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
    while (handle := _try_lock(path, wait=True)) is None:
        pass
    try:
        yield
    finally:
        _unlock(path, handle)


def _try_lock(path: Path, wait: bool = False) -> int | None:
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


def _unlock(path: Path, handle: int) -> None:
    # What the lock was for is done, and a file that nobody holds is in nobody's way.
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        os.close(handle)
