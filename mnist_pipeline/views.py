"""What is derived from published runs and verdicts and may be replaced at any time: history, runs and latest."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, time
from typing import Any

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.lookup import Run, list_runs
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.replacement import complete_replacements
from mnist_pipeline.runs.staging import STAGING
from mnist_pipeline.store.files import each_document, outputs_errors, reason_of
from mnist_pipeline.store.objects import Location
from mnist_pipeline.store.updates import update
from mnist_pipeline.tables.columns import column_of
from mnist_pipeline.verdicts.records import newest_verdict

logger = logging.getLogger(__name__)

HISTORY = "history.parquet"
RUNS_VIEW = "runs.parquet"
LATEST = "latest.json"
REPORTS = "reports"  # written by reporter.py


def update_views(outputs: Location) -> None:
    """Bring history.parquet, runs.parquet and latest.json up to the runs and verdicts that are published now.

    From a full listing, so that publishers at the same time lose no row of each other.

    Raises:
        OutputsError: a view cannot be written; the runs themselves are not touched.
    """

    def make() -> dict[str, bytes]:
        manifests = dict(_manifests(outputs))
        return {
            HISTORY: tables.encode(tables.HISTORY, _history(outputs, manifests)),
            RUNS_VIEW: tables.encode(tables.RUNS, _runs(outputs, manifests)),
            LATEST: json.dumps(_latest(manifests), indent=2).encode() + b"\n",
        }

    with outputs_errors(f"cannot update the history in {outputs}"):
        update(outputs, outputs / STAGING / "views.lock", (HISTORY, RUNS_VIEW, LATEST), make)


def read_history(outputs: Location) -> pa.Table:
    """One row per run and digit of the published runs, by run_date and run_id.

    Rows are taken from history.parquet where it has them, from the run itself where not. A run that has to be
    read and does not verify is left out until it does.
    """
    return _history(outputs, dict(_manifests(outputs)))


def read_runs(outputs: Location) -> pa.Table:
    """One row per published run, by run_date and run_id, with its newest verdict; from the runs themselves."""
    return _runs(outputs, dict(_manifests(outputs)))


def _manifests(outputs: Location) -> Iterator[tuple[Run, Manifest]]:
    def read(run: Run) -> Manifest | None:
        try:
            return run.manifest()
        except DamagedError as error:  # one run must not keep all others out of the views
            logger.warning("left out of history and latest: %s", error)
            return None

    found = list_runs(outputs)
    for run, manifest in zip(found, each_document(outputs, read, found), strict=True):
        if manifest is not None:
            yield run, manifest


def _history(outputs: Location, manifests: dict[Run, Manifest]) -> pa.Table:
    known = _stored_history(outputs / HISTORY)
    # By time of publication too: a run that was moved away and made again has the same run_id.
    indices: dict[tuple[str, datetime], list[int]] = defaultdict(list)
    published_at = known["published_at"].cast(pa.timestamp("us")).to_pylist()
    for index, (run_id, published) in enumerate(zip(known["run_id"].to_pylist(), published_at, strict=True)):
        indices[run_id, published.replace(tzinfo=UTC)].append(index)
    found, count, chosen = [known], known.num_rows, list[int]()
    for run, manifest in manifests.items():
        stored = indices[run.name.run_id, manifest.published_at]
        if len(stored) != DIGITS:
            rows = _rows_of(run, manifest)
            stored = list(range(count, count + rows.num_rows))
            found.append(rows)
            count += rows.num_rows
        chosen += stored
    merged = pa.concat_tables(found)
    # Through plain strings, so that the dictionary names the runs of these rows and no others.
    names = merged["run_id"].cast(pa.string())
    history = merged.set_column(0, "run_id", names).take(column_of(chosen, pa.int64()))
    return history.combine_chunks().cast(tables.HISTORY.schema)


def _stored_history(path: Location) -> pa.Table:
    try:
        return tables.decode(tables.HISTORY, path.read_bytes(), str(path))
    except (FileNotFoundError, DamagedError):
        return tables.HISTORY.empty


def _rows_of(run: Run, manifest: Manifest) -> pa.Table:
    try:
        summary = run.read(tables.SUMMARY)
    except DamagedError as error:
        logger.warning("left out of the history: %s", error)
        return tables.HISTORY.empty
    published_at = tables.HISTORY.schema.field("published_at").type
    column = tables.constant(manifest.published_at, published_at, summary.num_rows)
    return summary.append_column("published_at", column).cast(tables.HISTORY.schema)


def _runs(outputs: Location, manifests: dict[Run, Manifest]) -> pa.Table:
    rows = list(each_document(outputs, lambda item: _run_row(outputs, *item), manifests.items()))
    return tables.build(
        tables.RUNS, {column.name: [row[column.name] for row in rows] for column in tables.RUNS.columns}
    )


def _run_row(outputs: Location, run: Run, manifest: Manifest) -> dict[str, Any]:
    identity, totals = manifest.identity, manifest.totals
    interval = wilson(totals.correct, totals.labelled)
    verdict = newest_verdict(outputs, manifest.content)
    return {
        **identity.model_dump(),
        **totals.model_dump(),
        **manifest.model_dump(include={"run_id", "engine", "evaluated_at", "published_at"}),
        "run_date": datetime.combine(identity.run_date, time.min),
        "accuracy_low": interval and interval.low,
        "accuracy_high": interval and interval.high,
        "verdict_id": verdict and verdict.document.verdict_id,
        "outcome": verdict and verdict.outcome,
        "seconds": sum(manifest.timings_seconds.values()),
        "pruned_at": _pruned_at(run),
    }


def _pruned_at(run: Run) -> datetime | None:
    try:
        pruned = run.pruned()
    except DamagedError as error:
        logger.warning("taken for a run that keeps its predictions: %s", error)
        return None
    return None if pruned is None else pruned.pruned_at


def _latest(manifests: dict[Run, Manifest]) -> dict[str, dict[str, str]]:
    """The newest run of each data set and split, by (run_date, published_at), as `runs.find_run` has it."""
    pointer = {}
    for run, _ in sorted(manifests.items(), key=lambda item: (item[0].name.run_date, item[1].published_at)):
        name = run.name
        pointer[name.split_of] = {"run_id": name.run_id, "run_date": str(name.run_date)}
    return dict(sorted(pointer.items()))


def complete_repairs(outputs: Location) -> list[str]:
    """Finish the repairs that others have begun, and bring the views up to date if there were any.

    One that cannot be finished is warned of, and is no reason not to read other runs.

    Returns:
        The run_ids of those that were finished here.
    """
    finished: list[str] = []
    try:
        finished = complete_replacements(outputs)
        if finished:
            update_views(outputs)
    except OSError as error:
        logger.warning("repairs in %s: expected to finish them, got %s", outputs, reason_of(error))
    return finished
