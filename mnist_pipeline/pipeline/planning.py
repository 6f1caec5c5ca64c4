"""Plans a run from settings and images. The plan is complete before the work begins."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from mnist_pipeline import tables
from mnist_pipeline.core.network import Network
from mnist_pipeline.core.plan import MAX_SHARDS, ShardGroup, begin_where, plan_groups
from mnist_pipeline.datasets.image_bins import ImageBins
from mnist_pipeline.datasets.later_labels import find_labels
from mnist_pipeline.datasets.source_files import SourceFile
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DamagedError, LabelError, PipelineError, SettingsError, printable
from mnist_pipeline.report.terminal import path_line
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import MAX_SOURCE, Identity
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import DATED, NETWORK, Settings
from mnist_pipeline.store.base import Location, exists
from mnist_pipeline.store.checkpoints import CheckpointFolder
from mnist_pipeline.store.files import FileRecord
from mnist_pipeline.verdicts.promotions import current_promotion
from mnist_pipeline.views import complete_repairs
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, load_weights, weights_sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A complete plan of a run: its identity, the locations of its files, and how its shards are grouped into tasks."""

    identity: Identity
    architecture: str
    source_images: OpenSplit
    outputs: Outputs
    shard_set: CheckpointFolder
    workers: int
    max_tasks: int
    labels_file: SourceFile | None = None  # of labels that came later than the images
    labels: FileRecord | None = None  # a byte an image, joined from that file once the shards exist
    by_hand: tuple[str, ...] = ()  # the settings that make this another run than that of the night
    # About the images, once their shards exist.
    doubts: tuple[str, ...] = ()
    bins: ImageBins | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # where images, labels and weights come from, by setting

    @property
    def run_id(self) -> str:
        return self.identity.run_id

    @property
    def groups(self) -> tuple[ShardGroup, ...]:
        """The shards, grouped into tasks. Not stored: every task receives the plan, so it must stay small."""
        return plan_groups(self.identity.images, self.identity.shard_rows, self.max_tasks)

    @property
    def build_groups(self) -> tuple[ShardGroup, ...]:
        """The shards, grouped into build tasks so that a group decodes less than one shard before its first shard.

        The same as `groups` if every image can be read separately. One task builds shards that can only be decoded
        from the beginning, such as those of one large row group.
        """
        shard_rows = self.identity.shard_rows
        return begin_where(
            self.groups,
            lambda shard: shard.range.start - self.source_images.decoded_from(shard.range.start) < shard_rows,
        )


def make_plan(settings: Settings, source_images: OpenSplit, network: Network | None = None) -> Plan:
    """Plan a run: complete pending repairs, read and archive the weights, and fix the identity and the files.

    Args:
        settings: what to evaluate, and where.
        source_images: the images.
        network: in place of the weights that the settings name, which makes it a run by hand.

    Raises:
        SettingsError: more shards than MAX_SHARDS, or an activation that the current weights do not have.
        DataError: there is no such file of labels.
        LabelError: the images have labels of their own as well.
        WeightsError: the weights are rejected.
        OutputsError: the outputs folder cannot be written.
    """
    if source_images.rows > MAX_SHARDS * settings.shard_rows:
        raise SettingsError(
            f"shard_rows {settings.shard_rows}: expected at most {MAX_SHARDS} shards for {source_images.rows} images; "
            "give more rows a shard"
        )
    labels_file = _labels_file(settings, source_images)
    outputs = Outputs.at(settings.outputs)
    complete_repairs(outputs)
    by_hand = set(settings.by_hand)
    if network is None:
        network = network_of(settings)
    else:
        by_hand.add("weights")
    archived = outputs.archive_weights(network)
    if not settings.by_hand.keys().isdisjoint(NETWORK) and archived.stem == _configured_sha256(settings):
        by_hand.difference_update(NETWORK)  # the same network, by another path
    elif "weights" in by_hand:
        by_hand.discard("activation")  # it is that of these weights
    identity = Identity(
        run_date=settings.run_date,
        dataset=source_images.dataset,
        split=source_images.split,
        images=source_images.rows,
        images_sha256=source_images.images_sha256,
        labels_sha256=labels_file.sha256 if labels_file else source_images.labels_sha256,
        keys_from=source_images.keys_from,
        weights_sha256=archived.stem,
        transform_version=source_images.transform_version,
        schema_version=tables.SCHEMA_VERSION,
        batch_rows=settings.batch_rows,
        shard_rows=settings.shard_rows,
    )
    sources = _sources(settings, archived.stem)
    if sources:
        logger.info("%s: %s", identity.run_id, ", ".join(f"{name} {location}" for name, location in sources.items()))
    return Plan(
        identity=identity,
        architecture=str(network.architecture),
        source_images=source_images,
        outputs=outputs,
        shard_set=outputs.shard_set(source_images, settings.shard_rows),
        workers=settings.workers,
        max_tasks=settings.max_tasks,
        labels_file=labels_file,
        by_hand=tuple(sorted(by_hand)),
        sources=sources,
    )


def _labels_file(settings: Settings, source_images: OpenSplit) -> SourceFile | None:
    if settings.labels is None:
        return None
    if source_images.labels_sha256:
        way_out = "say --label-column none" if settings.images else "move the file of these away"
        raise LabelError(
            f"--labels {settings.labels}: expected images without labels, got some with labels of their own; leave it "
            f"out, or {way_out}"
        )
    return find_labels(settings.labels)


def _sources(settings: Settings, weights_sha256: str) -> dict[str, str]:
    """The locations that the settings name, from the working directory on; not of weights named by their content."""
    found = {name: getattr(settings, name) for name in DATED}
    return {
        name: printable(path_line(location))[:MAX_SOURCE]
        for name, location in found.items()
        if location not in (None, SHIPPED_WEIGHTS) and location.stem != weights_sha256
    }


def network_of(settings: Settings) -> Network:
    """The network that the settings name, or the current one.

    Raises:
        SettingsError: they name an activation alone, and the current network has another one.
        WeightsError: the weights are rejected.
        DamagedError: as `current_network`.
    """
    if settings.weights:
        return load_weights(settings.weights, settings.activation)
    network = current_network(Outputs.at(settings.outputs))
    if settings.activation not in (None, network.architecture.activation):
        raise SettingsError(
            f"{settings.named('activation')}: expected none without weights: the current ones are "
            f"{network.architecture}; leave it out, or name a file with --weights"
        )
    return network


def _configured_sha256(settings: Settings) -> str | None:
    """The network that a run without anything by hand would have; None if it cannot be read."""
    configured = {name: value for name, value in settings.by_hand.items() if name in NETWORK}
    try:
        return weights_sha256(network_of(settings.model_copy(update=configured)))
    except PipelineError:
        return None


def current_network(outputs: Outputs) -> Network:
    """The network that was promoted last, or the one that ships with the package.

    Raises:
        DamagedError: the record of the last promotion is altered, or its weights are missing or altered.
    """
    path = current_weights(outputs)
    return load_weights(path) if path == SHIPPED_WEIGHTS else outputs.load_weights(path.stem)


def current_weights(outputs: Outputs) -> Location:
    """The file of the weights that were promoted last, or of those that ship with the package.

    Raises:
        DamagedError: the record of the last promotion is altered, or its weights are missing.
    """
    promotion = current_promotion(outputs)
    if promotion is None:
        return SHIPPED_WEIGHTS
    name = layout.weights(promotion.weights_sha256)
    if not exists(outputs.store, name):
        raise DamagedError(
            f"{outputs.path(name)}: expected the weights that were promoted last, got none; put them back, "
            "or promote others with --force"
        )
    return outputs.path(name)
