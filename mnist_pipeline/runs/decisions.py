"""What a person has decided of a published run: to accept it whatever its verdict, or to withdraw it.

A decision is a numbered document below the run's id that is created once and never changed; the last one holds, for the
run as it was then: published anew with other content, the run is undecided. Neither moves nor changes the run.
"""

import logging
from typing import ClassVar, Literal

from mnist_pipeline.errors import DamagedError, printable
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store import numbered
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.documents import ChecksummedDocument, Moment, Sha256
from mnist_pipeline.store.files import read_document

logger = logging.getLogger(__name__)

Standing = Literal["accepted", "withdrawn", "damaged"]  # damaged: the decision cannot be known
DISREGARDED: tuple[Standing, ...] = ("withdrawn", "damaged")  # it does not count


class Decision(ChecksummedDocument):
    """A run was accepted or withdrawn."""

    kind: ClassVar[str] = "a decision"
    checksum_field: ClassVar[str] = "decision_sha256"

    run_id: str
    run_sha256: Sha256 | None  # over the hashes of its files
    standing: Literal["accepted", "withdrawn"]
    reason: str
    decided_at: Moment

    @property
    def line(self) -> str:
        """For example `accepted 2026-11-26: new camera`."""
        return f"{self.standing} {self.decided_at:%Y-%m-%d}: {printable(self.reason)}"


def record_decision(outputs: Outputs, decision: Decision) -> Location:
    """Add a decision after all others on that run.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    return outputs.path(numbered.append(outputs.store, layout.decisions(decision.run_id), decision.to_bytes()))


def newest_decision(outputs: Outputs, run: RunContent) -> Decision | None:
    """The last decision on a run, as it is now, or None; whatever it was on if its content cannot be known now.

    Raises:
        DamagedError: it is altered.
        StoreError: it cannot be read.
    """
    name = numbered.newest(outputs.store, layout.decisions(run.run_id))
    if name is None:
        return None
    path = outputs.path(name)
    try:
        decision = Decision.from_bytes(read_document(outputs.store, name, "a decision"), str(path))
        if decision.run_id != run.run_id:
            raise DamagedError(f"{path}: expected a decision on {run.run_id}, got one on {decision.run_id}")
    except DamagedError as error:
        raise DamagedError(f"{error}; decide again with `mnist-pipeline accept` or `withdraw`") from error
    return decision if run.sha256 in (None, decision.run_sha256) else None


def known_decision(outputs: Outputs, run: RunContent) -> Decision | None:
    """As `newest_decision`, for those who only mention it: one that is damaged is logged and left out."""
    try:
        return newest_decision(outputs, run)
    except DamagedError as error:
        logger.warning("left out: %s", error)
        return None


def standing_of(outputs: Outputs, run: RunContent) -> Standing | None:
    """What was decided of a run last, or None; a damaged decision is logged."""
    try:
        decision = newest_decision(outputs, run)
    except DamagedError as error:
        logger.warning("a run of which this is not known does not count: %s", error)
        return "damaged"
    return None if decision is None else decision.standing
