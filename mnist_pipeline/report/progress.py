"""Progress callbacks: bars on a terminal, or a log line every few seconds."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from mnist_pipeline.core import progress as core

SECONDS_BETWEEN_LINES = 5.0


def log_lines(logger: logging.Logger) -> core.Progress:
    """A progress callback that logs each work item when it ends, and every few seconds before."""
    logged: dict[str, float] = {}
    guard = Lock()

    def report_progress(what: str, done: int, total: int) -> None:
        work, now = core.work_of(what), time.monotonic()
        with guard:
            due = now - logged.setdefault(work, now) >= SECONDS_BETWEEN_LINES
            if due or done == total:
                logged[work] = now
                logger.info("%s: %s of %s", what, f"{done:,}", f"{total:,}")

    return report_progress


def through_console(console: Console) -> logging.Handler:
    """A log handler that prints above the progress bars of the same console."""
    return RichHandler(console=console, show_time=False, show_path=False, markup=False)


@contextmanager
def bars(console: Console) -> Iterator[core.Progress]:
    """A progress callback that draws a bar for each work item while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    started: dict[str, TaskID] = {}
    guard = Lock()
    with Progress(*columns, console=console) as drawn:

        def report_progress(what: str, done: int, total: int) -> None:
            work = core.work_of(what)
            with guard:
                if work not in started:
                    started[work] = drawn.add_task(what, total=total)
                drawn.update(started[work], description=what, completed=done, total=total)

        yield report_progress
