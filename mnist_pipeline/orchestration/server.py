"""Checks the active Prefect server, starts a temporary one, and starts runs of a deployment."""

import contextvars
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from httpx import HTTPError, HTTPStatusError, TransportError
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import refresh_global_settings_context
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from mnist_pipeline.errors import EngineError, SettingsError, UnauthorizedError
from mnist_pipeline.orchestration.credentials import CLIENT_SIDE, SERVER_SIDE, new_auth_string
from mnist_pipeline.orchestration.database import require_database

logger = logging.getLogger(__name__)

MAX_STARTS = 2  # of a temporary server
STARTUP_FAILED = 3  # exit code of uvicorn
OTHERWISE = "correct what it says above, start one and set PREFECT_API_URL, or run with --direct"
PAGE = 200  # runs in an answer, at most
POLL_SECONDS = 2
UNAUTHORIZED_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def require_server() -> None:
    """Check that the server answers, if PREFECT_API_URL names one.

    Raises:
        SettingsError: PREFECT_API_URL contains a user name or a query.
        EngineError: the server does not answer.
    """
    if address := PREFECT_API_URL.value():
        refuse_credentials(address)
        with get_client(sync_client=True) as client:
            require_answer(
                client, "start it, unset PREFECT_API_URL to have a temporary one started, or run with --direct"
            )


def wait_for(client: SyncPrefectClient, seconds: float) -> None:
    """Wait until a server answers, or the time is over; whether it does is for `require_answer` to say."""
    deadline = time.monotonic() + seconds
    said = False
    # One that answers with an error is not starting: it is another program, or at another path.
    while isinstance(client.api_healthcheck(), TransportError) and time.monotonic() < deadline:
        if not said:
            logger.warning("%s does not answer: waiting up to %.0f seconds", PREFECT_API_URL.value(), seconds)
            said = True
        time.sleep(1)


def require_answer(client: SyncPrefectClient, otherwise: str) -> None:
    """Check that a server answers and accepts our credentials.

    Args:
        client: a client of the server.
        otherwise: what to do if it does not answer.

    Raises:
        UnauthorizedError: the server requires a password, or a different one.
        EngineError: the server does not answer.
    """
    address = PREFECT_API_URL.value() or ""
    if "api" not in urlsplit(address).path.split("/"):  # a server answers there too: with its pages
        otherwise = (
            f"set PREFECT_API_URL={address.rstrip('/')}/api, its address ends so; if it is not there, {otherwise}"
        )
    if problem := client.api_healthcheck():  # needs no password
        raise EngineError(f"Prefect server {address}: expected an answer, got {problem}; {otherwise}")
    if client.server_type is ServerType.CLOUD:  # it uses API keys, and reports problems with them itself
        return
    try:
        client.api_version()
    except (HTTPError, ValueError) as error:  # a page is no version
        status = error.response.status_code if isinstance(error, HTTPStatusError) else None
        if status in UNAUTHORIZED_STATUSES:
            got = "another one" if PREFECT_API_AUTH_STRING.value() else "none"
            raise UnauthorizedError(
                f"Prefect server {address}: expected its password in PREFECT_API_AUTH_STRING, got {got}; source the "
                "file that `mnist-pipeline credentials` made where the server runs, or a copy of it"
            ) from error
        raise EngineError(
            f"Prefect server {address}: expected its version, got {status or error!r}; {otherwise}"
        ) from error


def refuse_credentials(address: str) -> None:
    """Reject an address that contains a user name or a query: Prefect would log it and store it with every run.

    Raises:
        SettingsError: such an address; the message does not repeat it.
    """
    if any(sign in address for sign in "@?#"):
        raise SettingsError(
            "PREFECT_API_URL: expected an address without user name, password and query, got one with them; "
            "put USER:PASSWORD into PREFECT_API_AUTH_STRING"
        )


def start_temporary_server() -> None:
    """Start a temporary server if PREFECT_API_URL is not set, protected from Ctrl-C.

    Its password is known only to this process and its children: otherwise a page in a local browser could use it.

    A terminal sends Ctrl-C to all processes of the command. If it ended the server, Prefect would retry for more than a
    minute to report the end of the run. A child process inherits the signal mask of the thread that starts it; signals
    still interrupt the main thread while it waits here.

    Raises:
        EngineError: it cannot start.
    """
    if PREFECT_API_URL.value():
        return
    require_database()
    auth = new_auth_string()
    os.environ.update({SERVER_SIDE: auth, CLIENT_SIDE: auth})
    refresh_global_settings_context()
    started: Future[None] = Future()

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            get_client(sync_client=True)
        except Exception as error:
            started.set_exception(error)
        else:
            started.set_result(None)

    threading.Thread(target=contextvars.copy_context().run, args=(start,), daemon=True).start()
    seen = set[int]()
    while not wait([started], timeout=POLL_SECONDS / 10).done:
        # One that ends as it starts may have met a port in use. Prefect starts others until the time is over.
        process = _temporary_process()
        seen |= {process.pid} if process else set()
        if len(seen) > MAX_STARTS or (process and process.poll() not in (None, STARTUP_FAILED)):
            kill_processes()
            raise EngineError(f"temporary Prefect server: expected it to start, it ended; {OTHERWISE}")
    try:
        started.result()
    except RuntimeError as error:  # also if it takes too long
        raise EngineError(f"temporary Prefect server: expected it to start, got {error}; {OTHERWISE}") from error


def kill_processes() -> None:
    """Kill the workers and the temporary server of this process without waiting for them."""
    for worker in multiprocessing.active_children():
        with suppress(OSError, ValueError):  # it has just ended
            worker.kill()
    if server := _temporary_process():
        server.kill()


def _temporary_process() -> "subprocess.Popen[bytes] | None":
    temporary = sys.modules.get("prefect.server.api.server")  # imported only if one was started: it takes seconds
    servers = getattr(temporary, "SubprocessASGIServer", None)  # none while the import goes on
    return servers().server_process if servers else None


def read_deployment(deployment: str) -> DeploymentResponse:
    """A deployment of that name on the server of PREFECT_API_URL.

    Raises:
        EngineError: PREFECT_API_URL is not set, or the server does not have the deployment.
    """
    if not PREFECT_API_URL.value():
        raise EngineError(
            f"deployment {deployment}: expected a Prefect server at PREFECT_API_URL, got none set; "
            "set it, or run with --direct"
        )
    try:
        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(deployment)
    except ObjectNotFound as error:
        raise EngineError(
            f"deployment {deployment}: expected it on {PREFECT_API_URL.value()}, got none; "
            "create it with `mnist-pipeline setup` in the project's folder, or run with --direct"
        ) from error


def start_run(deployment: str, parameters: Mapping[str, Any]) -> str:
    """Start a run of a deployment without waiting for it; return its id.

    Raises:
        EngineError: PREFECT_API_URL is not set, or the server does not have the deployment.
    """
    found = read_deployment(deployment)
    started: Any = run_deployment(found.id, parameters=dict(parameters), timeout=0)
    return str(started.id)


def wait_for_runs(run_ids: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Wait for flow runs; yields id, name of the final state and message of each as it ends."""
    waiting = list(run_ids)
    with get_client(sync_client=True) as client:
        while waiting:
            for start in range(0, len(waiting), PAGE):
                asked = FlowRunFilterId(any_=[UUID(run_id) for run_id in waiting[start : start + PAGE]])
                for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id=asked), limit=PAGE):
                    if run.state and run.state.is_final():
                        waiting.remove(str(run.id))
                        yield str(run.id), run.state.name or run.state.type.value, run.state.message or ""
            if waiting:
                time.sleep(POLL_SECONDS)
