"""The commands of whoever keeps it running: credentials, setup, doctor and prune."""

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, load, out
from mnist_pipeline.cli.options import Config, Outputs, Project
from mnist_pipeline.errors import EngineError, RunNotFoundError


@app.command()
def setup(
    notify: Annotated[
        str | None,
        typer.Option(help="Block to tell of failed runs, as in slack-webhook/team.", show_default=False),
    ] = None,
    project: Project = Path(),
) -> None:
    """Bring work pool, deployments and automations to the Prefect server; done twice, it changes nothing."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.deployments import set_up

    for change in set_up(project.absolute(), notify):
        out.print(f"{change.state:9}  {change.what}", soft_wrap=True)
    out.print()
    out.print("next: `prefect worker start --pool mnist`, then `mnist-pipeline doctor`")


@app.command()
def credentials() -> None:
    """Make the password of the Prefect server, once and before it starts, and say where it is kept."""
    from mnist_pipeline.orchestration.credentials import credentials_file, make_credentials

    path = credentials_file()
    made = make_credentials(path)
    out.print(f"{'made' if made else 'kept'} {path}, which only you can read", soft_wrap=True)
    out.print("next, in each shell that starts the server, a worker or a command:", soft_wrap=True)
    out.print(f"  set -a; . {shlex.quote(str(path))}; set +a", soft_wrap=True)


@app.command()
def doctor(project: Project = Path(), outputs: Outputs = None, config: Config = None) -> None:
    """Look at everything a night needs, and say what to do about what is not as it should be."""
    settings = load(config, outputs=outputs)
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.diagnosis import diagnose

    findings = diagnose(settings, project.absolute())
    for finding in findings:
        out.print(f"{'ok' if finding.healthy else 'ILL':3}  {finding.what}: {finding.found}", soft_wrap=True)
        if finding.advice:
            out.print(f"     -> {finding.advice}", soft_wrap=True)
    if failed := [finding for finding in findings if not finding.healthy]:
        raise EngineError(f"not well: {len(failed)} of {len(findings)}; begin with the first: {failed[0].what}")


@app.command()
def prune(
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
            help="Hours from the mark on a run until its predictions and report may go.",
            metavar="HOURS",
        ),
    ] = 24,
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Do it; otherwise nothing is changed.")] = False,
    outputs: Outputs = None,
    config: Config = None,
) -> None:
    """Give up predictions and reports of old runs, and sweep what nobody needs; without --apply only say so.

    Manifests, summaries, verdicts and the history stay.

    A run is marked first; the first prune HOURS later deletes its predictions and report.

    Kept in any case: the latest run, the last that passed or had nothing judged, the baseline, what was just published.
    """
    from mnist_pipeline.core.retention import Retention
    from mnist_pipeline.maintenance.orphans import Inventory
    from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import list_runs

    settings = load(config, outputs=outputs)
    if not list_runs(settings.outputs):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    now = datetime.now(UTC)
    plan = plan_prune(settings.outputs, Retention(keep_days, keep_last), timedelta(hours=grace_hours), now)
    left = carry_out(settings.outputs, plan, now) if apply else []  # before anybody can close the terminal on it
    rows = [
        (decision.run.name.run_id, terminal.size(decision.size_bytes), decision.action, decision.why)
        for decision in plan.decisions
    ]
    out.print(terminal.decisions_table(rows))
    for what, orphans in (("unused shards", plan.shards), ("left behind", plan.staging)):
        for orphan in orphans:
            line = f"sweep {what}: {terminal.path_line(orphan.path)} ({terminal.size(orphan.size_bytes)})"
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
    after = sum(Inventory.take(settings.outputs).use_bytes().values())
    out.print(f"done: {counts}; disk use now: {terminal.size(after)}")
