"""Creates and updates work pool, deployments and automations on the active server from prefect.yaml; idempotent.

Starts no server and no worker. Keeps what a person has paused, and deployments that were taken out of prefect.yaml,
unless it is asked not to; it names both.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from mnist_pipeline.errors import SettingsError, has_secrets, masked
from mnist_pipeline.orchestration.automations import HEARTBEAT_LOST, Change, find_block, set_up_automations
from mnist_pipeline.orchestration.environment import PREFECT_DEFAULTS
from mnist_pipeline.orchestration.server import refuse_credentials, require_answer, wait_for
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, project_defaults, project_file
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.disk import read_small

POOL = "mnist"
POOL_TYPE = "process"
LOCAL_SERVER = "http://127.0.0.1:4200/api"  # the default address of `prefect server start`
FILE = "prefect.yaml"
OUTPUTS_VARIABLE = f"{ENVIRONMENT_PREFIX}OUTPUTS"
FLOW_PREFIX = "mnist-"  # of the names of our flows
START_SECONDS = 60  # for which set-up waits for a server that is starting
PAGE = 200  # deployments in an answer, at most

# The keys that can be compared with the server. An entry of prefect.yaml with other keys is redeployed each time.
_COMPARED = {
    "name", "entrypoint", "description", "tags", "parameters", "schedules", "concurrency_limit", "paused",
    "work_pool", "pull",
}  # fmt: skip
_SCHEDULE_OPTIONS = {"active", "parameters", "slug"}  # the other keys of a schedule define its times
_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


@dataclass(frozen=True)
class Entry:
    """One deployment of prefect.yaml. `full_name` is FLOW/NAME, as in Prefect's own commands."""

    full_name: str
    name: str
    values: Mapping[str, Any]
    schema: Mapping[str, Any]
    flow_description: str | None
    default_outputs: str

    @property
    def schedules(self) -> list[dict[str, Any]]:
        return list(self.values.get("schedules") or [])

    @property
    def pool(self) -> str | None:
        """The name of its work pool."""
        name: str | None = (self.values.get("work_pool") or {}).get("name")
        return name

    def differences(self, found: DeploymentResponse) -> list[str]:
        """The names of the properties that differ between the server and prefect.yaml."""
        limit = self.values.get("concurrency_limit")
        limit = {"limit": limit} if isinstance(limit, int) else limit or {}
        pool = self.values.get("work_pool") or {}
        slots, options = found.global_concurrency_limit, found.concurrency_options
        pairs = {
            "entrypoint": (self.values["entrypoint"], found.entrypoint),
            "description": (self.values.get("description") or self.flow_description, found.description),
            "tags": (sorted(self.values.get("tags") or []), sorted(found.tags)),
            "parameters": (self.values.get("parameters") or {}, found.parameters),
            "parameter schema": (self.schema, found.parameter_openapi_schema),
            "pull steps": (self.values.get("pull") or [], found.pull_steps or []),
            "work pool": (self.pool, found.work_pool_name),
            "job variables": tuple(map(self._with_outputs, (pool.get("job_variables"), found.job_variables))),
            "paused": (bool(self.values.get("paused")), bool(self.values.get("paused")) and found.paused),
            "concurrency limit": (limit.get("limit"), slots.limit if slots else None),
            "collision strategy": (limit.get("collision_strategy"), options and options.collision_strategy.value),
        }
        differing = [what for what, (wanted, got) in pairs.items() if wanted != got]
        differing += [] if _same_schedules(self.schedules, found.schedules) else ["schedules"]
        return differing + sorted(set(self.values) - _COMPARED)

    def _with_outputs(self, variables: Mapping[str, Any] | None) -> dict[str, Any]:
        """Job variables in which an empty variable of the outputs, as `prefect deploy` leaves it, is what it means."""
        variables = dict(variables or {})
        if OUTPUTS_VARIABLE in (env := variables.get("env") or {}):
            variables["env"] = {**env, OUTPUTS_VARIABLE: env[OUTPUTS_VARIABLE] or self.default_outputs}
        return variables


def set_up(
    project: Path,
    outputs: Location,
    notify_block: str | None = None,
    heartbeat_lost: timedelta = HEARTBEAT_LOST,
    resume: bool = False,
    prune: bool = False,
) -> list[Change]:
    """Create or update the work pool, deployments and automations that prefect.yaml and this package define.

    Args:
        project: working directory of the flows; its prefect.yaml, or that of the package if it has none, is used.
        outputs: where the deployments publish, and look.
        notify_block: TYPE/NAME of the block that sends notifications of failed runs; None keeps the current one.
        heartbeat_lost: how long a run may send no heartbeat before it is marked as crashed.
        resume: whether to end the pauses of schedules and deployments.
        prune: whether to remove deployments of this project that are no longer in prefect.yaml.

    Returns:
        One change for each object, in the order they were checked.

    Raises:
        SettingsError: prefect.yaml cannot be used, the pool is of another type, or the block does not exist.
        EngineError: the server does not answer, though it had time to start.
    """
    entries = read_entries(project, outputs)
    with server_in_force(START_SECONDS) as client:
        block = find_block(client, notify_block) if notify_block else None
        # Set-up creates no pool of another name: its type is the user's choice.
        pool = [_set_up_pool(client)] if any(entry.pool == POOL for entry in entries) else []
        changes = [*pool, *_set_up_deployments(client, project, outputs, entries, resume)]
        for name, deployment_id in left_deployments(our_deployments(client), project, entries).items():
            if prune:
                client.delete_deployment(deployment_id)
            changes.append(Change(f"deployment {name}", "removed" if prune else "left"))
        return changes + set_up_automations(client, block, heartbeat_lost)


@contextmanager
def server_in_force(wait_seconds: float = 0) -> Iterator[SyncPrefectClient]:
    """Connect to the server that PREFECT_API_URL names, or to the one on this machine. Does not start a server.

    Args:
        wait_seconds: for how long to try again while it does not answer: it may be starting.

    Raises:
        SettingsError: PREFECT_API_URL contains a user name or a query.
        UnauthorizedError: the server requires a password, or a different one.
        EngineError: the server does not answer.
    """
    address = PREFECT_API_URL.value() or LOCAL_SERVER
    refuse_credentials(address)
    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        wait_for(client, wait_seconds)
        require_answer(client, "start one with `prefect server start`")
        yield client


def prefect_file(project: Path) -> Path:
    """The prefect.yaml of a project, or that of the package if it has none."""
    own = project.absolute() / FILE
    return own if own.exists() else project_file(FILE)


def read_entries(project: Path, outputs: Location) -> list[Entry]:
    """Read the deployments of a project's prefect.yaml; replace `{{ $NAME }}` as `prefect deploy` does.

    Raises:
        SettingsError: the file cannot be read or is not of the expected form, or a flow in it cannot be loaded.
    """
    path = prefect_file(project)
    try:
        document = yaml.safe_load(read_small(path))
        values = _fill_in(document, os.environ | _variables(project, outputs))
        load = cache(_load)  # several deployments run the same flow
        return [_entry(project.absolute(), path, values.get("pull"), entry, load) for entry in values["deployments"]]
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); repair it, or take it away") from error
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: expected deployments, got {error!r}; correct the file") from error


def left_deployments(
    ours: Mapping[str, DeploymentResponse], project: Path, entries: Sequence[Entry]
) -> dict[str, UUID]:
    """The deployments of our flows that run in this project and are no longer in its prefect.yaml, by full name."""
    known = {entry.full_name for entry in entries}
    step = [{"prefect.deployments.steps.set_working_directory": {"directory": str(project.absolute())}}]
    return {name: found.id for name, found in ours.items() if found.pull_steps == step and name not in known}


def our_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """All deployments of our flows on the server, by FLOW/NAME."""
    of_ours = FlowFilter(name=FlowFilterName(like_=FLOW_PREFIX))
    flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=of_ours, limit=PAGE)}
    found: list[DeploymentResponse] = []
    while page := client.read_deployments(flow_filter=of_ours, limit=PAGE, offset=len(found)):
        found += page
    ours = {flow_id for flow_id, name in flows.items() if name.startswith(FLOW_PREFIX)}  # the filter takes it anywhere
    named = {f"{flows[each.flow_id]}/{each.name}": each for each in found if each.flow_id in ours}
    return dict(sorted(named.items()))


def find_deployment(client: SyncPrefectClient, full_name: str) -> DeploymentResponse | None:
    """Find the deployment of that name on the server."""
    try:
        return client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None


def _load(entrypoint: str) -> tuple[Flow[..., Any], dict[str, Any]]:
    """A flow and the schema of its parameters."""
    flow: Flow[..., Any] = load_flow_from_entrypoint(entrypoint)
    return flow, parameter_schema(flow).model_dump(mode="json", exclude_unset=True)


def _entry(
    project: Path,
    path: Path,
    pull: object,
    values: dict[str, Any],
    load: Callable[[str], tuple[Flow[..., Any], dict[str, Any]]],
) -> Entry:
    entrypoint, name = values["entrypoint"], values["name"]
    kept = {each: values.get(each) for each in ("parameters", "schedules", "work_pool")}
    if has_secrets(kept):  # the server keeps them, and validates them only when a run is made of them
        raise SettingsError(
            f"{path}: deployment {name}: expected no address with a user name, password or query, got one in "
            "parameters, schedules or work_pool; leave them out: credentials come from the worker's environment"
        )
    try:
        # FILE:FLOW is relative to the project; MODULE.FLOW is not.
        flow, schema = load(str(project / entrypoint) if ":" in entrypoint else entrypoint)
    except Exception as error:  # whatever a module may raise while it is imported
        raise SettingsError(f"{path}: deployment {name}: cannot load {entrypoint} ({error!r}); correct it") from error
    default = str(project / str(project_defaults().get("outputs", "outputs")))
    return Entry(f"{flow.name}/{name}", name, {"pull": pull, **values}, schema, flow.description, default)


def _variables(project: Path, outputs: Location) -> dict[str, str]:
    return {"PWD": str(project.absolute()), OUTPUTS_VARIABLE: str(outputs)}


def _fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: variables.get(found[1], ""), value) if isinstance(value, str) else value


def _same_times(want: Mapping[str, Any], got: DeploymentSchedule) -> bool:
    when = got.schedule.model_dump(mode="json")
    return all(when.get(key) == value for key, value in want.items() if key not in _SCHEDULE_OPTIONS)


def _same_schedules(wanted: Sequence[Mapping[str, Any]], found: Sequence[DeploymentSchedule]) -> bool:
    def same(want: Mapping[str, Any], got: DeploymentSchedule) -> bool:
        return (
            (want.get("active") is not False or not got.active)  # a person may have paused it
            and (want.get("parameters") or {}) == got.parameters
            and want.get("slug") == got.slug
            and _same_times(want, got)
        )

    return len(wanted) == len(found) and all(any(same(want, got) for got in found) for want in wanted)


def _set_up_pool(client: SyncPrefectClient) -> Change:
    what = f"work pool {POOL}"
    try:
        found = client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type=POOL_TYPE))
        return Change(what, "created")
    if found.type != POOL_TYPE:
        raise SettingsError(
            f"{what}: expected type {POOL_TYPE}, got {found.type}; delete it with `prefect work-pool delete {POOL}`, "
            "or deploy to it with `prefect deploy --all` alone"
        )
    return Change(what, "unchanged")


def _set_up_deployments(
    client: SyncPrefectClient, project: Path, outputs: Location, entries: Sequence[Entry], resume: bool
) -> list[Change]:
    before = {entry.name: find_deployment(client, entry.full_name) for entry in entries}
    stale = [entry for entry in entries if (found := before[entry.name]) is None or entry.differences(found)]
    if stale:
        _deploy(project, outputs, [entry.name for entry in stale])
    changes = []
    for entry in entries:
        was = before[entry.name]
        if entry in stale:
            _delete_orphans(client, entry)
            _pause_again(client, entry, was)
        now = find_deployment(client, entry.full_name) if was else None
        what = f"deployment {entry.full_name}"
        changes.append(Change(what, "unchanged" if entry not in stale else "updated" if was else "created"))
        changes += [Change(pause, "resumed" if resume else "paused") for pause in pauses(entry, now)]
        if resume and was:
            _resume(client, entry)
    return changes


def pauses(entry: Entry, found: DeploymentResponse | None) -> list[str]:
    """What a person has paused of a deployment that prefect.yaml has not: itself, or schedules."""
    if found is None:
        return []
    itself = [f"deployment {entry.full_name}"] if found.paused and not entry.values.get("paused") else []
    wanted = [schedule for schedule in entry.schedules if schedule.get("active") is not False]
    return itself + [
        f"schedule of {entry.full_name}: {schedule_line(got)}"
        for got in found.schedules
        if not got.active and any(_same_times(want, got) for want in wanted)
    ]


def schedule_line(found: DeploymentSchedule) -> str:
    """When a schedule fires, for people."""
    when = found.schedule.model_dump(mode="json")
    return " ".join(str(when[key]) for key in ("cron", "interval", "rrule", "timezone") if when.get(key))


def _pause_again(client: SyncPrefectClient, entry: Entry, was: DeploymentResponse | None) -> None:
    """`prefect deploy` makes all schedules anew: those that a person had paused are paused again.

    If all were paused, so are those whose times have changed in prefect.yaml.
    """
    paused = [schedule for schedule in was.schedules if not schedule.active] if was else []
    if was is None or not paused:
        return
    times = [want for want in entry.schedules if any(_same_times(want, each) for each in paused)]
    now = client.read_deployment_by_name(entry.full_name)
    for schedule in now.schedules:
        wanted = len(paused) == len(was.schedules) or any(_same_times(want, schedule) for want in times)
        if schedule.active and wanted:
            client.update_deployment_schedule(now.id, schedule.id, active=False)


def _resume(client: SyncPrefectClient, entry: Entry) -> None:
    found = client.read_deployment_by_name(entry.full_name)
    if found.paused and not entry.values.get("paused"):
        client.resume_deployment(found.id)
    for schedule in found.schedules:
        wanted = any(want.get("active") is not False and _same_times(want, schedule) for want in entry.schedules)
        if wanted and not schedule.active:
            client.update_deployment_schedule(found.id, schedule.id, active=True)


def _delete_orphans(client: SyncPrefectClient, entry: Entry) -> None:
    """Remove the schedules that `prefect deploy` keeps though there are none in prefect.yaml any more."""
    found = client.read_deployment_by_name(entry.full_name)
    if not entry.schedules:
        for schedule in found.schedules:
            client.delete_deployment_schedule(found.id, schedule.id)


def _deploy(project: Path, outputs: Location, names: Sequence[str]) -> None:
    """Run Prefect's own command in a separate process, so that Prefect itself interprets prefect.yaml."""
    path = prefect_file(project)
    words = [word for name in names for word in ("--name", name)]
    variables = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), **_variables(project, outputs)}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(path), *words],
        cwd=project,
        env=PREFECT_DEFAULTS | os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = masked(" ".join((done.stdout + done.stderr).split()))[-1000:]
        raise SettingsError(
            f"{path}: expected `prefect deploy` to take {', '.join(names)}, got: {said}; correct the file"
        )
