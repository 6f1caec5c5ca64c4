"""The evaluation as plain functions: fetch -> shards -> predictions -> publish. Does not import Prefect.

`evaluate` runs them in order in this process. The flow in `flows/evaluate.py` chains the same functions as tasks. They
pass paths, ranges, hashes and counts to each other, never arrays.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import numpy as np

from mnist_pipeline import tables
from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.network import Workspace, forward
from mnist_pipeline.core.plan import Shard, ShardGroup
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.core.tally import DigitScore, Tally
from mnist_pipeline.datasets import shards
from mnist_pipeline.datasets.image_bins import ImageBins, require_meant, warn_of_doubts
from mnist_pipeline.errors import DamagedError, NumericalError
from mnist_pipeline.pipeline.arrival import wait_for_data
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.labelling import labelled, labels_of
from mnist_pipeline.pipeline.planning import Plan, make_plan
from mnist_pipeline.runs import predictions, publishing, summary
from mnist_pipeline.runs.counting import counted_at
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.runs.manifest import Identity, Manifest, Totals
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.runtime import kernels, one_blas_thread, versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.checkpoints import Checkpoint
from mnist_pipeline.views import update_views

logger = logging.getLogger(__name__)

T = TypeVar("T")
Engine = Literal["direct", "prefect"]


@dataclass(frozen=True)
class Sharded:
    """How many shards of a group were built, how many were there, and the bins of the images of both.

    Shards that were there are verified when they are read.
    """

    built: int
    reused: int
    bins: ImageBins


@dataclass(frozen=True)
class Published:
    """A published run and its results.

    `new` is False if it was published before with the same predictions. `by_hand` are the settings for which it does
    not count as its night's.
    """

    identity: Identity
    folder: Location
    new: bool
    tally: Tally
    calibration: Calibration
    architecture: str
    by_hand: tuple[str, ...] = ()

    @property
    def run_id(self) -> str:
        return self.identity.run_id

    @property
    def totals(self) -> Totals:
        return Totals.of(self.tally, self.calibration)

    @property
    def scores(self) -> tuple[DigitScore, ...]:
        return self.tally.scores()


@dataclass
class Timings:
    """Wall seconds of each step, in the order they ran, and when the first began."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begun, 4)


def evaluate(settings: Settings, progress: Progress = silent) -> Published:
    """Evaluate and publish in this process, shards spread over `settings.workers` threads.

    Raises:
        NoDataError: what is to be evaluated is not there, after as long a wait as the settings allow.
        PipelineError: a step failed; nothing new is visible then.
    """
    wait_for_data(settings, progress)
    timings = Timings()
    with timings.measure("fetch"):
        source_images = open_images(settings, progress)
    return evaluate_plan(make_plan(settings, source_images), timings, progress)


def evaluate_plan(plan: Plan, timings: Timings, progress: Progress = silent) -> Published:
    """Execute a plan in this process; `timings` holds the seconds of the earlier steps.

    Raises:
        PipelineError: as `evaluate`.
    """
    with reserve(plan) as staging:
        with timings.measure("shard"):
            sharded = over_groups(plan, "shards", plan.build_groups, functools.partial(build_shards, plan), progress)
        plan = looked_at(plan, sharded)
        with timings.measure("predict"):
            predict = functools.partial(predict_shards, plan, staging)
            checkpoints = over_groups(plan, "predictions", plan.groups, predict, progress)
        return publish(plan, staging, [checkpoint for group in checkpoints for checkpoint in group], timings, "direct")


@contextmanager
def reserve(plan: Plan) -> Iterator[StagingDirectory]:
    """Lock the staging directory of a run, exclusively, and its shards, shared, for the length of the block.

    Raises:
        OutputsError: the outputs folder cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(plan.outputs.using_shards(plan.shard_set))
        yield stack.enter_context(staging_directory(plan.outputs, plan.run_id))


def build_shards(plan: Plan, group: ShardGroup) -> Sharded:
    """Build the shards of a group that are missing; those that are there are verified when they are read.

    Raises:
        DataError: a source file is missing, has changed since it was verified, or has invalid contents.
        OutputsError: a shard cannot be written.
    """
    there, bins, missing = plan.shard_set.names(), [], []
    for shard in group.shards:
        checkpoint = plan.shard_set.record(shard.file_name) if shard.file_name in there else None
        if checkpoint and (known := shards.bins_of(checkpoint)):
            bins.append(known)
        else:
            missing.append(shard)
    for checkpoint in shards.write_shards(plan.source_images, missing, plan.shard_set):
        logger.debug("%s built", checkpoint.file.path)
        bins += filter(None, [shards.bins_of(checkpoint)])
    return Sharded(len(missing), len(group.shards) - len(missing), ImageBins.total(bins))


def looked_at(plan: Plan, sharded: Sequence[Sharded]) -> Plan:
    """Look at the images of all shards before anything is predicted.

    Returns:
        The plan with their bins and what is doubtful about them, and with their labels if these are in a file of their
        own.

    Raises:
        ImagesError: they cannot be meant as they are: of another scale, black on white, or blank.
        PipelineError: as `labelled`.
    """
    bins = ImageBins.total(each.bins for each in sharded)
    images = f"{plan.identity.dataset}/{plan.identity.split}"
    location = plan.sources.get("images") or plan.sources.get("data_dir")
    where = f" ({location})" if location else ""
    require_meant(bins, f"{images}{where}", plan.source_images.pixel_format.inverted)
    return labelled(replace(plan, bins=bins, doubts=warn_of_doubts(bins, images)))


def predict_shards(plan: Plan, staging: StagingDirectory, group: ShardGroup) -> list[Checkpoint]:
    """Classify the images of a group of shards; reuse prediction files that an earlier attempt of this run finished.

    A shard that is missing or damaged is built again.

    Raises:
        DataError: as `build_shards`, for a shard that is built again.
        DamagedError: the archived weights are missing or altered, or a shard is other than just written.
        NumericalError: a sum on the way to a probability is NaN or infinite.
        OutputsError: a prediction file cannot be written.
    """
    one_blas_thread()
    network = plan.outputs.load_weights(plan.identity.weights_sha256)
    workspace = Workspace(network, min(plan.identity.batch_rows, plan.identity.shard_rows), kernels())
    made_with = versions()
    checkpoints = []
    for shard in group.shards:
        checkpoint = predictions.reusable_predictions(staging.checkpoints, shard, made_with)
        if checkpoint is None:
            images, probabilities = _classify(plan, shard, workspace)
            checkpoint = predictions.write_predictions(
                staging.checkpoints, shard, plan.identity, images, probabilities, made_with
            )
        else:
            logger.info("%s was finished by an earlier attempt", shard)
        checkpoints.append(checkpoint)
    return checkpoints


def publish(
    plan: Plan, staging: StagingDirectory, checkpoints: Sequence[Checkpoint], timings: Timings, engine: Engine
) -> Published:
    """Check that no prediction file is missing, add the small tables and the manifest, and publish all at once.

    Args:
        plan: the run, looked at.
        staging: the staging directory with its prediction files.
        checkpoints: the records of these files, in shard order.
        timings: of the earlier steps; "publish" is measured up to the commit.
        engine: what ran the steps, for the manifest.

    Raises:
        RunConflictError: the same run is published with other predictions.
        DamagedError: a prediction file is missing or altered.
        OutputsError: the outputs folder cannot be written.
    """
    begun = time.perf_counter()
    planned = [shard for group in plan.groups for shard in group.shards]
    assert len(checkpoints) == len(planned), f"{len(checkpoints)} prediction files, {len(planned)} planned"
    for shard, checkpoint in zip(planned, checkpoints, strict=True):
        assert checkpoint.file.is_named(shard.file_name), f"{checkpoint.file.path} is not the file planned for {shard}"
    tally, calibration = predictions.counted_of(checkpoints)
    assert tally.images == plan.identity.images, f"{tally.images} of {plan.identity.images} images counted"
    assert plan.bins is not None, "the images were not looked at"
    result = Published(
        plan.identity,
        plan.outputs.path(plan.outputs.files_of_run(plan.run_id)),
        new=True,
        tally=tally,
        calibration=calibration,
        architecture=plan.architecture,
    )
    files = [checkpoint.file for checkpoint in checkpoints]
    for table, data in summary.tables_of(plan.identity, tally, calibration, plan.bins):
        files.append(publishing.write_table(staging, table, data))
    manifest = Manifest(
        schema_version=tables.SCHEMA_VERSION,
        run_id=plan.run_id,
        fingerprint=plan.identity.fingerprint,
        identity=plan.identity,
        totals=result.totals,
        versions=versions(),
        engine=engine,
        workers=plan.workers,
        evaluated_at=timings.started_at,
        published_at=datetime.now(UTC),
        timings_seconds={**timings.seconds, "publish": round(time.perf_counter() - begun, 4)},
        files=tuple(files),
        shard_set=shards.shard_set_name(plan.source_images, plan.identity.shard_rows),
        tally=tally.to_json(),
        calibration=calibration.to_json(),
        architecture=plan.architecture,
        sources=plan.sources,
        doubts=plan.doubts,
    )
    new, by_hand = publishing.commit(plan.outputs, staging, manifest), plan.by_hand
    if not by_hand:
        publishing.count(plan.outputs, plan.run_id)
    elif counted_at(plan.outputs, run_by_id(plan.outputs, plan.run_id)):
        by_hand = ()
    update_views(plan.outputs)
    logger.info("run %s %s", plan.run_id, "published" if new else "was published before with the same predictions")
    return replace(result, new=new, by_hand=by_hand)


def _classify(plan: Plan, shard: Shard, workspace: Workspace) -> tuple[shards.ShardLabels, Any]:
    file = shards.open_shard(plan.shard_set, shard)
    if file is None:  # missing, or damaged since it was built
        shards.write_shard(plan.source_images, shard, plan.shard_set)
        file = shards.open_shard(plan.shard_set, shard)
    if file is None:
        raise DamagedError(
            f"{shard} in {plan.shard_set.location}: expected it as just written, got other bytes; check the disk"
        )
    images = shards.read_shard_labels(file)
    if (labels := labels_of(plan, shard)) is not None:
        images = replace(images, labels=labels)
    probabilities = np.empty((DIGITS, shard.range.rows), np.float32)
    done = 0
    try:
        for batch in shards.read_batches(file, workspace.batch_rows):
            forward(workspace, batch, out=probabilities[:, done : done + len(batch)])
            done += len(batch)
    except NumericalError as error:
        raise NumericalError(f"{shard}: {error}") from error
    assert done == shard.range.rows, f"{shard}: {done} of {shard.range.rows} images classified"
    return images, probabilities


def over_groups(
    plan: Plan, what: str, groups: Sequence[ShardGroup], function: Callable[[ShardGroup], T], progress: Progress
) -> list[T]:
    """Apply `function` to every group of shards in threads; results in group order. Stops at the first failure.

    The flow's is in `orchestration/runners.py`: its futures are Prefect's, and report to the server.
    """
    total, done = plan.source_images.rows, 0
    with ThreadPoolExecutor(plan.workers, thread_name_prefix=what) as pool:
        futures = {pool.submit(function, group): group for group in groups}
        try:
            for future in as_completed(futures):
                future.result()
                done += futures[future].rows
                progress(what, done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]
