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
from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.run import Run
from mnist_pipeline.tables.columns import column_of, numpy_of

COLUMNS = ["image_id", "label", "prediction", "confidence"]
KEY = "image_key"
DIRECTIONS = ("lost", "gained", "still wrong")


@dataclass(frozen=True)
class AlignedChunk:
    """The same images in both runs: as many rows in either, `COLUMNS` each, and the keys of those of `now`."""

    before: pa.Table
    now: pa.Table

    @property
    def labels(self) -> NDArray[np.int8]:
        """`[N]` int8, NO_LABEL where the runs do not agree on a label: only the change of prediction counts there."""
        before, now = (numpy_of(table["label"], null=NO_LABEL) for table in (self.before, self.now))
        return np.where(before == now, now, np.int8(NO_LABEL))

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
                KEY: new[KEY].combine_chunks(),
                "label": new["label"].combine_chunks(),
                "before": old["prediction"].combine_chunks(),
                "now": new["prediction"].combine_chunks(),
                "confidence_before": old["confidence"].combine_chunks(),
                "confidence_now": new["confidence"].combine_chunks(),
                "direction": self._directions(changed),
            },
        )

    def _directions(self, changed: NDArray[np.intp]) -> pa.Array:
        labels = self.labels[changed]
        before, now = (values[changed] == labels for values in self.predictions())
        which = np.where(before, 0, np.where(now, 1, 2)).astype(np.int32)
        indices = column_of(which, pa.int32(), known=labels != NO_LABEL)
        return pa.DictionaryArray.from_arrays(indices, column_of(DIRECTIONS, pa.string()))


def align(before: Run, now: Run) -> Iterator[AlignedChunk]:
    """Both runs' predictions in image order, a chunk at a time; their labels may be others.

    Raises:
        DamagedError: a file is missing or altered, or the runs are not over the same images after all.
    """
    identities = [run.manifest().identity for run in (before, now)]
    same = ["image_id", *(["label"] if len({each.labels_sha256 for each in identities}) == 1 else [])]
    theirs, ours = before.read_files(tables.PREDICTIONS, COLUMNS), now.read_files(tables.PREDICTIONS, [*COLUMNS, KEY])
    old, new = (tables.PREDICTIONS.empty.select(columns) for columns in (COLUMNS, [*COLUMNS, KEY]))
    nothing = old, new
    while True:
        old = old if old.num_rows else next(theirs, old)
        new = new if new.num_rows else next(ours, new)
        rows = min(old.num_rows, new.num_rows)
        if rows == 0:
            break
        if not all(old[name].slice(0, rows).equals(new[name].slice(0, rows)) for name in same):
            break
        yield AlignedChunk(old.slice(0, rows), new.slice(0, rows))
        # An empty slice would keep its file in memory while the next one is read.
        old, new = (
            table.slice(rows) if table.num_rows > rows else none
            for table, none in zip((old, new), nothing, strict=True)
        )
    if old.num_rows or new.num_rows:
        first, what = _first_other(old.select(same), new.select(same)), " and labels" if "label" in same else ""
        raise DamagedError(
            f"runs {before.name.run_id} and {now.name.run_id}: expected the same images{what}, as their manifests say, "
            f"got others from image {first} on; `mnist-pipeline verify` looks at both"
        )


def _first_other(old: pa.Table, new: pa.Table) -> int:
    """The image at which two tables that differ, one of them perhaps empty, part ways."""
    pairs = zip_longest(old.to_pylist(), new.to_pylist())
    parting = next((before, now) for before, now in pairs if before != now)
    return min(int(row["image_id"]) for row in parting if row is not None)
