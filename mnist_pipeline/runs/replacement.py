"""Puts a whole run in the place of a damaged or pruned one, so that nothing that fails or ends half-way loses it.

On disk the complete replacement is renamed to `.repairs/RUN_ID` first. That it is there says that what is at
`runs/RUN_ID` is to be replaced: that goes to quarantine, and the replacement to its place, which also ends the record.
Whoever finds such a record finishes it. In an object store the manifest is replaced in one step, and needs no record.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.runs.lookup import MANIFEST, REPAIRS, RUNS, Run, pending_repairs
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.quarantine import copy_to_quarantine, move_to_quarantine
from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.files import publish_folder, reason_of, remove_folder, replace_file, sync_folder
from mnist_pipeline.store.locks import lock
from mnist_pipeline.store.objects import Location, ObjectPath

logger = logging.getLogger(__name__)


def replace_run(outputs: Location, run: Run, staged: Location, manifest: Manifest, scratch: Location) -> bool:
    """Publish what is staged in the place of a run that is damaged or pruned, which goes to quarantine.

    Args:
        outputs: the outputs folder.
        run: what is replaced.
        staged: the files of the replacement, checked and on the disk.
        manifest: of the replacement.
        scratch: folder for unfinished files.

    Returns:
        False if a sound run is there by now, put there by another: then nothing was changed.

    Raises:
        OutputsError: the replacement is complete and recorded, but cannot be put in its place.
        OSError: it cannot be recorded, or the object store refuses. What is published is what was.
    """
    if isinstance(run.folder, ObjectPath):
        return _replace_manifest(outputs, run, run.folder, manifest)
    assert isinstance(outputs, Path), f"{run.folder} is not in {outputs}"
    assert isinstance(staged, Path), f"{staged} and {run.folder} are not in the same place"
    recorded = _record_of(outputs, run)
    replace_file(staged / MANIFEST, manifest.to_bytes(), scratch)
    with _alone(outputs, run):
        try:
            _complete(outputs, run)  # what an attempt before has recorded
            publish_folder(staged, recorded)
            if _put_in_place(outputs, run, recorded):
                return True
            recorded.rename(staged)  # for the caller to compare with what is there
        except OSError as error:
            if not recorded.is_dir():
                raise
            raise OutputsError(
                f"run {run.name.run_id}: expected to put its replacement in {run.folder}, got {reason_of(error)}; it "
                f"is kept, complete, in {recorded}, and any next command puts it in its place once that is seen to"
            ) from error
    return False


def complete_replacements(outputs: Location) -> list[str]:
    """Put replacements in their places that others have recorded; the run_ids of those that were put there now.

    Raises:
        OSError: the folder cannot be looked through.
    """
    if isinstance(outputs, ObjectPath):
        return []
    recorded = [Run(outputs / RUNS / name.run_id, name) for name in pending_repairs(outputs)]
    return [run.name.run_id for run in recorded if _try_to_complete(outputs, run)]


def _try_to_complete(outputs: Path, run: Run) -> bool:
    try:
        with _alone(outputs, run):
            return _complete(outputs, run)
    except OSError as error:
        logger.warning(
            "run %s: expected to finish its repair, got %s; its replacement is kept in %s, and `mnist-pipeline verify "
            "--repair` puts it in its place once that is seen to",
            run.name.run_id,
            reason_of(error),
            _record_of(outputs, run),
        )
        return False


def _complete(outputs: Path, run: Run) -> bool:
    """Do what is left of a recorded repair, if there is one; whether it changed what is published."""
    recorded = _record_of(outputs, run)
    if not recorded.is_dir():  # another has finished it
        return False
    if run.folder.exists():
        # Damaged itself, it is better than nothing, where verify finds it, but not than what is there.
        problems = Run(recorded, run.name).problems
        move_to_quarantine(outputs, recorded, MANIFEST, lambda: "; ".join(problems()) or None)
        if not recorded.is_dir():
            return False
    if _put_in_place(outputs, run, recorded):
        logger.warning("the repair of run %s, which was begun earlier, is finished", run.name.run_id)
        return True
    dropped = outputs / STAGING / f"{run.name.run_id}.repair"
    remove_folder(dropped)
    recorded.rename(dropped)  # first out of sight: half of it would be no replacement
    sync_folder(recorded.parent)
    remove_folder(dropped)
    return False


def _put_in_place(outputs: Path, run: Run, recorded: Path) -> bool:
    """Move the run to quarantine if it is not sound, and its replacement in; False if a sound one is there."""
    assert isinstance(run.folder, Path), f"{run.folder} is not in {outputs}"
    move_to_quarantine(outputs, run.folder, MANIFEST, lambda: _why_replaced(run))
    if not publish_folder(recorded, run.folder):
        return False
    sync_folder(recorded.parent)
    return True


def _replace_manifest(outputs: Location, run: Run, folder: ObjectPath, manifest: Manifest) -> bool:
    document, data = folder / MANIFEST, manifest.to_bytes()
    version = document.read_version()  # before it is looked at: what another puts there later is not replaced
    if (why := _why_replaced(run)) is None:
        return False
    quarantined = copy_to_quarantine(outputs, folder)
    for each, _, _ in folder.walk():
        if each != document:  # such as that the run before was pruned, which must not be said of this one
            each.unlink()
    # Refused, it may be gone, or be ours already whose answer was lost on its way: `create` tells.
    if not document.replace_if_unchanged(data, version) and not document.create(data):
        return False
    logger.warning("%s is replaced, and copied to quarantine in %s: %s", folder, quarantined, why)
    return True


def _why_replaced(run: Run) -> str | None:
    if problems := run.problems():
        return "; ".join(problems)
    return "its predictions were pruned" if run.pruned() else None


@contextmanager
def _alone(outputs: Path, run: Run) -> Iterator[None]:
    with lock(outputs / STAGING / f"{run.name.run_id}.repair.lock"):
        yield


def _record_of(outputs: Path, run: Run) -> Path:
    return outputs / REPAIRS / run.name.run_id
