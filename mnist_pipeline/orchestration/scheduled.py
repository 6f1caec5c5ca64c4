"""The nights that the server's deployments make: of which data set and split, with which settings, in which outputs.

What a worker's own environment and config files add is not known here: they are taken to be those of this process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort

from mnist_pipeline.orchestration.deployments import our_deployments
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, Settings, load_settings, project_defaults
from mnist_pipeline.store.base import is_remote

EVALUATION = "mnist-evaluation/"  # starts the names of the deployments that evaluate
DEADLINE = "mnist-deadline/"
BACKFILL = f"{EVALUATION}backfill"
WORKING_DIRECTORY = "prefect.deployments.steps.set_working_directory"
# What a deployment may say of a night, as a parameter or in its environment; paths are relative to its directory.
_PATHS = ("outputs", "weights", "images", "data_dir", "cache")
_VALUES = ("dataset", "split", "batch_rows", "shard_rows")


@dataclass(frozen=True)
class ScheduledRun:
    """One schedule of a deployment that evaluates. `active` is False if it is paused."""

    deployment: str
    found: DeploymentResponse
    settings: Settings
    active: bool


def scheduled_runs(client: SyncPrefectClient) -> list[ScheduledRun]:
    """The nights that the deployments on the server make, one for each schedule.

    Raises:
        SettingsError: a deployment gives a setting that is not valid.
    """
    return [
        ScheduledRun(name, found, settings_of(found, schedule.parameters), schedule.active and not found.paused)
        for name, found in our_deployments(client).items()
        if name.startswith(EVALUATION)
        for schedule in found.schedules
    ]


def settings_of(found: DeploymentResponse, more: Mapping[str, Any] | None = None) -> Settings:
    """The settings with which a deployment runs.

    Args:
        found: the deployment.
        more: parameters of one of its schedules.

    Raises:
        SettingsError: it gives a setting that is not valid.
    """
    variables = (found.job_variables or {}).get("env") or {}
    parameters = {name: value for name, value in {**found.parameters, **(more or {})}.items() if value is not None}
    directory = _directory(found)
    given = {"outputs": project_defaults().get("outputs", "outputs")}
    for name in (*_PATHS, *_VALUES):
        value = parameters.get(name, variables.get(f"{ENVIRONMENT_PREFIX}{name.upper()}") or given.get(name))
        if value is not None:
            given[name] = _in(directory, value) if name in _PATHS else value
    config = parameters.get("config")
    return load_settings(Path(_in(directory, config)) if config else None, configured=given, **given)


def due(settings: Settings, given: Mapping[str, Any]) -> list[Settings]:
    """The settings of the nights that are due up to `run_date`, each with the last date that is due for it.

    Args:
        settings: for the case that no active schedule on the server is of a night like that; name the last date.
        given: data set, split and outputs that a person or deployment asked for, None where all are meant.

    Raises:
        SettingsError: a deployment gives a setting that is not valid.
    """
    asked = {name: given.get(name) for name in ("dataset", "split")}
    with get_client(sync_client=True) as client:
        found = [planned for planned in scheduled_runs(client) if planned.active and _is_of(planned, asked)]
        more: dict[str, Any] = {"outputs": given["outputs"]} if given.get("outputs") else {}
        due = [
            planned.settings.model_copy(update={"run_date": last_due(client, planned, settings.run_date), **more})
            for planned in found
        ]
    return list({(each.dataset, each.split, each.outputs): each for each in due}.values()) or [settings]


def deadlines_of(client: SyncPrefectClient, planned: ScheduledRun) -> list[str]:
    """The deployments with an active schedule that check whether a night was published."""
    return [
        name
        for name, found in our_deployments(client).items()
        if name.startswith(DEADLINE)
        and not found.paused
        and any(
            schedule.active and _watches({**found.parameters, **(schedule.parameters or {})}, planned)
            for schedule in found.schedules
        )
    ]


def _watches(parameters: Mapping[str, Any], planned: ScheduledRun) -> bool:
    """Whether a deadline with these parameters looks for the night: without a data set and split it looks for all."""
    return _is_of(planned, {name: parameters.get(name) for name in ("dataset", "split")})


def _is_of(planned: ScheduledRun, asked: Mapping[str, Any]) -> bool:
    return all(value in (None, getattr(planned.settings, name)) for name, value in asked.items())


def last_due(client: SyncPrefectClient, planned: ScheduledRun, run_date: date) -> date:
    """The last date up to `run_date` of which a night is due: not a date on which it has yet to begin."""
    begin = datetime.combine(run_date, time.min, UTC)
    of_date = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[planned.found.id])),
        flow_run_filter=FlowRunFilter(
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate(
                {"after_": begin, "before_": begin + timedelta(days=1)}
            )
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )
    starts = [run.expected_start_time for run in of_date if run.auto_scheduled and run.expected_start_time]
    return run_date - timedelta(days=1) if starts and min(starts) > datetime.now(UTC) else run_date


def _directory(found: DeploymentResponse) -> Path:
    for step in found.pull_steps or []:
        if directory := (step.get(WORKING_DIRECTORY) or {}).get("directory"):
            return Path(directory)
    return Path.cwd()


def _in(directory: Path, value: object) -> str:
    return str(value) if is_remote(value) else str(directory / Path(str(value)).expanduser())
