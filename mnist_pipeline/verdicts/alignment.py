"""The predictions of two runs over the same images, side by side: counted, and the changed ones written down.

Streams both, whatever their shards: one file of each is decoded at a time, beside the chunk that a caller keeps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.comparison import Pairs
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.run import Run
from mnist_pipeline.tables.columns import column_of, numpy_of

SAME = ["image_id", "label"]
COLUMNS = [*SAME, "prediction", "confidence"]
DIRECTIONS = ("lost", "gained", "still wrong")


@dataclass(frozen=True)
class AlignedChunk:
    """The same images in both runs: as many rows in either, `COLUMNS` each."""

    before: pa.Table
    now: pa.Table

    @property
    def labels(self) -> NDArray[np.int8] | None:
        """`[N]` int8, or None without labels."""
        column = self.now["label"]
        return None if column.null_count else numpy_of(column)

    def predictions(self) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """`[N]` int8 each: before, and now."""
        return numpy_of(self.before["prediction"]), numpy_of(self.now["prediction"])

    def count(self) -> Pairs:
        return Pairs.count(self.labels, *self.predictions())

    def flips(self, constants: dict[str, Any]) -> pa.Table:
        """Rows of the table of flips.

        Args:
            constants: values of its columns that are the same in every row, by name.
        """
        before, now = self.predictions()
        changed = np.flatnonzero(before != now)
        chosen, rows = column_of(changed, pa.int64()), len(changed)
        old, new = self.before.take(chosen), self.now.take(chosen)
        return tables.build(
            tables.FLIPS,
            {
                **tables.constants(tables.FLIPS, constants, rows),
                "image_id": new["image_id"].combine_chunks(),
                "label": new["label"].combine_chunks(),
                "before": old["prediction"].combine_chunks(),
                "now": new["prediction"].combine_chunks(),
                "confidence_before": old["confidence"].combine_chunks(),
                "confidence_now": new["confidence"].combine_chunks(),
                "direction": self._directions(changed),
            },
        )

    def _directions(self, changed: NDArray[np.intp]) -> pa.Array:
        if (labels := self.labels) is None:
            return pa.nulls(len(changed), tables.DIRECTION)
        before, now = (values[changed] == labels[changed] for values in self.predictions())
        which = np.where(before, 0, np.where(now, 1, 2)).astype(np.int32)
        return pa.DictionaryArray.from_arrays(column_of(which, pa.int32()), column_of(DIRECTIONS, pa.string()))


def align(before: Run, now: Run) -> Iterator[AlignedChunk]:
    """Both runs' predictions in image order, a chunk at a time.

    Raises:
        DamagedError: a file is missing or altered, or the runs are not over the same images after all.
    """
    theirs, ours = before.read_files(tables.PREDICTIONS, COLUMNS), now.read_files(tables.PREDICTIONS, COLUMNS)
    old = new = nothing = tables.PREDICTIONS.empty.select(COLUMNS)
    while True:
        old = old if old.num_rows else next(theirs, old)
        new = new if new.num_rows else next(ours, new)
        rows = min(old.num_rows, new.num_rows)
        if rows == 0:
            break
        if not all(old[name].slice(0, rows).equals(new[name].slice(0, rows)) for name in SAME):
            break
        yield AlignedChunk(old.slice(0, rows), new.slice(0, rows))
        # An empty slice would keep its file in memory while the next one is read.
        old, new = (table.slice(rows) if table.num_rows > rows else nothing for table in (old, new))
    if old.num_rows or new.num_rows:
        first = _first_other(old.select(SAME), new.select(SAME))
        raise DamagedError(
            f"runs {before.name.run_id} and {now.name.run_id}: expected the same images and labels, as their "
            f"manifests say, got others from image {first} on; `mnist-pipeline verify` looks at both"
        )


def _first_other(old: pa.Table, new: pa.Table) -> int:
    """The image at which two tables that differ, one of them perhaps empty, part ways."""
    pairs = zip_longest(old.to_pylist(), new.to_pylist())
    parting = next((before, now) for before, now in pairs if before != now)
    return min(int(row["image_id"]) for row in parting if row is not None)
