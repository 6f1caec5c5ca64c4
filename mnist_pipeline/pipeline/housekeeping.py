"""Prunes by the configured retention, as `mnist-pipeline prune` does by its options."""

from datetime import UTC, datetime, timedelta

from mnist_pipeline.core.retention import Retention
from mnist_pipeline.maintenance.pruning import Prune, carry_out, plan_prune
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import RetentionSettings


def plan_by(retention: RetentionSettings, outputs: Outputs, now: datetime) -> Prune:
    """Decide what a prune by a retention does, and change nothing.

    Raises:
        DamagedError: the file of the baselines is altered.
        OutputsError: the folder cannot be read.
    """
    rule = Retention(retention.keep_days, retention.keep_last)
    return plan_prune(outputs, rule, timedelta(hours=retention.grace_hours), now)


def prune_configured(outputs: Outputs, retention: RetentionSettings | None) -> str:
    """Prune, if a retention is configured; what was done, in a line.

    Raises:
        DamagedError: the file of the baselines is altered.
        OutputsError: the folder cannot be read or written.
    """
    if retention is None:
        return "not pruned: no [retention] in the config"
    if not list_runs(outputs):
        return "not pruned: no published runs"
    now = datetime.now(UTC)
    plan = plan_by(retention, outputs, now)
    left = carry_out(outputs, plan, now)
    done = ", ".join(f"{action} {len(plan.of(action))}" for action in ("mark", "delete", "restore"))
    collected = len(plan.shards) + len(plan.staging)
    return "; ".join([f"pruned: {done}, orphans {collected}", *(f"left alone: {line}" for line in left)])
