"""The parameters, the run date, the name and the final state of a flow run."""

import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any, ParamSpec, Self, TypeVar

from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.states import Failed, Running

from mnist_pipeline.errors import PipelineError, SettingsError, VerdictError, has_secrets
from mnist_pipeline.orchestration.progress import impatient_client
from mnist_pipeline.pipeline.judging import Judged
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, Settings, load_settings, project_defaults

WAITING = "WaitingForData"  # a run that waits for what it is to evaluate
REJECTED = "Rejected"  # a published run that fails its gates
# In a worker's process Prefect raises the exception of a failed state and logs it as "unexpected exception" with its
# traceback. A verdict is expected, and the judging task has already logged it in one line.
ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.engine")

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class _Flow(Flow[P, R]):
    """A flow that is called keeps its parameters on the server before Prefect validates them."""

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        for name, value in parameters.items():
            if has_secrets(value):
                raise SettingsError(
                    f"{name}: expected no address with a user name, password or query, got one; leave them out: "
                    "credentials come from the environment"
                )
        return super().serialize_parameters(parameters)


def flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Prefect's decorator of that name, for flows that let no secrets of an address into Prefect's database.

    The form in Prefect's UI says of each parameter what leaving it out means: a real default there would win over
    config and environment.
    """

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        function.__doc__ = with_defaults(inspect.cleandoc(function.__doc__ or ""), project_defaults())
        return _Flow(function, persist_result=False, **options)

    return decorate


def with_defaults(doc: str, defaults: Mapping[str, Any]) -> str:
    """A docstring whose arguments say what leaving them out means, and what wins over that.

    Args:
        doc: without the indentation of the code. Arguments that name a default keep it.
        defaults: of the others, by name.
    """

    def completed(found: re.Match[str]) -> str:
        name, text = found["name"], found[0].removesuffix(".")
        if name not in Settings.model_fields or name == "run_date" or re.search("deployment|scheduled", text):
            return found[0]
        if "left out" not in text:
            default = defaults.get(name, "what the project's configuration says")
            text += f". If left out: {'yes' if default is True else 'no' if default is False else default}"
        return f"{text}, unless `config` or the worker's {ENVIRONMENT_PREFIX}{name.upper()} says otherwise."

    return re.sub(r"^    (?P<name>\w+): .*(\n     .*)*", completed, doc, flags=re.MULTILINE)


def logical_date() -> date:
    """UTC calendar date of the scheduled start of the current flow run.

    The server sets it once, when it creates the run: a late or retried run keeps its run date.
    """
    start: datetime = runtime.flow_run.scheduled_start_time
    return start.astimezone(UTC).date()


def configured_parameters() -> Mapping[str, Any] | None:
    """The parameters of the current flow run that nobody gave by hand; None outside a deployment.

    All of them, if a schedule started it; those of its deployment otherwise, or none if that is gone.
    """
    deployment_id = runtime.deployment.id
    if deployment_id is None:
        return None
    context = FlowRunContext.get()
    if context and context.flow_run and context.flow_run.auto_scheduled:
        return context.parameters
    with get_client(sync_client=True) as client:
        try:
            return client.read_deployment(deployment_id).parameters
        except ObjectNotFound:
            return {}


def require_all(states: Iterable[State[Any]]) -> None:
    """Nothing, if all tasks have completed.

    Raises:
        PipelineError: some have not; what was raised there first, with the messages of all.
    """
    errors = [error for state in states if isinstance(error := state.result(raise_on_failure=False), BaseException)]
    if errors:
        if len(errors) > 1 and isinstance(errors[0], PipelineError):
            raise type(errors[0])("; ".join(map(str, errors))) from errors[0]
        raise errors[0]


def flow_run_name(verb: str, names_split: bool = True) -> Callable[[], str]:
    """Make the name of a flow run for one run date: for example `evaluate mnist/test 2026-11-23`.

    Args:
        verb: what it does.
        names_split: whether it is always of one data set and split; otherwise these are named if they are given.
    """

    def name() -> str:
        given = runtime.flow_run.parameters
        if not names_split and not given.get("dataset"):
            return f"{verb} {given.get('run_date') or logical_date()}"
        try:
            settings = load_settings(given.get("config"), dataset=given.get("dataset"), split=given.get("split"))
        except PipelineError:
            return verb  # the run itself reports the error
        return f"{verb} {settings.dataset}/{settings.split} {given.get('run_date') or logical_date()}"

    return name


@contextmanager
def shown_as_waiting() -> Iterator[Callable[[str], None]]:
    """Yields what shows the current flow run as waiting, with a message, until the block ends.

    It stays a state of the type Running: the run keeps its place within concurrency limits, and can be cancelled.
    """
    waiting = False

    def show(message: str) -> None:
        nonlocal waiting
        waiting = True
        _show_state(Running(name=WAITING, message=message))

    yield show
    if waiting:
        _show_state(Running())


def _show_state(state: State[Any]) -> None:
    try:
        with impatient_client() as client:
            client.set_flow_run_state(runtime.flow_run.id, state)
    except Exception:  # a missing view must not fail the run
        logger.warning("the run cannot be shown as %s", state.name, exc_info=True)


class RejectedError(VerdictError):
    """Raised by Prefect for a run that fails its gates; `judged` is that run."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.line)
        self.judged = judged

    def __reduce__(self) -> tuple[type[Self], tuple[Judged]]:
        return type(self), (self.judged,)


def ending(judged: Judged) -> Judged | State[Judged]:
    """The return value of the flow: the judged run, or a failed state named Rejected if the verdict fails."""
    if judged.accepted:
        return judged
    for logger in ENGINE_LOGGERS:
        logging.getLogger(logger).addFilter(_is_no_rejection)
    return Failed(name=REJECTED, message=judged.line, data=RejectedError(judged))


def _is_no_rejection(entry: logging.LogRecord) -> bool:
    return not (entry.exc_info and isinstance(entry.exc_info[1], RejectedError))
