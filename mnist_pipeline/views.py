"""What is derived from published runs and verdicts and may be replaced at any time: history, runs and latest.

A view is updated from what it holds and from what has changed: a listing of manifests, prune records and verdicts with
their versions says of which runs. The version of each row is kept in the metadata of runs.parquet; a run of another
version is read again. Accepted: damage that leaves a document's size and times as they were shows in `verify` and after
`reindex`, and not in the views before.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time
from typing import Any

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.errors import DamagedError, OutputsError, StoreError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import counting
from mnist_pipeline.runs.decisions import standing_of
from mnist_pipeline.runs.layout import RUN_ID
from mnist_pipeline.runs.manifest import Manifest, RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.replacement import complete_replacements
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.documents import parse_json
from mnist_pipeline.store.files import prefetch
from mnist_pipeline.tables.columns import column_of
from mnist_pipeline.verdicts.records import PublishedVerdict, newest_verdict

logger = logging.getLogger(__name__)

VERSIONS = b"versions"  # key of the metadata of runs.parquet: the version of each row, in order
VERSION_DIGITS = 16
MAX_VIEW_BYTES = 1 << 30  # a year of nights has 100 kB


UNREAD: tuple[dict[str, Any], pa.Table] = ({}, tables.HISTORY.empty)


@dataclass(frozen=True)
class Views:
    """The views as tables: `history` with ten rows a run, `runs` with one, and the version of each of those."""

    history: pa.Table
    runs: pa.Table
    versions: tuple[str, ...]


def update_views(outputs: Outputs, run_id: str | None = None, afresh: bool = False) -> None:
    """Bring history.parquet, runs.parquet and latest.json in line with the published runs and verdicts.

    Concurrent publishers lose no row of each other.

    Args:
        outputs: the outputs folder.
        run_id: the only run that has changed, if that is known: no other is looked for, as long as the views have it.
        afresh: read every run, and use nothing that the views hold, but of runs that cannot be read now.

    Raises:
        StoreError: a view cannot be written; the runs themselves are not touched.
    """

    def make() -> dict[str, bytes]:
        views = current_views(outputs, run_id, afresh)
        versions = json.dumps(views.versions, separators=(",", ":"))
        return {
            layout.HISTORY: tables.encode(tables.HISTORY, views.history),
            layout.RUNS_VIEW: tables.encode(tables.RUNS, views.runs, {VERSIONS.decode(): versions}),
            layout.LATEST: json.dumps(_latest(views.runs), indent=2).encode() + b"\n",
        }

    outputs.store.update((layout.HISTORY, layout.RUNS_VIEW, layout.LATEST), make)


def current_views(outputs: Outputs, run_id: str | None = None, afresh: bool = False) -> Views:
    """The views as they should be now, as `update_views` writes them.

    A run that has to be read and is damaged is left out until it is repaired; one that cannot be read now keeps the
    rows that it has.

    Raises:
        StoreError: a run that has no rows yet cannot be read.
    """
    stored = _stored_views(outputs)
    known = dict(zip(stored.runs["run_id"].to_pylist(), stored.versions, strict=True))
    versions = {**known, **_versions(outputs, run_id)} if run_id in known else _versions(outputs)
    whole = {each["values"] for each in stored.history["run_id"].value_counts().to_pylist() if each["counts"] == DIGITS}
    changed = [
        run_id for run_id, version in versions.items() if afresh or known.get(run_id) != version or run_id not in whole
    ]
    since = counting(outputs)  # after the versions: a row that is behind its version would stay so
    read = dict(prefetch(lambda run_id: (run_id, _read(outputs, run_id, since, run_id in known)), changed))
    for run_id in [run_id for run_id, each in read.items() if each is UNREAD]:
        del read[run_id]
        versions[run_id] = known[run_id]  # so that it is read again
    found = {run_id: each for run_id, each in read.items() if each is not None}
    kept = [run_id for run_id in versions if run_id in found or run_id not in read]
    rows = [row for row, _ in found.values()]
    fresh = tables.build(tables.RUNS, {each.name: [row[each.name] for row in rows] for each in tables.RUNS.columns})
    history = [summary for _, summary in found.values()]
    marked = _with_marks(
        _merged(tables.HISTORY, stored.history, history, kept, found),
        _merged(tables.RUNS, stored.runs, [fresh], kept, found),
    )
    return Views(
        *marked,
        versions=tuple(versions[run_id] for run_id in kept),
    )


def stored_runs(outputs: Outputs, run_id: str | None = None) -> pa.Table:
    """The runs as runs.parquet has them, if it has any, and that one; otherwise as they are now.

    For the steps after a run was published: that has updated the views a moment ago.
    """
    runs = _stored_views(outputs).runs
    known = runs["run_id"].to_pylist()
    return runs if known and run_id in (None, *known) else current_views(outputs).runs


def complete_repairs(outputs: Outputs) -> list[str]:
    """Complete the repairs that other processes have begun, and update the views if there were any.

    One that cannot be completed is logged, and is no reason not to read other runs.

    Returns:
        The run_ids of those that were completed here.
    """
    completed: list[str] = []
    with suppress(StoreError):  # whoever reads next says that nothing can be read
        completed = complete_replacements(outputs)
    try:
        if completed:
            update_views(outputs)
    except OutputsError as error:
        logger.warning("repairs in %s: expected to complete them, got %s", outputs, error)
    return completed


def _versions(outputs: Outputs, only: str | None = None) -> dict[str, str]:
    """The version of each published run, or of one, by run_date and run_id: another if a document of it is another."""
    found, which = defaultdict[str, list[str]](list), only or "*"
    for entry in outputs.store.find(f"{layout.RUNS}/{which}", (layout.MANIFEST, layout.PRUNED)):
        found[entry.name.split("/", 2)[1]].append(f"{entry.name} {entry.version}")
    published = sorted(run_id for run_id, names in found.items() if any(layout.MANIFEST in name for name in names))
    for entry in outputs.store.find(f"{layout.VERDICTS}/{which}/*", (layout.VERDICT,)):
        found[entry.name.split("/", 2)[1]].append(f"{entry.name} {entry.version}")
    for entry in outputs.store.list(layout.decisions(only) if only else layout.DECISIONS, tolerant=True):
        found[entry.name.split("/", 2)[1]].append(f"{entry.name} {entry.version}")
    for entry in outputs.store.list(layout.COUNTED, tolerant=True):
        run_id = entry.name.split("/", 1)[1].removesuffix(".json")
        found[run_id].append(f"{entry.name} {entry.version}")
    # A run_id begins with its date: their order is that of (run_date, run_id).
    return {run_id: _digest(found[run_id]) for run_id in published if RUN_ID.fullmatch(run_id)}


def _digest(versions: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(versions)).encode()).hexdigest()[:VERSION_DIGITS]


def _stored_views(outputs: Outputs) -> Views:
    """What the views hold, of runs of which both tables hold all rows; no rows if a file is missing or damaged."""
    try:
        history, _ = _decode(outputs, layout.HISTORY, tables.HISTORY)
        runs, metadata = _decode(outputs, layout.RUNS_VIEW, tables.RUNS)
        versions = parse_json(metadata[VERSIONS])
    except (FileNotFoundError, DamagedError, KeyError, ValueError):
        return _no_views()
    except StoreError as error:
        logger.warning("the views are made anew from the runs: %s", error)
        return _no_views()
    if not isinstance(versions, list) or len(versions) != runs.num_rows:
        return _no_views()
    return Views(history, runs, tuple(map(str, versions)))


def _decode(outputs: Outputs, name: str, table: tables.Table) -> tuple[pa.Table, Mapping[bytes, bytes]]:
    data = outputs.store.read(name, MAX_VIEW_BYTES + 1)
    if len(data) > MAX_VIEW_BYTES:
        raise DamagedError(f"{outputs.path(name)}: expected at most {MAX_VIEW_BYTES:,} bytes, got more")
    found = tables.decode(table, data, str(outputs.path(name)))
    return found.replace_schema_metadata(table.schema.metadata), found.schema.metadata


def _no_views() -> Views:
    return Views(tables.HISTORY.empty, tables.RUNS.empty, ())


def _merged(
    table: tables.Table, stored: pa.Table, fresh: Sequence[pa.Table], kept: Sequence[str], found: Mapping[str, object]
) -> pa.Table:
    """The rows of the kept runs, in order: those of runs that were read now, and the stored ones of all others."""
    merged = pa.concat_tables([stored, *fresh])
    # Through plain strings, so that a dictionary names what is in these rows and nothing else.
    for name in table.repeating:
        merged = merged.set_column(merged.schema.get_field_index(name), name, merged[name].cast(pa.string()))
    indices = defaultdict[str, list[int]](list)
    for index, run_id in enumerate(merged["run_id"].to_pylist()):
        if index >= stored.num_rows or run_id not in found:
            indices[run_id].append(index)
    chosen = [index for run_id in kept for index in indices[run_id]]
    rows = merged.take(column_of(chosen, pa.int64()))
    return rows.combine_chunks().cast(table.schema)


def _read(
    outputs: Outputs, run_id: str, counted_at: Callable[[Run], datetime | None], has_rows: bool
) -> tuple[dict[str, Any], pa.Table] | None:
    """The row of a run in `runs` and its rows in `history`; None if it is damaged or gone by now.

    `UNREAD` if it cannot be read now and has rows.
    """
    try:
        return _rows_of(outputs, run_id, counted_at)
    except StoreError as error:
        if not has_rows:
            raise
        logger.warning("kept as it was in history, runs and latest: %s", error)
        return UNREAD


def _rows_of(
    outputs: Outputs, run_id: str, counted_at: Callable[[Run], datetime | None]
) -> tuple[dict[str, Any], pa.Table] | None:
    name = RunName.parse(run_id)
    if name is None:  # its date is none
        return None
    run = Run(outputs, name)
    try:
        manifest = run.manifest()
    except DamagedError as error:  # one run must not keep all others out of the views
        logger.warning("left out of history, runs and latest: %s", error)
        return None
    verdict, since = newest_verdict(outputs, manifest.content), counted_at(run)
    return _run_row(run, manifest, verdict, since), _history_rows(run, manifest, verdict, since)


def _run_row(run: Run, manifest: Manifest, verdict: PublishedVerdict | None, since: datetime | None) -> dict[str, Any]:
    identity, totals = manifest.identity, manifest.totals
    interval = wilson(totals.correct, totals.labelled)
    return {
        **identity.model_dump(),
        **totals.model_dump(),
        **manifest.model_dump(include={"run_id", "shard_set", "engine", "evaluated_at", "published_at"}),
        "run_date": datetime.combine(identity.run_date, time.min),
        "accuracy_low": interval and interval.low,
        "accuracy_high": interval and interval.high,
        "verdict_id": verdict and verdict.document.verdict_id,
        "outcome": verdict and verdict.outcome,
        "changed": verdict and verdict.changed,
        "standing": standing_of(run.outputs, manifest.content),
        "counts": since is not None,
        "is_of_date": False,  # see _with_marks
        "is_latest": False,
        "counted_at": since,
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


def _history_rows(run: Run, manifest: Manifest, verdict: PublishedVerdict | None, since: datetime | None) -> pa.Table:
    try:
        summary = run.read(tables.SUMMARY)
    except DamagedError as error:
        logger.warning("left out of the history: %s", error)
        return tables.HISTORY.empty
    of_run = {
        "weights_sha256": manifest.identity.weights_sha256,
        "outcome": verdict and verdict.outcome,
        "published_at": manifest.published_at,
        "counts": since is not None,
        "is_of_date": False,  # see _with_marks
        "is_latest": False,
    }
    return tables.build(
        tables.HISTORY,
        {
            **{name: summary[name].combine_chunks() for name in summary.column_names},
            **tables.constants(tables.HISTORY, of_run, summary.num_rows),
        },
    )


def _with_marks(history: pa.Table, runs: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both tables with `is_of_date` and `is_latest`, which depend on the other runs too."""
    of_date: dict[tuple[str, ...], tuple[datetime, str]] = {}
    columns = ("dataset", "split", "run_date", "counted_at", "run_id")
    for dataset, split, run_date, since, run_id in zip(*(_plain(runs[name]) for name in columns), strict=True):
        if since is not None:
            key = dataset, split, run_date
            of_date[key] = max(of_date.get(key, (since, run_id)), (since, run_id))
    newest = {key[:2]: key for key in sorted(of_date)}
    of_dates = {run_id for _, run_id in of_date.values()}
    latest = {of_date[key][1] for key in newest.values()}
    marked = []
    for table in (history, runs):
        run_ids = table["run_id"].to_pylist()
        for name, chosen in (("is_of_date", of_dates), ("is_latest", latest)):
            column = column_of([run_id in chosen for run_id in run_ids], pa.bool_())
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
        marked.append(table)
    return marked[0], marked[1]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    found: list[Any] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return found


def _latest(runs: pa.Table) -> dict[str, dict[str, str]]:
    """The run that the name latest means, of each data set and split."""
    rows = runs.select(["dataset", "split", "run_id", "run_date", "is_latest"]).to_pylist()
    return {
        f"{row['dataset']}/{row['split']}": {"run_id": row["run_id"], "run_date": f"{row['run_date']:%Y-%m-%d}"}
        for row in sorted(rows, key=lambda row: (row["dataset"], row["split"]))
        if row["is_latest"]
    }
