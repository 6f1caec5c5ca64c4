"""Training as plain functions: fit on one split, then score on another and write the model card.

Fetches both splits first, so that a missing file fails early; reads the test split only after the weights are on disk.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS, flatten, normalise
from mnist_pipeline.core.network import Architecture, Network, Workspace, choose, forward
from mnist_pipeline.core.network.training import EpochReport, Recipe, fit
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets.formats.idx import IdxSplit, read_images, read_labels
from mnist_pipeline.datasets.image_bins import ImageBins, require_meant, warn_of_doubts
from mnist_pipeline.errors import LabelError, SettingsError
from mnist_pipeline.pipeline.inputs import fetch
from mnist_pipeline.report.card import Card, render_card
from mnist_pipeline.report.terminal import percent
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runtime import one_blas_thread, versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location, is_remote
from mnist_pipeline.store.opening import write_location
from mnist_pipeline.weights.files import encode_weights, load_weights, weights_sha256

TRAIN, TEST = "train", "test"
SCORING_ROWS = 10_000


@dataclass(frozen=True)
class Fitted:
    """Stored weights and how they were trained."""

    path: Location
    sha256: str
    source_images: IdxSplit
    recipe: Recipe
    last: EpochReport
    seconds: float


@dataclass(frozen=True)
class Trained:
    """Weights with their model card and their tally on the test split."""

    path: Location
    card: Location
    architecture: Architecture
    tally: Tally


def train(settings: Settings, recipe: Recipe, target: Path | None = None, progress: Progress = silent) -> Trained:
    """Fit, write the weights, score them on the test split, write the model card.

    Args:
        settings: data set, cache and outputs; its `split` is ignored.
        recipe: how to train.
        target: the .safetensors file to write; `outputs/weights/<sha256>.safetensors` if None.
        progress: callback for downloads and epochs.

    Raises:
        PipelineError: a step failed.
    """
    check_target(target)
    source_images, unseen = (fetch(settings.model_copy(update={"split": split}), progress) for split in (TRAIN, TEST))
    return score_weights(fit_weights(source_images, recipe, settings.outputs, target, progress), unseen)


def check_target(target: Path | None) -> None:
    """Raise SettingsError unless `target` is None or names a .safetensors file."""
    if target is not None and is_remote(target):  # not repeated: there may be a password in it
        raise SettingsError(
            "weights file: expected a path on disk, got an address; leave --out out to write to --outputs"
        )
    if target is not None and target.suffix != ".safetensors":
        raise SettingsError(f"weights file {target}: expected a name ending in .safetensors; choose another name")


def fit_weights(
    source_images: IdxSplit, recipe: Recipe, outputs: Location, target: Path | None, progress: Progress
) -> Fitted:
    """Fit a network to a whole split, in memory, with one BLAS thread; write its weights.

    Raises:
        LabelError: the split has no labels.
        ImagesError: the images cannot be meant as they are.
        SettingsError: the target is not a .safetensors file.
        NumericalError: training diverged.
        OutputsError: the weights cannot be written.
    """
    check_target(target)
    one_blas_thread()
    rows = RowRange(0, source_images.rows)
    images, labels = read_images(source_images, rows), read_labels(source_images, rows)
    if labels is None:
        raise LabelError(
            f"{source_images.dataset}/{source_images.split}: expected labels to train on, got none; "
            "give a labelled data set"
        )
    name = f"{source_images.dataset}/{source_images.split}"
    require_meant(bins := _bins_of(images), name, source_images.pixel_format.inverted)
    warn_of_doubts(bins, name)
    reports: list[EpochReport] = []

    def on_epoch(report: EpochReport) -> None:
        reports.append(report)
        what = f"training, loss {report.loss:.4f}, accuracy {percent(report.accuracy)}"
        progress(what, report.epoch, report.epochs)

    begun = time.perf_counter()
    network = fit(images, labels, recipe, on_epoch)
    seconds = time.perf_counter() - begun
    if target is None:
        path: Location = Outputs.at(outputs).archive_weights(network)
    else:
        path = target
        write_location(path, encode_weights(network))
    return Fitted(path, weights_sha256(network), source_images, recipe, reports[-1], seconds)


def _bins_of(images: NDArray[np.uint8]) -> ImageBins:
    counted = (flatten(normalise(images[rows.start : rows.stop])) for rows in cut(len(images), SCORING_ROWS))
    return ImageBins.total(map(ImageBins.count, counted))


def score_weights(fitted: Fitted, source_images: IdxSplit) -> Trained:
    """Score the weights on a split that was not trained on, and write the model card beside them.

    Raises:
        WeightsError: the weights file was altered.
        OutputsError: the card cannot be written.
    """
    network, recipe = load_weights(fitted.path), fitted.recipe
    tally, facts = score(network, source_images), asdict(recipe) | {"learning_rate": recipe.initial_rate}
    card = fitted.path.with_suffix(".md")
    text = render_card(
        Card(
            architecture=network.architecture,
            file_name=fitted.path.name,
            sha256=fitted.sha256,
            trained_on=_describe(fitted.source_images),
            recipe={name: value for name, value in facts.items() if name not in ("hidden", "activation")},
            loss=fitted.last.loss,
            training_accuracy=fitted.last.accuracy,
            seconds=fitted.seconds,
            tested_on=_describe(source_images),
            tally=tally,
            versions=versions(),
        )
    )
    write_location(card, text.encode())
    return Trained(fitted.path, card, network.architecture, tally)


def score(network: Network, source_images: IdxSplit) -> Tally:
    """Tally a network's predictions of a whole split, read directly from its IDX files."""
    workspace, tally = Workspace(network, SCORING_ROWS), Tally.empty()
    for images in source_images.read(cut(source_images.rows, SCORING_ROWS)):
        probabilities = np.empty((DIGITS, len(images.pixels)), np.float32)
        forward(workspace, images.pixels, out=probabilities)
        tally += Tally.count(images.labels, *choose(probabilities))
    return tally


def _describe(source_images: IdxSplit) -> dict[str, str]:
    return {
        "data set": f"{source_images.dataset}/{source_images.split}, {source_images.rows:,} images",
        "images sha256": source_images.images.sha256,
        "pixels": source_images.transform_version,
        "labels sha256": source_images.labels.sha256 if source_images.labels else "no labels",
    }
