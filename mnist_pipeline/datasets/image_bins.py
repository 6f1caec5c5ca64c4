"""Counts images by their ink, to notice sets that cannot be meant: a wrong scale, black on white, blank images.

The bounds are those that MNIST, Fashion-MNIST, KMNIST and EMNIST digits keep. Their mean pixels are 0.131, 0.286, 0.192
and 0.172 of full ink (published with each set), and their pixels reach from 0 to 255. Measured on MNIST and
Fashion-MNIST: each single image has a pixel of 254 or more, none has a mean above 0.76, and ten images of one class
have none above 0.52. Inverted, the sets have means from 0.71 on.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.counts import Counts, counts
from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.errors import ImagesError

logger = logging.getLogger(__name__)

LEVELS = 256
MAX_COUNT = 10**12  # of images
FEW_IMAGES = 10  # means of fewer images vary more
MAX_MEAN, MAX_MEAN_OF_FEW = 0.65, 0.8  # of ink; a larger mean is that of an inverted set
DOUBTFUL_MEAN, DOUBTFUL_MEAN_OF_FEW = 0.55, 0.7
MIN_MEAN = 0.04  # of a set that is not doubtful; MNIST's thin ones have 0.08
MIN_LARGEST = 128  # below: pixels of another range, such as 0..1 or 0..127
USUAL_LARGEST = 250
DOUBTFUL_SHARE = 0.01  # of the images that are blank, faint or on white paper
WHITE_PAPER = 195  # level of the mean of an image, 0.76, that none of these sets reaches


@dataclass(frozen=True, eq=False)
class ImageBins(Counts):
    """Images by two of their properties, in levels 0..255 of ink. Bins of disjoint images add up.

    Attributes:
        mean: `[256]` int64, images by the mean of their pixels, rounded down.
        largest: `[256]` int64, images by their largest pixel; a blank image has 0.
    """

    mean: NDArray[np.int64] = counts(LEVELS)
    largest: NDArray[np.int64] = counts(LEVELS)

    @classmethod
    def count(cls, pixels: NDArray[np.float32]) -> Self:
        """Count images, `[N, 784]` float32 in 0..1, as the network sees them."""
        levels = pixels * np.float32(255)
        np.rint(levels, out=levels)
        # Sums of integers below 2**24 are exact in float32, in any order: the same bins on every processor.
        means = levels.sum(axis=1).astype(np.int64) // PIXELS
        return cls(*(np.bincount(each, minlength=LEVELS) for each in (means, levels.max(axis=1).astype(np.int64))))

    def to_json(self) -> dict[str, Any]:
        """Convert to the counts that are not 0, by level: a record of a few images stays small."""
        return {name: {str(level): int(found[level]) for level in found.nonzero()[0]} for name, found in self._arrays()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        bins = cls.empty()
        for name, found in bins._arrays():
            for level, count in document[name].items():
                if type(count) is not int or not 0 <= count <= MAX_COUNT or not 0 <= int(level) < LEVELS:
                    raise ValueError(f"bins: {name}: expected counts by level 0..255, got {count!r} of {level!r}")
                found[int(level)] = count
        return bins

    def _arrays(self) -> tuple[tuple[str, NDArray[np.int64]], ...]:
        return ("mean", self.mean), ("largest", self.largest)

    @property
    def images(self) -> int:
        return int(self.largest.sum())

    @property
    def blank(self) -> int:
        """The number of images without ink."""
        return int(self.largest[0])

    @property
    def faint(self) -> int:
        """The number of images whose ink is nowhere half full; blank ones are not among them."""
        return int(self.largest[1:MIN_LARGEST].sum())

    @property
    def on_white(self) -> int:
        """The number of images that are as bright as digits on white paper."""
        return int(self.mean[WHITE_PAPER:].sum())

    @property
    def largest_pixel(self) -> int:
        """The largest pixel of all, 0..255."""
        return int(self.largest.nonzero()[0].max(initial=0))

    @property
    def mean_ink(self) -> float:
        """The mean of all pixels, 0..1, to half a level; 0 of no images."""
        if not self.images:
            return 0.0
        return float((np.arange(LEVELS) + 0.5) @ self.mean) / self.images / (LEVELS - 1)


def require_meant(bins: ImageBins, name: str, inverted: bool | None) -> None:
    """Reject a set of images that is certainly not meant as it is.

    Args:
        bins: of the whole set.
        name: of the set in errors.
        inverted: whether the images were inverted; None if nobody has said whether they should be. Somebody who has
            said that white paper is meant is believed.

    Raises:
        ImagesError: the images have another scale, are black on white, or are all blank.
    """
    if problem := _mistake(bins, inverted):
        raise ImagesError(f"{name}: {problem}")


def _mistake(bins: ImageBins, inverted: bool | None) -> str | None:
    images, half = f"{bins.images:,} images", bins.images / 2
    if bins.blank == bins.images:
        return f"expected ink, got {images} that are blank; check how the file was written"
    if bins.largest_pixel < MIN_LARGEST or bins.faint + bins.blank > half:
        advice = (
            "integers of 0 and 1 need --pixel-scale 1, floats of 0..1 no --pixel-scale; divide pixels by 255 only once"
            if bins.largest_pixel <= 1
            else "pixels of another range need to be rescaled to 0..255, or to floats of 0..1"
        )
        found = f"at most {bins.largest_pixel} of 255 in {images}"
        if bins.largest_pixel >= MIN_LARGEST:
            found = f"none in {bins.faint + bins.blank:,} of {images}"
        return f"expected full ink somewhere, got {found}; {advice}"
    too_bright = bins.mean_ink > (MAX_MEAN if bins.images >= FEW_IMAGES else MAX_MEAN_OF_FEW)
    if inverted is not False and (too_bright or bins.on_white > half):
        advice = (
            "leave --invert out"
            if inverted
            else "black digits on white paper need --invert, white paper that the network was trained on --no-invert"
        )
        return f"expected white ink on black paper, got a mean pixel of {bins.mean_ink:.2f} in {images}; {advice}"
    return None


def warn_of_doubts(bins: ImageBins, name: str) -> tuple[str, ...]:
    """Log what is doubtful about the set of that name; the same as `doubts`."""
    found = doubts(bins)
    for doubt in found:
        logger.warning("%s: %s", name, doubt)
    return found


def doubts(bins: ImageBins) -> tuple[str, ...]:
    """What is doubtful about a set of images, a line each; for people to look at, nothing is refused."""
    some = bins.images >= FEW_IMAGES
    found = {
        f"a mean pixel of {bins.mean_ink:.2f}: are they black on white?": bins.mean_ink
        > (DOUBTFUL_MEAN if some else DOUBTFUL_MEAN_OF_FEW),
        f"a mean pixel of {bins.mean_ink:.3f}: is there any ink?": some and bins.mean_ink < MIN_MEAN,
        f"no pixel above {bins.largest_pixel} of 255: is their range another?": bins.largest_pixel < USUAL_LARGEST,
        f"{bins.blank:,} blank": bins.blank >= DOUBTFUL_SHARE * bins.images,
        f"{bins.faint:,} with less than half of full ink": bins.faint >= DOUBTFUL_SHARE * bins.images,
        f"{bins.on_white:,} on white paper": bins.on_white >= DOUBTFUL_SHARE * bins.images,
    }
    return tuple(f"doubtful images: {doubt}" for doubt, holds in found.items() if holds)
