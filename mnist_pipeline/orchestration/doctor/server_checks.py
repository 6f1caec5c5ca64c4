"""Checks the active Prefect server: password, version, pools, workers, deployments, schedules, slots, deadlines.

Changes nothing.
"""

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.version import Version
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType, Worker
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

from mnist_pipeline.errors import EngineError, UnauthorizedError
from mnist_pipeline.orchestration.automations import TAG, notified
from mnist_pipeline.orchestration.deployments import (
    LOCAL_SERVER,
    POOL,
    POOL_TYPE,
    Entry,
    find_deployment,
    left_deployments,
    our_deployments,
    read_entries,
    schedule_line,
    server_in_force,
)
from mnist_pipeline.orchestration.doctor.findings import SET_UP, Finding, guarded
from mnist_pipeline.orchestration.scheduled import ScheduledRun, deadlines_of, scheduled_runs
from mnist_pipeline.orchestration.server import UNAUTHORIZED_STATUSES
from mnist_pipeline.settings import Settings

# The rule by which Prefect's server marks a worker as offline.
MISSED_HEARTBEATS, HEARTBEAT_SECONDS = 3, 30
NO_PASSWORD = {"Authorization": "Basic ===="}
FOREIGN_ORIGIN = "http://foreign.example"
Ours = Mapping[str, DeploymentResponse]  # our deployments on the server, by FLOW/NAME
HOLDS_SLOT = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


def check_server(settings: Settings, project: Path) -> tuple[list[Finding], list[ScheduledRun]]:
    """Everything about the server, and the nights that its deployments make."""
    named = PREFECT_API_URL.value()
    name_it = f"`prefect config set PREFECT_API_URL={LOCAL_SERVER}`"
    try:
        with server_in_force() as client:
            if named:
                reached = Finding("server", True, f"{named} answers")
            else:
                reached = Finding("server", False, f"{LOCAL_SERVER} answers, but PREFECT_API_URL is not set", name_it)
            all_planned: list[ScheduledRun] = []
            ours = functools.cache(lambda: our_deployments(client))
            entries = functools.cache(lambda: _entries(ours(), settings, project))
            return [
                reached,
                *guarded("server password", _open_door),
                *guarded("server version", lambda: _server_version(client)),
                *guarded("work pools", lambda: _pools(client, entries(), ours())),
                *guarded("late runs", lambda: _late(client)),
                *guarded("deployments", lambda: _deployments(client, entries())),
                *guarded("deployments elsewhere", lambda: _others(client, project, entries(), ours())),
                *guarded("nights", lambda: _found_schedules(ours(), all_planned)),
                *guarded("notifications", lambda: _notifications(client)),
            ], all_planned
    except UnauthorizedError as error:
        return [
            Finding("server", False, str(error), "source the file that `mnist-pipeline credentials` made"),
            *_unseen("its password"),
        ], []
    except EngineError:
        found = f"{named or LOCAL_SERVER} does not answer" + ("" if named else ", and PREFECT_API_URL is not set")
        advice = "`prefect server start`" + (" on the machine it names" if named else f", then {name_it}")
        return [Finding("server", False, found, advice), *_unseen("the server")], []


def _entries(ours: Ours, settings: Settings, project: Path) -> list[Entry]:
    """The entries of prefect.yaml, for the outputs folder that its own deployments on the server have."""
    entries = read_entries(project, settings.outputs)
    names = {entry.full_name for entry in entries}
    outputs = next((each.settings.outputs for each in scheduled_runs(ours) if each.deployment in names), None)
    return entries if outputs in (None, settings.outputs) else read_entries(project, outputs)


def _found_schedules(ours: Ours, all_planned: list[ScheduledRun]) -> Iterator[Finding]:
    """Whether a deadline watches over each night; adds them to the list."""
    all_planned += scheduled_runs(ours)
    for planned in all_planned:
        what = f"deadline of {planned.settings.dataset}/{planned.settings.split}"
        if not planned.active:
            yield Finding(what, None, f"not due: {planned.deployment} is paused")
            continue
        watching = deadlines_of(ours, planned)
        missing = "no active deadline watches over it: a night that never comes would not be noticed"
        yield Finding(what, bool(watching), ", ".join(watching) or missing, "" if watching else f"`{SET_UP}`")


def _notifications(client: SyncPrefectClient) -> Iterator[Finding]:
    if notified(client):
        yield Finding("notifications", True, "the automation of failed runs has an action")
    else:
        advice = f"`{SET_UP} --notify TYPE/NAME`"
        yield Finding("notifications", None, "nobody hears of failed runs: no block is named", advice)


def _unseen(missing: str) -> list[Finding]:
    later = (
        *("server password", "server origins", "server version", "work pools", "late runs", "deployments"),
        *("schedules", "concurrency slots", "deadlines", "notifications"),
    )
    return [Finding(what, False, f"not checked: needs {missing}", "first fix the server") for what in later]


def _open_door() -> Iterator[Finding]:
    """Whether the server accepts clients without its password or pages of a foreign origin: either can run commands."""
    again = "restart the server with it: docs/operations.md"
    asked = {"Origin": FOREIGN_ORIGIN, "Access-Control-Request-Method": "POST"}
    as_stranger = temporary_settings({PREFECT_API_AUTH_STRING: None, PREFECT_API_KEY: None})
    with as_stranger, get_client(sync_client=True) as stranger:
        if stranger.server_type is ServerType.CLOUD:
            return
        # A server whose password is empty accepts the second.
        answers = [_answer(stranger, "GET", "/admin/version", headers=headers) for headers in ({}, NO_PASSWORD)]
        preflight = _answer(stranger, "OPTIONS", "/deployments/", headers=asked)
    what = "server password"
    if any(answer.is_success for answer in answers):
        found = (
            "none: any client that reaches the server, and any page in a browser here, can run commands on the worker"
        )
        yield Finding(what, False, found, f"`mnist-pipeline credentials` makes one; {again}")
    elif all(answer.status_code in UNAUTHORIZED_STATUSES for answer in answers):
        yield Finding(what, True, f"required: a client without it is rejected ({answers[0].status_code})")
    else:
        statuses = ", ".join(str(answer.status_code) for answer in answers)
        yield Finding(what, False, f"not known: a client without it gets {statuses}", again)
    what = "server origins"
    if preflight.headers.get("Access-Control-Allow-Origin") in ("*", FOREIGN_ORIGIN):
        advice = f"set PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS to the server's own address, then {again}"
        yield Finding(what, False, "pages of any origin may use the server", advice)
    else:
        yield Finding(what, True, "pages of other origins are rejected")


def _answer(client: SyncPrefectClient, method: Any, path: Any, **more: Any) -> Any:
    """Send a request; return the response even if it is an error. Prefect's types allow only its own routes."""
    try:
        return client.request(method, path, **more)
    except PrefectHTTPStatusError as error:
        return error.response


def _server_version(client: SyncPrefectClient) -> Iterator[Finding]:
    theirs, ours = Version(client.api_version()), Version(client.client_version())
    same = theirs.release[:2] == ours.release[:2]
    advice = "" if same else f"`python -m pip install prefect=={ours}` on the server's machine, then restart the server"
    yield Finding("server version", same, f"{theirs}, here {ours}", advice)


def _pools(client: SyncPrefectClient, entries: Sequence[Entry], ours: Ours) -> Iterator[Finding]:
    """Check every pool of our deployments, in prefect.yaml or on the server, and whether a worker polls it."""
    queues: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.pool:
            queues[entry.pool].add("default")
    for found in ours.values():
        if found.work_pool_name:
            queues[found.work_pool_name].add(found.work_queue_name or "default")
    for name in sorted(queues):
        what, make = f"work pool {name}", SET_UP if name == POOL else f"prefect work-pool create {name} --type ..."
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            yield Finding(what, False, "absent", f"`{make}`")
            yield Finding(f"worker of {name}", False, "none: it has no pool", f"`{make}`, then {_start_worker(name)}")
            continue
        if name == POOL and pool.type != POOL_TYPE:
            yield Finding(what, False, f"of type {pool.type}", f"`prefect work-pool delete {name}`, then `{SET_UP}`")
        elif pool.is_paused:
            yield Finding(what, False, "paused", f"`prefect work-pool resume {name}`")
        elif pool.concurrency_limit == 0:
            yield Finding(
                what, False, "its limit is 0: no run starts", f"`prefect work-pool clear-concurrency-limit {name}`"
            )
        else:
            yield Finding(what, True, "ready")
        yield from _queues(client, name, queues[name])
        yield _worker(name, client.read_workers_for_work_pool(name))


def _queues(client: SyncPrefectClient, pool: str, wanted: set[str]) -> Iterator[Finding]:
    """The work queues of a pool from which no run starts."""
    found = client.request(
        "POST", "/work_pools/{work_pool_name}/queues/filter", path_params={"work_pool_name": pool}, json={}
    )
    for queue in found.json():
        name, of = queue["name"], f"'{queue['name']}' --pool {pool}"
        if name in wanted and queue["is_paused"]:
            yield Finding(f"work queue {pool}/{name}", False, "paused", f"`prefect work-queue resume {of}`")
        elif name in wanted and queue["concurrency_limit"] == 0:
            advice = f"`prefect work-queue clear-concurrency-limit {of}`"
            yield Finding(f"work queue {pool}/{name}", False, "its limit is 0: no run starts", advice)


def _start_worker(pool: str) -> str:
    return f"`prefect worker start --pool {pool}`"


def _worker(pool: str, workers: Sequence[Worker]) -> Finding:
    what = f"worker of {pool}"
    seen = {worker.name: worker.last_heartbeat_time for worker in workers if worker.last_heartbeat_time}
    now = datetime.now(UTC)
    polling = sorted(
        worker.name
        for worker in workers
        if worker.name in seen
        and now - seen[worker.name]
        <= MISSED_HEARTBEATS * timedelta(seconds=worker.heartbeat_interval_seconds or HEARTBEAT_SECONDS)
    )
    if polling:
        return Finding(what, True, f"polling: {', '.join(polling)}")
    last = f"none polls; the last was seen {max(seen.values()):%Y-%m-%d %H:%M:%S} UTC" if seen else "none ever polled"
    return Finding(what, False, last, _start_worker(pool))


def _late(client: SyncPrefectClient) -> Iterator[Finding]:
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            tags=FlowRunFilterTags(all_=[TAG]), state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Late"]))
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )
    names = ", ".join(f"{run.name} ({run.expected_start_time:%Y-%m-%d %H:%M} UTC)" for run in runs[:5])
    advice = f"{_start_worker(POOL)}: an idle worker runs them; they keep their run date"
    yield Finding("late runs", not runs, f"{len(runs)}: {names}" if runs else "none", advice if runs else "")


def _deployments(client: SyncPrefectClient, entries: Sequence[Entry]) -> Iterator[Finding]:
    for entry in entries:
        what = f"deployment {entry.full_name}"
        found = find_deployment(client, entry.full_name)
        if found is None:
            yield Finding(what, False, "absent", f"`{SET_UP}`")
            continue
        differences = entry.differences(found)
        if differences:
            yield Finding(what, False, f"not as in prefect.yaml: {', '.join(differences)}", f"`{SET_UP}`")
        else:
            yield Finding(what, True, "as in prefect.yaml")
        if any(schedule.get("active") is not False for schedule in entry.schedules) and not found.schedules:
            yield Finding(f"schedule of {entry.full_name}", False, "no schedule on the server", f"`{SET_UP}`")
        yield from _schedule_and_slots(client, entry.full_name, found)


def _others(client: SyncPrefectClient, project: Path, entries: Sequence[Entry], ours: Ours) -> Iterator[Finding]:
    """Deployments of our flows that are not in this prefect.yaml: people's own, or what was taken out of it."""
    left = left_deployments(ours, project, entries)
    for name, found in ours.items():
        if name in {entry.full_name for entry in entries}:
            continue
        if name in left:
            yield Finding(
                f"deployment {name}",
                None,
                "no longer in prefect.yaml, and still on the server with its schedules",
                f"`{SET_UP} --prune` removes it",
            )
        else:
            yield Finding(f"deployment {name}", None, "not in this prefect.yaml: somebody's own")
        yield from _schedule_and_slots(client, name, found)


def _schedule_and_slots(client: SyncPrefectClient, name: str, found: DeploymentResponse) -> Iterator[Finding]:
    if found.paused:
        advice = f"`{SET_UP} --resume`, or `prefect deployment resume {name}`"
        yield Finding(f"deployment {name}", None, "paused by a person", advice)
    elif found.schedules:
        yield _schedule(client, name, found)
    if found.global_concurrency_limit:
        yield _slots(client, name, found)


def _schedule(client: SyncPrefectClient, name: str, found: DeploymentResponse) -> Finding:
    """Whether the server's schedule service plans runs: no other check detects this failure."""
    what = f"schedule of {name}"
    paused = ", ".join(schedule_line(schedule) for schedule in found.schedules if not schedule.active)
    if not any(schedule.active for schedule in found.schedules):
        return Finding(what, None, f"paused by a person: {paused}", f"`{SET_UP} --resume` ends that")
    upcoming = _runs(client, found, (StateType.SCHEDULED,), after=datetime.now(UTC))
    if upcoming:
        first = upcoming[0].expected_start_time
        planned = f"next run {first.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if first else "next run planned"
        return Finding(what, True, planned + (f"; paused by a person: {paused}" if paused else ""))
    return Finding(
        what,
        False,
        "no run is planned though the schedule is active",
        "right after set-up or a server start wait a minute, then `mnist-pipeline doctor`; if it persists, the "
        "server's schedule service does not work: check its log and `python -m pip check` on its machine, then restart "
        "it",
    )


def _slots(client: SyncPrefectClient, name: str, found: DeploymentResponse) -> Finding:
    what = f"concurrency slots of {name}"
    holders = _runs(client, found, HOLDS_SLOT)
    again = find_deployment(client, name)  # read after the runs: one may have ended in between
    limit = again.global_concurrency_limit if again else None
    if limit is None or not limit.active_slots:
        return Finding(what, True, "free")
    if holders:
        return Finding(what, True, f"held by {', '.join(sorted(run.name for run in holders))}")
    return Finding(
        what,
        False,
        f"{limit.active_slots} of {limit.limit} taken, but no run is active: the next run would wait forever",
        f"`prefect gcl update '{limit.name}' --active-slots 0`",
    )


def _runs(
    client: SyncPrefectClient, found: DeploymentResponse, states: Sequence[StateType], after: datetime | None = None
) -> list[FlowRun]:
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"after_": after}),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=5,
    )
