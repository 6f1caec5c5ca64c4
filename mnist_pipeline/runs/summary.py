"""The small tables of a run, built from what was counted: summary, confusion, reliability. Writes no files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.runs.manifest import Identity


def tables_of(identity: Identity, tally: Tally, calibration: Calibration) -> Iterator[tuple[tables.Table, pa.Table]]:
    """Each small table of a run with its rows, in the order in which the manifest lists them."""
    yield tables.SUMMARY, _summary(identity, tally)
    yield tables.CONFUSION, _confusion(tally)
    yield tables.RELIABILITY, _reliability(identity, calibration)


def _summary(identity: Identity, tally: Tally) -> pa.Table:
    rows = [asdict(score) for score in tally.scores()]
    named = {"dataset": [identity.dataset] * len(rows), "split": [identity.split] * len(rows)}
    return tables.build(tables.SUMMARY, _of_run(identity, len(rows)) | named | _columns(rows))


def _reliability(identity: Identity, calibration: Calibration) -> pa.Table:
    rows = [asdict(item) for item in calibration.bins()]
    return tables.build(tables.RELIABILITY, _of_run(identity, len(rows)) | _columns(rows))


def _confusion(tally: Tally) -> pa.Table:
    cells: list[tuple[int | None, int, int]]
    cells = [(label, digit, int(tally.confusion[label, digit])) for label in range(DIGITS) for digit in range(DIGITS)]
    if tally.unlabelled.any():
        cells += [(None, digit, int(tally.unlabelled[digit])) for digit in range(DIGITS)]
    labels, predictions, counts = zip(*cells, strict=True)
    return tables.build(tables.CONFUSION, {"label": labels, "prediction": predictions, "count": counts})


def _of_run(identity: Identity, rows: int) -> dict[str, Any]:
    return {
        "run_id": tables.constant(identity.run_id, tables.RUN_ID, rows),
        "run_date": tables.constant(identity.run_date, tables.RUN_DATE, rows),
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
