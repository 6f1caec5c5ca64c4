"""From the command to Prefect: import it with our defaults, run a flow here, start one on the server."""

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
    """Import Prefect with our defaults, and make sure that the server in force answers; asked once a command."""
    from mnist_pipeline.orchestration.environment import prepare_environment

    prepare_environment()
    from mnist_pipeline.orchestration.server import require_server

    require_server()


def start_backfill(settings: "Settings", run_date: date, outputs: str | None) -> str:
    """Start a run of the backfill deployment for one night; its name.

    Args:
        settings: data set and split.
        run_date: its date.
        outputs: as given on the command line; the deployment's own if None.
    """
    prepare_engine()
    from mnist_pipeline.orchestration.server import start_run

    parameters = {"dataset": settings.dataset, "split": settings.split, "run_date": str(run_date)}
    if outputs is not None:
        parameters["outputs"] = str(settings.outputs)
    return start_run("mnist-evaluation/backfill", parameters)


def run_flow(name: str, debug: bool, **parameters: Any) -> Any:
    """Load a flow as a Prefect worker would, by path, and run it here."""
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
        # A flow may end as failed and return something all the same: a published run that its gates reject.
        state = cast("State[Any]", flow(**parameters, return_state=True))
        result = state.result(raise_on_failure=False)
        if isinstance(result, RejectedError):
            return result.judged
        if isinstance(result, BaseException):
            raise result
        return result
    except Exception as error:
        # While a flow runs, Prefect turns SIGTERM into an exception. It may surface as the cause of another, and so may
        # Ctrl-C: that a server which is gone could not be told.
        if any(isinstance(cause, TerminationSignal) for cause in _causes(error)):
            sys.exit(128 + signal.SIGTERM)
        if any(isinstance(cause, KeyboardInterrupt) for cause in _causes(error)):
            raise KeyboardInterrupt from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
