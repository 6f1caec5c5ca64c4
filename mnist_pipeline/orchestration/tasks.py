"""The pipeline steps as Prefect tasks: names and retries, nothing else.

Results are neither cached nor persisted: reusable files are stored in the outputs folder and verified there. Only
fetching is retried, and only if a source may still answer. All other tasks set retries=0, so that no environment
variable adds retries: a run that was just published cannot be published again from its staging directory.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.core.plan import ShardGroup
from mnist_pipeline.datasets.formats.idx import IdxSplit
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import UnavailableError
from mnist_pipeline.maintenance.verification import Verified, verify_all
from mnist_pipeline.orchestration import scheduled
from mnist_pipeline.orchestration.artifacts import show_judged, show_maintained
from mnist_pipeline.orchestration.environment import spare_loopback
from mnist_pipeline.orchestration.flow_runs import shown_as_waiting
from mnist_pipeline.orchestration.progress import shown
from mnist_pipeline.pipeline import arrival, evaluation, inputs, nightly, planning, training
from mnist_pipeline.pipeline.evaluation import Published, Sharded, Timings
from mnist_pipeline.pipeline.housekeeping import prune_configured
from mnist_pipeline.pipeline.judging import Judged, judge_published
from mnist_pipeline.pipeline.planning import Plan
from mnist_pipeline.pipeline.reporting import try_report
from mnist_pipeline.pipeline.training import Fitted, Trained
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.staging import StagingDirectory
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.checkpoints import Checkpoint

logger = logging.getLogger(__name__)
spare_loopback()  # workers and Python callers do not run the command, which does the same
# Prefect forwards the lines of our loggers (PREFECT_LOGGING_EXTRA_LOGGERS), but does not set their level.
if (_ours := logging.getLogger("mnist_pipeline")).level == logging.NOTSET:
    _ours.setLevel(logging.INFO)

FETCH_RETRIES = 2
FETCH_BACKOFF_SECONDS = 5


def is_retryable(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry a failed fetch: only if a source may answer the next time."""
    return isinstance(state.result(raise_on_failure=False), UnavailableError)


@task(
    task_run_name="wait for {settings.dataset}/{settings.split}", retries=0, cache_policy=NO_CACHE, persist_result=False
)
def wait_for_data(settings: Settings) -> None:
    """Wait until what is to be evaluated is there, as long as the settings allow."""
    with shown_as_waiting() as on_waiting:
        arrival.wait_for_data(settings, on_waiting=on_waiting)


fetching = task(
    task_run_name="fetch {settings.dataset}/{settings.split}",
    retries=FETCH_RETRIES,
    retry_delay_seconds=exponential_backoff(FETCH_BACKOFF_SECONDS),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_retryable,
    cache_policy=NO_CACHE,
    persist_result=False,
)


@fetching
def open_images(settings: Settings) -> OpenSplit:
    """Fetch and verify the images to evaluate."""
    return inputs.open_images(settings, shown(logger))


@fetching
def fetch(settings: Settings) -> IdxSplit:
    """Fetch and verify the IDX files."""
    return inputs.fetch(settings, shown(logger))


@task(
    task_run_name="plan {source_images.dataset}/{source_images.split}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def make_plan(settings: Settings, source_images: OpenSplit) -> Plan:
    """Fix the run's identity and its shards."""
    return planning.make_plan(settings, source_images)


@task(task_run_name="build {group}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def build_shards(plan: Plan, group: ShardGroup) -> Sharded:
    """Normalise and flatten images into Parquet shards."""
    return evaluation.build_shards(plan, group)


@task(task_run_name="predict {group}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def predict_shards(plan: Plan, staging: StagingDirectory, group: ShardGroup) -> list[Checkpoint]:
    """Classify the images of some shards in batches."""
    return evaluation.predict_shards(plan, staging, group)


@task(task_run_name="publish {plan.run_id}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def publish(plan: Plan, staging: StagingDirectory, checkpoints: list[Checkpoint], timings: Timings) -> Published:
    """Publish predictions, summary and manifest all at once."""
    return evaluation.publish(plan, staging, checkpoints, timings, engine="prefect")


@task(task_run_name="judge {published.run_id}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def judge(settings: Settings, published: Published) -> Judged:
    """Compare the run with its references and judge it by its gates."""
    judged = judge_published(settings, published)
    usual = logging.INFO if judged.verdict.outcome == "pass" else logging.WARNING
    logger.log(usual if judged.accepted else logging.ERROR, "%s", judged.line)
    try:
        show_judged(settings, judged)
    except Exception:
        # The run is published: a missing view in the UI must not fail it.
        logger.warning("the artifacts of %s could not be created", published.run_id, exc_info=True)
    return judged


@task(task_run_name="report {judged.published.run_id}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def report(settings: Settings, judged: Judged) -> None:
    """Write the report of the run."""
    try_report(Outputs.at(settings.outputs), judged.published.run_id, verified=True)


@task(task_run_name="nights that are due", retries=0, cache_policy=NO_CACHE, persist_result=False)
def due_runs(settings: Settings, given: Mapping[str, Any], count: int) -> list[scheduled.Due]:
    """What is due by the schedules on the server; by the settings if there are none."""
    due = scheduled.due(settings, given, count)
    if not any(each.dates for each in due):
        logger.warning("nothing is due: no active schedule on the server has begun a run by then")
    return due


@task(task_run_name="verify {settings.outputs}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def verify(settings: Settings) -> list[Verified]:
    """Check every published byte."""
    checked = verify_all(Outputs.at(settings.outputs))
    for each in checked:
        logger.log(logging.ERROR if each.problems else logging.INFO, "%s", each.line)
        for problem in each.problems:
            logger.error("%s", problem)
    return checked


@task(task_run_name="prune {settings.outputs}", retries=0, cache_policy=NO_CACHE, persist_result=False)
def prune(settings: Settings) -> str:
    """Prune by the configured retention, if one is configured; what was done, in a line."""
    line = prune_configured(Outputs.at(settings.outputs), settings.retention)
    logger.info("%s", line)
    return line


@task(task_run_name="findings", retries=0, cache_policy=NO_CACHE, persist_result=False)
def show_findings(settings: Settings, verified: list[Verified], pruned: str) -> None:
    """Create the artifact of a maintenance run."""
    show_maintained(str(settings.outputs), verified, pruned)


@task(
    task_run_name="nights of {due.settings.dataset}/{due.settings.split}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def require_run_dates(due: scheduled.Due) -> None:
    """Fail if one of the dates has no published run, or one that fails its gates or was not judged."""
    for state in nightly.require_run_dates(due.settings, due.dates):
        logger.info("%s", state.line)


@task(
    task_run_name="fit {source_images.dataset}/{source_images.split}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def fit_weights(source_images: IdxSplit, recipe: Recipe, outputs: Location, target: Path | None) -> Fitted:
    """Train a network and write its weights."""
    return training.fit_weights(source_images, recipe, outputs, target, shown(logger))


@task(
    task_run_name="score on {source_images.dataset}/{source_images.split}",
    retries=0,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def score_weights(fitted: Fitted, source_images: IdxSplit) -> Trained:
    """Score the weights on a split they were not trained on and write their model card."""
    return training.score_weights(fitted, source_images)
