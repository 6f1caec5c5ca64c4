"""How wide a stage runs: one task per group of shards, a bounded number of them at once."""

from typing import Any, TypeVar, cast

from prefect import unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from mnist_pipeline.stages import Plan

T = TypeVar("T")


def over_groups(plan: Plan, task: Task[..., T], **fixed: Any) -> list[T]:
    """Submit `task(plan, **fixed, group)` for every group of the plan; results in group order.

    Threads serve well: NumPy and pyarrow let go of the interpreter while they work. Prefect's own default
    would start as many threads as there are tasks.
    """
    runner: ThreadPoolTaskRunner[Any]
    with ThreadPoolTaskRunner(max_workers=plan.workers) as runner:
        given = {name: unmapped(value) for name, value in {"plan": plan, **fixed}.items()}
        # Prefect types `map` for asynchronous tasks only; ours are plain functions.
        futures: Any = runner.map(cast(Any, task), {**given, "group": plan.groups})
        return cast(list[T], futures.result())
