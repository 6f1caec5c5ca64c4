"""The commands that evaluate: run and backfill."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnist_pipeline.cli.console import opened, progress_for
from mnist_pipeline.cli.engine import BACKFILL, backfill_outputs, ended_runs, require_runner, run_flow, start_backfill
from mnist_pipeline.cli.options import Direct, Given, command
from mnist_pipeline.cli.printing import conclude, out, print_table
from mnist_pipeline.cli.verdicts import print_verdict, require_accepted
from mnist_pipeline.errors import EngineError, SettingsError, VerdictError

if TYPE_CHECKING:
    from mnist_pipeline.settings import Settings

COMPLETED = "Completed"  # name of a final state of flow runs
Dated = dict[date, dict[str, Any]]  # what is known of each date, by the fields of `FilledDate`


@command()
def run(given: Given, direct: Direct = False) -> None:
    """Evaluate a network on a data set and publish the run."""
    from mnist_pipeline.cli.results.runs import RunResult, facts_of
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.layout import report as report_name
    from mnist_pipeline.runs.lookup import run_by_id
    from mnist_pipeline.store.probe import require_usable

    settings = given.load()
    runner, cluster = given.flags["runner"], given.flags["cluster"]
    if direct and (runner not in (None, "threads") or cluster):
        raise SettingsError(f"--direct: expected runner threads, got {runner or cluster}; leave one of the two out")
    settings.require_source()  # before any engine starts, so that a mistake fails at once
    require_usable(settings.outputs)
    if direct:
        from mnist_pipeline.pipeline.nightly import run_nightly

        with progress_for() as progress:
            judged = run_nightly(settings, progress)
    else:
        require_runner(settings)
        # The run date is resolved here, once, so that environment and config file count too.
        judged = run_flow("evaluate", config=given.config, **given.flags | {"run_date": settings.run_date})
    published = judged.published
    found = run_by_id(opened(settings), published.run_id)
    facts = facts_of(found, published.scores, judged.verdict)
    result = RunResult(**facts, new=published.new, by_hand=published.by_hand)
    conclude(result)
    out.print()
    chance = terminal.chance_suffix(result.totals.correct, result.totals.labelled)
    if result.new:
        out.print(f"published run {result.run_id}{chance}", style="bold")
    else:
        out.print(f"run {result.run_id} was published before with the same predictions: nothing new{chance}")
    if result.by_hand:
        out.print(terminal.not_counted_line(result.run_id, result.by_hand))
    out.print(terminal.accuracy_line(result.totals.correct, result.totals.labelled, result.totals.images))
    print_table(lambda width: terminal.digits_table(result.digits, width))
    print_verdict(judged.verdict)
    if judged.decision:
        out.print(judged.decision, style="bold")
    out.print(f"files: {terminal.path_line(published.folder)}")
    if settings.report and result.report:
        out.print(f"report: {terminal.path_line(found.outputs.path(report_name(result.run_id)))}")
    require_accepted([judged])


@command("dataset", "split", "outputs")
def backfill(
    given: Given,
    first: Annotated[str, typer.Option("--from", help="First date, YYYY-MM-DD.")],
    last: Annotated[str, typer.Option("--to", help="Last date, YYYY-MM-DD.")],
    direct: Direct = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all runs have ended, and say how.")] = False,
) -> None:
    """Evaluate the dates of a range that have no published run that counts; published runs stay unchanged.

    Without --direct it starts one run of the deployment mnist-evaluation/backfill for each missing date, and looks
    where that publishes unless --outputs is given.
    """
    from mnist_pipeline.cli.results.work import BackfillResult, FilledDate
    from mnist_pipeline.pipeline.nightly import consecutive
    from mnist_pipeline.runs.lookup import missing_run_dates
    from mnist_pipeline.runs.outputs import Outputs

    start = given.load({"run_date": "--from"}, run_date=first)
    settings = given.load({"run_date": "--to"}, run_date=last)
    if start.run_date > settings.run_date:
        raise SettingsError(f"--from {first}: expected a date up to --to {last}, got a later one; swap the two")
    folder = settings.outputs
    if not direct and given.flags["outputs"] is None:
        folder = backfill_outputs()
        if folder != settings.outputs:
            out.print(f"looking into {folder}, where {BACKFILL} publishes")
            out.print(f"not into {settings.outputs}, where the commands of this shell look")
    dates = consecutive(settings.run_date, (settings.run_date - start.run_date).days + 1)
    run_dates = missing_run_dates(Outputs.at(folder), settings.dataset, settings.split, dates)
    if not run_dates:
        out.print(f"no date is missing in {folder}: nothing to do")
    dated: Dated = {}
    try:
        if direct:
            _publish_here(settings, run_dates, dated)
        else:
            _start(settings, run_dates, given.flags["outputs"], wait, dated)
    finally:  # what was done before an error is part of the result
        found = tuple(FilledDate(run_date=run_date, **facts) for run_date, facts in dated.items())
        conclude(BackfillResult(outputs=str(folder), dates=found))


def _publish_here(settings: "Settings", run_dates: Sequence[date], dated: Dated) -> None:
    """Publish the night of each date, and raise if one fails its gates."""
    from mnist_pipeline.pipeline.nightly import run_nightly

    filled = []
    for run_date in run_dates:
        with progress_for() as progress:
            filled.append(run_nightly(settings.on(run_date), progress))
        run_id, outcome = filled[-1].published.run_id, filled[-1].verdict.outcome
        dated[run_date] = {"run_id": run_id, "outcome": outcome}
        out.print(f"published run {run_id}: {outcome}")
    require_accepted(filled)


def _start(settings: "Settings", run_dates: Sequence[date], outputs: str | None, wait: bool, dated: Dated) -> None:
    """Start a flow run for each date, and wait for them if asked to."""
    started = {}
    for run_date in run_dates:
        run_id = start_backfill(settings, run_date, outputs)
        started[run_id] = run_date
        dated[run_date] = {"flow_run_id": run_id}
        out.print(f"started: {BACKFILL} {run_date} ({run_id})")
    if wait and started:
        _wait_for(started, dated)


def _wait_for(started: dict[str, date], dated: Dated) -> None:
    """Print how each run ended, and raise as the worst of them did."""
    ended = {}
    for run_id, name, message in ended_runs(list(started)):
        ended[run_id] = name
        dated[started[run_id]] |= {"state": name, "message": message}
        out.print(f"{started[run_id]}: {name}{f': {message}' if name != COMPLETED else ''}")
    from mnist_pipeline.orchestration.flow_runs import REJECTED  # the engine is prepared by now

    counts = ", ".join(f"{number} {name}" for name, number in sorted(Counter(ended.values()).items()))
    out.print(f"ended: {counts}")
    bad = {name: [str(started[run_id]) for run_id in ended if ended[run_id] == name] for name in ended.values()}
    if others := [day for name, days in bad.items() if name not in (COMPLETED, REJECTED) for day in days]:
        raise EngineError(f"runs without a result: {', '.join(others)}; look at them in Prefect's UI, then again")
    if REJECTED in bad:
        raise VerdictError(f"rejected: {', '.join(bad[REJECTED])}; `mnist-pipeline show DATE` has the failed gates")
