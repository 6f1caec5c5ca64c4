"""What is derived from the published runs and may be replaced at any time: history.parquet and latest.json."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.files import outputs_errors, replace_file
from mnist_pipeline.storage.runs import Run, find_run, list_runs
from mnist_pipeline.storage.staging import STAGING, lock

HISTORY = "history.parquet"
LATEST = "latest.json"


def update_views(outputs: Path) -> None:
    """Bring history.parquet and latest.json up to the runs that are published now.

    Under a lock and from a full listing, so that publishers at the same time lose no row of each other.

    Raises:
        OutputsError: a view cannot be written; the runs themselves are not touched.
    """
    with outputs_errors(f"cannot update the history in {outputs}"), lock(outputs / STAGING / "views.lock"):
        runs = list_runs(outputs)
        scratch = outputs / STAGING
        history = tables.encode(tables.HISTORY, read_history(outputs, runs))
        replace_file(outputs / HISTORY, history, scratch)
        replace_file(outputs / LATEST, json.dumps(_latest(outputs, runs), indent=2).encode() + b"\n", scratch)


def read_history(outputs: Path, runs: Iterable[Run] | None = None) -> pa.Table:
    """One row per run and digit of the published runs, by run_date and run_id.

    Rows are taken from history.parquet where it has them (runs never change), from the run itself where not;
    a run that does not verify is left out until it does.
    """
    runs = list(list_runs(outputs) if runs is None else runs)
    known = _stored_history(outputs / HISTORY)
    rows = [tables.HISTORY.schema.empty_table()]
    stored = set(known["run_id"].unique().to_pylist())
    for run in runs:
        if run.name.run_id in stored:
            rows.append(known.filter(pc.equal(known["run_id"], run.name.run_id)))
        else:
            rows.extend(_rows_of(run))
    return pa.concat_tables(rows).unify_dictionaries().combine_chunks().cast(tables.HISTORY.schema)


def _stored_history(path: Path) -> pa.Table:
    try:
        return tables.decode(tables.HISTORY, path.read_bytes(), str(path))
    except (FileNotFoundError, DamagedError):
        return tables.HISTORY.schema.empty_table()


def _rows_of(run: Run) -> list[pa.Table]:
    try:
        summary, published_at = run.read(tables.SUMMARY), run.manifest().published_at
    except DamagedError:
        return []
    column = tables.constant(published_at, tables.HISTORY.schema.field("published_at").type, summary.num_rows)
    return [summary.append_column("published_at", column).cast(tables.HISTORY.schema)]


def _latest(outputs: Path, runs: list[Run]) -> dict[str, dict[str, str]]:
    pointer = {}
    for dataset, split in sorted({(run.name.dataset, run.name.split) for run in runs}):
        name = find_run(outputs, "latest", dataset, split).name
        pointer[f"{dataset}/{split}"] = {"run_id": name.run_id, "run_date": str(name.run_date)}
    return pointer
