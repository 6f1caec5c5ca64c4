"""The nights that the server's deployments make: of which data set and split, with which settings, in which outputs.

What a worker's own environment and config files add is not known here: they are taken to be those of this process.
"""

import asyncio
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.server.schemas.schedules import SCHEDULE_TYPES
from pydantic import TypeAdapter

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.orchestration.deployments import our_deployments, schedule_line
from mnist_pipeline.pipeline.nightly import consecutive
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, PATHS, Settings, load_settings, project_defaults
from mnist_pipeline.store.base import is_remote
from mnist_pipeline.store.disk import read_small

EVALUATION = "mnist-evaluation/"  # starts the names of the deployments that evaluate
DEADLINE = "mnist-deadline/"
WORKING_DIRECTORY = "prefect.deployments.steps.set_working_directory"
# What a deployment may say of a night, as a parameter or in its environment; paths are relative to its directory.
_VALUES = ("dataset", "split", "activation", "batch_rows", "shard_rows")
_SCHEDULE: TypeAdapter[Any] = TypeAdapter(SCHEDULE_TYPES)  # those of the server know when they fire
YEAR = 366  # days: how far back a schedule is looked at


@dataclass(frozen=True)
class ScheduledRun:
    """One schedule of a deployment that evaluates. `active` is False if it is paused."""

    deployment: str
    settings: Settings
    schedule: DeploymentSchedule
    active: bool

    def dates(self, last: date, count: int) -> tuple[date, ...]:
        """The last run dates up to `last` of which the run has begun by now, the newest last; at most `count`."""
        begin = datetime.combine(last - timedelta(days=YEAR), time.min, UTC)
        end = min(datetime.combine(last + timedelta(days=1), time.min, UTC), datetime.now(UTC))
        schedule = _SCHEDULE.validate_python(self.schedule.schedule.model_dump(exclude_unset=True))
        dates: set[date] = set()
        while begin < end and (found := asyncio.run(schedule.get_dates(start=begin, end=end))):
            starts = [datetime.fromtimestamp(start.timestamp(), UTC) for start in found]  # of another class
            dates |= {start.date() for start in starts}
            begin = max(starts) + timedelta(seconds=1)  # an answer has a thousand at most
        return tuple(sorted(each for each in dates if each <= last)[-count:])


@dataclass(frozen=True)
class Due:
    """The run dates of a data set, split and outputs folder that are due."""

    settings: Settings
    dates: tuple[date, ...]


def scheduled_runs(ours: Mapping[str, DeploymentResponse]) -> list[ScheduledRun]:
    """The runs that our deployments make, one for each schedule.

    Raises:
        SettingsError: a deployment gives a setting that is not valid.
    """
    return [
        ScheduledRun(name, _named_settings(name, found, schedule), schedule, schedule.active and not found.paused)
        for name, found in ours.items()
        if name.startswith(EVALUATION)
        for schedule in found.schedules
    ]


def nightly_lines() -> list[str]:
    """When and where each scheduled deployment evaluates, a line each."""
    with get_client(sync_client=True) as client:
        return [
            f"{each.deployment}: {schedule_line(each.schedule)}{'' if each.active else ', paused'}, published in "
            f"{each.settings.outputs}"
            for each in scheduled_runs(our_deployments(client))
        ]


def _named_settings(name: str, found: DeploymentResponse, schedule: DeploymentSchedule) -> Settings:
    try:
        return settings_of(found, schedule.parameters)
    except SettingsError as error:
        raise SettingsError(f"deployment {name}: {error}") from error


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
    config = Path(_in(directory, parameters["config"])) if "config" in parameters else None
    configured, given = {"outputs": "outputs"} | project_defaults() | _table_in(config), dict[str, Any]()
    for name in (*PATHS, *_VALUES):
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        value = parameters.get(name, variables.get(variable))
        # Not the outputs of this shell: those of the deployment, of its config file, or of the project.
        if not value and name in PATHS and (name == "outputs" or not os.environ.get(variable)):
            value = configured.get(name)
        if value is not None:
            given[name] = _in(directory, value) if name in PATHS else value
    # An absolute path differs from the configured text of it, and other weights do not inherit an activation.
    if "weights" in configured and given.get("weights") == _in(directory, configured["weights"]):
        given.setdefault("activation", configured.get("activation"))
    return load_settings(config, configured={"config": config, **given}, **given)


def _table_in(config: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads(read_small(config)) if config else {}
    except (OSError, ValueError, RecursionError):  # which `load_settings` reports
        return {}


def due(settings: Settings, given: Mapping[str, Any], count: int) -> list[Due]:
    """The run dates that are due up to `run_date`, by the active schedules on the server; none of paused ones.

    Args:
        settings: for the case that there is no schedule of such runs: then each date is due. They name the last date.
        given: data set, split and outputs that a person or deployment asked for, None where all are meant.
        count: how many dates of each, at most.

    Raises:
        SettingsError: a deployment gives a setting that is not valid.
    """
    asked = {name: given.get(name) for name in ("dataset", "split")}
    with get_client(sync_client=True) as client:
        found = [planned for planned in scheduled_runs(our_deployments(client)) if _is_of(planned, asked)]
    if not found:
        return [Due(settings, consecutive(settings.run_date, count))]
    more: dict[str, Any] = {"outputs": given["outputs"]} if given.get("outputs") else {}
    return merged(
        Due(planned.settings.model_copy(update=more), planned.dates(settings.run_date, count))
        for planned in found
        if planned.active
    )


def merged(each_due: Iterable[Due]) -> list[Due]:
    """One for each data set, split and outputs folder, with the dates of all."""
    together: dict[tuple[object, ...], Due] = {}
    for each in each_due:
        key = each.settings.dataset, each.settings.split, each.settings.outputs
        dates = {*each.dates, *(together[key].dates if key in together else ())}
        together[key] = Due(each.settings, tuple(sorted(dates)))
    return list(together.values())


def deadlines_of(ours: Mapping[str, DeploymentResponse], planned: ScheduledRun) -> list[str]:
    """The deployments with an active schedule that check whether a night was published."""
    return [
        name
        for name, found in ours.items()
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


def _directory(found: DeploymentResponse) -> Path:
    for step in found.pull_steps or []:
        if directory := (step.get(WORKING_DIRECTORY) or {}).get("directory"):
            return Path(directory)
    return Path.cwd()


def _in(directory: Path, value: object) -> str:
    return str(value) if is_remote(value) else str(directory / Path(str(value)).expanduser())
