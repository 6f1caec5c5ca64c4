"""The small tables of a run, built from what was counted: summary, confusion, reliability, inputs. Writes no files.

Reads the last of them back, as figures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets.image_bins import BOUNDS, ImageBins
from mnist_pipeline.report.statistics import InputStatistics, input_statistics
from mnist_pipeline.runs.manifest import Identity
from mnist_pipeline.runs.run import Run

CELL = ("label", "prediction", "count")


def tables_of(
    identity: Identity, tally: Tally, calibration: Calibration, bins: ImageBins
) -> Iterator[tuple[tables.Table, pa.Table]]:
    """Each small table of a run with its rows, in the order in which the manifest lists them."""
    yield tables.SUMMARY, _summary(identity, tally)
    yield tables.CONFUSION, _confusion(identity, tally)
    yield tables.RELIABILITY, _reliability(identity, calibration)
    yield tables.INPUTS, _inputs(identity, bins)


def read_inputs(run: Run) -> InputStatistics | None:
    """What the images of a published run are like; None if it was published before runs had the table.

    Raises:
        DamagedError: the table is missing or altered.
    """
    found = run.read(tables.INPUTS, ["statistic", "low", "high", "images"])
    if not found.num_rows:
        return None
    names = found["statistic"].to_pylist()
    bins = {name: found.filter(pa.array([each == name for each in names])) for name in dict.fromkeys(names)}
    return input_statistics({name: _arrays(rows) for name, rows in bins.items()})


def _arrays(rows: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    return rows["low"].to_numpy(), rows["high"].to_numpy(), rows["images"].to_numpy()


def _summary(identity: Identity, tally: Tally) -> pa.Table:
    return _table(tables.SUMMARY, identity, [asdict(score) for score in tally.scores()])


def _reliability(identity: Identity, calibration: Calibration) -> pa.Table:
    return _table(tables.RELIABILITY, identity, [asdict(item) for item in calibration.bins()])


def _inputs(identity: Identity, bins: ImageBins) -> pa.Table:
    low, high = (np.concatenate(bounds) for bounds in zip(*BOUNDS.values(), strict=True))
    columns = {
        "statistic": [name for name, found in bins.arrays() for _ in found],
        "low": low,
        "high": high,
        "images": np.concatenate([found for _, found in bins.arrays()]),
    }
    return tables.build(tables.INPUTS, {**tables.constants(tables.INPUTS, identity.key_columns, len(low)), **columns})


def _confusion(identity: Identity, tally: Tally) -> pa.Table:
    cells: list[tuple[int | None, int, int]]
    cells = [(label, digit, int(tally.confusion[label, digit])) for label in range(DIGITS) for digit in range(DIGITS)]
    if tally.unlabelled.any():
        cells += [(None, digit, int(tally.unlabelled[digit])) for digit in range(DIGITS)]
    return _table(tables.CONFUSION, identity, [dict(zip(CELL, cell, strict=True)) for cell in cells])


def _table(table: tables.Table, identity: Identity, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return tables.build(table, {**tables.constants(table, identity.key_columns, len(rows)), **columns})
