"""What the loaders have in common: types that complete in an editor, checks of arguments, and frames that say why."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.errors import RunNotFoundError, SettingsError, nearest, shown
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import calendar_date, load_settings
from mnist_pipeline.views import complete_repairs

if TYPE_CHECKING:
    import pandas as pd

# An editor completes the literals; any other run_id, date or name is as good.
WhichRun: TypeAlias = Literal["latest", "latest-passed"] | str | date
Dataset: TypeAlias = Literal["mnist"] | str
Split: TypeAlias = Literal["test", "train"] | str
RunTable: TypeAlias = Literal["predictions", "summary", "confusion", "reliability", "inputs"]
VerdictTable: TypeAlias = Literal["comparison", "flips", "gates"]

_OF_RUNS = (tables.PREDICTIONS, tables.SUMMARY, tables.CONFUSION, tables.RELIABILITY, tables.INPUTS)
RUN_TABLES = {table.name: table for table in _OF_RUNS}
VERDICT_TABLES = {table.name: table for table in (tables.COMPARISON, tables.FLIPS, tables.GATES)}
EMPTY_BECAUSE = "empty_because"  # the key of a frame's attrs


def open_outputs(given: Path | str | None) -> Outputs:
    """The outputs folder given, or the configured one, with what repairs others have begun in it completed."""
    outputs = Outputs.at(load_settings(outputs=given).outputs)
    complete_repairs(outputs)
    return outputs


def check_table(name: str, among: Iterable[str]) -> None:
    """Raise SettingsError if there is no table of that name."""
    if name not in (known := [*among]):
        raise SettingsError(
            f"table {shown(name)}: expected one of {', '.join(known)}{nearest(str(name), known)}; correct it"
        )


def check_columns(columns: Iterable[str] | None, table: tables.Table) -> list[str] | None:
    """The columns asked for, each once and in that order; None means all.

    Raises:
        SettingsError: the table has no such column, or none is asked for.
    """
    if columns is None:
        return None
    known = [column.name for column in table.columns]
    try:
        wanted = list(dict.fromkeys([columns] if isinstance(columns, str) else columns))
    except TypeError:
        raise SettingsError(
            f"columns {shown(columns)}: expected names, some of {', '.join(known)}; correct it"
        ) from None
    if not wanted:
        raise SettingsError(f"columns: expected some of {', '.join(known)}, got none; leave it out for all")
    if strange := [name for name in wanted if name not in known]:
        raise SettingsError(
            f"columns: {table.name} has no {shown(strange[0])}{nearest(str(strange[0]), known)}; "
            f"expected some of {', '.join(known)}"
        )
    return wanted


def check_date(name: str, given: date | str | None, otherwise: date) -> date:
    """The calendar date that an argument means, `otherwise` if it is left out.

    Raises:
        SettingsError: it is none.
    """
    try:
        if isinstance(given, datetime):  # what a run_date column holds
            given = given.astimezone(UTC) if given.tzinfo else given  # run dates are of UTC
            return date(given.year, given.month, given.day)  # pandas' NaT has a date() and is none
        if isinstance(given, date):
            return given
        return otherwise if given is None else calendar_date(given)
    except (TypeError, ValueError):
        raise SettingsError(f"{name} {shown(given)}: expected a date, YYYY-MM-DD; correct it") from None


def frame_of(found: pa.Table, columns: list[str] | None, empty_because: str, **attrs: object) -> "pd.DataFrame":
    """A table as a frame, with `columns` in their order. The reason is among its attrs only if it has no rows."""
    frame: pd.DataFrame = (found if columns is None else found.select(columns)).to_pandas()
    frame.attrs |= attrs | ({} if found.num_rows else {EMPTY_BECAUSE: empty_because})
    return frame


def no_changes(same_images: bool) -> str:
    """Why a table of changed predictions has no rows."""
    return "no prediction changed" if same_images else "the runs are over different images"


def no_runs(outputs: Outputs, which: str = "") -> RunNotFoundError:
    """The error that no such run is published there."""
    return RunNotFoundError(
        f"{outputs}: expected published runs{which}, got none; name the folder of the nights with `outputs`, "
        "another data set, or publish a night with `mnist-pipeline run`"
    )
