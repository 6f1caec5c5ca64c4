"""Where one attempt at a run or verdict gathers its files before they are published.

The first attempt works in `.staging/NAME` and leaves it behind if it is killed, for the next attempt to reuse. An
attempt that finds it locked works in a private directory, so that no attempt waits and none writes into another's
files. The lock ends with its process. A store without renames has no locks: there all attempts share one directory, and
their files are named after their content.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mnist_pipeline.errors import StoreError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import LOCK
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.files import FileRecord, content_name, record


@dataclass(frozen=True)
class StagingDirectory:
    """The directory of one attempt: what is in `files` is published, what is in `records` stays behind."""

    outputs: Outputs
    name: str

    @property
    def folder(self) -> str:
        return layout.staging_folder(self.name)

    @property
    def files(self) -> str:
        return self.outputs.files_of(f"{self.folder}/run", self.name)

    @property
    def records(self) -> str:
        return f"{self.folder}/records"

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The prediction files."""
        store = self.outputs.store
        predictions = f"{self.files}/{layout.PREDICTIONS}"
        return CheckpointFolder(store, predictions, self.records, content_names=not store.has_rename)

    def put(self, name: str, rows: int, data: bytes | Path) -> FileRecord:
        """Add a file to what will be published.

        Args:
            name: of the file.
            rows: how many it holds.
            data: its content, or a file that holds it.

        Raises:
            StoreError: it cannot be written.
        """
        store, file = self.outputs.store, record(name, rows, data)
        if not store.has_rename:  # attempts share the directory: none may replace what another has published
            file = replace(file, path=content_name(name, file.sha256))
        store.write(f"{self.files}/{file.path}", data, sync=False)
        return file


@contextmanager
def staging_directory(outputs: Outputs, name: str) -> Iterator[StagingDirectory]:
    """Hold a staging directory during the block.

    It is deleted when the block succeeds. When the block fails or the process is killed, the first directory of that
    name stays for the next attempt, which also deletes the private ones of killed attempts.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    store, done = outputs.store, False
    with ExitStack() as stack:
        first = stack.enter_context(store.lock(name, wait=False))
        if first:
            _delete_private(outputs, name)
        else:
            stack.enter_context(store.lock(private := f"{name}.{uuid.uuid4().hex[:8]}"))
        staging = StagingDirectory(outputs, name if first else private)
        try:
            yield staging
            done = True
        finally:
            if done or not first:
                with suppress(StoreError):  # what is left is deleted by the next attempt, or as an orphan
                    store.delete(staging.folder)


@contextmanager
def undisturbed(outputs: Outputs, name: str) -> Iterator[bool]:
    """Keep attempts of that name from beginning during the block; False if one, or a judge of it, is in progress."""
    store = outputs.store
    with store.lock(name, wait=False) as alone:
        yield alone and not any(name in held for held in store.held_locks() if held != name)


def _delete_private(outputs: Outputs, name: str) -> None:
    """Delete the private directories of attempts that were killed: their locks are free."""
    store = outputs.store
    if not store.has_rename:
        return
    for child in store.children(layout.STAGING):
        if child.startswith(f"{name}.") and not child.endswith(LOCK):
            with store.lock(child, wait=False) as dead:
                if dead:
                    store.delete(layout.staging_folder(child))
