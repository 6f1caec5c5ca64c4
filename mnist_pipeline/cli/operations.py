"""The commands for operators: setup, up, credentials and doctor."""

import shlex
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnist_pipeline.cli.console import app
from mnist_pipeline.cli.options import Given, Project, command
from mnist_pipeline.cli.printing import conclude, out
from mnist_pipeline.errors import CheckFailedError, printable

STATES: dict[bool | None, Literal["ok", "note", "failed"]] = {True: "ok", None: "note", False: "failed"}
SHOWN = {"ok": "ok", "note": "note", "failed": "FAIL"}


@command("outputs")
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
    from mnist_pipeline.cli.results.work import ChangeFacts, SetupResult
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.deployments import prefect_file, set_up

    changes = set_up(project, settings.outputs, notify, resume=resume, prune=prune)
    conclude(
        SetupResult(
            prefect_file=str(prefect_file(project)),
            outputs=str(settings.outputs),
            changes=tuple(ChangeFacts(what=change.what, state=change.state) for change in changes),
            notified=(heard := _notified()),
        )
    )
    out.print(f"{prefect_file(project)}; nights are published in {settings.outputs}")
    out.print()
    for change in changes:
        out.print(f"{change.state:9}  {change.what}")
    out.print()
    states = {change.state for change in changes}
    if "paused" in states:
        out.print("paused by a person, and left so: `mnist-pipeline setup --resume` ends it")
    if "left" in states:
        out.print("left are no longer in prefect.yaml: `mnist-pipeline setup --prune` removes them")
    if not heard:
        _warn_unnotified()
    out.print("next: `prefect worker start --pool mnist`, then `mnist-pipeline doctor`")


def _notified() -> bool:
    from mnist_pipeline.orchestration.automations import notified
    from mnist_pipeline.orchestration.deployments import server_in_force

    with server_in_force() as client:
        return notified(client)


def _warn_unnotified() -> None:
    advice = "name a block with `mnist-pipeline setup --notify TYPE/NAME`"
    out.print(f"warning: nobody hears of failed runs: {advice}", style="yellow")


@command("outputs")
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
            out.print(f"server: one answers at {address} already; it is used, and left running")
        else:
            out.print(f"server: starting on {address}; the first start takes a minute")
            services.append(stack.enter_context(one_machine.running_server(port)))
            out.print(f"server: answers; its log is {services[-1].log}")
        changes = Counter(change.state for change in set_up(project, settings.outputs))
        out.print(f"set-up: {', '.join(f'{number} {state}' for state, number in changes.items())}")
        services.append(stack.enter_context(one_machine.running_worker(POOL)))
        out.print(f"worker: started; its log is {services[-1].log}")
        for line in nightly_lines():
            out.print(line)
        out.print(f"UI: {address.removesuffix('/api')}; it asks for {CLIENT_SIDE}")
        if kept := one_machine.credentials_in_force():
            out.print("in another shell, for `mnist-pipeline doctor` and Prefect's own commands:")
            out.print(f"  set -a; . {shlex.quote(str(kept))}; PREFECT_API_URL={address}; set +a")
        if not _notified():
            _warn_unnotified()
        out.print("Ctrl-C ends all of it")
        with suppress(KeyboardInterrupt):
            one_machine.watch(services)


@app.command()
def credentials() -> None:
    """Create the password of the Prefect server, before its first start, and print the file that holds it."""
    from mnist_pipeline.cli.results.work import CredentialsResult
    from mnist_pipeline.orchestration.credentials import credentials_file, make_credentials

    path = credentials_file()
    made = make_credentials(path)
    conclude(CredentialsResult(path=str(path), made=made))
    out.print(f"{'made' if made else 'kept'} {path}, which only you can read")
    out.print("next, in each shell that starts the server, a worker or a command:")
    out.print(f"  set -a; . {shlex.quote(str(path))}; set +a")


@command("outputs")
def doctor(given: Given, project: Project = Path()) -> None:
    """Check everything a nightly run needs, and say how to fix what fails."""
    project = project.absolute()  # before the working directory is another
    settings = given.in_folder(project).load()
    from mnist_pipeline.cli.results.work import CheckFacts, DoctorResult
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.doctor.diagnosis import diagnose

    findings = diagnose(settings, project, outputs_given=given.flags["outputs"] is not None)
    checks = tuple(
        CheckFacts(what=each.what, state=STATES[each.healthy], found=printable(each.found), advice=each.advice or None)
        for each in findings
    )
    conclude(DoctorResult(checks=checks))
    for finding in findings:
        out.print(f"{SHOWN[STATES[finding.healthy]]:4}  {finding.what}: {finding.found}")
        if finding.advice:
            out.print(f"      -> {finding.advice}")
    failed = [finding for finding in findings if finding.healthy is False]
    if failed:
        raise CheckFailedError(
            f"checks failed: {len(failed)} of {len(findings)}; fix the first one first: {failed[0].what}"
        )
