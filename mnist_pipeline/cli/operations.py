"""The commands of whoever runs the server: setup and doctor."""

from pathlib import Path
from typing import Annotated

import typer

from mnist_pipeline.cli.console import app, load, out
from mnist_pipeline.cli.options import Config, Outputs, Project
from mnist_pipeline.errors import EngineError


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
    if ill := [finding for finding in findings if not finding.healthy]:
        raise EngineError(f"not well: {len(ill)} of {len(findings)}; begin with the first: {ill[0].what}")
