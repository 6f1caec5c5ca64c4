"""Finds published runs: all of them, the newest of a data set and split, those of a date or of a run_id."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

from mnist_pipeline.errors import AmbiguousRunError, RunNotFoundError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.decisions import not_withdrawn
from mnist_pipeline.runs.manifest import RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run


def list_runs(outputs: Outputs) -> list[Run]:
    """All published runs by run_date, then run_id. Folders that are not named like a run are left out."""
    store = outputs.store
    if store.has_rename:
        names = store.children(layout.RUNS)
    else:  # a manifest makes a run, and other objects below its name do not
        names = [entry.name.split("/")[1] for entry in store.find(f"{layout.RUNS}/*", [layout.MANIFEST])]
    runs = [Run(outputs, parsed) for name in names if (parsed := RunName.parse(name))]
    if store.has_rename:  # a file of that name is none
        runs = [run for run in runs if run.exists()]
    return sorted(runs, key=lambda run: (run.name.run_date, run.name.run_id))


def runs_of(outputs: Outputs, dataset: str, split: str) -> list[Run]:
    """The published runs of a split that are not withdrawn, by run_date, then run_id."""
    return not_withdrawn(outputs, [run for run in list_runs(outputs) if run.name.is_of(dataset, split)])


def run_by_id(outputs: Outputs, run_id: str) -> Run:
    """The run of exactly that run_id.

    Raises:
        RunNotFoundError: there is none.
    """
    name = RunName.parse(run_id)
    if name is None or not (run := Run(outputs, name)).exists():
        repair = "" if name is None else _pending(outputs, [name])
        raise RunNotFoundError(
            f"run {run_id}: expected it in {outputs.path(layout.RUNS)}, got none; {repair or 'was it moved away?'}"
        )
    return run


def pending_repairs(outputs: Outputs) -> list[RunName]:
    """The runs whose replacement is recorded and not in its place yet; none without renames."""
    names = [RunName.parse(name) for name in outputs.store.children(layout.REPAIRS)]
    return sorted((name for name in names if name is not None), key=lambda name: name.run_id)


def _pending(outputs: Outputs, names: Sequence[RunName]) -> str:
    """What to do about those of the runs that are missing because their repair is incomplete; empty if none is."""
    waiting = [name.run_id for name in pending_repairs(outputs) if name in names]
    if not waiting:
        return ""
    return (
        f"its repair is incomplete: the replacement of {', '.join(waiting)} is kept in "
        f"{outputs.path(layout.REPAIRS)}, and `mnist-pipeline verify --repair` puts it in its place"
    )


def missing_run_dates(outputs: Outputs, dataset: str, split: str, first: date, last: date) -> list[date]:
    """The dates from `first` to `last`, both included, without a published run of that split that is not withdrawn."""
    there = {run.name.run_date for run in runs_of(outputs, dataset, split)}
    run_dates = (first + timedelta(days=days) for days in range((last - first).days + 1))
    return [run_date for run_date in run_dates if run_date not in there]


def require_run_dates(outputs: Outputs, dataset: str, split: str, first: date, last: date) -> None:
    """Nothing, if every run date from `first` to `last` has a published run of the data set and split.

    Raises:
        RunNotFoundError: some have none; all of them are named.
    """
    if missing := missing_run_dates(outputs, dataset, split, first, last):
        raise RunNotFoundError(
            f"nights of {dataset}/{split} from {first} to {last}: expected a published run of each in {outputs}, got "
            f"none of {', '.join(map(str, missing))}; publish them with `mnist-pipeline backfill --dataset {dataset} "
            f"--split {split} --from {missing[0]} --to {missing[-1]}`"
        )


def find_run(outputs: Outputs, which: str | date, dataset: str, split: str) -> Run:
    """The run that `which` means.

    Args:
        outputs: the outputs folder.
        which: a run_id, a run_date, or "latest": the newest by (run_date, published_at). Withdrawn runs are found by
            their run_id only.
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
    every = [run for run in runs if run.name.is_of(dataset, split)]
    ours = not_withdrawn(outputs, every)
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
    counted = {run.name.run_id for run in ours}
    meant = [run.name.run_id for run in every if str(which) in ("latest", str(run.name.run_date))]
    withdrawn = [run_id for run_id in meant if run_id not in counted]
    unfinished = [
        name
        for name in pending_repairs(outputs)
        if str(which) == name.run_id or (name.is_of(dataset, split) and str(which) in ("latest", str(name.run_date)))
    ]
    raise RunNotFoundError(
        f"run {str(which)!r}: expected a published run of {dataset}/{split} in {outputs}, got none; "
        f"what is there: {', '.join(known) or 'nothing yet'}; "
        + (f"withdrawn, and found by run_id only: {', '.join(withdrawn[-3:])}; " if withdrawn else "")
        + (
            _pending(outputs, unfinished)
            or f"publish it with `mnist-pipeline run --dataset {dataset} --split {split}{_run_date_flag(which)}`"
        )
    )


def _run_date_flag(which: str | date) -> str:
    try:
        return f" --run-date {date.fromisoformat(str(which))}"
    except ValueError:
        return ""
