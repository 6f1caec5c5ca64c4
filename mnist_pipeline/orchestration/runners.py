"""Runs a step in parallel: one task per group of shards, on threads, processes or a Dask cluster.

Uses Prefect's own runners. Tasks exchange paths, ranges, hashes and counts, never arrays.
"""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from prefect import unmapped
from prefect.client.orchestration import get_client
from prefect.futures import as_completed
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task

from mnist_pipeline.core.plan import ShardGroup
from mnist_pipeline.errors import EngineError, MachineError, SettingsError
from mnist_pipeline.orchestration.progress import shown
from mnist_pipeline.pipeline.planning import Plan
from mnist_pipeline.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
CONNECT_SECONDS = 10


def require_runner(settings: Settings) -> None:
    """Check that this machine has what the task runner of the settings needs, before any server starts.

    Raises:
        SettingsError: a package is not installed.
        MachineError: processes cannot be started that wait for each other.
    """
    if settings.runner == "dask":
        _dask(settings)
    if settings.runner == "threads" or settings.cluster is not None:
        return
    try:
        multiprocessing.get_context("spawn").Semaphore()
    except (OSError, ImportError) as error:
        raise MachineError(
            f"runner {settings.runner}: expected semaphores, which need a writable /dev/shm, got {error}; mount it, or "
            "use --runner threads"
        ) from error


@contextmanager
def started_runner(settings: Settings) -> Iterator[TaskRunner[Any]]:
    """Start the task runner that the settings name.

    Threads suffice on one machine: NumPy and pyarrow release the GIL while they compute. The number of workers is
    always set: by default Prefect would start one thread per task.

    Raises:
        SettingsError: a package that the runner needs is not installed.
        MachineError: this machine cannot start processes.
        EngineError: the cluster does not answer, or a worker process was killed from outside.
    """
    require_runner(settings)
    if settings.runner == "threads":
        threads: ThreadPoolTaskRunner[Any]
        with ThreadPoolTaskRunner(max_workers=settings.workers) as threads:
            yield threads
    elif settings.runner == "processes":
        with _one_server(), ProcessPoolTaskRunner(max_workers=settings.workers) as processes:
            try:
                yield processes
            except BrokenProcessPool as error:
                raise EngineError(
                    "runner processes: expected every worker process to live, got one that was ended from outside "
                    "(out of memory?); run again: it reuses finished prediction files"
                ) from error
    else:
        dask = _dask(settings)
        with _one_server(), dask:
            _connect(dask, settings.cluster)
            yield dask


def over_groups(
    runner: TaskRunner[Any], plan: Plan, what: str, groups: Sequence[ShardGroup], task: Task[..., T], **fixed: Any
) -> list[T]:
    """Submit `task(plan, **fixed, group)` for every group; results in group order.

    Args:
        runner: runs the tasks.
        plan: the run.
        what: the result of the tasks, for the progress: "shards" or "predictions".
        groups: all shards of the plan.
        task: the task for one group.
        fixed: its arguments that are the same for every group.
    """
    progress, done, total = shown(logger), 0, plan.identity.images
    progress(what, done, total)
    given = {name: unmapped(value) for name, value in {"plan": plan, **fixed}.items()}
    # Prefect types `map` for asynchronous tasks only; ours are plain functions.
    futures: Any = runner.map(cast(Any, task), {**given, "group": groups})
    rows = dict(zip(futures, (group.rows for group in groups), strict=True))
    for future in as_completed(list(futures)):
        if future.state.is_completed():
            done += rows[future]
            progress(what, done, total)
    return cast(list[T], futures.result())


@contextmanager
def _one_server() -> Iterator[None]:
    """Pass workers the address of this process's server: without it each would start its own temporary one."""
    with get_client(sync_client=True) as client, temporary_settings({PREFECT_API_URL: str(client.api_url)}):
        yield


def _dask(settings: Settings) -> TaskRunner[Any]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise SettingsError(
            f"runner dask: expected the package prefect-dask, got none ({error}); "
            "install it: pip install 'mnist-pipeline[dask]'"
        ) from error
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection
    if settings.cluster is not None:
        return DaskTaskRunner(address=settings.cluster, client_kwargs={"timeout": CONNECT_SECONDS})
    # One thread a worker, so that each has its own interpreter. No dashboard: it would occupy a port.
    cluster = {"n_workers": settings.workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=cluster)


def _connect(runner: Any, address: str | None) -> None:
    try:
        runner.client  # noqa: B018  connects, or starts the cluster
    except (OSError, TimeoutError) as error:
        raise EngineError(
            f"cluster {address or 'of this machine'}: expected a Dask scheduler that answers within "
            f"{CONNECT_SECONDS} s, got {error}; start it (`dask scheduler`), or correct --cluster"
        ) from error
