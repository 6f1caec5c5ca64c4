"""The Prefect server in force: is it there, and start a run of a deployment on it."""

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from mnist_pipeline.errors import EngineError


def require_server() -> None:
    """Raise EngineError if PREFECT_API_URL names a server that does not answer.

    Without PREFECT_API_URL a temporary server is started when one is needed.
    """
    if PREFECT_API_URL.value():
        with get_client(sync_client=True) as client:
            if problem := client.api_healthcheck():
                raise EngineError(
                    f"Prefect server {PREFECT_API_URL.value()}: expected an answer, got {problem}; start it, unset "
                    "PREFECT_API_URL to have a temporary one started, or run with --direct"
                )


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
