"""Which weights are the current ones: the last promotion says, and without any, the shipped ones are.

A promotion is a numbered document that is created once and never changed; the weights lie in the archive.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.documents import ChecksummedDocument
from mnist_pipeline.store.files import read_expected

_NAME = re.compile(r"(\d{6})\.json")


class Promotion(ChecksummedDocument):
    """Weights became the current ones. Run and verdict are those of the candidate, below `outputs/candidates`."""

    kind: ClassVar[str] = "a promotion"
    checksum_field: ClassVar[str] = "promotion_sha256"

    weights_sha256: str
    previous_sha256: str
    run_id: str
    verdict_id: str
    outcome: Outcome
    forced: bool  # made current although the verdict was no pass
    promoted_at: datetime


def current_promotion(outputs: Outputs) -> Promotion | None:
    """The last promotion, or None.

    Raises:
        DamagedError: it is altered.
        StoreError: it cannot be read.
    """
    if not (numbers := list(_numbers(outputs))):
        return None
    name = layout.promotion(max(numbers))
    return Promotion.from_bytes(read_expected(outputs.store, name, "a promotion"), str(outputs.path(name)))


def record_promotion(outputs: Outputs, promotion: Promotion) -> Location:
    """Add a promotion after all others; of two at the same time, one comes second.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    while True:
        name = layout.promotion(max(_numbers(outputs), default=0) + 1)
        if outputs.store.create(name, promotion.to_bytes()):
            return outputs.path(name)


def _numbers(outputs: Outputs) -> Iterator[int]:
    for child in outputs.store.children(layout.PROMOTIONS):
        if match := _NAME.fullmatch(child):
            yield int(match[1])
