"""Which weights are the current ones: the last promotion says, and without any, the shipped ones are.

A promotion is a numbered document that is created once and never changed; the weights lie in the archive.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.documents import ChecksummedDocument
from mnist_pipeline.store.files import create_file, outputs_errors, read_expected
from mnist_pipeline.store.objects import Location

PROMOTIONS = "promotions"
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


def current_promotion(outputs: Location) -> Promotion | None:
    """The last promotion, or None.

    Raises:
        DamagedError: it is altered.
    """
    numbers = sorted(_numbers(outputs))
    if not numbers:
        return None
    path = _path(outputs, numbers[-1])
    return Promotion.from_bytes(read_expected(path, "a promotion"), str(path))


def record_promotion(outputs: Location, promotion: Promotion) -> Location:
    """Add a promotion after all others; of two at the same time, one comes second.

    Raises:
        OutputsError: the outputs folder cannot be written.
    """
    with outputs_errors(f"cannot record a promotion in {outputs / PROMOTIONS}"):
        while True:
            path = _path(outputs, max(_numbers(outputs), default=0) + 1)
            if create_file(path, promotion.to_bytes(), outputs / STAGING):
                return path


def _numbers(outputs: Location) -> Iterator[int]:
    folder = outputs / PROMOTIONS
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            yield int(match[1])


def _path(outputs: Location, number: int) -> Location:
    return outputs / PROMOTIONS / f"{number:06d}.json"
