"""Looks at the keys of all images, and joins labels from a file of their own, once all shards of a run exist.

Done once, in the process that drives the run. What it finds is one file of a byte an image beside the shards: between
tasks travel its name and its hash.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.core.plan import Shard
from mnist_pipeline.datasets import shards
from mnist_pipeline.datasets.image_keys import require_unique
from mnist_pipeline.datasets.later_labels import read_labels
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.pipeline.planning import Plan
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.files import FileRecord, read_expected, record

logger = logging.getLogger(__name__)


def labelled(plan: Plan) -> Plan:
    """The plan with the labels of its images, if they are in a file of their own.

    Raises:
        DataError: two images have the same key, or the file of labels has changed since the plan was made.
        LabelError: the labels are not those of these images.
        OutputsError: the outputs folder cannot be written.
    """
    identity, keys = plan.identity, functools.partial(_keys, plan)
    if identity.keys_from:
        require_unique(keys, identity.images, f"{identity.dataset}/{identity.split}")
    if plan.labels_file is None:
        return plan
    labels = read_labels(plan.labels_file, identity.images, identity.keys_from, keys)
    name = plan.outputs.labels_beside(plan.shard_set, plan.labels_file.sha256)
    data = labels.tobytes()
    plan.outputs.store.write(name, data, sync=False)
    logger.info(
        "%s: labels of %s of %s images",
        plan.labels_file,
        f"{(labels != NO_LABEL).sum():,}",
        f"{len(labels):,}",
    )
    return replace(plan, labels=record(name, len(labels), data))


def labels_of(plan: Plan, shard: Shard) -> NDArray[np.int8] | None:
    """The labels `[n]` of the images of a shard, NO_LABEL where one has none; None if they are in the shard.

    Raises:
        DamagedError: the file of the joined labels is missing or altered.
    """
    if plan.labels is None:
        return None
    return _joined(plan.outputs, plan.labels)[shard.range.start : shard.range.stop]


@functools.lru_cache(maxsize=1)
def _joined(outputs: Outputs, labels: FileRecord) -> NDArray[np.int8]:
    data = read_expected(outputs.store, labels.path, "the labels of the run")
    if problem := labels.problem_with(data):
        raise DamagedError(f"{outputs.path(labels.path)}: {problem}; run again to join the labels again")
    return np.frombuffer(data, np.int8)


def _keys(plan: Plan) -> Iterator[pa.StringArray]:
    for group in plan.groups:
        for shard in group.shards:
            try:
                yield shards.read_keys(plan.shard_set, shard)
            except DamagedError as error:
                logger.warning("%s", error)
                shards.write_shard(plan.source_images, shard, plan.shard_set)
                yield shards.read_keys(plan.shard_set, shard)
