"""Shows the progress of a long step as a progress artifact in Prefect's UI, in addition to log lines.

Short steps get none: each artifact costs a request to the server.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from mnist_pipeline.core.progress import Progress, work_of
from mnist_pipeline.report.progress import log_lines

SECONDS_BETWEEN_UPDATES = 2.0  # and before the first
TIMEOUT_SECONDS = 5.0  # Prefect's own client waits minutes for a server that is down or has a locked database


def shown(logger: logging.Logger) -> Progress:
    """Make a progress callback that logs, and shows work longer than `SECONDS_BETWEEN_UPDATES` in the UI."""
    log, bars, guard = log_lines(logger), dict[str, _Bar](), Lock()

    def report_progress(what: str, done: int, total: int) -> None:
        log(what, done, total)
        with guard:
            bar = bars.setdefault(work_of(what), _Bar(work_of(what)))
        if bar.stopped:
            return
        try:
            bar.show(100 * done / total if total else 0.0)
        except Exception:  # a missing view must not fail the run
            bar.stopped = True  # nor delay it more than once
            logger.warning("the progress of %s is no longer shown", bar.work, exc_info=True)

    return report_progress


@dataclass
class _Bar:
    """One progress artifact, created at its first update."""

    work: str
    artifact: UUID | None = None
    reported_at: float = field(default_factory=time.monotonic)
    stopped: bool = False

    def show(self, percent: float) -> None:
        due = time.monotonic() - self.reported_at >= SECONDS_BETWEEN_UPDATES
        if self.artifact is None and due:
            self._create(percent)
        elif self.artifact is not None and (due or percent >= 100):
            self._update(self.artifact, percent)
        if due:
            self.reported_at = time.monotonic()

    def _create(self, percent: float) -> None:
        run, task_run = runtime.flow_run.id, runtime.task_run.id
        new = ArtifactCreate(
            type="progress", data=percent, description=self.work, flow_run_id=run, task_run_id=task_run
        )
        with impatient_client() as client:
            self.artifact = client.create_artifact(new).id

    def _update(self, artifact: UUID, percent: float) -> None:
        with impatient_client() as client:
            client.update_artifact(artifact, ArtifactUpdate(data=percent))


@contextmanager
def impatient_client() -> Iterator[SyncPrefectClient]:
    """A client for what is only shown: it does not wait for a server that is down or busy."""
    once = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0})
    with once, get_client(sync_client=True, httpx_settings={"timeout": TIMEOUT_SECONDS}) as client:
        yield client
