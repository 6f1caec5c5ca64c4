"""Published runs and verdicts as pandas frames. Files are checked against their manifest before they are parsed."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from mnist_pipeline.errors import RunNotFoundError, SettingsError
from mnist_pipeline.settings import load_settings
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.objects import Place
from mnist_pipeline.storage.repairs import finish_repairs
from mnist_pipeline.storage.runs import Run, find_run
from mnist_pipeline.storage.verdicts import newest_verdict
from mnist_pipeline.storage.views import read_history

if TYPE_CHECKING:
    import pandas as pd

RUN_TABLES = {table.name: table for table in (tables.PREDICTIONS, tables.SUMMARY, tables.CONFUSION, tables.RELIABILITY)}
VERDICT_TABLES = {table.name: table for table in (tables.COMPARISON, tables.FLIPS, tables.GATES)}


def load_run(
    run: str | date = "latest",
    dataset: str = "mnist",
    split: str = "test",
    table: Literal[
        "predictions", "summary", "confusion", "reliability", "comparison", "flips", "gates"
    ] = "predictions",
    outputs: Path | str | None = None,
) -> "pd.DataFrame":
    """A table of one published run, or of the newest verdict on it; docs/data-dictionary.md describes the columns.

    Args:
        run: "latest", a run_date, or a run_id.
        dataset: data set meant by "latest" or a date.
        split: split meant by "latest" or a date.
        table: which table; comparison, flips and gates are those of the newest verdict.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        The whole table; `frame.attrs["run_id"]` says which run it is of.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run, or no verdict on it.
        AmbiguousRunError: the date has several runs; they are listed.
        DamagedError: a file is missing or altered.
    """
    if table not in RUN_TABLES | VERDICT_TABLES:
        known = ", ".join(RUN_TABLES | VERDICT_TABLES)
        raise SettingsError(f"table {table!r}: expected one of {known}; correct its name")
    folder = _outputs(outputs)
    found = find_run(folder, run, dataset, split)
    frame: pd.DataFrame = _read(folder, found, table).to_pandas()
    frame.attrs["run_id"] = found.name.run_id
    return frame


def run_files(
    run: str | date = "latest",
    dataset: str = "mnist",
    split: str = "test",
    table: Literal["predictions", "summary", "confusion", "reliability"] = "predictions",
    outputs: Path | str | None = None,
) -> list[str]:
    """The Parquet files of a table of one published run, for readers of one's own: paths, or addresses in a store.

    In an object store this list, not the listing of a folder, says what belongs to a run. The files are not read;
    give them to a reader that verifies page checksums, or take `load_run`.

    Args:
        run: "latest", a run_date, or a run_id.
        dataset: data set meant by "latest" or a date.
        split: split meant by "latest" or a date.
        table: which table.
        outputs: the outputs folder; the configured one if left out.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run.
        AmbiguousRunError: the date has several runs; they are listed.
        DamagedError: the manifest is missing or altered.
    """
    if table not in RUN_TABLES:
        raise SettingsError(f"table {table!r}: expected one of {', '.join(RUN_TABLES)}; correct its name")
    found = find_run(_outputs(outputs), run, dataset, split)
    return [str(path) for path in found.paths(RUN_TABLES[table])]


def _read(outputs: Place, run: Run, table: str) -> pa.Table:
    if table in RUN_TABLES:
        return run.read(RUN_TABLES[table])
    verdict = newest_verdict(outputs, run.manifest().content)
    if verdict is None:
        raise RunNotFoundError(f"run {run.name.run_id}: expected a verdict, got none; run its night again to have one")
    return verdict.read(VERDICT_TABLES[table])


def load_history(outputs: Path | str | None = None) -> "pd.DataFrame":
    """One row per run and digit over all published runs, by run_date and run_id.

    Several data sets and splits stand in it: filter on `dataset` and `split`. Runs that history.parquet does not
    know yet are read themselves, and checked.

    Args:
        outputs: the outputs folder; the configured one if left out.
    """
    frame: pd.DataFrame = read_history(_outputs(outputs)).to_pandas()
    return frame


def _outputs(given: Path | str | None) -> Place:
    outputs = load_settings(outputs=given).outputs
    finish_repairs(outputs)
    return outputs
