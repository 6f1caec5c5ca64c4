"""Loads tables, files and images of one published run. Checks files against their manifest before it parses them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.api.arguments import (
    RUN_TABLES,
    VERDICT_TABLES,
    Dataset,
    RunTable,
    Split,
    VerdictTable,
    WhichRun,
    check_columns,
    check_table,
    frame_of,
    no_changes,
    no_runs,
    open_outputs,
)
from mnist_pipeline.core.images import SIDE
from mnist_pipeline.datasets.shards import read_selected
from mnist_pipeline.errors import DamagedError, PrunedError, RunNotFoundError, SettingsError, shown
from mnist_pipeline.runs.lookup import runs_of, runs_of_dates
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.verdicts.records import PublishedVerdict, newest_verdict

if TYPE_CHECKING:
    import pandas as pd


def load_run(
    run: WhichRun = "latest",
    dataset: Dataset = "mnist",
    split: Split = "test",
    table: RunTable | VerdictTable = "predictions",
    outputs: Path | str | None = None,
    columns: Iterable[str] | None = None,
) -> "pd.DataFrame":
    """Load a table of one published run or of its newest verdict; docs/data-dictionary.md describes the columns.

    Args:
        run: a run_id; a run_date: the newest run of it that counts; "latest": that of the newest date;
            "latest-passed": the newest that counts and passed. Others are found by their run_id only.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        table: which table; comparison, flips and gates are those of the newest verdict.
        outputs: the outputs folder; the configured one if left out.
        columns: which columns, in that order; all if left out. Others are not decoded.

    Returns:
        All rows of the table; `frame.attrs["run_id"]` is the run_id. Only tables of a verdict, and inputs of a run of
        an earlier version, can have no rows: `frame.attrs["empty_because"]` then says why.

    Raises:
        SettingsError: no such table or column.
        RunNotFoundError: no such run, or no verdict on it.
        PrunedError: its predictions were pruned.
        DamagedError: a file is missing or altered.
    """
    check_table(table, RUN_TABLES | VERDICT_TABLES)
    of_run = RUN_TABLES.get(table)
    wanted = check_columns(columns, of_run or VERDICT_TABLES[table])
    folder = open_outputs(outputs)
    found = find_run(folder, run, dataset, split)
    run_id = found.name.run_id
    if of_run:
        why = f"published before runs had the table {table}" if of_run in tables.ADDED else "no images"
        return frame_of(found.read(of_run, wanted), wanted, why, run_id=run_id)
    verdict = newest_verdict(folder, found.manifest().content)
    if verdict is None:
        raise RunNotFoundError(f"run {run_id}: expected a verdict, got none; run its date again to judge it")
    return frame_of(verdict.read(VERDICT_TABLES[table]), wanted, _why_empty(verdict, table), run_id=run_id)


def _why_empty(verdict: PublishedVerdict, table: str) -> str:
    """Why that table of a verdict has no rows, if it has none."""
    document = verdict.document
    if table == tables.GATES.name:
        return "; ".join(["no gate was judged", *document.notes])
    if not document.references:
        return "compared with nothing: no run had passed, no baseline was set"
    return "; ".join(
        f"against the {each.against} run {each.run_id}: "
        + (each.problem or ("no labels" if table == tables.COMPARISON.name else no_changes(each.same_images)))
        for each in document.references
    )


def run_files(
    run: WhichRun | Literal["all"] = "latest",
    dataset: Dataset = "mnist",
    split: Split = "test",
    table: RunTable = "predictions",
    outputs: Path | str | None = None,
) -> list[str]:
    """List the Parquet files of a table of one or all published runs, for your own reader: paths, or addresses.

    In an object store this list defines which files belong to a run, not the listing of a folder. It does not read the
    files: use a reader that verifies page checksums, or `load_run`.

    Args:
        run: as for `load_run`, or "all": the run of each date of the data set and split that has one, oldest first,
            but for tables that were pruned.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        table: which table.
        outputs: the outputs folder; the configured one if left out.

    Raises:
        SettingsError: no such table.
        RunNotFoundError: no such run.
        DamagedError: the manifest is missing or altered.
    """
    check_table(table, RUN_TABLES)
    folder = open_outputs(outputs)
    if run != "all":
        return [str(path) for path in find_run(folder, run, dataset, split).paths(RUN_TABLES[table])]
    files = []
    for each in runs_of_dates(folder, runs_of(folder, dataset, split)):
        with suppress(PrunedError):
            files += [str(path) for path in each.paths(RUN_TABLES[table])]
    if not files:
        raise no_runs(folder, f" of {dataset}/{split} with {table}")
    return files


def load_images(
    run: WhichRun = "latest",
    image_ids: Iterable[int] = (),
    dataset: Dataset = "mnist",
    split: Split = "test",
    outputs: Path | str | None = None,
) -> NDArray[np.float32]:
    """Load images of a published run from its shards, as the network saw them.

    For example the mistakes: `load_images("latest", load_run("latest").query("not correct")["image_id"])`.

    Args:
        run: as for `load_run`.
        image_ids: which images, `[N]`, in the order wanted; an id may occur more than once.
        dataset: data set meant by a name or a date.
        split: split meant by a name or a date.
        outputs: the outputs folder; the configured one if left out.

    Returns:
        `[N, 28, 28]` float32 in 0..1, one for each id.

    Raises:
        SettingsError: an id is not one of the run's images, or no whole number.
        RunNotFoundError: no such run.
        DamagedError: a shard is missing or altered; running the date again builds it.
    """
    folder = open_outputs(outputs)
    manifest = find_run(folder, run, dataset, split).manifest()
    ids, images = _whole(image_ids), manifest.identity.images
    if strange := [image_id for image_id in ids if not 0 <= image_id < images]:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise SettingsError(
            f"image_ids of run {manifest.run_id}: expected 0 to {images - 1}, got "
            f"{', '.join(map(str, strange[:3]))}{more}; take them from its predictions"
        )
    try:
        found = read_selected(folder.shards_of(manifest), manifest.identity, set(ids))
    except DamagedError as error:
        raise DamagedError(f"{error}; run --run-date {manifest.identity.run_date} again to build it") from error
    pixels = np.empty((len(ids), SIDE, SIDE), np.float32)
    for position, image_id in enumerate(ids):
        pixels[position] = found[image_id].reshape(SIDE, SIDE)
    return pixels


def _whole(image_ids: Iterable[int]) -> list[int]:
    """The ids as integers; a frame that was joined may hold them as floats.

    Raises:
        SettingsError: one is no whole number.
    """
    try:
        given = [*image_ids]
        ids = [int(image_id) for image_id in given]
        strange: list[object] = [before for before, now in zip(given, ids, strict=True) if before != now]
    except (TypeError, ValueError, OverflowError):
        strange = [image_ids]
    if strange:
        raise SettingsError(f"image_ids: expected whole numbers, got {shown(strange[0])}; take them from predictions")
    return ids
