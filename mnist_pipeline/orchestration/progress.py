"""How far a long stage is, in the UI: a progress artifact of the run in progress, beside the lines of the log.

Work that ends soon gets none: each costs a request to the server.
"""

import logging
import time
from dataclasses import dataclass, field
from threading import Lock
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from mnist_pipeline.core.progress import Progress, work_of
from mnist_pipeline.report.progress import log_lines

SECONDS_BETWEEN_UPDATES = 2.0  # and before the first


def shown(logger: logging.Logger) -> Progress:
    """A progress function that logs, and shows work that takes longer than `SECONDS_BETWEEN_UPDATES` in the UI."""
    log, bars, guard = log_lines(logger), dict[str, _Bar](), Lock()

    def tell(what: str, done: int, total: int) -> None:
        log(what, done, total)
        with guard:
            bar = bars.setdefault(work_of(what), _Bar(work_of(what)))
        if bar.given_up:
            return
        try:
            bar.show(100 * done / total if total else 0.0)
        except Exception:  # a view that cannot be drawn is no reason to fail the night
            # Nor to hold it up: Prefect tries for a minute to reach a server that is away.
            bar.given_up = True
            logger.warning("the progress of %s can be shown no more", bar.work, exc_info=True)

    return tell


@dataclass
class _Bar:
    """One progress artifact, created when it is first due."""

    work: str
    artifact: UUID | None = None
    told: float = field(default_factory=time.monotonic)
    given_up: bool = False

    def show(self, percent: float) -> None:
        due = time.monotonic() - self.told >= SECONDS_BETWEEN_UPDATES
        if self.artifact is None and due:
            # Where no event loop runs, as here, Prefect does the work before it returns.
            self.artifact = cast(UUID, create_progress_artifact(percent, description=self.work))
        elif self.artifact is not None and (due or percent >= 100):
            update_progress_artifact(self.artifact, percent)
        if due:
            self.told = time.monotonic()
