"""Checks everything a nightly run needs: each finding states the result and the next command.

Raises nothing: an error in a check is a finding too.
"""

import functools
import importlib.metadata
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from packaging.requirements import Requirement

from mnist_pipeline.orchestration.doctor.findings import Finding, guarded
from mnist_pipeline.orchestration.doctor.run_checks import (
    DATES_CHECKED,
    RUN_DUE,
    check_disk,
    check_next_run,
    check_writable,
)
from mnist_pipeline.orchestration.doctor.server_checks import check_server
from mnist_pipeline.orchestration.scheduled import Due, ScheduledRun, merged
from mnist_pipeline.pipeline.nightly import consecutive
from mnist_pipeline.settings import Settings

# Set-up, the temporary server and these checks rely on details of Prefect that change between its minor versions.
PINNED = {"prefect"}


def diagnose(settings: Settings, project: Path, outputs_given: bool = False) -> list[Finding]:
    """Check versions, server, pools, workers, all deployments of ours, and what the next night of each needs.

    Args:
        settings: those of this shell; for nights that no deployment on the server makes.
        project: folder of the flows, with or without a prefect.yaml.
        outputs_given: whether to look into the outputs folder of the settings, wherever the deployments publish.

    Returns:
        Findings in the order in which to fix them.
    """
    server, all_planned = check_server(settings, project)
    last = (datetime.now(UTC) - RUN_DUE).date()
    looked_at = [
        Due(planned.settings, planned.dates(last, DATES_CHECKED) if planned.active else ()) for planned in all_planned
    ] or [Due(settings, consecutive(last, DATES_CHECKED))]
    if outputs_given:
        here = {"outputs": settings.outputs}
        looked_at = [Due(each.settings.model_copy(update=here), each.dates) for each in looked_at]
    looked_at = merged(looked_at)
    folders = list(dict.fromkeys(each.settings.outputs for each in looked_at))
    return [
        *guarded("versions here", _versions),
        *server,
        *guarded("outputs", lambda: _where(settings, all_planned)),
        *(found for folder in folders for found in guarded("disk", functools.partial(check_disk, folder))),
        *(found for folder in folders for found in guarded("outputs", functools.partial(check_writable, folder))),
        *(found for each in looked_at for found in check_next_run(each)),
    ]


def _where(settings: Settings, all_planned: Sequence[ScheduledRun]) -> Iterator[Finding]:
    """Whether the commands of this shell look where the nights are published."""
    published = sorted({f"{planned.deployment} publishes in {planned.settings.outputs}" for planned in all_planned})
    if not published:
        found = (
            f"not known: no deployment on the server has a schedule; looked at {settings.outputs}, as this shell says"
        )
        yield Finding("where nights are published", None, found)
    elif others := [each.settings.outputs for each in all_planned if each.settings.outputs != settings.outputs]:
        found = f"{'; '.join(published)}; the commands of this shell look into {settings.outputs}"
        advice = f"`export MNIST_PIPELINE_OUTPUTS={shlex.quote(str(others[0]))}`"
        yield Finding("where nights are published", None, found, advice)


def _versions() -> Iterator[Finding]:
    for requirement in map(Requirement, importlib.metadata.requires("mnist-pipeline") or []):
        if requirement.name in PINNED and not requirement.marker:
            installed = importlib.metadata.version(requirement.name)
            fits = requirement.specifier.contains(installed, prereleases=True)
            advice = "" if fits else f"`python -m pip install '{requirement}'`, then restart server and worker"
            yield Finding(f"{requirement.name} here", fits, f"{installed}, allowed {requirement.specifier}", advice)
