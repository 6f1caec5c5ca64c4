"""The commands for operators: credentials, setup, doctor and prune."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, opened, out
from mnist_pipeline.cli.options import Given, Project, takes
from mnist_pipeline.errors import EngineError, RunNotFoundError


@app.command()
def setup(
    notify: Annotated[
        str | None,
        typer.Option(
            help="Block that sends notifications of failed runs, as in slack-webhook/team.", show_default=False
        ),
    ] = None,
    project: Project = Path(),
) -> None:
    """Create or update work pool, deployments and automations on the Prefect server; safe to repeat."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.deployments import set_up

    for change in set_up(project.absolute(), notify):
        out.print(f"{change.state:9}  {change.what}", soft_wrap=True)
    out.print()
    out.print("next: `prefect worker start --pool mnist`, then `mnist-pipeline doctor`")


@app.command()
def credentials() -> None:
    """Create the password of the Prefect server, before its first start, and print the file that holds it."""
    from mnist_pipeline.orchestration.credentials import credentials_file, make_credentials

    path = credentials_file()
    made = make_credentials(path)
    out.print(f"{'made' if made else 'kept'} {path}, which only you can read", soft_wrap=True)
    out.print("next, in each shell that starts the server, a worker or a command:", soft_wrap=True)
    out.print(f"  set -a; . {shlex.quote(str(path))}; set +a", soft_wrap=True)


@app.command()
@takes("outputs")
def doctor(given: Given, project: Project = Path()) -> None:
    """Check everything a nightly run needs, and say how to fix what fails."""
    settings = given.load()
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.diagnosis import diagnose

    findings = diagnose(settings, project.absolute())
    for finding in findings:
        out.print(f"{'ok' if finding.healthy else 'FAIL':4}  {finding.what}: {finding.found}", soft_wrap=True)
        if finding.advice:
            out.print(f"      -> {finding.advice}", soft_wrap=True)
    if failed := [finding for finding in findings if not finding.healthy]:
        raise EngineError(f"checks failed: {len(failed)} of {len(findings)}; fix the first one first: {failed[0].what}")


@app.command()
@takes("outputs")
def prune(
    given: Given,
    keep_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Keep the runs of the last N days.", metavar="N")
    ] = 90,
    keep_last: Annotated[
        int, typer.Option(min=1, help="Keep the last M runs of each data set and split.", metavar="M")
    ] = 7,
    grace_hours: Annotated[
        int,
        typer.Option(
            min=0,
            max=87_600,
            help="Hours between marking a run and deleting its predictions and report.",
            metavar="HOURS",
        ),
    ] = 24,
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Apply the changes; otherwise only list them.")
    ] = False,
) -> None:
    """Delete predictions and reports of old runs, and orphaned files; without --apply only list them.

    Manifests, summaries, verdicts and the history stay.

    Prune marks a run first; the first prune HOURS later deletes its predictions and report.

    Always kept: the latest run, the last that passed or had nothing judged, the baseline, just published runs.
    """
    from mnist_pipeline.core.retention import Retention
    from mnist_pipeline.maintenance.orphans import Inventory
    from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import list_runs

    settings = given.load()
    if not list_runs(opened(settings)):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    now = datetime.now(UTC)
    plan = plan_prune(opened(settings), Retention(keep_days, keep_last), timedelta(hours=grace_hours), now)
    left = carry_out(opened(settings), plan, now) if apply else []  # before a closed terminal can interrupt it
    rows = [
        (decision.run.name.run_id, terminal.size(decision.size_bytes), decision.action, decision.why)
        for decision in plan.decisions
    ]
    out.print(terminal.decisions_table(rows))
    for what, orphans in (("unused shards", plan.shards), ("orphan", plan.staging)):
        for orphan in orphans:
            path = terminal.path_line(settings.outputs / orphan.name)
            line = f"delete {what}: {path} ({terminal.size(orphan.size_bytes)})"
            out.print(line, soft_wrap=True)
    before = sum(plan.use_bytes.values())
    use = ", ".join(f"{name} {terminal.size(size_bytes)}" for name, size_bytes in plan.use_bytes.items())
    out.print(f"disk use before: {terminal.size(before)}: {use}", soft_wrap=True)
    counts = ", ".join(f"{action} {len(plan.of(action))}" for action in ("mark", "delete", "restore"))
    if not apply:
        free = terminal.size(plan.frees_bytes)
        out.print(f"{counts}; would free {free}; nothing is changed without --apply", soft_wrap=True)
        return
    for line in left:
        out.print(f"left alone: {line}", soft_wrap=True)
    after = sum(Inventory.take(opened(settings)).use_bytes().values())
    out.print(f"done: {counts}; disk use now: {terminal.size(after)}")
