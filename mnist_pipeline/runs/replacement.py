"""Puts a complete run in the place of a damaged or pruned one, so that no failure half-way loses it.

With renames the complete replacement is published as `.repairs/RUN_ID` first. That folder is the record that the run
at `runs/RUN_ID` is to be replaced: that run goes to quarantine, and the replacement to its place, which also ends the
record. Any process that finds such a record completes it. Without renames the manifest is replaced by one
compare-and-swap, which needs no record.
"""

import logging
from dataclasses import replace

from mnist_pipeline.errors import OutputsError, StoreError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.lookup import pending_repairs
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.quarantine import copy_to_quarantine, move_to_quarantine
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.staging import StagingDirectory
from mnist_pipeline.store.base import is_empty

logger = logging.getLogger(__name__)


def replace_run(run: Run, staging: StagingDirectory, manifest: Manifest) -> bool:
    """Publish staged files in the place of a run that is damaged or pruned, which goes to quarantine.

    Args:
        run: what is replaced.
        staging: the files of the replacement, checked.
        manifest: of the replacement.

    Returns:
        False if another process has published a sound run there by now: then nothing was changed.

    Raises:
        OutputsError: the replacement is complete and recorded, but cannot be put in its place; or it cannot be
            recorded, and what is published is unchanged.
    """
    store = run.outputs.store
    if not store.has_rename:
        return _replace_manifest(run, manifest)
    recorded = layout.repair_folder(run.name.run_id)
    with store.lock(_lock_of(run)):
        try:
            _complete(run)  # what an attempt before has recorded
            store.publish(staging.files, recorded, layout.MANIFEST, manifest.to_bytes())
            if _publish_replacement(run):
                return True
            store.move(recorded, staging.files)  # for the caller to compare with the published run
        except StoreError as error:
            if not _has_record(run):
                raise
            raise OutputsError(
                f"run {run.name.run_id}: expected to put its replacement in {run.folder}, got {error}; it is kept, "
                f"complete, in {run.outputs.path(recorded)}, and any next command puts it in its place once that is "
                "fixed"
            ) from error
    return False


def complete_replacements(outputs: Outputs) -> list[str]:
    """Complete the replacements that other processes have recorded; the run_ids of those completed here.

    One that cannot be completed is logged, and is no reason not to read other runs.

    Raises:
        StoreError: the outputs folder cannot be read.
    """
    return [name.run_id for name in pending_repairs(outputs) if _try_to_complete(Run(outputs, name))]


def _try_to_complete(run: Run) -> bool:
    try:
        with run.outputs.store.lock(_lock_of(run)):
            return _complete(run)
    except OutputsError as error:
        logger.warning(
            "run %s: expected to complete its repair, got %s; its replacement is kept in %s, and `mnist-pipeline "
            "verify --repair` puts it in its place once that is fixed",
            run.name.run_id,
            error,
            run.outputs.path(layout.repair_folder(run.name.run_id)),
        )
        return False


def _complete(run: Run) -> bool:
    """Carry out the rest of a recorded replacement, if there is one; whether it changed what is published."""
    outputs, recorded = run.outputs, layout.repair_folder(run.name.run_id)
    if not _has_record(run):  # another process has completed it
        return False
    if run.exists():
        # Damaged itself, it is better than no run, where verify finds it, but not than the one that is published.
        problems = replace(run, stored_in=recorded).problems
        move_to_quarantine(outputs, recorded, layout.MANIFEST, lambda: "; ".join(problems()) or None)
        if not _has_record(run):
            return False
    if _publish_replacement(run):
        logger.warning("the repair of run %s, which was begun earlier, is complete", run.name.run_id)
        return True
    outputs.store.delete(recorded)
    return False


def _publish_replacement(run: Run) -> bool:
    """Move the run to quarantine if it is not sound, and its replacement in; False if a sound one is there."""
    folder = layout.run_folder(run.name.run_id)
    move_to_quarantine(run.outputs, folder, layout.MANIFEST, lambda: _why_replaced(run))
    return run.outputs.store.move(layout.repair_folder(run.name.run_id), folder)


def _replace_manifest(run: Run, manifest: Manifest) -> bool:
    outputs, folder, data = run.outputs, layout.run_folder(run.name.run_id), manifest.to_bytes()
    name = f"{folder}/{layout.MANIFEST}"

    def make() -> dict[str, bytes]:
        if (why := _why_replaced(run)) is None:
            return {}
        copy = copy_to_quarantine(outputs, folder)
        for entry in list(outputs.store.list(folder)):
            if entry.name != name:  # such as that the run was pruned, which must not be said of this one
                outputs.store.delete(entry.name)
        logger.warning("%s is replaced, and copied to quarantine in %s: %s", run.folder, outputs.path(copy), why)
        return {name: data}

    outputs.store.update([name], make)
    return outputs.store.read(name) == data


def _why_replaced(run: Run) -> str | None:
    if problems := run.problems():
        return "; ".join(problems)
    return "its predictions were pruned" if run.pruned() else None


def _has_record(run: Run) -> bool:
    return not is_empty(run.outputs.store, layout.repair_folder(run.name.run_id))


def _lock_of(run: Run) -> str:
    return f"{run.name.run_id}.repair"
