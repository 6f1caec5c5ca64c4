"""Moves a damaged run or verdict out of readers' sight, whole, for people to inspect. Decides nothing itself."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import is_empty

logger = logging.getLogger(__name__)


def move_to_quarantine(outputs: Outputs, folder: str, document: str, damage: Callable[[], str | None]) -> None:
    """Move what is published in a folder into quarantine, under its name and the time, if it is still damaged.

    Of several processes that find it damaged one moves it, and none moves what another has published in its place.
    Without renames the documents are moved one by one, and the files that they list stay where they are.

    Args:
        outputs: the outputs folder.
        folder: of the run or verdict.
        document: name of the document in it that lists its files.
        damage: what is wrong with it, or None; called while no other process can move it.

    Raises:
        StoreError: it cannot be moved.
    """
    store = outputs.store
    with store.lock(f"{folder.rpartition('/')[2]}.quarantine"):
        if is_empty(store, folder) or (why := damage()) is None:
            return
        store.move(folder, target := _quarantine_name(folder), first=document)
    logger.warning("%s is moved to quarantine in %s: %s", outputs.path(folder), outputs.path(target), why)


def copy_to_quarantine(outputs: Outputs, folder: str) -> str:
    """Copy what is published in a folder into quarantine; the folder of the copy.

    Raises:
        StoreError: it cannot be copied.
    """
    store, target = outputs.store, _quarantine_name(folder)
    for entry in store.list(folder):
        store.write(target + entry.name.removeprefix(folder), store.read(entry.name))
    return target


def _quarantine_name(folder: str) -> str:
    """A folder in quarantine for what is in `folder` now."""
    return f"{layout.QUARANTINE}/{folder}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
