"""Writes the report of a published run: collects the data of the page and writes it to `outputs/reports`.

A report is a view: it can be deleted, and rebuilt at any time from the published files.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mnist_pipeline.core.gates import Reference
from mnist_pipeline.core.intervals import chance_note
from mnist_pipeline.errors import OutputsError, RunNotFoundError, is_bug
from mnist_pipeline.index import links_of, try_index, update_index
from mnist_pipeline.pipeline.examples import Selection, Wanted, select, select_changed, with_pixels
from mnist_pipeline.report.statistics import InputStatistics
from mnist_pipeline.report.terminal import not_counted_line
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import made_by_hand
from mnist_pipeline.runs.decisions import known_decision
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.summary import read_inputs
from mnist_pipeline.store.base import Location, exists
from mnist_pipeline.verdicts.reading import Verdict, read_verdict
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.views import stored_runs

if TYPE_CHECKING:
    from mnist_pipeline.report.page import Page
    from mnist_pipeline.report.plots import TrendPoint

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 300  # in each gallery: some 200 kB


def write_report(outputs: Outputs, run: Run) -> Location:
    """Write the report of a run, with the newest verdict on it; the file.

    Raises:
        DamagedError: the run does not verify.
        OutputsError: the report cannot be written.
    """
    # Imported here because plots take half a second to import.
    from mnist_pipeline.report.page import render_page

    name = layout.report(run.name.run_id)
    outputs.store.write(name, render_page(_page(outputs, run)).encode())
    return outputs.path(name)


def try_report(outputs: Outputs, run_id: str, verified: bool = False) -> None:
    """Write the report of a run, and only warn where it cannot be: a view that fails is no reason to fail a night.

    Args:
        outputs: the outputs folder.
        run_id: of the run.
        verified: whether its files were verified a moment ago.
    """
    try:
        path = write_report(outputs, replace(run_by_id(outputs, run_id), verified=verified))
        logger.info("report: %s", path)
        try_index(outputs, run_id)
    except Exception as error:
        logger.warning("the report of %s could not be written: %s", run_id, error, exc_info=is_bug(error))


def written_page(outputs: Outputs, run: Run | None) -> Location:
    """The report of a run, or the index over all; written now if it does not exist.

    Raises:
        RunNotFoundError: there are no runs to show in an index.
        DamagedError: the run does not verify.
        OutputsError: the page cannot be written, or the predictions of the run were pruned, and its report with them.
    """
    name = layout.report(run.name.run_id) if run else layout.INDEX
    if exists(outputs.store, name):
        return outputs.path(name)
    if run:
        write_report(outputs, run)
        try_index(outputs, run.name.run_id)
    elif not list_runs(outputs):
        raise RunNotFoundError(f"{outputs}: expected published runs, got none; check the folder given")
    else:
        update_index(outputs)
    return outputs.path(name)


def _page(outputs: Outputs, run: Run) -> "Page":
    from mnist_pipeline.report.page import Page

    manifest = run.manifest()
    tally, calibration = manifest.counted()
    published = newest_verdict(outputs, manifest.content)
    verdict = read_verdict(published) if published else None
    mistakes, flips = select(run, Wanted(wrong=True), MAX_EXAMPLES) if tally.labelled else Selection(), Selection()
    if verdict and any(reference.changed is not None for reference in verdict.references):
        flips = select_changed(run, Wanted(), MAX_EXAMPLES)
    references = verdict.references if verdict else ()
    decision = known_decision(outputs, manifest.content)
    notes = list(verdict.notes) if verdict else []
    if chance := chance_note(tally.correct, tally.labelled):
        notes.append(f"accuracy {chance}")
    if made_by_hand(run):
        notes.append(not_counted_line(run.name.run_id))
    shown = (*flips.pictures, *mistakes.pictures)
    try:
        shown = with_pixels(run, shown)
    except OutputsError as error:  # shards are a cache
        logger.warning("the report of %s is without pictures: %s", run.name.run_id, error)
        notes.append("without pictures: the shards of this run are gone, damaged or cannot be read")
    return Page(
        links=links_of(outputs, run.name),
        decision=decision.line if decision else None,
        run_id=run.name.run_id,
        run_date=run.name.run_date,
        dataset=run.name.dataset,
        split=run.name.split,
        outcome=verdict.outcome if verdict else None,
        results=verdict.results if verdict else (),
        notes=tuple(notes),
        tally=tally,
        calibration=calibration,
        references=references,
        inputs={
            "this run": read_inputs(run),
            **{f"{each.against} run": _inputs_of(outputs, each.run_id) for each in references},
        },
        architectures=dict(_architectures(outputs, manifest, references)),
        trend=tuple(_trend(outputs, run)),
        flips=shown[: len(flips.pictures)],
        flips_total=flips.total,
        mistakes=shown[len(flips.pictures) :],
        mistakes_total=mistakes.total,
        provenance=dict(_provenance(manifest, verdict)),
    )


def _inputs_of(outputs: Outputs, run_id: str) -> InputStatistics | None:
    """What the images of a reference are like; None if it cannot be read, which is no reason to write no report."""
    try:
        return read_inputs(run_by_id(outputs, run_id))
    except OutputsError as error:
        logger.warning("what the images of run %s are like cannot be read: %s", run_id, error)
        return None


def _architectures(outputs: Outputs, manifest: Manifest, references: Iterable[Reference]) -> Iterator[tuple[str, str]]:
    """The architectures before and now, by reference, where they are two."""
    for each in references:
        with suppress(OutputsError):  # which was logged for its images
            if (before := run_by_id(outputs, each.run_id).manifest().architecture) != manifest.architecture:
                yield each.against, f"{before} -> {manifest.architecture}"


def _trend(outputs: Outputs, run: Run) -> "Iterator[TrendPoint]":
    """The runs of the dates of the same data set and split up to this one, and this one, oldest first."""
    from mnist_pipeline.report.plots import TrendPoint

    runs = stored_runs(outputs, run.name.run_id)
    for row in runs.sort_by([("run_date", "ascending"), ("published_at", "ascending")]).to_pylist():
        run_date = row["run_date"].date()
        ours = run.name.is_of(row["dataset"], row["split"]) and run_date <= run.name.run_date
        shown = row["is_of_date"] or row["run_id"] == run.name.run_id
        if ours and shown and row["accuracy"] is not None:
            bounds = row["accuracy_low"], row["accuracy_high"]
            some = row["labelled"] if row["labelled"] < row["images"] else None
            yield TrendPoint(run_date, row["run_id"], row["accuracy"], *bounds, row["outcome"], some)


def _provenance(manifest: Manifest, verdict: Verdict | None) -> Iterator[tuple[str, str]]:
    identity = manifest.identity
    yield "run", manifest.run_id
    yield "verdict", verdict.verdict_id if verdict else "none"
    yield "architecture", manifest.architecture
    yield "weights sha256", identity.weights_sha256
    yield "images sha256", identity.images_sha256
    yield "labels sha256", identity.labels_sha256 or "no labels"
    yield "images", f"{identity.images:,}"
    yield from ((f"{name} from", location) for name, location in manifest.sources.items())
    yield "batch rows, shard rows", f"{identity.batch_rows:,}, {identity.shard_rows:,}"
    yield "transform, schema version", f"{identity.transform_version}, {identity.schema_version}"
    yield "evaluated", f"{manifest.evaluated_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "published", f"{manifest.published_at:%Y-%m-%d %H:%M:%S} UTC"
    yield "seconds", ", ".join(f"{step} {seconds:.2f}" for step, seconds in manifest.timings_seconds.items())
    yield "engine, workers", f"{manifest.engine}, {manifest.workers}"
    yield from manifest.versions.items()
