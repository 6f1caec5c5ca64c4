"""The pages over all nights, and the links from each report to its neighbours: views, renewed with each night.

They are made from runs.parquet, the promotions and a listing of runs and reports; nothing of a run itself is read. Only
pages that have changed are written, by compare-and-swap. Accepted until the next night: a link to a report that was
deleted by hand; and, where an update finds a page as it wants it at the moment at which a slower one replaces it, what
that one saw.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from mnist_pipeline.core.tally import partly_labelled
from mnist_pipeline.errors import is_bug
from mnist_pipeline.report.links import INDEX, Link, Links, with_links
from mnist_pipeline.report.overview import HEAD_BYTES, Overview, RunLine, Series, index_of, months_of, overview_of
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.files import prefetch
from mnist_pipeline.verdicts.promotions import known_promotions
from mnist_pipeline.views import stored_runs
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, load_weights, weights_sha256

logger = logging.getLogger(__name__)

COLUMNS = [
    "run_id", "outcome", "accuracy", "accuracy_low", "accuracy_high", "changed", "weights_sha256", "standing", "counts",
    "is_of_date", "pruned_at", "labelled", "images",
]  # fmt: skip
_MONTH_PAGE = re.compile(rf"{layout.REPORTS}/\d{{4}}-\d\d\.html")


def try_index(outputs: Outputs, *run_ids: str) -> None:
    """Update the pages and the links of reports, and only warn where that fails: no reason to fail a night.

    Args:
        outputs: the outputs folder.
        run_ids: runs that have come, gone or changed.
    """
    try:
        update_index(outputs, *run_ids)
    except Exception as error:
        logger.warning(
            "the pages over the nights in %s could not be updated: %s", outputs, error, exc_info=is_bug(error)
        )


def update_index(outputs: Outputs, *run_ids: str, afresh: bool = False) -> None:
    """Bring the index, the pages of the months, and the links of some runs and their neighbours in line with the views.

    Args:
        outputs: the outputs folder.
        run_ids: runs that have come, gone or changed.
        afresh: write every page, and not only those that say of themselves that they show something else.

    Raises:
        StoreError: something cannot be read or written.
    """
    series = _series(outputs)
    wanted = _pages(series)
    heads = dict(prefetch(lambda name: (name, _stored(outputs, name, HEAD_BYTES)), wanted))
    changed = [name for name, page in wanted.items() if afresh or page.version.encode() not in heads[name]]
    if changed:
        names = (layout.INDEX, *(name for name in changed if name != layout.INDEX))
        outputs.store.update(names, lambda: _rendered(_pages(_series(outputs)), names))
    for name in filter(_MONTH_PAGE.fullmatch, _reports(outputs) - {*wanted}):  # its runs were moved away
        outputs.store.delete(name)
    for run in dict.fromkeys(_linked(series, run_ids)):
        name = layout.report(run.run_id)
        if _renewed(outputs, name, _links(series, run)):
            outputs.store.update((name,), lambda: _renewed(outputs, name, links_of(outputs, run)))  # noqa: B023


def links_of(outputs: Outputs, run: RunName) -> Links:
    """The links of the report of a run."""
    return _links(_series(outputs), run)


def _pages(series: Sequence[Series]) -> dict[str, Overview]:
    """The pages by name, with the index last: it leads to the others."""
    months = {layout.month_page(month): overview_of(series, month) for month in months_of(series)}
    return {**months, layout.INDEX: index_of(series)}


def _rendered(pages: Mapping[str, Overview], names: Collection[str]) -> dict[str, bytes]:
    return {name: page.render().encode() for name, page in pages.items() if name in names}


def _series(outputs: Outputs) -> list[Series]:
    """All runs by data set and split, those that cannot be read too."""
    reports, known = _reports(outputs), _known_weights(outputs)
    runs = defaultdict[tuple[str, str], list[RunLine]](list)
    rows = {row["run_id"]: row for row in stored_runs(outputs).select(COLUMNS).to_pylist()}
    for name in filter(None, map(RunName.parse, outputs.store.children(layout.RUNS))):
        row, line = rows.get(name.run_id), RunLine(name.run_id, name.run_date, is_read=False)
        if row:
            line = _line(name, row, known)
        runs[name.dataset, name.split].append(replace(line, has_report=layout.report(name.run_id) in reports))
    return [
        Series(*split, tuple(lines), min(line.run_date for line in lines), max(line.run_date for line in lines))
        for split, lines in sorted(runs.items())
    ]


def _line(name: RunName, row: Mapping[str, Any], known: Mapping[str, str]) -> RunLine:
    return RunLine(
        run_id=name.run_id,
        run_date=name.run_date,
        outcome=row["outcome"],
        accuracy=row["accuracy"],
        low=row["accuracy_low"],
        high=row["accuracy_high"],
        changed=row["changed"],
        weights_sha256=row["weights_sha256"],
        weights=known.get(row["weights_sha256"], ""),
        notes=tuple(_notes(row)),
        is_of_date=row["is_of_date"],
    )


def _notes(row: Mapping[str, Any]) -> Iterator[str]:
    if row["standing"]:
        yield "its decision is damaged" if row["standing"] == "damaged" else row["standing"]
    elif not row["counts"]:
        yield "made by hand, does not count"
    if row["counts"] and not row["is_of_date"]:
        yield "another run counts for this date"
    if note := partly_labelled(row["labelled"], row["images"]):
        yield note
    if row["pruned_at"]:
        yield "predictions pruned"


def _reports(outputs: Outputs) -> set[str]:
    return {entry.name for entry in outputs.store.list(layout.REPORTS)}


def _known_weights(outputs: Outputs) -> dict[str, str]:
    """What weights are known as, by their sha256."""
    promoted = {
        each.weights_sha256: f"promoted {each.promoted_at:%Y-%m-%d}, {each.architecture}"
        for each in known_promotions(outputs)
    }
    return {_shipped_sha256(): "shipped", **promoted}


@cache
def _shipped_sha256() -> str:
    return weights_sha256(load_weights(SHIPPED_WEIGHTS))


def _links(series: Iterable[Series], run: RunName) -> Links:
    own = next((each for each in series if run.is_of(each.dataset, each.split)), None)
    if own is None:
        return Links(INDEX, None, None)
    previous, following = map(_link, own.beside(run.run_date))
    return Links(f"{INDEX}#{own.anchor}", previous, following)


def _link(line: RunLine | None) -> Link | None:
    return Link(f"{line.run_date}", line.href) if line else None


def _linked(series: Sequence[Series], run_ids: Iterable[str]) -> Iterator[RunName]:
    """The reports whose links depend on some runs: those of the dates before and after, and their own.

    Their own, since a neighbour may have been published while they were drawn.
    """
    for run in filter(None, map(RunName.parse, run_ids)):
        yield run
        for own in (each for each in series if run.is_of(each.dataset, each.split)):
            for line in own.beside(run.run_date):
                if line and line.has_report and (name := RunName.parse(line.run_id)):
                    yield name


def _renewed(outputs: Outputs, name: str, links: Links) -> dict[str, bytes]:
    """A report with these links, by name; nothing if it has them already, or is gone.

    The rest of it stays: its run may be damaged by now, or its pictures gone.
    """
    page = _stored(outputs, name)
    renewed = with_links(page.decode(), links).encode()
    return {name: renewed} if renewed != page else {}


def _stored(outputs: Outputs, name: str, limit_bytes: int | None = None) -> bytes:
    try:
        return outputs.store.read(name, limit_bytes)
    except FileNotFoundError:
        return b""
