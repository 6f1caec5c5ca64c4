"""A whole night in this process, and whether nights that are due are published and good.

The flow in `flows/evaluate.py` chains the same steps as tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.errors import DamagedError, RunNotFoundError, VerdictError
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.pipeline.judging import Judged, current_verdict, judge_published
from mnist_pipeline.pipeline.reporting import try_report
from mnist_pipeline.runs import lookup
from mnist_pipeline.runs.lookup import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.views import complete_repairs


def run_nightly(settings: Settings, progress: Progress = silent) -> Judged:
    """Publish a run, judge it, and write its report if the settings want one.

    Raises:
        PipelineError: whatever a stage refuses; nothing new is visible then.
    """
    judged = judge_published(settings, evaluate(settings, progress))
    if settings.report:
        try_report(settings.outputs, judged.published.run_id)
    return judged


@dataclass(frozen=True)
class DateStatus:
    """What the newest run of a night came to, in a line, and whether that is as good as its gates want."""

    line: str
    good: bool


def require_run_dates(settings: Settings, nights: int) -> list[DateStatus]:
    """The state of each of the last nights up to `run_date`, if all of them are published and good.

    Raises:
        RunNotFoundError: some nights have no run; what is wrong with the others is said too.
        VerdictError: runs that fail their gates, or were not judged.
    """
    complete_repairs(settings.outputs)
    outputs, dataset, split, last = settings.outputs, settings.dataset, settings.split, settings.run_date
    first = last - timedelta(days=nights - 1)
    found = [run for run in lookup.list_runs(outputs) if run.name.is_of(dataset, split)]
    due = groupby((run for run in found if first <= run.name.run_date <= last), key=lambda run: run.name.run_date)
    states = [state_of(settings, list(of_date)) for _, of_date in due]
    failed = [state.line for state in states if not state.good]
    try:
        lookup.require_run_dates(outputs, dataset, split, first, last)
    except RunNotFoundError as error:
        raise RunNotFoundError("; ".join([str(error), *failed])) from error
    if failed:
        raise VerdictError(f"{'; '.join(failed)}; look at each with `mnist-pipeline show RUN_ID`")
    return states


def state_of(settings: Settings, of_date: Sequence[Run]) -> DateStatus:
    """The state of a night by its runs; the newest of them, by time of publication, speaks for it.

    A verdict that is missing is not good: nobody has looked.
    """
    try:
        manifest = max((run.manifest() for run in of_date), key=lambda each: each.published_at)
        verdict = current_verdict(settings.outputs, manifest)
    except DamagedError as error:
        return DateStatus(str(error), good=False)
    if verdict is None:
        line = (
            f"run {manifest.run_id}: expected a verdict, got none; judge it: `mnist-pipeline run --dataset "
            f"{settings.dataset} --split {settings.split} --run-date {manifest.identity.run_date}`"
        )
        return DateStatus(line, good=False)
    return DateStatus(verdict.line, good=not verdict.fails(settings.gates_of_dataset()))
