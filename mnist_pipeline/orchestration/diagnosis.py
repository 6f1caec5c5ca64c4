"""Checks everything a nightly run needs: each finding states the result and the next command.

Changes nothing, except that it writes a probe file to the outputs folder and removes it. Raises nothing: an error in
a check is a finding too.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
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

from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.errors import DataError, EngineError, PipelineError, UnauthorizedError
from mnist_pipeline.orchestration.deployments import (
    LOCAL_SERVER,
    POOL,
    POOL_TYPE,
    TAG,
    Entry,
    find_deployment,
    read_entries,
    server_in_force,
)
from mnist_pipeline.orchestration.server import UNAUTHORIZED_STATUSES
from mnist_pipeline.pipeline.nightly import state_of
from mnist_pipeline.runs.lookup import missing_run_dates, newest_counted, runs_of
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.probe import free_bytes, problem_with_writing

SET_UP = "mnist-pipeline setup"
# A run of MNIST's test split publishes 0.5 MB and shares 4 MB of shards with other runs: 1 GiB is room for years of
# them, or for one run over some million images.
MIN_FREE_BYTES = 1 << 30
RUN_DUE = timedelta(hours=6)  # after midnight UTC, when the deployment `deadline` checks too
DATES_CHECKED = 7
# The rule by which Prefect's server marks a worker as offline.
MISSED_HEARTBEATS, HEARTBEAT_SECONDS = 3, 30
# With other versions the server fails to start or never schedules a run; see the comments in pyproject.toml.
PINNED = {"prefect", "fastapi", "sqlalchemy"}
NO_PASSWORD = {"Authorization": "Basic ===="}
FOREIGN_ORIGIN = "http://foreign.example"
HOLDS_SLOT = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@dataclass(frozen=True)
class Finding:
    """The result of one check. `advice` names the next command, or is empty."""

    what: str
    healthy: bool
    found: str
    advice: str = ""


def diagnose(settings: Settings, project: Path) -> list[Finding]:
    """Check versions, server, pool, worker, deployments, schedules, slots, disk, outputs, cache, run dates and verdict.

    Args:
        settings: name the outputs and cache to check.
        project: folder with prefect.yaml.

    Returns:
        Findings in the order in which to fix them.
    """
    return [
        *_guarded("versions here", _versions),
        *_server(project),
        *_guarded("disk", lambda: _disk(settings.outputs)),
        *_guarded("outputs", lambda: _writable(settings.outputs)),
        *_guarded("cache", lambda: _cache(settings)),
        *_guarded("nights", lambda: _recent_run_dates(settings)),
        *_guarded("newest verdict", lambda: _newest_verdict(settings)),
    ]


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of one check; an error ends the check and is a finding itself."""
    findings = []
    try:
        for finding in look():
            findings.append(finding)  # one by one: those before an error are kept
    except PipelineError as error:
        findings.append(Finding(what, False, str(error), "fix this, then `mnist-pipeline doctor`"))
    except Exception as error:  # doctor must report all its findings
        advice = "`mnist-pipeline doctor` again; if it persists, check the log of the Prefect server"
        findings.append(Finding(what, False, f"cannot be checked: {error!r}", advice))
    return findings


def _versions() -> Iterator[Finding]:
    for requirement in map(Requirement, importlib.metadata.requires("mnist-pipeline") or []):
        if requirement.name in PINNED and not requirement.marker:
            installed = importlib.metadata.version(requirement.name)
            fits = requirement.specifier.contains(installed, prereleases=True)
            advice = "" if fits else f"`python -m pip install '{requirement}'`, then restart server and worker"
            yield Finding(f"{requirement.name} here", fits, f"{installed}, allowed {requirement.specifier}", advice)


def _server(project: Path) -> list[Finding]:
    named = PREFECT_API_URL.value()
    name_it = f"`prefect config set PREFECT_API_URL={LOCAL_SERVER}`"
    try:
        with server_in_force() as client:
            if named:
                reached = Finding("server", True, f"{named} answers")
            else:
                reached = Finding("server", False, f"{LOCAL_SERVER} answers, but PREFECT_API_URL is not set", name_it)
            return [
                reached,
                *_guarded("server password", _open_door),
                *_guarded("server version", lambda: _server_version(client)),
                *_guarded("work pools", lambda: _pools(client, read_entries(project))),
                *_guarded("late runs", lambda: _late(client)),
                *_guarded("deployments", lambda: _deployments(client, read_entries(project))),
            ]
    except UnauthorizedError as error:
        return [
            Finding("server", False, str(error), "source the file that `mnist-pipeline credentials` made"),
            *_unseen("its password"),
        ]
    except EngineError:
        found = f"{named or LOCAL_SERVER} does not answer" + ("" if named else ", and PREFECT_API_URL is not set")
        advice = "`prefect server start`" + (" on the machine it names" if named else f", then {name_it}")
        return [Finding("server", False, found, advice), *_unseen("the server")]


def _unseen(missing: str) -> list[Finding]:
    later = (
        *("server password", "server origins", "server version", "work pools", "late runs", "deployments"),
        *("schedules", "concurrency slots"),
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


def _pools(client: SyncPrefectClient, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Check every pool that prefect.yaml names, and whether a worker polls it."""
    for name in sorted({entry.pool for entry in entries if entry.pool}):
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
        else:
            yield Finding(what, True, "ready")
        yield _worker(name, client.read_workers_for_work_pool(name))


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
        if any(schedule.get("active") is not False for schedule in entry.schedules):
            yield _schedule(client, entry, found)
        if found.global_concurrency_limit:
            yield _slots(client, entry, found)


def _schedule(client: SyncPrefectClient, entry: Entry, found: DeploymentResponse) -> Finding:
    """Whether the server's schedule service plans runs: no other check detects this failure."""
    what = f"schedule of {entry.full_name}"
    if not any(schedule.active for schedule in found.schedules):
        return Finding(what, False, "no active schedule on the server", f"`{SET_UP}`")
    upcoming = _runs(client, found, (StateType.SCHEDULED,), after=datetime.now(UTC))
    if upcoming:
        first = upcoming[0].expected_start_time
        return Finding(
            what, True, f"next run {first.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if first else "next run planned"
        )
    return Finding(
        what,
        False,
        "no run is planned though the schedule is active",
        "right after set-up or a server start wait a minute, then `mnist-pipeline doctor`; if it persists, the "
        "server's schedule service does not work: check its log, "
        "`python -m pip install 'sqlalchemy[asyncio]>=2.0,<2.1'` on its machine and restart it",
    )


def _slots(client: SyncPrefectClient, entry: Entry, found: DeploymentResponse) -> Finding:
    what = f"concurrency slots of {entry.full_name}"
    holders = _runs(client, found, HOLDS_SLOT)
    again = find_deployment(client, entry.full_name)  # read after the runs: one may have ended in between
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


def _disk(outputs: Location) -> Iterator[Finding]:
    if (free := free_bytes(outputs)) is None:  # a bucket has no end
        return
    enough = free >= MIN_FREE_BYTES
    found = f"{free / (1 << 30):.1f} GiB free for {outputs}"
    advice = f"make room: `du -sh {outputs}/*` shows what uses it; at least {MIN_FREE_BYTES >> 30} GiB are needed"
    yield Finding("disk", enough, found, "" if enough else advice)


def _writable(outputs: Location) -> Iterator[Finding]:
    if problem := problem_with_writing(outputs):
        advice = (
            f"give this user the right to write there (`ls -ld {outputs}`, or the credentials in the environment), "
            "or name another folder with MNIST_PIPELINE_OUTPUTS"
        )
        yield Finding("outputs", False, problem, advice)
    else:
        yield Finding("outputs", True, f"{outputs} can be written")


def _cache(settings: Settings) -> Iterator[Finding]:
    what = f"cache of {settings.dataset}/{settings.split}"
    if settings.images:
        settings.require_source()
        yield Finding(what, True, f"not needed: {settings.images} holds the images")
        return
    dataset = settings.described_dataset()
    files = dataset.splits[settings.split].files
    folder = settings.cache / settings.dataset
    kept = [file for file in files if file.sha256 and (folder / file.name).is_file()]
    damaged = []
    for file in kept:
        try:
            if verified_file(folder / file.name).sha256 != file.sha256:
                damaged.append(f"{folder / file.name} does not have the pinned sha256")
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        again = f"`mnist-pipeline fetch --dataset {settings.dataset} --split {settings.split}` fetches it again"
        yield Finding(what, False, "; ".join(damaged), again)
    elif settings.data_dir:
        yield Finding(what, True, f"not needed: {settings.data_dir} holds the files")
    elif len(kept) == len(files):
        yield Finding(what, True, f"{len(kept)} files verified in {folder}")
    else:
        absent = ", ".join(file.name for file in files if file not in kept)
        yield Finding(what, True, f"{absent} will be fetched by the next run")


def _recent_run_dates(settings: Settings) -> Iterator[Finding]:
    """Check that the last due run dates are published, from the first published one on; ignores Prefect's records."""
    dataset, split = settings.dataset, settings.split
    what = f"nights of {dataset}/{split}"
    published = [run.name.run_date for run in runs_of(Outputs.at(settings.outputs), dataset, split)]
    last = (datetime.now(UTC) - RUN_DUE).date()
    if not published or published[0] > last:
        yield Finding(what, True, f"none due yet in {settings.outputs}")
        return
    first = max(published[0], last - timedelta(days=DATES_CHECKED - 1))
    missing = missing_run_dates(Outputs.at(settings.outputs), dataset, split, first, last)
    if missing:
        found = f"no published run of {', '.join(map(str, missing))}"
        yield Finding(what, False, found, f"`mnist-pipeline backfill --from {missing[0]} --to {missing[-1]}`")
    else:
        yield Finding(what, True, f"every one from {first} to {last} is published")


def _newest_verdict(settings: Settings) -> Iterator[Finding]:
    """Whether the gates accept the newest run."""
    dataset, split = settings.dataset, settings.split
    what = f"newest night of {dataset}/{split}"
    outputs = Outputs.at(settings.outputs)
    newest = next(newest_counted(outputs, runs_of(outputs, dataset, split)), None)
    if newest is None:
        yield Finding(what, True, "none yet")
        return
    state = state_of(settings, newest)
    advice = "`mnist-pipeline show`, or its report, has the gates that failed"
    yield Finding(what, state.good, state.line, "" if state.good else advice)
