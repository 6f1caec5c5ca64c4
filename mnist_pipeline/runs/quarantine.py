"""Where a run or verdict goes that is not as it was published: out of readers' sight, whole, for people to look at."""

import logging
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.files import make_folder, sync_folder
from mnist_pipeline.store.locks import lock
from mnist_pipeline.store.objects import Location, ObjectPath

logger = logging.getLogger(__name__)

QUARANTINE = "quarantine"


def move_to_quarantine(outputs: Location, folder: Location, document: str, look: Callable[[], str | None]) -> None:
    """Move what is published in a folder into quarantine, under its path and the time, if it is still damaged.

    Of several who find it damaged one moves it, and none moves what another has published in its place. In an object
    store the document is moved that makes it published; the files that it lists stay where they are.

    Args:
        outputs: the outputs folder.
        folder: of the run or verdict.
        document: name of the document in it that lists its files.
        look: what is wrong with it, or None. It is asked when nobody else can move it.

    Raises:
        OSError: it cannot be moved.
    """
    alone = outputs / STAGING / f"{folder.name}.aside.lock"
    with lock(alone) if isinstance(alone, Path) else nullcontext():
        if not folder.exists() or (why := look()) is None:
            return
        quarantined = _quarantine_path(outputs, folder)
        if isinstance(folder, ObjectPath):
            # The document first: without it, whatever else is there says nothing.
            for each, _, _ in sorted(folder.walk(), key=lambda found: found[0].name != document):
                with suppress(FileNotFoundError):
                    (quarantined / each.name).write_bytes(each.read_bytes())
                each.unlink()
        else:
            assert not isinstance(quarantined, ObjectPath), f"{folder} is not in {outputs}"
            make_folder(quarantined.parent)
            folder.rename(quarantined)
            sync_folder(quarantined.parent)
            sync_folder(folder.parent)
    logger.warning("%s is set aside in %s: %s", folder, quarantined, why)


def copy_to_quarantine(outputs: Location, folder: ObjectPath) -> Location:
    """Copy what is published in a folder of an object store into quarantine, and leave it there; where the copy is.

    Raises:
        StoreError: it cannot be copied.
    """
    quarantined = _quarantine_path(outputs, folder)
    for each, _, _ in folder.walk():
        with suppress(FileNotFoundError):
            (quarantined / each.name).write_bytes(each.read_bytes())
    return quarantined


def _quarantine_path(outputs: Location, folder: Location) -> Location:
    path = folder.relative_to(outputs)
    return outputs / QUARANTINE / path.parent / f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
