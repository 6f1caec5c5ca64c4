"""Finds the run that a person or a program means: by run_id, by run date, the latest, or the latest that passed."""

from collections.abc import Sequence
from datetime import date, datetime

from mnist_pipeline.errors import RunNotFoundError
from mnist_pipeline.runs.counting import content_of
from mnist_pipeline.runs.decisions import standing_of
from mnist_pipeline.runs.lookup import (
    NAMED,
    list_runs,
    newest_counted,
    not_counted,
    pending_advice,
    pending_repairs,
)
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.base import is_remote
from mnist_pipeline.verdicts.records import newest_verdict

LATEST, LATEST_PASSED = "latest", "latest-passed"


def find_run(outputs: Outputs, which: str | date, dataset: str, split: str) -> Run:
    """The run that `which` means.

    Args:
        outputs: the outputs folder.
        which: a run_id; a run_date: the newest run of that date that counts; "latest": that of the newest date;
            "latest-passed": the newest that counts and passed, or was accepted. Runs that do not count are found by
            their run_id only.
        dataset: data set meant by a date or a name.
        split: split meant by a date or a name.

    Raises:
        RunNotFoundError: there is none, or an address is given. That is not repeated: there may be a password in it.
    """
    if is_remote(which):
        raise RunNotFoundError(f"run: expected a run_id, a run date, {LATEST} or {LATEST_PASSED}, got an address")
    if is_remote(dataset) or is_remote(split):
        raise RunNotFoundError("dataset and split: expected the names of published runs, got an address")
    if isinstance(which, datetime):  # what a run_date column holds
        which = which.date()
    runs = list_runs(outputs)
    if exact := [run for run in runs if run.name.run_id == which]:
        return exact[0]
    ours = [run for run in runs if run.name.is_of(dataset, split)]
    meant = [run for run in ours if str(which) in (LATEST, LATEST_PASSED, str(run.name.run_date))]
    counted = newest_counted(outputs, meant)
    found = next((run for run in counted if which != LATEST_PASSED or has_passed(run)), None)
    if found is None:
        raise RunNotFoundError(_not_found(outputs, str(which), f"{dataset}/{split}", runs, meant))
    return found


def has_passed(run: Run) -> bool:
    """Whether a run stands as passed: by its newest verdict, or because a person accepted it."""
    content = content_of(run)
    verdict = newest_verdict(run.outputs, content)
    return standing_of(run.outputs, content) == "accepted" or (verdict is not None and verdict.outcome == "pass")


def _not_found(outputs: Outputs, which: str, split: str, runs: Sequence[Run], meant: Sequence[Run]) -> str:
    passed = " that passed" if which == LATEST_PASSED else ""
    ours = [run for run in runs if run.name.split_of == split]
    known = [run.name.run_id for run in ours[-NAMED:]] or sorted({run.name.split_of for run in runs})
    waiting = [
        name
        for name in pending_repairs(outputs)
        if which == name.run_id or (name.split_of == split and which in (LATEST, LATEST_PASSED, str(name.run_date)))
    ]
    dataset, _, split_name = split.partition("/")
    advice = f"publish it with `mnist-pipeline run --dataset {dataset} --split {split_name}{_run_date_flag(which)}`"
    if passed and known:
        advice = "`mnist-pipeline runs` has the verdicts, and `accept` lets a run stand as passed"
    return (
        f"run {which!r}: expected a published run of {split}{passed} in {outputs}, got none; "
        + ("" if meant and not passed else f"what is there: {', '.join(known) or 'nothing yet'}; ")
        + ("" if passed else not_counted(meant))
        + (pending_advice(outputs, waiting) or advice)
    )


def _run_date_flag(which: str) -> str:
    try:
        return f" --run-date {date.fromisoformat(which)}"
    except ValueError:
        return ""
