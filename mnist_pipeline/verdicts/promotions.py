"""Which weights are the current ones: the last promotion says, and without any, the shipped ones are.

A promotion is a numbered document that is created once and never changed; the weights lie in the archive.
"""

import logging
from typing import ClassVar

from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.errors import OutputsError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import BOOK_NAME, ArchitectureName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store import numbered
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.documents import ChecksummedDocument, Moment, Sha256
from mnist_pipeline.store.files import prefetch, read_document

logger = logging.getLogger(__name__)


class Promotion(ChecksummedDocument):
    """Weights became the current ones. Run and verdict are those of the candidate, below `outputs/candidates`."""

    kind: ClassVar[str] = "a promotion"
    checksum_field: ClassVar[str] = "promotion_sha256"

    weights_sha256: Sha256
    previous_sha256: Sha256
    architecture: ArchitectureName = BOOK_NAME  # as in a manifest
    run_id: str
    verdict_id: str
    outcome: Outcome
    forced: bool  # made current although the verdict was no pass
    promoted_at: Moment


def current_promotion(outputs: Outputs) -> Promotion | None:
    """The last promotion, or None.

    Raises:
        DamagedError: it is altered.
        StoreError: it cannot be read.
    """
    name = numbered.newest(outputs.store, layout.PROMOTIONS)
    return None if name is None else _read(outputs, name)


def known_promotions(outputs: Outputs) -> list[Promotion]:
    """All promotions, oldest first; those that are damaged or cannot be read are logged and left out."""

    def known(name: str) -> Promotion | None:
        try:
            return _read(outputs, name)
        except OutputsError as error:
            logger.warning("left out: %s", error)
            return None

    return [each for each in prefetch(known, numbered.names(outputs.store, layout.PROMOTIONS)) if each]


def _read(outputs: Outputs, name: str) -> Promotion:
    return Promotion.from_bytes(read_document(outputs.store, name, "a promotion"), str(outputs.path(name)))


def record_promotion(outputs: Outputs, promotion: Promotion) -> Location:
    """Add a promotion after all others; of two at the same time, one comes second.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    return outputs.path(numbered.append(outputs.store, layout.PROMOTIONS, promotion.to_bytes()))
