"""Compares two published runs as frames, as `mnist-pipeline compare` prints it."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.api.arguments import Dataset, Split, WhichRun, frame_of, no_changes, open_outputs
from mnist_pipeline.pipeline import judging
from mnist_pipeline.verdicts.finding import find_run

if TYPE_CHECKING:
    import pandas as pd

OF_VERDICTS = ["verdict_id", "against"]  # columns that say nothing here


class Compared(NamedTuple):
    """Two runs compared.

    Attributes:
        digits: a row for all digits together (`digit` is null) and one per digit: accuracy before and now, lost and
            gained images, the difference with its 95 % interval, p and p_holm; as the table comparison.
        changed: a row per image whose prediction changed, by image_id; as the table flips.
    """

    digits: "pd.DataFrame"
    changed: "pd.DataFrame"


def compare(
    before: WhichRun,
    now: WhichRun,
    dataset: Dataset = "mnist",
    split: Split = "test",
    outputs: Path | str | None = None,
) -> Compared:
    """Compare two published runs: which predictions changed, and how certain a loss or gain of accuracy is.

    For example `digits, changed = compare("2026-11-23", "latest")`. Over the same images it counts pairs (exact McNemar
    test, Tango's interval), otherwise it compares proportions (Fisher's exact test, Newcombe's interval).

    Args:
        before: the run before: as for `load_run`.
        now: the run to compare with it.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        Two frames, `digits` and `changed`. `attrs` of either has `run_id` and `reference_run_id`, and `empty_because`
        if it has no rows.

    Raises:
        SettingsError: the runs are of different data sets or splits.
        RunNotFoundError: no such run.
        PrunedError: the predictions of one were pruned.
        DamagedError: a file is missing or altered.
    """
    folder = open_outputs(outputs)
    old, new = (find_run(folder, which, dataset, split) for which in (before, now))
    keys = {
        **new.name.key_columns,
        "reference_run_id": old.name.run_id,
        **dict.fromkeys(OF_VERDICTS, ""),
    }
    changed = [tables.FLIPS.empty]
    reference = judging.compare(old, new, "given", lambda chunk: changed.append(chunk.flips(keys)))
    digits = judging.comparison_table([reference], keys)
    ids = {"run_id": new.name.run_id, "reference_run_id": old.name.run_id}

    def frame(found: pa.Table, empty_because: str) -> "pd.DataFrame":
        return frame_of(found.drop_columns(OF_VERDICTS), None, empty_because, **ids)

    return Compared(
        frame(digits, "no labels: correctness cannot be determined"),
        frame(pa.concat_tables(changed), no_changes(reference.same_images)),
    )
