"""Picks images to show: from a split, predicted now, or from a published run, as it predicted them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.core.images import NO_LABEL, as_bytes
from mnist_pipeline.core.network import Network, predict
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.datasets.image_bins import ImageBins, warn_of_doubts
from mnist_pipeline.datasets.shards import read_selected
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import LabelError, RunNotFoundError, SettingsError
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.judging import compare
from mnist_pipeline.pipeline.planning import network_of
from mnist_pipeline.report.picture import Picture
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.verdicts.alignment import AlignedChunk
from mnist_pipeline.verdicts.records import newest_verdict

ROWS_AT_A_TIME = 1000
DIRECTIONS = ("lost", "still wrong", "gained")  # in the order they are shown
AS_PREDICTED = {"now": "prediction", "confidence_now": "confidence"}  # the columns of flips as those of predictions


@dataclass(frozen=True)
class Wanted:
    """Which images are meant: those that pass each of these. None and False let every image pass.

    Attributes:
        wrong: only those whose prediction is not their label; without a label none is wrong.
        label, prediction: only those of this label, or this prediction, 0..9.
        start: only those from this image_id on.
    """

    wrong: bool = False
    label: int | None = None
    prediction: int | None = None
    start: int = 0

    def has(self, picture: Picture) -> bool:
        """Whether the image is meant."""
        return (
            picture.image_id >= self.start
            and not (self.wrong and picture.label in (None, picture.prediction))
            and self.label in (None, picture.label)
            and self.prediction in (None, picture.prediction)
        )

    def rows(self, table: pa.Table) -> pa.Table:
        """The rows of predictions that are meant."""
        import pyarrow.compute as pc  # imported here: a run without a report need not wait for it

        table = table.filter(pc.greater_equal(table["image_id"], self.start))
        for name in ("label", "prediction"):
            if (digit := getattr(self, name)) is not None:
                table = table.filter(pc.equal(table[name], digit))
        return table.filter(pc.not_equal(table["prediction"], table["label"])) if self.wrong else table

    def require_labels(self, labelled: object, whose: str) -> None:
        """Raise LabelError if it asks for labels where there are none."""
        if not labelled and (self.wrong or self.label is not None):
            raise LabelError(
                f"{whose}: expected labels, got none; without them no image has one, and none can be wrong"
            )


@dataclass(frozen=True)
class Selection:
    """The first images of a run that are wanted, without their pixels, and the number of all that are."""

    pictures: tuple[Picture, ...] = ()
    total: int = 0


def pick(settings: Settings, wanted: Wanted, count: int, progress: Progress = silent) -> list[Picture]:
    """Pick at most `count` images of a split, in order, and predict them.

    Raises:
        LabelError: wrong images are wanted, or those of a label, but the images have no labels.
        PipelineError: the images cannot be fetched, or the weights are rejected.
    """
    source_images = open_images(settings, progress)
    wanted.require_labels(source_images.labels_sha256, f"{source_images.dataset}/{source_images.split}")
    return list(islice(filter(wanted.has, _pictures(source_images, network_of(settings), wanted.start)), count))


def select(run: Run, wanted: Wanted, count: int) -> Selection:
    """Select images of a published run, the most confident first; decodes one file of it at a time.

    Raises:
        LabelError: wrong images are wanted, or those of a label, but the run has no labels.
        DamagedError: the run does not verify.
        PrunedError: its predictions were pruned.
    """
    wanted.require_labels(run.manifest().totals.labelled, f"run {run.name.run_id}")
    columns = ["image_id", "image_key", "label", "prediction", "confidence"]
    return _first((wanted.rows(chunk) for chunk in run.read_files(tables.PREDICTIONS, columns)), count)


def select_changed(run: Run, wanted: Wanted, count: int, before: Run | None = None) -> Selection:
    """Select images whose prediction changed: lost ones first, the most confident of each kind first.

    Args:
        run: the published run.
        wanted: which of them.
        count: at most so many.
        before: the run that they changed against; if None, the first of its references over the same images.

    Raises:
        LabelError: as `select`.
        RunNotFoundError: `before` is None, and it has no such reference.
        SettingsError: `before` is a run over other images.
        DamagedError: one of the runs or the verdict does not verify.
        PrunedError: the predictions of one were pruned, and no verdict has kept what changed.
    """
    wanted.require_labels(run.manifest().totals.labelled, f"run {run.name.run_id}")
    return _first((wanted.rows(_as_predictions(flips)) for flips in _flips(run, before)), count)


def with_pixels(run: Run, pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """The same images of a run with their pixels, from the shards that hold them.

    Raises:
        DamagedError: a shard is missing or damaged.
        StoreError: one cannot be read.
    """
    manifest = run.manifest()
    shards = run.outputs.shards_of(manifest)
    found = read_selected(shards, manifest.identity, {picture.image_id for picture in pictures})
    return tuple(replace(picture, pixels=as_bytes(found[picture.image_id])[0]) for picture in pictures)


def _flips(run: Run, before: Run | None) -> list[pa.Table]:
    """The changed predictions against a run: from the newest verdict, or else from the predictions of both."""
    import pyarrow.compute as pc

    manifest = run.manifest()
    published = newest_verdict(run.outputs, manifest.content)
    compared = [each for each in published.document.references if each.changed is not None] if published else []
    known = next((each for each in compared if before is None or each.run_id == before.name.run_id), None)
    if published and known:
        changed = published.read(tables.FLIPS)
        return [changed.filter(pc.equal(changed["against"], known.against))]
    if before is None:
        raise RunNotFoundError(
            f"run {run.name.run_id}: expected a verdict on it that compares it with a run over the same images, "
            "got none; name a run with --against"
        )
    flips: list[pa.Table] = []
    against = {"verdict_id": "", "against": "given", "reference_run_id": before.name.run_id}

    def look(chunk: AlignedChunk) -> None:
        flips.append(chunk.flips({**manifest.identity.key_columns, **against}))

    if not compare(before, run, "given", look).same_images:
        raise SettingsError(
            f"runs {before.name.run_id} and {run.name.run_id}: expected two over the same images, got others; "
            "`mnist-pipeline compare` compares their accuracies"
        )
    return flips


def _as_predictions(flips: pa.Table) -> pa.Table:
    return flips.rename_columns([AS_PREDICTED.get(name, name) for name in flips.column_names])


def _first(chunks: Iterable[pa.Table], count: int) -> Selection:
    """The first `count` rows of all chunks; keeps no more of them in memory."""
    import pyarrow.compute as pc

    total, kept = 0, list[pa.Table]()
    for chunk in chunks:
        total += chunk.num_rows
        order = [("confidence", "descending"), ("image_id", "ascending")]
        if "direction" in chunk.column_names:
            known = pc.index_in(chunk["direction"].cast(pa.string()), pa.array(DIRECTIONS))
            chunk, order = chunk.append_column("rank", known), [("rank", "ascending"), *order]
        kept = [pa.concat_tables([*kept, chunk]).sort_by(order)[:count]]
    return Selection(tuple(_picture(row) for table in kept for row in table.to_pylist()), total)


def _picture(row: dict[str, Any]) -> Picture:
    changed = row.get("before") is not None
    return Picture(
        image_id=row["image_id"],
        pixels=None,
        label=row["label"],
        prediction=row["prediction"],
        confidence=row["confidence"],
        before=row.get("before"),
        confidence_before=row.get("confidence_before"),
        direction=(row["direction"] or "changed") if changed else None,
        image_key=row["image_key"],
    )


def _known(label: np.int8) -> int | None:
    return None if label == NO_LABEL else int(label)


def _pictures(source_images: OpenSplit, network: Network, start: int) -> Iterator[Picture]:
    ranges = [
        RowRange(first, min(first + ROWS_AT_A_TIME, source_images.rows))
        for first in range(start, source_images.rows, ROWS_AT_A_TIME)
    ]
    for rows, images in zip(ranges, source_images.read(ranges), strict=True):
        if rows.start == start:  # the first ones tell
            warn_of_doubts(ImageBins.count(images.pixels), f"{source_images.dataset}/{source_images.split}")
        probabilities = predict(network, images.pixels)
        pictures = as_bytes(images.pixels)
        for position, picture in enumerate(pictures):
            prediction = int(probabilities[position].argmax())
            yield Picture(
                image_id=rows.start + position,
                pixels=picture,
                label=None if images.labels is None else _known(images.labels[position]),
                prediction=prediction,
                confidence=float(probabilities[position, prediction]),
                image_key=None if images.keys is None else images.keys[position].as_py(),
            )
