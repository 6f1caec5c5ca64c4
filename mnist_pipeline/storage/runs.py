"""Published runs: commit one, list them, find one, verify one, read its tables. A run never changes once visible."""

import functools
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from mnist_pipeline.errors import AmbiguousRunError, DamagedError, RunConflictError, RunNotFoundError, StoreError
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.canonical import canonical_sha256
from mnist_pipeline.storage.files import (
    FileRecord,
    ahead,
    outputs_errors,
    publish_files,
    put_file,
    replace_file,
    subfolders,
    sync_file,
)
from mnist_pipeline.storage.manifest import Manifest, RunName
from mnist_pipeline.storage.objects import ObjectPath, Place
from mnist_pipeline.storage.staging import Stage, data_folder

logger = logging.getLogger(__name__)

RUNS = "runs"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Run:
    """A published run."""

    folder: Place
    name: RunName

    @property
    def files(self) -> Place:
        """What the paths in the manifest are relative to: the folder of the manifest, but in an object store."""
        return files_of(self.folder.parent.parent, self.name.run_id)

    def paths(self, table: tables.Table) -> list[Place]:
        """The files of a table, in order.

        Raises:
            DamagedError: the manifest is missing or altered, or the run has no such table.
        """
        found = [self.files / file.path for file in self.manifest().files if table_of(file) == table.name]
        if not found:
            raise DamagedError(f"run {self.name.run_id}: expected a {table.name} table, got none in its manifest")
        return found

    def manifest(self) -> Manifest:
        """Read and check the manifest.

        Raises:
            DamagedError: it is missing or altered, or belongs to another run.
        """
        path = self.folder / MANIFEST
        try:
            manifest = Manifest.from_bytes(path.read_bytes(), str(path))
        except StoreError:
            raise
        except OSError as error:
            raise DamagedError(f"{path}: expected a manifest, got no readable file ({error.strerror})") from error
        if manifest.run_id != self.name.run_id:
            raise DamagedError(f"{path}: expected the manifest of {self.name.run_id}, got {manifest.run_id}'s")
        return manifest

    def read(self, table: tables.Table, columns: list[str] | None = None) -> pa.Table:
        """A whole table of the run, each file's bytes checked against the manifest before they are parsed.

        Raises:
            DamagedError: a file is missing or altered, or the run has no such table.
        """
        if not (parts := list(self.read_parts(table, columns))):
            raise DamagedError(f"run {self.name.run_id}: expected a {table.name} table, got none in its manifest")
        return pa.concat_tables(parts)

    def read_parts(self, table: tables.Table, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A table of the run file by file, in order, each checked as by `read`; one at a time is decoded.

        Raises:
            DamagedError: a file is missing or altered.
        """
        ours = [file for file in self.manifest().files if table_of(file) == table.name]
        for file, data in zip(ours, ahead(functools.partial(read_checked, self.files), ours), strict=True):
            yield tables.decode(table, data, str(self.files / file.path), columns)

    def problems(self) -> list[str]:
        """Everything about the run that is not as its manifest says; empty if it verifies."""
        try:
            manifest = self.manifest()
        except DamagedError as error:
            return [str(error)]

        def problem(file: FileRecord) -> str | None:
            try:
                read_checked(self.files, file)
                return None
            except DamagedError as error:
                return str(error)

        found = [each for each in ahead(problem, manifest.files) if each]
        if isinstance(self.folder, ObjectPath):  # an attempt that was not published leaves its files beside these
            return found
        present = {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}
        extra = present - {MANIFEST} - {file.path for file in manifest.files}
        return found + [f"{self.folder / path}: expected no such file" for path in sorted(extra)]


def files_of(outputs: Place, run_id: str) -> Place:
    """The folder of a run's files, but for the manifest in an object store."""
    return data_folder(outputs, run_id) if isinstance(outputs, ObjectPath) else outputs / RUNS / run_id


def read_checked(folder: Place, file: FileRecord) -> bytes:
    """The bytes of a file, if they are what its record says.

    Raises:
        DamagedError: missing, unreadable, or other bytes.
    """
    path = folder / file.path
    try:
        data = path.read_bytes()
    except StoreError:
        raise
    except OSError as error:
        raise DamagedError(
            f"{path}: expected {file.size_bytes} bytes, got no readable file ({error.strerror})"
        ) from error
    if problem := file.problem_with(data):
        raise DamagedError(f"{path}: {problem}; the file was altered after it was published")
    return data


def stage_table(stage: Stage, table: tables.Table, data: pa.Table) -> FileRecord:
    """Write one of a run's small tables into its staging folder."""
    name = f"{table.name}.parquet"
    with outputs_errors(f"cannot write {stage.run / name}"):
        return put_file(stage.run, name, data.num_rows, tables.encode(table, data), scratch=stage.records)


def commit(outputs: Place, stage: Stage, manifest: Manifest) -> bool:
    """Publish what is staged in one step, or recognise that it is published already.

    Args:
        outputs: the outputs folder.
        stage: holds exactly the files that the manifest lists.
        manifest: of the run to be.

    Returns:
        True if the run became visible now, False if the same run was there before.

    Raises:
        RunConflictError: the run is published with other image ids or predictions.
        DamagedError: a staged file, or the published run of that name, is not as recorded.
        OutputsError: the folder cannot be written.
    """
    target = outputs / RUNS / manifest.run_id
    with outputs_errors(f"cannot publish {target}"):
        _check_staged(stage, manifest)
        # In a store the creation of the manifest finds out, and nothing else below that name makes a run.
        taken = isinstance(target, Path) and target.exists()
        if not taken and publish_files(stage.run, target, MANIFEST, manifest.to_bytes(), stage.records):
            return True
        _require_agreement(target, stage, manifest)
    return False


def list_runs(outputs: Place) -> list[Run]:
    """All published runs by run_date, then run_id. Folders that are not named like a run are passed over."""
    folder = outputs / RUNS
    found = [Run(path, name) for path in subfolders(folder) if (name := RunName.parse(path.name))]
    if isinstance(outputs, ObjectPath):  # an object that somebody left there makes no run
        there = ahead(lambda run: (run.folder / MANIFEST).is_file(), found)
        found = [run for run, published in zip(found, list(there), strict=True) if published]
    return sorted(found, key=lambda run: (run.name.run_date, run.name.run_id))


def run_by_id(outputs: Place, run_id: str) -> Run:
    """The run of exactly that run_id.

    Raises:
        RunNotFoundError: there is none.
    """
    name = RunName.parse(run_id)
    folder = outputs / RUNS / run_id
    there = (folder / MANIFEST).is_file() if isinstance(folder, ObjectPath) else folder.is_dir()
    if name is None or not there:
        raise RunNotFoundError(f"run {run_id}: expected it in {outputs / RUNS}, got none; was it moved away?")
    return Run(folder, name)


def missing_nights(outputs: Place, dataset: str, split: str, first: date, last: date) -> list[date]:
    """The dates from `first` to `last`, both included, for which no run of the data set and split is published."""
    there = {run.name.run_date for run in list_runs(outputs) if run.name.is_of(dataset, split)}
    nights = (first + timedelta(days=days) for days in range((last - first).days + 1))
    return [night for night in nights if night not in there]


def require_nights(outputs: Place, dataset: str, split: str, first: date, last: date) -> None:
    """Nothing, if every night from `first` to `last` has a published run of the data set and split.

    Raises:
        RunNotFoundError: some have none; all of them are named.
    """
    if missing := missing_nights(outputs, dataset, split, first, last):
        raise RunNotFoundError(
            f"nights of {dataset}/{split} from {first} to {last}: expected a published run of each in {outputs}, got "
            f"none of {', '.join(map(str, missing))}; publish them with `mnist-pipeline backfill --dataset {dataset} "
            f"--split {split} --from {missing[0]} --to {missing[-1]}`"
        )


def find_run(outputs: Place, which: str | date, dataset: str, split: str) -> Run:
    """The run that `which` means.

    Args:
        outputs: the outputs folder.
        which: a run_id, a run_date, or "latest": the newest by (run_date, published_at).
        dataset: data set meant by a date or "latest".
        split: split meant by a date or "latest".

    Raises:
        RunNotFoundError: there is none.
        AmbiguousRunError: the date has several; they are listed.
        DamagedError: "latest" has to compare manifests and one is damaged.
    """
    if isinstance(which, datetime):  # what a run_date column holds
        which = which.date()
    runs = list_runs(outputs)
    if exact := [run for run in runs if run.name.run_id == which]:
        return exact[0]
    ours = [run for run in runs if run.name.is_of(dataset, split)]
    if which == "latest":
        newest = [run for run in ours if run.name.run_date == ours[-1].name.run_date]
        if newest:
            return newest[0] if len(newest) == 1 else max(newest, key=lambda run: run.manifest().published_at)
    else:
        dated = [run for run in ours if str(run.name.run_date) == str(which)]
        if len(dated) > 1:
            candidates = "".join(f"\n  {run.name.run_id}" for run in dated)
            raise AmbiguousRunError(
                f"run {which}: expected one run of {dataset}/{split}, got several; name one:{candidates}"
            )
        if dated:
            return dated[0]
    known = [run.name.run_id for run in ours[-3:]] or sorted({f"{run.name.dataset}/{run.name.split}" for run in runs})
    raise RunNotFoundError(
        f"run {str(which)!r}: expected a published run of {dataset}/{split} in {outputs}, got none; "
        f"what is there: {', '.join(known) or 'nothing yet'}; "
        f"publish it with `mnist-pipeline run --dataset {dataset} --split {split}`"
    )


def table_of(file: FileRecord) -> str:
    """The name of the table that a published file holds, all of it or a part."""
    return re.split("[/.-]", file.path)[0]


def _check_staged(stage: Stage, manifest: Manifest) -> None:
    """Whole-job truth comes from the plan: every planned file is on the disk as recorded, and nothing else is."""

    def check(file: FileRecord) -> None:
        read_checked(stage.run, file)
        sync_file(stage.run / file.path)

    for _ in ahead(check, manifest.files):
        pass
    if isinstance(stage.run, ObjectPath):
        return
    planned = {file.path for file in manifest.files}
    for path in stage.run.rglob("*"):
        if path.is_file() and path.relative_to(stage.run).as_posix() not in planned:
            logger.warning("%s was not planned and is removed", path)
            path.unlink()


def _require_agreement(target: Place, stage: Stage, manifest: Manifest) -> None:
    name = RunName.parse(manifest.run_id)
    assert name is not None, f"{manifest.run_id} is not a run_id"
    run = Run(target, name)
    if problems := run.problems():
        raise DamagedError(
            f"run {manifest.run_id} is published but damaged: {'; '.join(problems)}; "
            f"move {target} away and run again to publish it anew"
        )
    columns = ["image_id", "prediction"]
    pairs = zip(_parts(manifest), _parts(run.manifest()), strict=True)  # the plan is part of the run_id
    for ours, theirs in pairs:
        if ours.sha256 == theirs.sha256:
            continue
        staged = tables.decode(tables.PREDICTIONS, read_checked(stage.run, ours), ours.path, columns)
        published = tables.decode(tables.PREDICTIONS, read_checked(run.files, theirs), theirs.path, columns)
        if not staged.equals(published):
            kept = _set_aside(stage, manifest)
            raise RunConflictError(
                f"run {manifest.run_id} is published with other predictions: expected {run.files / theirs.path} "
                f"to agree with this attempt, kept in {kept}; the same inputs gave other digits, "
                "so something in the stack has changed: compare the versions in the two manifests"
            )


def _parts(manifest: Manifest) -> list[FileRecord]:
    return [file for file in manifest.files if table_of(file) == tables.PREDICTIONS.name]


def _set_aside(stage: Stage, manifest: Manifest) -> Place:
    """Keep an attempt that disagrees, under a name of its content, so that the same conflict is kept once."""
    digest = canonical_sha256([file.sha256 for file in manifest.files])
    kept = stage.folder.parent / f"conflict-{manifest.run_id}-{digest[:8]}"
    if isinstance(kept, ObjectPath) or isinstance(stage.run, ObjectPath):
        replace_file(kept / MANIFEST, manifest.to_bytes())  # its files lie beside those that are published
        for each in stage.records.iterdir():  # the next attempt shall compute for itself
            each.unlink()
        return kept
    shutil.rmtree(kept, ignore_errors=True)
    replace_file(stage.run / MANIFEST, manifest.to_bytes())
    stage.run.rename(kept)
    return kept
