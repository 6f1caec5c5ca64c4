"""Runs the whole nightly run in this process, and checks that due run dates are published and accepted.

The flow in `flows/evaluate.py` chains the same steps as tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.errors import DamagedError, NoDataError, RunNotFoundError, VerdictError
from mnist_pipeline.pipeline.arrival import look_for_data
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.pipeline.judging import Judged, judge_published, judged_line
from mnist_pipeline.pipeline.reporting import try_report
from mnist_pipeline.runs import lookup
from mnist_pipeline.runs.decisions import newest_decision
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.verdicts.reading import current_verdict
from mnist_pipeline.views import complete_repairs


def run_nightly(settings: Settings, progress: Progress = silent) -> Judged:
    """Publish a run, judge it, and write its report if the settings ask for one.

    Raises:
        PipelineError: a step failed. Before publishing, nothing new is visible; after it, the run stays published.
    """
    judged = judge_published(settings, evaluate(settings, progress))
    if settings.report:
        try_report(Outputs.at(settings.outputs), judged.published.run_id, verified=True)
    return judged


@dataclass(frozen=True)
class DateStatus:
    """The result of the run of a date, in a line, and whether its gates accept it."""

    line: str
    good: bool


def consecutive(last: date, count: int) -> tuple[date, ...]:
    """The last dates up to one, the newest last."""
    return tuple(last - timedelta(days=days) for days in reversed(range(count)))


def require_run_dates(settings: Settings, dates: Sequence[date]) -> list[DateStatus]:
    """Check run dates of a data set and split; return the status of each if all are published and accepted.

    Raises:
        RunNotFoundError: some dates have no run; the message also lists problems of the others.
        NoDataError: the same, and none of these dates has anything to evaluate.
        VerdictError: runs that fail their gates, or were not judged.
    """
    outputs, dataset, split = Outputs.at(settings.outputs), settings.dataset, settings.split
    if not dates:
        return []
    complete_repairs(outputs)
    found = lookup.runs_of_dates(outputs, lookup.runs_of(outputs, dataset, split, min(dates), max(dates)))
    states = [state_of(settings, run) for run in found if run.name.run_date in dates]
    failed = [state.line for state in states if not state.good]
    if absent := lookup.missing_run_dates(outputs, dataset, split, dates):
        lines, nothing_there = look_for_data(settings, absent)
        kind = NoDataError if nothing_there else RunNotFoundError
        problem = lookup.missing_line(outputs, dataset, split, dates, absent)
        advice = lookup.missing_advice(outputs, dataset, split, absent) + (" once it is there" if nothing_there else "")
        raise kind("; ".join([problem, *lines, advice, *failed]))
    if failed:
        raise VerdictError(f"{'; '.join(failed)}; look at each with `mnist-pipeline show RUN_ID`")
    return states


def state_of(settings: Settings, run: Run) -> DateStatus:
    """The status of a date, decided by its run.

    A missing verdict is not good: the run was never judged. An accepted run is good whatever its verdict.
    """
    outputs = Outputs.at(settings.outputs)
    try:
        manifest = run.manifest()
        verdict = current_verdict(outputs, manifest)
        decision = newest_decision(outputs, manifest.content)
    except DamagedError as error:
        return DateStatus(str(error), good=False)
    if decision and decision.standing == "accepted":
        judged = verdict.line if verdict else f"run {manifest.run_id}: not judged"
        return DateStatus(judged_line(judged, manifest.totals, decision.line), good=True)
    if verdict is None:
        line = (
            f"run {manifest.run_id}: expected a verdict, got none; judge it: `mnist-pipeline run --dataset "
            f"{settings.dataset} --split {settings.split} --run-date {manifest.identity.run_date}`"
        )
        return DateStatus(line, good=False)
    line = judged_line(verdict.line, manifest.totals)
    return DateStatus(line, good=not verdict.fails(settings.gates_of_dataset()))
