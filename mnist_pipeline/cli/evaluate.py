"""The commands that evaluate: run and backfill."""

from collections import Counter
from contextlib import suppress
from datetime import date
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, opened, out, progress_for
from mnist_pipeline.cli.engine import BACKFILL, backfill_outputs, ended_runs, require_runner, run_flow, start_backfill
from mnist_pipeline.cli.options import OF_A_RUN, Direct, Given, takes
from mnist_pipeline.cli.verdicts import print_verdict, require_accepted
from mnist_pipeline.errors import EngineError, SettingsError, StoreError, VerdictError

COMPLETED = "Completed"  # name of a final state of flow runs


@app.command()
@takes(*OF_A_RUN)
def run(ctx: typer.Context, given: Given, direct: Direct = False) -> None:
    """Evaluate a network on a data set and publish the run."""
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.layout import report as report_name
    from mnist_pipeline.store.base import exists
    from mnist_pipeline.store.probe import require_usable

    settings = given.load()
    runner, cluster = given.flags["runner"], given.flags["cluster"]
    if direct and (runner not in (None, "threads") or cluster):
        raise SettingsError(f"--direct: expected runner threads, got {runner or cluster}; leave one of the two out")
    settings.require_source()  # before any engine starts, so that a mistake fails at once
    require_usable(settings.outputs)
    if direct:
        from mnist_pipeline.pipeline.nightly import run_nightly

        with progress_for(ctx.obj) as progress:
            judged = run_nightly(settings, progress)
    else:
        require_runner(settings)
        # The run date is resolved here, once, so that environment and config file count too.
        judged = run_flow("evaluate", ctx.obj, config=given.config, **given.flags | {"run_date": settings.run_date})
    published = judged.published
    out.print()
    chance = terminal.chance_suffix(published.totals.correct, published.totals.labelled)
    if published.new:
        out.print(f"published run {published.run_id}{chance}", style="bold", soft_wrap=True)
    else:
        found = "was published before with the same predictions: nothing new"
        out.print(f"run {published.run_id} {found}{chance}", soft_wrap=True)
    if published.by_hand:
        out.print(terminal.not_counted_line(published.run_id, published.by_hand), soft_wrap=True)
    out.print(terminal.accuracy_line(published.totals.correct, published.totals.labelled), soft_wrap=True)
    out.print(terminal.digits_table(published.scores))
    print_verdict(judged.verdict)
    if judged.decision:
        out.print(judged.decision, style="bold", soft_wrap=True)
    out.print(f"files: {terminal.path_line(published.folder)}", soft_wrap=True)
    with suppress(StoreError):  # a missing report must not hide the verdict
        if settings.report and exists(opened(settings).store, page := report_name(published.run_id)):
            out.print(f"report: {terminal.path_line(settings.outputs / page)}", soft_wrap=True)
    require_accepted([judged])


@app.command()
@takes("dataset", "split", "outputs")
def backfill(
    ctx: typer.Context,
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
            out.print(f"looking into {folder}, where {BACKFILL} publishes", soft_wrap=True)
            out.print(f"not into {settings.outputs}, where the commands of this shell look", soft_wrap=True)
    dates = consecutive(settings.run_date, (settings.run_date - start.run_date).days + 1)
    run_dates = missing_run_dates(Outputs.at(folder), settings.dataset, settings.split, dates)
    if not run_dates:
        out.print(f"no date is missing in {folder}: nothing to do", soft_wrap=True)
    filled, started = [], {}
    for run_date in run_dates:
        if direct:
            from mnist_pipeline.pipeline.nightly import run_nightly

            with progress_for(ctx.obj) as progress:
                filled.append(run_nightly(settings.model_copy(update={"run_date": run_date}), progress))
            out.print(f"published run {filled[-1].published.run_id}: {filled[-1].verdict.outcome}", soft_wrap=True)
        else:
            run_id = start_backfill(settings, run_date, given.flags["outputs"])
            started[run_id] = run_date
            out.print(f"started: {BACKFILL} {run_date} ({run_id})", soft_wrap=True)
    require_accepted(filled)
    if wait and started:
        _wait_for(started)


def _wait_for(started: dict[str, date]) -> None:
    """Print how each run ended, and raise as the worst of them did."""
    ended = {}
    for run_id, name, message in ended_runs(list(started)):
        ended[run_id] = name
        out.print(f"{started[run_id]}: {name}{f': {message}' if name != COMPLETED else ''}", soft_wrap=True)
    from mnist_pipeline.orchestration.flow_runs import REJECTED  # the engine is prepared by now

    counts = ", ".join(f"{number} {name}" for name, number in sorted(Counter(ended.values()).items()))
    out.print(f"ended: {counts}")
    bad = {name: [str(started[run_id]) for run_id in ended if ended[run_id] == name] for name in ended.values()}
    if others := [day for name, days in bad.items() if name not in (COMPLETED, REJECTED) for day in days]:
        raise EngineError(f"runs without a result: {', '.join(others)}; look at them in Prefect's UI, then again")
    if REJECTED in bad:
        raise VerdictError(f"rejected: {', '.join(bad[REJECTED])}; `mnist-pipeline show DATE` has the failed gates")
