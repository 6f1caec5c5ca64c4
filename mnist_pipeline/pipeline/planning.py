"""Settings and images -> the plan of a run, fixed in full before its work begins."""

from dataclasses import dataclass

from mnist_pipeline import tables
from mnist_pipeline.core.plan import MAX_SHARDS, ShardGroup, begin_where, plan_groups
from mnist_pipeline.datasets import shards
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DamagedError, SettingsError
from mnist_pipeline.runs.manifest import Identity
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.objects import Location
from mnist_pipeline.verdicts.promotions import current_promotion
from mnist_pipeline.views import complete_repairs
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, WEIGHTS, archive_weights, load_weights


@dataclass(frozen=True)
class Plan:
    """A run decided in full before its work begins: who it is, where its pieces lie, how they are shared out."""

    identity: Identity
    source_images: OpenSplit
    outputs: Location
    shard_set: CheckpointFolder
    weights: Location
    workers: int
    max_tasks: int

    @property
    def run_id(self) -> str:
        return self.identity.run_id

    @property
    def groups(self) -> tuple[ShardGroup, ...]:
        """The shards as tasks share them. Not stored: a plan travels with every task, and must stay small."""
        return plan_groups(self.identity.images, self.identity.shard_rows, self.max_tasks)

    @property
    def build_groups(self) -> tuple[ShardGroup, ...]:
        """The shards as tasks share their building: what a group decodes before its first shard is less than a shard.

        The same as `groups` where every image can be read by itself. What can only be decoded from its beginning, such
        as one large row group, is built by one task.
        """
        shard_rows = self.identity.shard_rows
        return begin_where(
            self.groups,
            lambda shard: shard.range.start - self.source_images.decoded_from(shard.range.start) < shard_rows,
        )


def make_plan(settings: Settings, source_images: OpenSplit) -> Plan:
    """Decide the run: read the weights, archive them, and fix its identity and its pieces. Finishes repairs first.

    Raises:
        SettingsError: so many shards that their names run out.
        WeightsError: the weights are refused.
        OutputsError: the outputs folder cannot be written.
    """
    if source_images.rows > MAX_SHARDS * settings.shard_rows:
        raise SettingsError(
            f"shard_rows {settings.shard_rows}: expected at most {MAX_SHARDS} shards for {source_images.rows} images; "
            "give more rows a shard"
        )
    complete_repairs(settings.outputs)
    network = load_weights(settings.weights or current_weights(settings.outputs))
    archived = archive_weights(network, settings.outputs / WEIGHTS)
    identity = Identity(
        run_date=settings.run_date,
        dataset=source_images.dataset,
        split=source_images.split,
        images=source_images.rows,
        images_sha256=source_images.images_sha256,
        labels_sha256=source_images.labels_sha256,
        weights_sha256=archived.stem,
        transform_version=source_images.transform_version,
        schema_version=tables.SCHEMA_VERSION,
        batch_rows=settings.batch_rows,
        shard_rows=settings.shard_rows,
    )
    return Plan(
        identity=identity,
        source_images=source_images,
        outputs=settings.outputs,
        shard_set=shards.shard_set(settings.outputs, source_images, settings.shard_rows),
        weights=archived,
        workers=settings.workers,
        max_tasks=settings.max_tasks,
    )


def current_weights(outputs: Location) -> Location:
    """The file of the weights that were promoted last, or of those that ship with the package.

    Raises:
        DamagedError: the record of the last promotion is altered, or its weights are gone.
    """
    promotion = current_promotion(outputs)
    if promotion is None:
        return SHIPPED_WEIGHTS
    path = outputs / WEIGHTS / f"{promotion.weights_sha256}.safetensors"
    if not path.is_file():
        raise DamagedError(
            f"{path}: expected the weights that were promoted last, got none; put them back, "
            "or promote others with --force"
        )
    return path
