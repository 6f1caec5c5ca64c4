"""Published runs as pandas frames. Files of a run are checked against its manifest before they are parsed."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnist_pipeline.errors import SettingsError
from mnist_pipeline.settings import load_settings
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.runs import find_run
from mnist_pipeline.storage.views import read_history

if TYPE_CHECKING:
    import pandas as pd

TABLES = {table.name: table for table in (tables.PREDICTIONS, tables.SUMMARY, tables.CONFUSION)}


def load_run(
    run: str | date = "latest",
    dataset: str = "mnist",
    split: str = "test",
    table: Literal["predictions", "summary", "confusion"] = "predictions",
    outputs: Path | str | None = None,
) -> "pd.DataFrame":
    """A table of one published run; its columns are described in docs/data-dictionary.md.

    Args:
        run: "latest", a run_date, or a run_id.
        dataset: data set meant by "latest" or a date.
        split: split meant by "latest" or a date.
        table: which table of the run.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        The whole table; `frame.attrs["run_id"]` says which run it is of.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run.
        AmbiguousRunError: the date has several runs; they are listed.
        DamagedError: a file is missing or altered.
    """
    if table not in TABLES:
        raise SettingsError(f"table {table!r}: expected one of {', '.join(TABLES)}; correct its name")
    found = find_run(_outputs(outputs), run, dataset, split)
    frame: pd.DataFrame = found.read(TABLES[table]).to_pandas()
    frame.attrs["run_id"] = found.name.run_id
    return frame


def load_history(outputs: Path | str | None = None) -> "pd.DataFrame":
    """One row per run and digit over all published runs, by run_date and run_id.

    Several data sets and splits stand in it: filter on `dataset` and `split`. Runs that history.parquet does not
    know yet are read themselves, and checked.

    Args:
        outputs: the outputs folder; the configured one if left out.
    """
    frame: pd.DataFrame = read_history(_outputs(outputs)).to_pandas()
    return frame


def _outputs(given: Path | str | None) -> Path:
    return load_settings(outputs=given).outputs
