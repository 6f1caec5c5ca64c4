"""Finds published runs: all of them, the one of a run_id, and the one of each date."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from itertools import groupby

from mnist_pipeline.errors import RunNotFoundError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import content_of, counting
from mnist_pipeline.runs.decisions import standing_of
from mnist_pipeline.runs.manifest import RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run

NAMED = 3  # runs in a message


def list_runs(outputs: Outputs, wanted: Callable[[RunName], bool] = lambda _: True) -> list[Run]:
    """All published runs, or those that are wanted, by run_date, then run_id. Other folders are left out."""
    store = outputs.store
    if store.has_rename:
        names = store.children(layout.RUNS)
    else:  # a manifest makes a run, and other objects below its name do not
        names = [entry.name.split("/")[1] for entry in store.find(f"{layout.RUNS}/*", [layout.MANIFEST])]
    runs = [Run(outputs, parsed) for name in names if (parsed := RunName.parse(name)) and wanted(parsed)]
    if store.has_rename:  # a file of that name is none
        runs = [run for run in runs if run.exists()]
    return sorted(runs, key=lambda run: (run.name.run_date, run.name.run_id))


def newest_counted(outputs: Outputs, runs: Iterable[Run]) -> Iterator[Run]:
    """Those of some runs that count, by run date, then by since when they count, the newest first.

    The first of each date is the run of that date. Reads no more runs than it has to for those that are asked for.
    """
    since = counting(outputs)
    newest_first = sorted(runs, key=lambda run: run.name.run_date, reverse=True)
    for _, of_date in groupby(newest_first, key=lambda run: run.name.run_date):
        yield from _by_time(since, of_date)


def runs_of_dates(outputs: Outputs, runs: Iterable[Run]) -> list[Run]:
    """The run of each date that has one that counts, by run date; of runs of one data set and split."""
    of_dates: dict[date, Run] = {}
    for run in newest_counted(outputs, runs):
        of_dates.setdefault(run.name.run_date, run)
    return [of_dates[run_date] for run_date in sorted(of_dates)]


def runs_of(outputs: Outputs, dataset: str, split: str, first: date = date.min, last: date = date.max) -> list[Run]:
    """The published runs of a split and of a range of dates, both included, by run_date, then run_id."""
    return list_runs(outputs, lambda name: name.is_of(dataset, split) and first <= name.run_date <= last)


def run_by_id(outputs: Outputs, run_id: str) -> Run:
    """The run of exactly that run_id.

    Raises:
        RunNotFoundError: there is none.
    """
    name = RunName.parse(run_id)
    if name is None or not (run := Run(outputs, name)).exists():
        repair = "" if name is None else pending_advice(outputs, [name])
        raise RunNotFoundError(
            f"run {run_id}: expected it in {outputs.path(layout.RUNS)}, got none; {repair or 'was it moved away?'}"
        )
    return run


def pending_repairs(outputs: Outputs) -> list[RunName]:
    """The runs whose replacement is recorded and not in its place yet; none without renames."""
    names = [RunName.parse(name) for name in outputs.store.children(layout.REPAIRS)]
    return sorted((name for name in names if name is not None), key=lambda name: name.run_id)


def pending_advice(outputs: Outputs, names: Sequence[RunName]) -> str:
    """What to do about those of the runs that are missing because their repair is incomplete; empty if none is."""
    waiting = [name.run_id for name in pending_repairs(outputs) if name in names]
    if not waiting:
        return ""
    return (
        f"its repair is incomplete: the replacement of {', '.join(waiting)} is kept in "
        f"{outputs.path(layout.REPAIRS)}, and `mnist-pipeline verify --repair` puts it in its place"
    )


def missing_run_dates(outputs: Outputs, dataset: str, split: str, dates: Sequence[date]) -> list[date]:
    """Those of some dates, in order, without a published run of that split that counts."""
    if not dates:
        return []
    runs = runs_of(outputs, dataset, split, min(dates), max(dates))
    there = {run.name.run_date for run in runs_of_dates(outputs, runs)}
    return [run_date for run_date in dates if run_date not in there]


def missing_line(outputs: Outputs, dataset: str, split: str, dates: Sequence[date], missing: Sequence[date]) -> str:
    """Part of a message: which of some run dates have no published run of the data set and split that counts."""
    return (
        f"nights of {dataset}/{split} from {dates[0]} to {dates[-1]}: expected a published run of each in "
        f"{outputs}, got none of {', '.join(map(str, missing))}"
    )


def missing_advice(outputs: Outputs, dataset: str, split: str, missing: Sequence[date]) -> str:
    """Part of a message: what is there of run dates without a run that counts, and what to do about them."""
    there = [run for run in runs_of(outputs, dataset, split, missing[0], missing[-1]) if run.name.run_date in missing]
    command = backfill_command(outputs, dataset, split, missing[0], missing[-1])
    return f"{not_counted(there)}publish them with `{command}`"


def backfill_command(outputs: Outputs, dataset: str, split: str, first: date, last: date) -> str:
    """The command that publishes what is missing of a range of dates, wherever it is typed."""
    where = f"--outputs {shlex.quote(str(outputs))}"
    return f"mnist-pipeline backfill --dataset {dataset} --split {split} --from {first} --to {last} {where}"


def not_counted(runs: Sequence[Run]) -> str:
    """Part of a message: runs that are there and do not count, why, and what changes that; empty without runs."""
    if not runs:
        return ""
    earlier = f"{len(runs) - NAMED} earlier ones and " if len(runs) > NAMED else ""
    named = ", ".join(f"{run.name.run_id} ({_why_not(run)})" for run in runs[-NAMED:])
    return f"not counted: {earlier}{named}; `mnist-pipeline accept RUN_ID --reason TEXT` counts one; "


def _why_not(run: Run) -> str:
    standing = standing_of(run.outputs, content_of(run))
    return "its decision is damaged" if standing == "damaged" else standing or "made by hand"


def _by_time(since: Callable[[Run], datetime | None], runs: Iterable[Run]) -> list[Run]:
    counted = [(at, run.name.run_id, run) for run in runs if (at := since(run))]
    return [run for *_, run in sorted(counted, key=lambda each: each[:2], reverse=True)]
