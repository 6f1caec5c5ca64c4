"""Which runs count as the night of their date: those made with the current weights and the configured settings.

A night that made such a run, or found it published, leaves a record of when; the newest that counts is the run of its
date. A run made with weights or settings given by hand has none and counts only if a person accepts it; a withdrawn one
never counts. Runs of schema version 1 count: it did not tell the two apart.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.decisions import DISREGARDED, known_decision, standing_of
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.documents import ChecksummedDocument, Moment
from mnist_pipeline.store.files import read_if_there

logger = logging.getLogger(__name__)

UNKNOWN = datetime.min.replace(tzinfo=UTC)


class Counted(ChecksummedDocument):
    """A night made this run, or found it published. The next that does so replaces the record."""

    kind: ClassVar[str] = "the record that a run counts"
    checksum_field: ClassVar[str] = "counted_sha256"

    run_id: str
    counted_at: Moment


def record_counted(outputs: Outputs, run_id: str, counted_at: datetime) -> None:
    """Record that a run counts, as of that time.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    record = Counted(schema_version=tables.SCHEMA_VERSION, run_id=run_id, counted_at=counted_at)
    outputs.store.write(layout.counted(run_id), record.to_bytes())


def read_counted(outputs: Outputs, run_id: str) -> Counted | None:
    """The record that a run counts, or None.

    Raises:
        DamagedError: it is altered.
        StoreError: it cannot be read.
    """
    name = layout.counted(run_id)
    data = read_if_there(outputs.store, name)
    if data is None:
        return None
    again = "run its date again, or accept the run"
    try:
        record = Counted.from_bytes(data, str(outputs.path(name)))
    except DamagedError as error:
        raise DamagedError(f"{error}; {again}") from error
    if record.run_id != run_id:
        raise DamagedError(f"{outputs.path(name)}: expected the record of {run_id}, got {record.run_id}'s; {again}")
    return record


def counted_at(outputs: Outputs, run: Run) -> datetime | None:
    """Since when a run counts, or None if it does not."""
    return counting(outputs)(run)


def made_by_hand(run: Run) -> bool:
    """Whether a run does not count, and nobody has decided of it."""
    return counted_at(run.outputs, run) is None and standing_of(run.outputs, content_of(run)) is None


def counting(outputs: Outputs) -> Callable[[Run], datetime | None]:
    """`counted_at` for many runs: which of them have a record or a decision is listed once, now.

    A run whose manifest is damaged and that has no record may count: it does, before all others of its date, so that
    whoever asks for the date hears of the damage.
    """
    decided, recorded = set(outputs.store.children(layout.DECISIONS)), set(outputs.store.children(layout.COUNTED))

    def since(run: Run) -> datetime | None:
        run_id, standing = run.name.run_id, None
        if run_id in decided:
            standing = standing_of(outputs, content_of(run))
            if standing in DISREGARDED:
                return None
        if layout.counted(run_id).rpartition("/")[2] in recorded:
            try:
                if record := read_counted(outputs, run_id):
                    return record.counted_at
            except DamagedError as error:
                logger.warning("taken for a run made by hand: %s", error)
        try:
            manifest = run.manifest()
        except DamagedError:
            return UNKNOWN
        if manifest.schema_version == tables.FIRST_VERSION:
            return manifest.published_at
        decision = known_decision(outputs, manifest.content) if standing == "accepted" else None
        return decision.decided_at if decision else None

    return since


def content_of(run: Run) -> RunContent:
    """What a run consists of, as far as its manifest tells."""
    try:
        return run.manifest().content
    except DamagedError:
        return RunContent(run.name.run_id, None)
