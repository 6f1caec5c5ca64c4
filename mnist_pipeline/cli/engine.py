"""Connects the commands to Prefect: imports it with our defaults, runs a flow here, or starts one on the server."""

import functools
import signal
import sys
from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from mnist_pipeline.settings import Settings


@functools.cache
def prepare_engine() -> None:
    """Import Prefect with our defaults, and check that the active server answers; once per command."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.server import require_server

    require_server()


def start_backfill(settings: "Settings", run_date: date, outputs: str | None) -> str:
    """Start a run of the backfill deployment for one run date; return its name.

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
    return start_run("mnist-evaluation/backfill", parameters)


def run_flow(name: str, debug: bool, **parameters: Any) -> Any:
    """Load a flow by path, as a Prefect worker does, and run it here."""
    from mnist_pipeline.settings import project_folder

    prepare_engine()
    from prefect.client.schemas.objects import State
    from prefect.exceptions import TerminationSignal
    from prefect.flows import Flow, load_flow_from_entrypoint

    from mnist_pipeline.orchestration.flow_runs import RejectedError
    from mnist_pipeline.orchestration.server import start_temporary_server
    from mnist_pipeline.orchestration.terminal import share_terminal

    share_terminal(debug)
    start_temporary_server()
    flow: Flow[..., Any] = load_flow_from_entrypoint(f"{project_folder('flows') / name}.py:{name}")
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
