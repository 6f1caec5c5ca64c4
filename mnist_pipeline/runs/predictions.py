"""One shard's predictions as one Parquet file of a run, with the tally that was counted on the way."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.core.network import choose
from mnist_pipeline.core.plan import Shard
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets.shards import ShardLabels, label_column
from mnist_pipeline.runs.manifest import Identity
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.tables.columns import column_of


def write_predictions(
    checkpoints: CheckpointFolder,
    shard: Shard,
    identity: Identity,
    images: ShardLabels,
    probabilities: NDArray[np.float32],
    made_with: dict[str, str],
) -> Checkpoint:
    """Choose digits, count them, and put the part in place.

    Args:
        checkpoints: where the parts of the run gather.
        shard: the shard the probabilities are of.
        identity: of the run; its keys are written into every row.
        images: ids, labels and keys of the shard's n images.
        probabilities: `[10, n]` float32, finite.
        made_with: versions of what computed; a part made by others is not taken over.

    Raises:
        OutputsError: the part cannot be written.
    """
    rows = probabilities.shape[1]
    predictions, confidence = choose(probabilities)
    labels = images.labels
    columns: dict[str, Any] = {
        **_key_columns(identity, rows),
        "image_id": images.image_ids,
        "image_key": pa.nulls(rows, pa.string()) if images.keys is None else images.keys,
        "label": label_column(labels),
        "prediction": predictions,
        "correct": column_of(labels == predictions, pa.bool_(), known=labels != NO_LABEL),
        "confidence": confidence,
        **{f"proba_{digit}": probabilities[digit] for digit in range(DIGITS)},
    }
    data = tables.encode(tables.PREDICTIONS, tables.build(tables.PREDICTIONS, columns))
    notes = {
        "tally": Tally.count(labels, predictions, confidence).to_json(),
        "calibration": Calibration.count(labels, predictions, confidence, probabilities).to_json(),
        "made_with": made_with,
    }
    return checkpoints.write(shard.file_name, rows, data, notes)


@functools.lru_cache(maxsize=2)  # a shard has as many rows as the one before, but the last
def _key_columns(identity: Identity, rows: int) -> dict[str, pa.Array]:
    return tables.constants(tables.PREDICTIONS, identity.key_columns, rows)


def reusable_predictions(checkpoints: CheckpointFolder, shard: Shard, made_with: dict[str, str]) -> Checkpoint | None:
    """The part of an earlier attempt of this run, if it is whole and the same versions made it."""
    checkpoint = checkpoints.find(shard.file_name)
    if checkpoint is None:
        return None
    try:
        counted_of([checkpoint])
        return checkpoint if checkpoint.notes["made_with"] == made_with else None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None  # another state of our own code noted other things under the same version


def counted_of(checkpoints: Sequence[Checkpoint]) -> tuple[Tally, Calibration]:
    """What was counted in all parts, merged in the order given."""
    return (
        Tally.total(Tally.from_json(checkpoint.notes["tally"]) for checkpoint in checkpoints),
        Calibration.total(Calibration.from_json(checkpoint.notes["calibration"]) for checkpoint in checkpoints),
    )
