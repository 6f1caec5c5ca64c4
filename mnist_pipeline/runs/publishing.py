"""Publishes a run: staged files become visible in one step, once, and in place of nothing but a damaged run."""

import logging
from datetime import UTC, datetime

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.errors import RunConflictError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import record_counted
from mnist_pipeline.runs.lookup import run_by_id, runs_of, runs_of_dates
from mnist_pipeline.runs.manifest import Manifest, RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.replacement import replace_run
from mnist_pipeline.runs.run import Run, files_of_table
from mnist_pipeline.runs.staging import StagingDirectory
from mnist_pipeline.store.base import Location, is_empty
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord, prefetch, read_checked

logger = logging.getLogger(__name__)

DIGITS_COUNTED = ("confusion", "unlabelled")  # what a tally says of the digits alone


def write_table(staging: StagingDirectory, table: tables.Table, data: pa.Table) -> FileRecord:
    """Write one of a run's small tables into its staging directory."""
    return staging.put(f"{table.name}.parquet", data.num_rows, tables.encode(table, data))


def commit(outputs: Outputs, staging: StagingDirectory, manifest: Manifest) -> bool:
    """Publish staged files in one step, or find that the same run is published already.

    A published run of that name that is damaged goes to quarantine, and this one takes its place. One that has been
    pruned gets its predictions back.

    Args:
        outputs: the outputs folder.
        staging: holds exactly the files that the manifest lists.
        manifest: of the run to be.

    Returns:
        True if the run became visible now, or complete again; False if the same run was published before.

    Raises:
        RunConflictError: the run is published with other image ids or predictions.
        DamagedError: a staged file is not as recorded.
        StoreError: the outputs folder cannot be written.
    """
    name = RunName.parse(manifest.run_id)
    assert name is not None, f"{manifest.run_id} is not a run_id"
    run = Run(outputs, name)
    _check_staged(staging, manifest)
    folder = layout.run_folder(manifest.run_id)
    if outputs.store.publish(staging.files, folder, layout.MANIFEST, manifest.to_bytes()):
        return True
    if run.problems() and replace_run(run, staging, manifest):
        return True
    if run.pruned():
        return _restore_predictions(run, staging, manifest)
    _require_agreement(run, staging, manifest)
    return False


def _restore_predictions(run: Run, staging: StagingDirectory, manifest: Manifest) -> bool:
    """Give a pruned run its predictions back, if these are the very same files, or the same digits.

    Returns:
        True: the run is complete again. False: another process has published it again meanwhile.

    Raises:
        RunConflictError: they are others.
    """
    store, folder = run.outputs.store, layout.run_folder(manifest.run_id)
    published, there = run.manifest(), f"{folder}/{layout.PREDICTIONS}"
    theirs, ours = (files_of_table(each, tables.PREDICTIONS) for each in (published, manifest))
    if not is_empty(store, there):  # marked, and not deleted yet
        _require_agreement(run, staging, manifest)
    elif ours == theirs:
        store.move(f"{staging.files}/{layout.PREDICTIONS}", run.predictions)
    elif published.tally and any(
        published.tally.get(name) != (manifest.tally or {}).get(name) for name in DIGITS_COUNTED
    ):
        raise _conflict(run.folder / layout.MANIFEST, staging, manifest)
    else:  # the same digits, with probabilities that differ in their last bits: they need another manifest
        if replace_run(run, staging, manifest):
            return True
        _require_agreement(run, staging, manifest)  # with what another process has published meanwhile
        return False
    store.delete(f"{folder}/{layout.PRUNED}")
    logger.info("run %s has its predictions again", manifest.run_id)
    return True


def count(outputs: Outputs, run_id: str) -> None:
    """Make a published run that of its date from now on, unless it is that already.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    name = run_by_id(outputs, run_id).name
    of_date = runs_of(outputs, name.dataset, name.split, name.run_date, name.run_date)
    if all(run.name != name for run in runs_of_dates(outputs, of_date)):
        record_counted(outputs, run_id, datetime.now(UTC))


def _check_staged(staging: StagingDirectory, manifest: Manifest) -> None:
    """Whole-job truth comes from the plan: every planned file is staged as recorded, and nothing else is."""
    store = staging.outputs.store
    for _ in prefetch(lambda file: len(read_checked(store, staging.files, file)), manifest.files):
        pass
    if not store.has_rename:  # attempts share the folder
        return
    planned = {f"{staging.files}/{file.path}" for file in manifest.files}
    for entry in list(store.list(staging.files)):
        if entry.name not in planned:
            logger.warning("%s was not planned and is deleted", staging.outputs.path(entry.name))
            store.delete(entry.name)


def _require_agreement(run: Run, staging: StagingDirectory, manifest: Manifest) -> None:
    """Raise RunConflictError if the published run has other predictions than the staged one."""
    columns = ["image_id", "prediction"]
    # As many files in both: the plan is part of the run_id.
    pairs = zip(*(files_of_table(each, tables.PREDICTIONS) for each in (manifest, run.manifest())), strict=True)
    for ours, theirs in pairs:
        if ours.sha256 == theirs.sha256:
            continue
        staged = read_checked(staging.outputs.store, staging.files, ours)
        if not tables.decode(tables.PREDICTIONS, staged, ours.path, columns).equals(run.decode(theirs, columns)):
            raise _conflict(run.files / theirs.path, staging, manifest)


def _conflict(theirs: Location, staging: StagingDirectory, manifest: Manifest) -> RunConflictError:
    kept = _keep(staging, manifest)
    return RunConflictError(
        f"run {manifest.run_id} is published with other predictions: expected {theirs} "
        f"to agree with this attempt, kept in {kept}; the same inputs gave other digits, "
        "so something in the stack has changed: compare the versions in the two manifests"
    )


def _keep(staging: StagingDirectory, manifest: Manifest) -> Location:
    """Keep an attempt that disagrees, under a name of its content, so that the same conflict is kept once."""
    store = staging.outputs.store
    digest = canonical_sha256([file.sha256 for file in manifest.files])
    kept = layout.staging_folder(f"{layout.CONFLICT}{manifest.run_id}-{digest[:8]}")
    store.delete(kept)
    if store.has_rename:
        store.publish(staging.files, kept, layout.MANIFEST, manifest.to_bytes())
    else:
        store.write(f"{kept}/{layout.MANIFEST}", manifest.to_bytes())  # its files are beside the published ones
        store.delete(staging.records)  # the next attempt shall compute for itself
    return staging.outputs.path(kept)
