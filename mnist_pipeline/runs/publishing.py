"""Publishes a run: what is staged becomes visible in one step, once, and in place of nothing but a damaged run."""

import logging
from pathlib import Path

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.errors import RunConflictError
from mnist_pipeline.runs.lookup import MANIFEST, PRUNED, RUNS, Run, files_of_table, read_checked
from mnist_pipeline.runs.manifest import Manifest, RunName
from mnist_pipeline.runs.replacement import replace_run
from mnist_pipeline.runs.staging import PREDICTIONS, StagingDirectory
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import (
    FileRecord,
    outputs_errors,
    prefetch,
    publish_files,
    put_file,
    remove_folder,
    replace_file,
    sync_file,
    sync_folder,
    walk,
)
from mnist_pipeline.store.objects import Location, ObjectPath

logger = logging.getLogger(__name__)

CONFLICT = "conflict-"
DIGITS_COUNTED = ("confusion", "unlabelled")  # what a tally says of the digits alone


def write_table(staging: StagingDirectory, table: tables.Table, data: pa.Table) -> FileRecord:
    """Write one of a run's small tables into its staging folder."""
    name = f"{table.name}.parquet"
    with outputs_errors(f"cannot write {staging.run / name}"):
        return put_file(staging.run, name, data.num_rows, tables.encode(table, data), scratch=staging.records)


def commit(outputs: Location, staging: StagingDirectory, manifest: Manifest) -> bool:
    """Publish what is staged in one step, or recognise that it is published already.

    A published run of that name that is damaged goes to quarantine, and this one takes its place. One that has been
    pruned is given its predictions back.

    Args:
        outputs: the outputs folder.
        staging: holds exactly the files that the manifest lists.
        manifest: of the run to be.

    Returns:
        True if the run became visible now, or whole again, False if the same run was there before.

    Raises:
        RunConflictError: the run is published with other image ids or predictions.
        DamagedError: a staged file is not as recorded.
        OutputsError: the folder cannot be written.
    """
    target = outputs / RUNS / manifest.run_id
    name = RunName.parse(manifest.run_id)
    assert name is not None, f"{manifest.run_id} is not a run_id"
    run = Run(target, name)
    with outputs_errors(f"cannot publish {target}"):
        _check_staged(staging, manifest)
        # In a store the creation of the manifest finds out, and nothing else below that name makes a run.
        taken = isinstance(target, Path) and target.exists()
        if not taken and _publish(staging, target, manifest):
            return True
        if run.problems() and replace_run(outputs, run, staging.run, manifest, staging.records):
            return True
        if run.pruned():
            return _give_back(outputs, run, staging, manifest)
        _require_agreement(run, staging, manifest)
    return False


def _publish(staging: StagingDirectory, target: Location, manifest: Manifest) -> bool:
    return publish_files(staging.run, target, MANIFEST, manifest.to_bytes(), staging.records)


def _give_back(outputs: Location, run: Run, staging: StagingDirectory, manifest: Manifest) -> bool:
    """Let a pruned run have its predictions again: those it had, if these are the very same files or digits.

    Returns:
        True: the run is whole again. False: another has seen to it meanwhile.

    Raises:
        RunConflictError: they were others.
    """
    published, there = run.manifest(), run.files / PREDICTIONS
    theirs, ours = (files_of_table(each, tables.PREDICTIONS) for each in (published, manifest))
    if isinstance(there, Path) and there.exists():  # marked, and not yet deleted
        _require_agreement(run, staging, manifest)
    elif ours == theirs:
        if isinstance(there, Path):
            assert isinstance(staging.run, Path), f"{staging.run} and {there} are not in the same place"
            sync_folder(staging.run / PREDICTIONS)
            (staging.run / PREDICTIONS).rename(there)
            sync_folder(there.parent)
    elif published.tally and any(published.tally[name] != (manifest.tally or {})[name] for name in DIGITS_COUNTED):
        raise _conflict(run.folder / MANIFEST, staging, manifest)
    else:  # the same digits, with probabilities that differ in their last bits: they have another manifest
        if replace_run(outputs, run, staging.run, manifest, staging.records):
            return True
        _require_agreement(run, staging, manifest)  # with what another has put there meanwhile
        return False
    (run.folder / PRUNED).unlink()
    sync_folder(run.folder)
    logger.info("run %s has its predictions again", manifest.run_id)
    return True


def _check_staged(staging: StagingDirectory, manifest: Manifest) -> None:
    """Whole-job truth comes from the plan: every planned file is on the disk as recorded, and nothing else is."""

    def check(file: FileRecord) -> None:
        read_checked(staging.run, file)
        sync_file(staging.run / file.path)

    for _ in prefetch(check, manifest.files):
        pass
    if isinstance(staging.run, ObjectPath):
        return
    planned = {file.path for file in manifest.files}
    for found in walk(staging.run):
        if str(found.path) not in planned:
            logger.warning("%s was not planned and is removed", staging.run / found.path)
            (staging.run / found.path).unlink()


def _require_agreement(run: Run, staging: StagingDirectory, manifest: Manifest) -> None:
    """Raise RunConflictError if the published run says other than what is staged."""
    columns = ["image_id", "prediction"]
    # As many files in both: the plan is part of the run_id.
    pairs = zip(*(files_of_table(each, tables.PREDICTIONS) for each in (manifest, run.manifest())), strict=True)
    for ours, theirs in pairs:
        if ours.sha256 == theirs.sha256:
            continue
        staged = tables.decode(tables.PREDICTIONS, read_checked(staging.run, ours), ours.path, columns)
        published = tables.decode(tables.PREDICTIONS, read_checked(run.files, theirs), theirs.path, columns)
        if not staged.equals(published):
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
    digest = canonical_sha256([file.sha256 for file in manifest.files])
    kept = staging.folder.parent / f"{CONFLICT}{manifest.run_id}-{digest[:8]}"
    if isinstance(kept, ObjectPath) or isinstance(staging.run, ObjectPath):
        replace_file(kept / MANIFEST, manifest.to_bytes())  # its files lie beside those that are published
        for each in staging.records.iterdir():  # the next attempt shall compute for itself
            each.unlink()
        return kept
    remove_folder(kept)
    replace_file(staging.run / MANIFEST, manifest.to_bytes())
    staging.run.rename(kept)
    return kept
