"""How wide a stage runs: one task per group of shards, a bounded number of them at once."""

import logging
from typing import Any, TypeVar, cast

from prefect import unmapped
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from mnist_pipeline.orchestration.progress import shown
from mnist_pipeline.stages import Plan

logger = logging.getLogger(__name__)

T = TypeVar("T")


def over_groups(plan: Plan, what: str, task: Task[..., T], **fixed: Any) -> list[T]:
    """Submit `task(plan, **fixed, group)` for every group of the plan; results in group order.

    Threads serve well: NumPy and pyarrow let go of the interpreter while they work. Prefect's own default
    would start as many threads as there are tasks.

    Args:
        plan: the run.
        what: the images are, once the tasks are done; for the progress that is shown.
        task: a plain function as a task.
        fixed: its arguments that are the same for every group.
    """
    progress, done, total = shown(logger), 0, plan.identity.images
    progress(what, done, total)
    runner: ThreadPoolTaskRunner[Any]
    with ThreadPoolTaskRunner(max_workers=plan.workers) as runner:
        given = {name: unmapped(value) for name, value in {"plan": plan, **fixed}.items()}
        # Prefect types `map` for asynchronous tasks only; ours are plain functions.
        futures: Any = runner.map(cast(Any, task), {**given, "group": plan.groups})
        rows = dict(zip(futures, (group.rows for group in plan.groups), strict=True))
        for future in as_completed(list(futures)):
            done += rows[future]
            progress(what, done, total)
        return cast(list[T], futures.result())
