"""Where one attempt at a run gathers its files before they are published. One live owner at a time.

The first attempt of a run works in `.staging/<run_id>` and leaves it behind if it is killed, for the next
attempt to take over. An attempt that finds it in use works in a folder of its own, so that nobody waits and
nobody writes into another's files. Ownership is a lock held by the process: it dies with it.

In an object store attempts share one folder, and nobody owns it: their files are named after their content.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.files import outputs_errors, remove_folder
from mnist_pipeline.store.locks import lock_path, try_lock, unlock
from mnist_pipeline.store.objects import Location, ObjectPath

STAGING = ".staging"
# In an object store nothing is renamed: what will be published is put where it stays.
DATA = "data"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class StagingDirectory:
    """The folder of one attempt: the files in `run` are published, those in `records` stay behind."""

    folder: Location

    @property
    def run(self) -> Location:
        if isinstance(self.folder, ObjectPath):
            return data_folder(self.folder.parent.parent, self.folder.name)
        return self.folder / "run"

    @property
    def records(self) -> Location:
        return self.folder / "records"

    @property
    def checkpoints(self) -> CheckpointFolder:
        return CheckpointFolder(folder=self.run / PREDICTIONS, records=self.records, to_publish=True)


def data_folder(outputs: ObjectPath, name: str) -> ObjectPath:
    """Where the files lie that were published from the stage of that name, in an object store."""
    return outputs / DATA / name


@contextmanager
def staging_directory(outputs: Location, run_id: str) -> Iterator[StagingDirectory]:
    """Own a staging folder for the length of the block.

    It is removed when the block succeeds. When the block fails or the process is killed, the run's first
    folder stays for the next attempt to take over, which also sweeps up private ones that were left behind.

    Raises:
        OutputsError: the outputs folder cannot be written.
    """
    if isinstance(outputs, ObjectPath):
        yield (shared := StagingDirectory(outputs / STAGING / run_id))
        with suppress(OSError):  # what is left there is swept up by the next run of that name
            for record in shared.records.iterdir():
                record.unlink()
        return
    root = outputs / STAGING
    with outputs_errors(f"cannot prepare {root}"):
        root.mkdir(parents=True, exist_ok=True)
        name, handle = _lock_name(root, run_id)
    done = False
    try:
        with outputs_errors(f"cannot prepare {root}"):
            if name == run_id:
                _collect_abandoned(root, run_id)
            for folder in (root / name / "run" / PREDICTIONS, root / name / "records"):
                folder.mkdir(parents=True, exist_ok=True)
        yield StagingDirectory(root / name)
        done = True
    finally:
        if done or name != run_id:
            remove_folder(root / name)
        unlock(lock_path(root, name), handle)


def _lock_name(root: Path, run_id: str) -> tuple[str, int]:
    if (handle := try_lock(lock_path(root, run_id))) is not None:
        return run_id, handle
    while (handle := try_lock(lock_path(root, name := f"{run_id}.{uuid.uuid4().hex[:8]}"))) is None:
        pass
    return name, handle


def _collect_abandoned(root: Path, run_id: str) -> None:
    """Remove private folders of the run whose owners are dead: their locks are free."""
    for folder in root.glob(f"{run_id}.*"):
        path = lock_path(root, folder.name)
        if folder.is_dir() and (handle := try_lock(path)) is not None:
            remove_folder(folder)
            unlock(path, handle)
