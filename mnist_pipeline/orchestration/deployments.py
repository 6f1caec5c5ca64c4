"""Creates and updates work pool, deployments and automations on the active server from prefect.yaml; idempotent.

Starts no server and no worker, and removes no deployment: one that was removed from prefect.yaml stays until
`prefect deployment delete`.
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
from typing import Any, Literal

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.orchestration.environment import PREFECT_DEFAULTS
from mnist_pipeline.orchestration.flow_runs import REJECTED
from mnist_pipeline.orchestration.server import refuse_credentials, require_answer

POOL = "mnist"
POOL_TYPE = "process"
TAG = "mnist"  # of every run of prefect.yaml's deployments
LOCAL_SERVER = "http://127.0.0.1:4200/api"  # the default address of `prefect server start`

FAILED_AUTOMATION = "mnist: run failed, crashed or rejected"
LOST_AUTOMATION = "mnist: run lost its heartbeat"
# A run sends a heartbeat every 180 seconds unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY is set: three heartbeats and a
# minute. The 90 seconds of Prefect's own example would mark every longer run as crashed.
HEARTBEAT_LOST = timedelta(minutes=10)
# Events carry the state's name, not its type: a run that ends as Rejected sends no "Failed".
_BAD_ENDS = {f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", REJECTED)}
_ENDED = _BAD_ENDS | {f"prefect.flow-run.{state}" for state in ("Completed", "Cancelled")}
_HEARTBEAT = "prefect.flow-run.heartbeat"
_OUR_RUNS: dict[str, str | list[str]] = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}

# The keys that can be compared with the server. An entry of prefect.yaml with other keys is redeployed each time.
_COMPARED = {
    "name", "entrypoint", "description", "tags", "parameters", "schedules", "concurrency_limit", "paused",
    "work_pool", "pull",
}  # fmt: skip
_SCHEDULE_OPTIONS = {"active", "parameters", "slug"}  # the other keys of a schedule define its times
_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


@dataclass(frozen=True)
class Change:
    """One object on the server, and what set-up did to it."""

    what: str
    state: Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class Entry:
    """One deployment of prefect.yaml. `full_name` is FLOW/NAME, as in Prefect's own commands."""

    full_name: str
    name: str
    values: Mapping[str, Any]
    schema: Mapping[str, Any]
    flow_description: str | None

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
            "job variables": (pool.get("job_variables") or {}, found.job_variables),
            "paused": (bool(self.values.get("paused")), found.paused),
            "concurrency limit": (limit.get("limit"), slots.limit if slots else None),
            "collision strategy": (limit.get("collision_strategy"), options and options.collision_strategy.value),
        }
        differing = [what for what, (wanted, got) in pairs.items() if wanted != got]
        differing += [] if _same_schedules(self.schedules, found.schedules) else ["schedules"]
        return differing + sorted(set(self.values) - _COMPARED)


def set_up(project: Path, notify_block: str | None = None, heartbeat_lost: timedelta = HEARTBEAT_LOST) -> list[Change]:
    """Create or update the work pool, deployments and automations that prefect.yaml and this module define.

    Args:
        project: folder with prefect.yaml; the flows run from it.
        notify_block: TYPE/NAME of the block that sends notifications of failed runs; None keeps the current one.
        heartbeat_lost: how long a run may send no heartbeat before it is marked as crashed.

    Returns:
        One change for each object, in the order they were checked.

    Raises:
        SettingsError: prefect.yaml cannot be used, the pool is of another type, or the block does not exist.
        EngineError: the server does not answer.
    """
    entries = read_entries(project)
    with server_in_force() as client:
        block = _find_block(client, notify_block) if notify_block else None
        # Set-up creates no pool of another name: its type is the user's choice.
        pool = [_set_up_pool(client)] if any(entry.pool == POOL for entry in entries) else []
        changes = [*pool, *_set_up_deployments(client, project, entries)]
        notify: list[ActionTypes] = [block] if block else [DoNothing()]
        changes.append(_set_up_automation(client, _on_failure(notify), keep_actions=block is None))
        changes.append(_set_up_automation(client, _on_lost_heartbeat(heartbeat_lost), keep_actions=False))
        return changes


@contextmanager
def server_in_force() -> Iterator[SyncPrefectClient]:
    """Connect to the server that PREFECT_API_URL names, or to the one on this machine. Does not start a server.

    Raises:
        SettingsError: PREFECT_API_URL contains a user name or a query.
        UnauthorizedError: the server requires a password, or a different one.
        EngineError: the server does not answer.
    """
    address = PREFECT_API_URL.value() or LOCAL_SERVER
    refuse_credentials(address)
    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        require_answer(client, "start one with `prefect server start`")
        yield client


def read_entries(project: Path) -> list[Entry]:
    """Read the deployments of `project`/prefect.yaml; replace `{{ $NAME }}` as `prefect deploy` does.

    Raises:
        SettingsError: there is no such file, it is not of the expected form, or a flow in it cannot be loaded.
    """
    path = project.absolute() / "prefect.yaml"
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = _fill_in(document, os.environ | {"PWD": str(path.parent)})
        load = cache(_load)  # several deployments run the same flow
        return [_entry(path.parent, values.get("pull"), entry, load) for entry in values["deployments"]]
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); go to the folder of the project, or copy its prefect.yaml here"
        ) from error
    except (yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: expected deployments, got {error!r}; correct the file") from error


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
    pull: object,
    values: dict[str, Any],
    load: Callable[[str], tuple[Flow[..., Any], dict[str, Any]]],
) -> Entry:
    entrypoint, name = values["entrypoint"], values["name"]
    try:
        flow, schema = load(str(project / entrypoint))
    except Exception as error:  # whatever a module may raise while it is imported
        raise SettingsError(
            f"{project / 'prefect.yaml'}: deployment {name}: cannot load {entrypoint} ({error!r}); correct it"
        ) from error
    return Entry(f"{flow.name}/{name}", name, {"pull": pull, **values}, schema, flow.description)


def _fill_in(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill_in(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, variables) for item in value]
    return _VARIABLE.sub(lambda found: variables.get(found[1], ""), value) if isinstance(value, str) else value


def _same_schedules(wanted: Sequence[Mapping[str, Any]], found: Sequence[DeploymentSchedule]) -> bool:
    def same(want: Mapping[str, Any], got: DeploymentSchedule) -> bool:
        when = got.schedule.model_dump(mode="json")
        return (
            (want.get("active") is not False) == got.active
            and (want.get("parameters") or {}) == got.parameters
            and want.get("slug") == got.slug
            and all(when.get(key) == value for key, value in want.items() if key not in _SCHEDULE_OPTIONS)
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


def _set_up_deployments(client: SyncPrefectClient, project: Path, entries: Sequence[Entry]) -> list[Change]:
    before = {entry.name: find_deployment(client, entry.full_name) for entry in entries}
    stale = [entry for entry in entries if (found := before[entry.name]) is None or entry.differences(found)]
    if stale:
        _deploy(project, [entry.name for entry in stale])
    for entry in stale:
        _delete_orphans(client, entry)
    names = {entry.name for entry in stale}
    return [
        Change(
            f"deployment {entry.full_name}",
            "unchanged" if entry.name not in names else "updated" if before[entry.name] else "created",
        )
        for entry in entries
    ]


def _delete_orphans(client: SyncPrefectClient, entry: Entry) -> None:
    """Remove what `prefect deploy` keeps though it is no longer in prefect.yaml: schedules, and a pause."""
    found = client.read_deployment_by_name(entry.full_name)
    if not entry.schedules:
        for schedule in found.schedules:
            client.delete_deployment_schedule(found.id, schedule.id)
    if found.paused and not entry.values.get("paused"):
        client.resume_deployment(found.id)


def _deploy(project: Path, names: Sequence[str]) -> None:
    """Run Prefect's own command in a separate process, so that Prefect itself interprets prefect.yaml."""
    words = [word for name in names for word in ("--name", name)]
    variables = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "PWD": str(project.absolute())}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *words],
        cwd=project,
        env=PREFECT_DEFAULTS | os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[-1000:]
        raise SettingsError(
            f"{project / 'prefect.yaml'}: expected `prefect deploy` to take {', '.join(names)}, got: {said}; "
            "correct the file"
        )


def _find_block(client: SyncPrefectClient, notify_block: str) -> SendNotification:
    slug, _, name = notify_block.partition("/")
    known = "see those there are with `prefect block ls`, or make one in the UI under Blocks"
    if not slug or not name:
        raise SettingsError(
            f"notification block {notify_block!r}: expected TYPE/NAME, as in slack-webhook/team; {known}"
        )
    try:
        found = client.read_block_document_by_name(name, slug, include_secrets=False)
    except ObjectNotFound as error:
        raise SettingsError(f"notification block {notify_block!r}: no such block on the server; {known}") from error
    if found.block_schema is None or "notify" not in found.block_schema.capabilities:
        raise SettingsError(f"notification block {notify_block!r}: it cannot send notifications; {known}")
    return SendNotification(
        block_document_id=found.id,
        subject="{{ flow.name }}: {{ flow_run.name }} is {{ flow_run.state.name }}",
        body="{{ flow_run.state.message }}\n\nRun: {{ flow_run|ui_url }}\nNext: mnist-pipeline doctor",
    )


def _on_failure(actions: list[ActionTypes]) -> AutomationCore:
    return AutomationCore(
        name=FAILED_AUTOMATION,
        description=f"Reports failed, crashed and rejected runs tagged {TAG}. Kept by `mnist-pipeline setup`.",
        trigger=EventTrigger(
            expect=_BAD_ENDS,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OUR_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=actions,
    )


def _on_lost_heartbeat(lost: timedelta) -> AutomationCore:
    """As in Prefect's guide to zombie flows: after a heartbeat comes neither another one nor a final state."""
    return AutomationCore(
        name=LOST_AUTOMATION,
        description=f"Marks runs tagged {TAG} as crashed when their process is gone. Kept by `mnist-pipeline setup`.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT} | _ENDED,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_OUR_RUNS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=lost,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,  # the default name of the state
                force=False,
                state=StateType.CRASHED,
                message=f"No heartbeat for {lost.total_seconds():.0f} seconds: its process is gone.",
            )
        ],
    )


def _set_up_automation(client: SyncPrefectClient, wanted: AutomationCore, keep_actions: bool) -> Change:
    """Create or update the automation of that name, and remove others of the same name.

    Keeps it enabled or disabled, so that a user can disable it in the UI.
    """
    what = f"automation {wanted.name!r}"
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change(what, "created")
    kept, *others = found
    for other in others:
        client.delete_automation(other.id)
    wanted.enabled = kept.enabled
    if keep_actions:
        wanted.actions = kept.actions
    same = (kept.description, kept.trigger, kept.actions) == (wanted.description, wanted.trigger, wanted.actions)
    if not same:
        client.update_automation(kept.id, wanted)
    return Change(what, "unchanged" if same and not others else "updated")
