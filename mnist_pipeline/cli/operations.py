"""The commands for operators: credentials, setup, doctor and prune."""

import shlex
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, opened, out
from mnist_pipeline.cli.options import Given, Project, takes
from mnist_pipeline.errors import CheckFailedError, RunNotFoundError

STATES = {True: "ok", None: "note", False: "FAIL"}


@app.command()
@takes("outputs")
def setup(
    given: Given,
    notify: Annotated[
        str | None,
        typer.Option(
            help="Block that sends notifications of failed runs, as in slack-webhook/team.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="End the pauses of schedules and deployments.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove deployments of this folder that are no longer in prefect.yaml.")
    ] = False,
    project: Project = Path(),
) -> None:
    """Create or update work pool, deployments and automations on the Prefect server; safe to repeat."""
    project = project.absolute()  # before the working directory is another
    settings = given.in_folder(project).load()
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.deployments import prefect_file, set_up

    changes = set_up(project, settings.outputs, notify, resume=resume, prune=prune)
    out.print(f"{prefect_file(project)}; nights are published in {settings.outputs}", soft_wrap=True)
    out.print()
    for change in changes:
        out.print(f"{change.state:9}  {change.what}", soft_wrap=True)
    out.print()
    states = {change.state for change in changes}
    if "paused" in states:
        out.print("paused by a person, and left so: `mnist-pipeline setup --resume` ends it", soft_wrap=True)
    if "left" in states:
        out.print("left are no longer in prefect.yaml: `mnist-pipeline setup --prune` removes them", soft_wrap=True)
    _warn_unnotified()
    out.print("next: `prefect worker start --pool mnist`, then `mnist-pipeline doctor`")


def _warn_unnotified() -> None:
    from mnist_pipeline.orchestration.automations import notified
    from mnist_pipeline.orchestration.deployments import server_in_force

    with server_in_force() as client:
        if not notified(client):
            advice = "name a block with `mnist-pipeline setup --notify TYPE/NAME`"
            out.print(f"warning: nobody hears of failed runs: {advice}", style="yellow", soft_wrap=True)


@app.command()
@takes("outputs")
def up(
    given: Given,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the server on 127.0.0.1.")] = 4200,
    project: Project = Path(),
) -> None:
    """Run everything a nightly schedule needs on this machine: password, server, set-up and worker; Ctrl-C ends it."""
    project = project.absolute()  # before the working directory is another
    settings = given.in_folder(project).load()
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration import one_machine
    from mnist_pipeline.orchestration.credentials import CLIENT_SIDE
    from mnist_pipeline.orchestration.deployments import POOL, set_up
    from mnist_pipeline.orchestration.scheduled import nightly_lines

    address = one_machine.prepare(port)
    with ExitStack() as stack:
        stack.callback(out.print, "ended; `mnist-pipeline up` goes on from here")
        services = []
        if one_machine.answers():
            out.print(f"server: one answers at {address} already; it is used, and left running", soft_wrap=True)
        else:
            out.print(f"server: starting on {address}; the first start takes a minute", soft_wrap=True)
            services.append(stack.enter_context(one_machine.running_server(port)))
            out.print(f"server: answers; its log is {services[-1].log}", soft_wrap=True)
        changes = Counter(change.state for change in set_up(project, settings.outputs))
        out.print(f"set-up: {', '.join(f'{number} {state}' for state, number in changes.items())}", soft_wrap=True)
        services.append(stack.enter_context(one_machine.running_worker(POOL)))
        out.print(f"worker: started; its log is {services[-1].log}", soft_wrap=True)
        for line in nightly_lines():
            out.print(line, soft_wrap=True)
        out.print(f"UI: {address.removesuffix('/api')}; it asks for {CLIENT_SIDE}", soft_wrap=True)
        if kept := one_machine.credentials_in_force():
            out.print("in another shell, for `mnist-pipeline doctor` and Prefect's own commands:", soft_wrap=True)
            out.print(f"  set -a; . {shlex.quote(str(kept))}; PREFECT_API_URL={address}; set +a", soft_wrap=True)
        _warn_unnotified()
        out.print("Ctrl-C ends all of it")
        with suppress(KeyboardInterrupt):
            one_machine.watch(services)


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
    project = project.absolute()  # before the working directory is another
    settings = given.in_folder(project).load()
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.doctor.diagnosis import diagnose

    findings = diagnose(settings, project, outputs_given=given.flags["outputs"] is not None)
    for finding in findings:
        out.print(f"{STATES[finding.healthy]:4}  {finding.what}: {finding.found}", soft_wrap=True)
        if finding.advice:
            out.print(f"      -> {finding.advice}", soft_wrap=True)
    failed = [finding for finding in findings if finding.healthy is False]
    if failed:
        raise CheckFailedError(
            f"checks failed: {len(failed)} of {len(findings)}; fix the first one first: {failed[0].what}"
        )


CONFIGURED = "If left out, that of the config's table retention, or"


@app.command()
@takes("outputs")
def prune(
    given: Given,
    keep_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help=f"Keep the runs of the last N days. {CONFIGURED} 90.", metavar="N"),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(min=1, help=f"Keep the last M runs of each data set and split. {CONFIGURED} 7.", metavar="M"),
    ] = None,
    grace_hours: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=87_600,
            help=f"Hours between marking a run and deleting its predictions and report. {CONFIGURED} 24.",
            metavar="HOURS",
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Apply the changes; otherwise only list them.")
    ] = False,
) -> None:
    """Delete predictions and reports of old runs, and orphaned files; without --apply only list them.

    Manifests, summaries, verdicts and the history stay.

    Prune marks a run first; the first prune HOURS later deletes its predictions and report.

    Always kept: the latest run, the last that passed or had nothing judged, the baseline, just published runs.
    """
    from mnist_pipeline.maintenance.orphans import Inventory
    from mnist_pipeline.maintenance.pruning import carry_out
    from mnist_pipeline.pipeline.housekeeping import plan_by
    from mnist_pipeline.report import terminal
    from mnist_pipeline.runs.lookup import list_runs
    from mnist_pipeline.settings import RetentionSettings

    settings = given.load()
    if not list_runs(opened(settings)):
        raise RunNotFoundError(f"{settings.outputs}: expected published runs, got none; check the folder given")
    options = {"keep_days": keep_days, "keep_last": keep_last, "grace_hours": grace_hours}
    configured = settings.retention or RetentionSettings(keep_days=90)
    rule = configured.model_copy(update={name: value for name, value in options.items() if value is not None})
    now = datetime.now(UTC)
    plan = plan_by(rule, opened(settings), now)
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
