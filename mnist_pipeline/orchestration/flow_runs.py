"""Which night a flow run stands for, what to call it, and how it ends."""

import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Self

from prefect import runtime
from prefect.client.schemas.objects import State
from prefect.states import Failed

from mnist_pipeline.errors import PipelineError, VerdictError
from mnist_pipeline.pipeline.judging import Judged
from mnist_pipeline.settings import load_settings

REJECTED = "Rejected"  # a run that is published, and does not keep its gates
# Prefect raises what a failed state holds in the process that a worker has started, and logs it there as an "unexpected
# exception" with its traceback. A verdict is neither; the task that judges has logged it in one line.
ENGINE_LOGGERS = ("prefect.flow_runs", "prefect.engine")


def logical_date() -> date:
    """UTC calendar date of the scheduled start of the flow run in progress.

    The server sets it once, when it creates the run: a late or retried run keeps its night.
    """
    start: datetime = runtime.flow_run.scheduled_start_time
    return start.astimezone(UTC).date()


def flow_run_name(verb: str) -> Callable[[], str]:
    """What to call a flow run about one night: for example `evaluate mnist/test 2026-11-23`."""

    def name() -> str:
        given = runtime.flow_run.parameters
        try:
            settings = load_settings(given.get("config"), dataset=given.get("dataset"), split=given.get("split"))
        except PipelineError:
            return verb  # the run itself will say what is wrong
        return f"{verb} {settings.dataset}/{settings.split} {given.get('run_date') or logical_date()}"

    return name


class RejectedError(VerdictError):
    """What Prefect raises for a night that its gates reject; `judged` is that night."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.verdict.line)
        self.judged = judged

    def __reduce__(self) -> tuple[type[Self], tuple[Judged]]:
        return type(self), (self.judged,)


def ending(judged: Judged) -> Judged | State[Judged]:
    """What the flow returns: the night itself, or a failed state of that name if its verdict fails."""
    if judged.accepted:
        return judged
    for logger in ENGINE_LOGGERS:
        logging.getLogger(logger).addFilter(_is_no_rejection)
    return Failed(name=REJECTED, message=judged.verdict.line, data=RejectedError(judged))


def _is_no_rejection(entry: logging.LogRecord) -> bool:
    return not (entry.exc_info and isinstance(entry.exc_info[1], RejectedError))
