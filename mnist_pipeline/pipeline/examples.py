"""Picks images to show, with their predictions."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import as_bytes
from mnist_pipeline.core.network import Network, predict
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.core.progress import Progress, silent
from mnist_pipeline.datasets.image_bins import ImageBins, warn_of_doubts
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import LabelError
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.planning import current_network
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import load_weights

ROWS_AT_A_TIME = 1000


@dataclass(frozen=True)
class Picture:
    """One image `[28, 28]` uint8, its label if it has one, and the network's prediction."""

    image_id: int
    pixels: NDArray[np.uint8]
    label: int | None
    prediction: int
    confidence: float

    @property
    def caption(self) -> str:
        """For example `#247 4 -> 6 (81 %)`: image_id, label, prediction if another, confidence."""
        seen = f"{self.prediction} ({100 * self.confidence:.0f} %)"
        return (
            f"#{self.image_id} {seen}"
            if self.label in (None, self.prediction)
            else f"#{self.image_id} {self.label} -> {seen}"
        )


def pick(settings: Settings, start: int, count: int, wrong: bool, progress: Progress = silent) -> list[Picture]:
    """Pick at most `count` images from `start` on, in order; with `wrong` only misclassified ones.

    Raises:
        LabelError: `wrong`, but the images have no labels.
        PipelineError: the images cannot be fetched, or the weights file is rejected.
    """
    source_images = open_images(settings, progress)
    if wrong and source_images.labels_sha256 is None:
        raise LabelError(
            f"{source_images.dataset}/{source_images.split}: expected labels, got none; "
            "without them nothing can be wrong"
        )
    pictures = _pictures(
        source_images,
        load_weights(settings.weights) if settings.weights else current_network(Outputs.at(settings.outputs)),
        start,
    )
    if wrong:
        pictures = (picture for picture in pictures if picture.label != picture.prediction)
    return list(islice(pictures, count))


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
                label=None if images.labels is None else int(images.labels[position]),
                prediction=prediction,
                confidence=float(probabilities[position, prediction]),
            )
