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
from mnist_pipeline.storage.files import publish_folder, remove_folder, replace_file, sync_folder
from mnist_pipeline.storage.manifest import Manifest
from mnist_pipeline.storage.objects import ObjectPath, Place
from mnist_pipeline.storage.quarantine import copy_aside, set_aside
from mnist_pipeline.storage.runs import MANIFEST, REPAIRS, RUNS, Run, unfinished_repairs
from mnist_pipeline.storage.staging import STAGING, lock
from mnist_pipeline.storage.views import update_views

logger = logging.getLogger(__name__)


def replace_run(outputs: Place, run: Run, staged: Place, manifest: Manifest, scratch: Place) -> bool:
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
            _finish(outputs, run)  # what an attempt before has recorded
            publish_folder(staged, recorded)
            if _put_in_place(outputs, run, recorded):
                return True
            recorded.rename(staged)  # for the caller to compare with what is there
        except OSError as error:
            if not recorded.is_dir():
                raise
            raise OutputsError(
                f"run {run.name.run_id}: expected to put its replacement in {run.folder}, got {_reason(error)}; it is "
                f"kept, complete, in {recorded}, and any next command puts it in its place once that is seen to"
            ) from error
    return False


def finish_repairs(outputs: Place) -> list[str]:
    """Finish the repairs that others have begun, and bring the views up to date if there were any.

    One that cannot be finished is warned of, and is no reason not to read other runs.

    Returns:
        The run_ids of those that were finished here.
    """
    if isinstance(outputs, ObjectPath):
        return []
    finished = []
    try:
        for name in unfinished_repairs(outputs):
            if _try_to_finish(outputs, Run(outputs / RUNS / name.run_id, name)):
                finished.append(name.run_id)
        if finished:
            update_views(outputs)
    except OSError as error:
        logger.warning("repairs in %s: expected to finish them, got %s", outputs, _reason(error))
    return finished


def _try_to_finish(outputs: Path, run: Run) -> bool:
    try:
        with _alone(outputs, run):
            return _finish(outputs, run)
    except OSError as error:
        logger.warning(
            "run %s: expected to finish its repair, got %s; its replacement is kept in %s, and `mnist-pipeline verify "
            "--repair` puts it in its place once that is seen to",
            run.name.run_id,
            _reason(error),
            _record_of(outputs, run),
        )
        return False


def _finish(outputs: Path, run: Run) -> bool:
    """Do what is left of a recorded repair, if there is one; whether it changed what is published."""
    recorded = _record_of(outputs, run)
    if not recorded.is_dir():  # another has finished it
        return False
    if run.folder.exists():
        # Damaged itself, it is better than nothing, where verify finds it, but not than what is there.
        problems = Run(recorded, run.name).problems
        set_aside(outputs, recorded, MANIFEST, lambda: "; ".join(problems()) or None)
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
    set_aside(outputs, run.folder, MANIFEST, lambda: _why_replaced(run))
    if not publish_folder(recorded, run.folder):
        return False
    sync_folder(recorded.parent)
    return True


def _replace_manifest(outputs: Place, run: Run, folder: ObjectPath, manifest: Manifest) -> bool:
    document, data = folder / MANIFEST, manifest.to_bytes()
    version = document.read_version()  # before it is looked at: what another puts there later is not replaced
    if (why := _why_replaced(run)) is None:
        return False
    aside = copy_aside(outputs, folder)
    for each, _, _ in folder.walk():
        if each != document:  # such as that the run before was pruned, which must not be said of this one
            each.unlink()
    # Refused, it may be gone, or be ours already whose answer was lost on its way: `create` tells.
    if not document.replace_if_unchanged(data, version) and not document.create(data):
        return False
    logger.warning("%s is replaced, and copied to quarantine in %s: %s", folder, aside, why)
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


def _reason(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.strerror and error.filename else str(error)
