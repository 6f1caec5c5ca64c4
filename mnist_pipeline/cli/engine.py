"""Connects the commands to Prefect: imports it with our defaults, runs a flow here, or starts one on the server."""

import functools
import signal
import sys
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from mnist_pipeline.cli.printing import style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_pipeline.settings import Settings
    from mnist_pipeline.store.base import Location

BACKFILL = "mnist-evaluation/backfill"


@functools.cache
def prepare_engine() -> None:
    """Import Prefect with our defaults, and check that the active server answers; once per command."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.server import require_server

    require_server()


def require_runner(settings: "Settings") -> None:
    """Check that this machine has what the task runner needs, before a server is started and waited for."""
    prepare_engine()
    from mnist_pipeline.orchestration import runners

    runners.require_runner(settings)


def backfill_outputs() -> "Location":
    """Where the backfill deployment publishes.

    Raises:
        EngineError: PREFECT_API_URL is not set, or the server does not have the deployment.
    """
    prepare_engine()
    from mnist_pipeline.orchestration.scheduled import settings_of
    from mnist_pipeline.orchestration.server import read_deployment

    return settings_of(read_deployment(BACKFILL)).outputs


def start_backfill(settings: "Settings", run_date: date, outputs: str | None) -> str:
    """Start a run of the backfill deployment for one run date; return its id.

    Args:
        settings: data set and split.
        run_date: the date to evaluate.
        outputs: the command-line option; None uses the deployment's own folder.
    """
    prepare_engine()
    from mnist_pipeline.orchestration.server import start_run

    parameters = {"dataset": settings.dataset, "split": settings.split, "run_date": str(run_date)}
    if outputs is not None:
        parameters["outputs"] = str(settings.outputs)
    return start_run(BACKFILL, parameters)


def ended_runs(run_ids: "Sequence[str]") -> "Iterator[tuple[str, str, str]]":
    """Wait for flow runs; yields id, name of the final state and message of each as it ends."""
    prepare_engine()
    from mnist_pipeline.orchestration.server import wait_for_runs

    return wait_for_runs(run_ids)


def run_flow(name: str, **parameters: Any) -> Any:
    """Load a flow by name, as a Prefect worker does, and run it here."""
    prepare_engine()
    from prefect.client.schemas.objects import State
    from prefect.exceptions import TerminationSignal
    from prefect.flows import Flow, load_flow_from_entrypoint

    from mnist_pipeline.orchestration.flow_runs import RejectedError
    from mnist_pipeline.orchestration.server import start_temporary_server
    from mnist_pipeline.orchestration.terminal import share_terminal

    share_terminal(style.verbose, style.quiet)
    start_temporary_server()
    flow: Flow[..., Any] = load_flow_from_entrypoint(f"mnist_pipeline.flows.{name}.{name}")
    try:
        # A failed flow may still return a result: a published run that fails its gates.
        state = cast("State[Any]", flow(**parameters, return_state=True))
        result = state.result(raise_on_failure=False)
        if isinstance(result, RejectedError):
            return result.judged
        if isinstance(result, BaseException):
            raise result
        return result
    except Exception as error:
        # While a flow runs, Prefect turns SIGTERM into an exception. Another exception may hide it or Ctrl-C: for
        # example when Prefect cannot report the end of the run because the server is gone.
        if any(isinstance(cause, TerminationSignal) for cause in _causes(error)):
            sys.exit(128 + signal.SIGTERM)
        if any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error)):
            raise KeyboardInterrupt from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
