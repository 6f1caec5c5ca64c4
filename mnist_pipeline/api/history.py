"""Loads what is published over many dates: the predictions of the run of each, and the history of all runs."""

import logging
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.api.arguments import Dataset, Split, check_columns, check_date, frame_of, no_runs, open_outputs
from mnist_pipeline.errors import PrunedError, SettingsError
from mnist_pipeline.runs.lookup import list_runs, not_counted, runs_of, runs_of_dates
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.files import prefetch
from mnist_pipeline.views import current_views

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def load_predictions(
    dataset: Dataset = "mnist",
    split: Split = "test",
    since: date | str | None = None,
    until: date | str | None = None,
    columns: Iterable[str] | None = None,
    outputs: Path | str | None = None,
) -> "pd.DataFrame":
    """Load the predictions of many nights into one frame: of each date those of the run that counts.

    10,000 images x 365 nights are 3.65 million rows: 340 MB with all columns, and 84 MB with
    `columns=["run_date", "image_id", "label", "prediction", "confidence"]`; reading takes two to three times that for a
    moment. For more than fits, give `run_files("all")` to DuckDB or Polars.

    Args:
        dataset: name of the data set.
        split: its split.
        since: first run date, as a date or YYYY-MM-DD; from the first on if left out.
        until: last run date, included; up to the last if left out.
        columns: which columns, in that order; all if left out. Others are not decoded. `run_date` tells the nights
            apart.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        The rows of all nights, by run_date and image_id, with the columns of the table predictions.
        `frame.attrs["pruned"]` has the run_ids of the nights that are left out because their predictions were pruned,
        and of a frame without rows `frame.attrs["empty_because"]` says why.

    Raises:
        SettingsError: no such column, or `since` or `until` is no date.
        RunNotFoundError: the folder has no run of that data set and split.
        DamagedError: a file of a run is missing or altered.
    """
    first, last = check_date("since", since, date.min), check_date("until", until, date.max)
    if first > last:
        raise SettingsError(f"since {first}: expected a date up to until, got {last} for that; swap them")
    wanted = check_columns(columns, tables.PREDICTIONS)
    folder = open_outputs(outputs)
    published = runs_of(folder, dataset, split)
    if not published:
        raise no_runs(folder, f" of {dataset}/{split}")
    within = [run for run in published if first <= run.name.run_date <= last]
    chosen = runs_of_dates(folder, within)
    read = list(prefetch(lambda run: _predictions_of(run, wanted), chosen))
    pruned = [run.name.run_id for run, found in zip(chosen, read, strict=True) if found is None]
    if pruned:
        logger.warning("left out, as their predictions were pruned: %s", ", ".join(pruned))
    found = [each for each in read if each is not None]
    why = "" if found else _why_none(published, within, pruned)
    return frame_of(pa.concat_tables(found or [tables.PREDICTIONS.empty]), wanted, why, pruned=pruned)


def _why_none(published: Sequence[Run], within: Sequence[Run], pruned: Sequence[str]) -> str:
    if not within:
        return f"all runs are of other dates: {published[0].name.run_date} to {published[-1].name.run_date}"
    return "the predictions of all runs were pruned" if pruned else not_counted(within).removesuffix("; ")


def _predictions_of(run: Run, columns: list[str] | None) -> pa.Table | None:
    try:
        return run.read(tables.PREDICTIONS, columns)
    except PrunedError:
        return None


def load_history(outputs: Path | str | None = None) -> "pd.DataFrame":
    """Load one row per run and digit of all published runs, ordered by run_date and run_id.

    It contains all data sets and splits: filter on `dataset` and `split`. Runs that are missing from history.parquet
    are read and verified directly.

    Args:
        outputs: the outputs folder; the configured one if left out.

    Returns:
        The columns of the table history. If every run is damaged there are no rows, and
        `frame.attrs["empty_because"]` says so.

    Raises:
        RunNotFoundError: no run is published there.
    """
    folder = open_outputs(outputs)
    history = current_views(folder).history
    if not history.num_rows and not list_runs(folder):
        raise no_runs(folder)
    return frame_of(history, None, "every published run is damaged: `mnist-pipeline verify` says how")
