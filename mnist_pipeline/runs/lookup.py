"""Published runs: list them, find one, verify one, read its tables. A run never changes once visible, but for pruning.

A pruned run has lost its predictions to housekeeping and says so itself; all else of it stays.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.errors import AmbiguousRunError, DamagedError, PrunedError, RunNotFoundError
from mnist_pipeline.runs.manifest import Manifest, Pruned, RunName
from mnist_pipeline.runs.staging import data_folder
from mnist_pipeline.store.files import FileRecord, prefetch, read_expected, read_if_there, subfolders, walk
from mnist_pipeline.store.objects import Location, ObjectPath

RUNS = "runs"
MANIFEST = "manifest.json"
PRUNED = "pruned.json"
REPAIRS = ".repairs"  # holds complete runs that are to take the place of published ones: repairs.py


@dataclass(frozen=True)
class Run:
    """A published run."""

    folder: Location
    name: RunName

    @property
    def files(self) -> Location:
        """What the paths in the manifest are relative to: the folder of the manifest, but in an object store."""
        if isinstance(self.folder, ObjectPath):
            return files_of(self.folder.parent.parent, self.name.run_id)
        return self.folder

    def manifest(self) -> Manifest:
        """Read and check the manifest.

        Raises:
            DamagedError: it is missing or altered, or belongs to another run.
        """
        path = self.folder / MANIFEST
        manifest = Manifest.from_bytes(read_expected(path, "a manifest"), str(path))
        if manifest.run_id != self.name.run_id:
            raise DamagedError(f"{path}: expected the manifest of {self.name.run_id}, got {manifest.run_id}'s")
        return manifest

    def pruned(self) -> Pruned | None:
        """The record of when predictions and report were given up, or None.

        Raises:
            DamagedError: it is altered.
        """
        path = self.folder / PRUNED
        data = read_if_there(path, "the record of a prune")
        return None if data is None else Pruned.from_bytes(data, str(path))

    def paths(self, table: tables.Table) -> list[Location]:
        """The files of a table, in order.

        Raises:
            DamagedError: the manifest is missing or altered, or the run has no such table.
            PrunedError: its predictions were given up.
        """
        return [self.files / file.path for file in self._files_of(table)]

    def read(self, table: tables.Table, columns: list[str] | None = None) -> pa.Table:
        """A whole table of the run, each file's bytes checked against the manifest before they are parsed.

        Raises:
            DamagedError: a file is missing or altered, or the run has no such table.
            PrunedError: its predictions were given up.
        """
        return pa.concat_tables(self.read_files(table, columns))

    def read_files(self, table: tables.Table, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A table of the run file by file, in order, each checked as by `read`; one at a time is decoded.

        Raises:
            DamagedError: a file is missing or altered, or the run has no such table.
            PrunedError: its predictions were given up.
        """
        files = self._files_of(table)
        for file, data in zip(files, prefetch(functools.partial(read_checked, self.files), files), strict=True):
            yield tables.decode(table, data, str(self.files / file.path), columns)

    def _files_of(self, table: tables.Table) -> list[FileRecord]:
        if table is tables.PREDICTIONS and (pruned := self.pruned()):
            raise PrunedError(
                f"run {self.name.run_id}: expected its predictions, got a run that gave them up: they were pruned at "
                f"{pruned.pruned_at:%Y-%m-%d %H:%M} UTC; its other tables are there, and `mnist-pipeline run "
                f"--run-date {self.name.run_date}` with the same weights and settings brings them back"
            )
        if not (found := files_of_table(self.manifest(), table)):
            raise DamagedError(f"run {self.name.run_id}: expected a {table.name} table, got none in its manifest")
        return found

    def problems(self) -> list[str]:
        """Everything about the run that is not as its manifest says; empty if it verifies."""
        try:
            manifest, pruned = self.manifest(), self.pruned()
        except DamagedError as error:
            return [str(error)]

        def problem(file: FileRecord) -> str | None:
            try:
                read_checked(self.files, file)
                return None
            except DamagedError as error:
                return str(error)

        pruned_paths = files_of_table(manifest, tables.PREDICTIONS) if pruned else []
        found = [
            each for each in prefetch(problem, [file for file in manifest.files if file not in pruned_paths]) if each
        ]
        if isinstance(self.folder, ObjectPath):  # an attempt that was not published leaves its files beside these
            return found
        present = {str(each.path) for each in walk(self.folder)}
        extra = present - {MANIFEST, PRUNED} - {file.path for file in manifest.files}
        return found + [f"{self.folder / path}: expected no such file" for path in sorted(extra)]


def files_of(outputs: Location, run_id: str) -> Location:
    """The folder of a run's files, but for the manifest in an object store."""
    return data_folder(outputs, run_id) if isinstance(outputs, ObjectPath) else outputs / RUNS / run_id


def read_checked(folder: Location, file: FileRecord) -> bytes:
    """The bytes of a file, if they are what its record says.

    Raises:
        DamagedError: missing, unreadable, or other bytes.
    """
    path = folder / file.path
    data = read_expected(path, f"{file.size_bytes} bytes")
    if problem := file.problem_with(data):
        raise DamagedError(f"{path}: {problem}; the file was altered after it was published")
    return data


def list_runs(outputs: Location) -> list[Run]:
    """All published runs by run_date, then run_id. Folders that are not named like a run are passed over."""
    folder = outputs / RUNS
    found = [Run(path, name) for path in subfolders(folder) if (name := RunName.parse(path.name))]
    if isinstance(outputs, ObjectPath):  # an object that somebody left there makes no run
        there = prefetch(lambda run: (run.folder / MANIFEST).is_file(), found)
        found = [run for run, published in zip(found, list(there), strict=True) if published]
    return sorted(found, key=lambda run: (run.name.run_date, run.name.run_id))


def run_by_id(outputs: Location, run_id: str) -> Run:
    """The run of exactly that run_id.

    Raises:
        RunNotFoundError: there is none.
    """
    name = RunName.parse(run_id)
    folder = outputs / RUNS / run_id
    there = (folder / MANIFEST).is_file() if isinstance(folder, ObjectPath) else folder.is_dir()
    if name is None or not there:
        repair = "" if name is None else _unfinished(outputs, [name])
        raise RunNotFoundError(
            f"run {run_id}: expected it in {outputs / RUNS}, got none; {repair or 'was it moved away?'}"
        )
    return Run(folder, name)


def pending_repairs(outputs: Location) -> list[RunName]:
    """The runs whose replacement waits to be put in its place; quickly none where none was ever replaced.

    Raises:
        OSError: the folder cannot be read.
    """
    if isinstance(outputs, ObjectPath):  # there a manifest is replaced in one step
        return []
    names = [RunName.parse(path.name) for path in subfolders(outputs / REPAIRS)]
    return sorted((name for name in names if name is not None), key=lambda name: name.run_id)


def _unfinished(outputs: Location, names: Sequence[RunName]) -> str:
    """What to do about those of the runs that are missing because their repair is unfinished; empty if none is."""
    waiting = [name.run_id for name in pending_repairs(outputs) if name in names]
    if not waiting:
        return ""
    return (
        f"its repair is unfinished: the replacement of {', '.join(waiting)} is kept in {outputs / REPAIRS}, and "
        "`mnist-pipeline verify --repair` puts it in its place"
    )


def missing_run_dates(outputs: Location, dataset: str, split: str, first: date, last: date) -> list[date]:
    """The dates from `first` to `last`, both included, for which no run of the data set and split is published."""
    there = {run.name.run_date for run in list_runs(outputs) if run.name.is_of(dataset, split)}
    run_dates = (first + timedelta(days=days) for days in range((last - first).days + 1))
    return [run_date for run_date in run_dates if run_date not in there]


def require_run_dates(outputs: Location, dataset: str, split: str, first: date, last: date) -> None:
    """Nothing, if every night from `first` to `last` has a published run of the data set and split.

    Raises:
        RunNotFoundError: some have none; all of them are named.
    """
    if missing := missing_run_dates(outputs, dataset, split, first, last):
        raise RunNotFoundError(
            f"nights of {dataset}/{split} from {first} to {last}: expected a published run of each in {outputs}, got "
            f"none of {', '.join(map(str, missing))}; publish them with `mnist-pipeline backfill --dataset {dataset} "
            f"--split {split} --from {missing[0]} --to {missing[-1]}`"
        )


def find_run(outputs: Location, which: str | date, dataset: str, split: str) -> Run:
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
    meant = [
        name
        for name in pending_repairs(outputs)
        if str(which) == name.run_id or (name.is_of(dataset, split) and str(which) in ("latest", str(name.run_date)))
    ]
    raise RunNotFoundError(
        f"run {str(which)!r}: expected a published run of {dataset}/{split} in {outputs}, got none; "
        f"what is there: {', '.join(known) or 'nothing yet'}; "
        + (
            _unfinished(outputs, meant)
            or f"publish it with `mnist-pipeline run --dataset {dataset} --split {split}{_run_date_flag(which)}`"
        )
    )


def _run_date_flag(which: str | date) -> str:
    try:
        return f" --run-date {date.fromisoformat(str(which))}"
    except ValueError:
        return ""


def table_of(file: FileRecord) -> str:
    """The name of the table that a published file holds, all of it or a part."""
    return re.split("[/.-]", file.path)[0]


def files_of_table(manifest: Manifest, table: tables.Table) -> list[FileRecord]:
    """The files of a run that hold a table, in order."""
    return [file for file in manifest.files if table_of(file) == table.name]
