"""The Prefect server in force: is it there, start a temporary one, and start a run of a deployment on it."""

import contextvars
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from httpx import HTTPError, HTTPStatusError
from prefect.client.base import ServerType
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import refresh_global_settings_context
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

from mnist_pipeline.errors import EngineError, SettingsError, UnauthorizedError
from mnist_pipeline.orchestration.credentials import CLIENT_SIDE, SERVER_SIDE, new_auth_string

UNAUTHORIZED_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def require_server() -> None:
    """Make sure that a server which PREFECT_API_URL names answers.

    Raises:
        SettingsError: there is a user name or a query in PREFECT_API_URL.
        EngineError: the server does not answer.
    """
    if address := PREFECT_API_URL.value():
        refuse_credentials(address)
        with get_client(sync_client=True) as client:
            require_answer(
                client, "start it, unset PREFECT_API_URL to have a temporary one started, or run with --direct"
            )


def require_answer(client: SyncPrefectClient, otherwise: str) -> None:
    """Make sure that a server answers, and lets us in.

    Args:
        client: of the server.
        otherwise: what to do if it does not answer.

    Raises:
        UnauthorizedError: it wants a password, or another one.
        EngineError: it does not answer.
    """
    address = PREFECT_API_URL.value()
    if problem := client.api_healthcheck():  # which servers answer to everybody
        raise EngineError(f"Prefect server {address}: expected an answer, got {problem}; {otherwise}")
    if client.server_type is ServerType.CLOUD:  # it has API keys, and says itself what is wrong with one
        return
    try:
        client.api_version()
    except HTTPError as error:
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
    """Refuse an address with a user name or a query in it: Prefect logs it, and keeps it with every run.

    Raises:
        SettingsError: which does not repeat it.
    """
    if any(sign in address for sign in "@?#"):
        raise SettingsError(
            "PREFECT_API_URL: expected an address without user name, password and query, got one with them; "
            "put USER:PASSWORD into PREFECT_API_AUTH_STRING"
        )


def start_temporary_server() -> None:
    """Without PREFECT_API_URL have Prefect start the server of this process, where Ctrl-C does not reach it.

    It takes a password that this process and what it starts know, and nobody else: a page that is open in a browser
    here could use the server otherwise.

    A terminal sends Ctrl-C to all processes of the command. A server that it ended could not be told how the run
    ended, and Prefect would try to tell it for more than a minute. What a thread blocks, a process that it starts
    blocks too; and it is the main thread that signals interrupt, also while it waits here.
    """
    if PREFECT_API_URL.value():
        return
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
    started.result()


def kill_processes() -> None:
    """End what this process has started, without waiting for anything: workers of ours and a temporary server."""
    for worker in multiprocessing.active_children():
        with suppress(OSError, ValueError):  # it has just ended by itself
            worker.kill()
    temporary = sys.modules.get("prefect.server.api.server")  # imported to start one; it takes seconds
    if temporary and (server := temporary.SubprocessASGIServer().server_process):
        server.kill()


def start_run(deployment: str, parameters: Mapping[str, Any]) -> str:
    """Start a run of a deployment without waiting for it; its name, with its id.

    Raises:
        EngineError: no server of one's own, or it does not know the deployment.
    """
    if not PREFECT_API_URL.value():
        raise EngineError(
            f"deployment {deployment}: expected a Prefect server at PREFECT_API_URL, got none set; "
            "set it, or run with --direct"
        )
    try:
        started: Any = run_deployment(deployment, parameters=dict(parameters), timeout=0)
    except ObjectNotFound as error:
        raise EngineError(
            f"deployment {deployment}: expected it on {PREFECT_API_URL.value()}, got none; "
            "create it with `mnist-pipeline setup` in the project's folder, or run with --direct"
        ) from error
    return f"{deployment} {parameters.get('run_date', '')} ({started.id})"
