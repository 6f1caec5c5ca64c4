"""Counts images by their ink: what a run's images are like, and whether a set can be meant as it is.

The second is about sets of a wrong scale, black on white, or blank. The bounds are those that MNIST, Fashion-MNIST,
KMNIST and EMNIST digits keep. Their mean pixels are 0.131, 0.286, 0.192 and 0.172 of full ink (published with each
set), and their pixels reach from 0 to 255. Measured on MNIST and Fashion-MNIST: each single image has a pixel of 254 or
more, none has a mean above 0.76, and ten images of one class have none above 0.52. Inverted, the sets have means from
0.71 on.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.counts import Counts, counts
from mnist_pipeline.core.images import PIXELS, SIDE
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

HALF_INK = 128  # level from which a pixel belongs to the width and height of the ink
CENTRES = 2 * SIDE - 1  # of half a pixel each, around 0, 0.5, ... 27
_ROW, _COLUMN = np.divmod(np.arange(PIXELS, dtype=np.float32), np.float32(SIDE))
_MOMENTS = np.stack([np.ones_like(_ROW), _COLUMN, _ROW])
_LEVEL, _MIDDLE, _EXTENT = np.arange(LEVELS) / (LEVELS - 1), np.arange(CENTRES) / 2, np.arange(SIDE + 1.0)
# The smallest value of each bin and the one that it stays below, in ink of 0..1 and in pixels; the same where a bin
# holds one value only.
BOUNDS: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
    "mean": (_LEVEL, np.minimum(np.arange(1, LEVELS + 1) / (LEVELS - 1), 1)),
    "largest": (_LEVEL, _LEVEL),
    "centre_x": (_MIDDLE - 0.25, _MIDDLE + 0.25),
    "centre_y": (_MIDDLE - 0.25, _MIDDLE + 0.25),
    "width": (_EXTENT, _EXTENT),
    "height": (_EXTENT, _EXTENT),
}


@dataclass(frozen=True, eq=False)
class ImageBins(Counts):
    """Images by six of their properties, in levels 0..255 of ink and in pixels. Bins of disjoint images add up.

    Attributes:
        mean: `[256]` int64, images by the mean of their pixels, rounded down.
        largest: `[256]` int64, images by their largest pixel; a blank image has 0.
        centre_x: `[55]` int64, images with ink by the column of its centre of mass, around 0, 0.5, ... 27; 13.5 is the
            middle of the image.
        centre_y: the same, by the row.
        width: `[29]` int64, images by the pixels across, 0..28, from the first to the last that is half full of ink.
        height: the same, down.
    """

    mean: NDArray[np.int64] = counts(LEVELS)
    largest: NDArray[np.int64] = counts(LEVELS)
    centre_x: NDArray[np.int64] = counts(CENTRES)
    centre_y: NDArray[np.int64] = counts(CENTRES)
    width: NDArray[np.int64] = counts(SIDE + 1)
    height: NDArray[np.int64] = counts(SIDE + 1)

    @classmethod
    def count(cls, pixels: NDArray[np.float32]) -> Self:
        """Count images, `[N, 784]` float32 in 0..1, as the network sees them."""
        levels = np.multiply(pixels, np.float32(255), order="C")
        np.rint(levels, out=levels)
        largest = levels.max(axis=1).astype(np.int64)
        # Sums of integers below 2**24 are exact in float32, in any order: the same bins on every processor.
        ink, x, y = (np.vecdot(levels, moment).astype(np.int64) for moment in _MOMENTS)
        full = levels >= HALF_INK
        # Seven words of four pixels are a row; of eight pixels, two rows. Words take a third of the time of pixels.
        rows = full.view(np.uint32) != 0
        columns = np.bitwise_or.reduce(full.view(np.uint64).reshape(-1, SIDE // 2, 7), axis=1).view(np.bool_)
        values = {
            "mean": ink // PIXELS,
            "largest": largest,
            "centre_x": _centre(x, ink),
            "centre_y": _centre(y, ink),
            "width": np.where(largest >= HALF_INK, _extent(columns.reshape(-1, 2, SIDE).any(axis=1)), 0),
            "height": np.where(largest >= HALF_INK, _extent(rows), 0),
        }
        return cls(*(np.bincount(values[name], minlength=len(low)) for name, (low, _) in BOUNDS.items()))

    def to_json(self) -> dict[str, Any]:
        """Convert to the counts that are not 0, by number of the bin: a record of a few images stays small."""
        return {name: {str(index): int(found[index]) for index in found.nonzero()[0]} for name, found in self.arrays()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            KeyError: a property is missing, as in what earlier versions wrote.
            ValueError: it is something else.
        """
        bins = cls.empty()
        for name, found in bins.arrays():
            for index, count in document[name].items():
                if type(count) is not int or not 0 <= count <= MAX_COUNT or not 0 <= int(index) < len(found):
                    raise ValueError(
                        f"bins: {name}: expected counts by number 0..{len(found) - 1}, got {count!r} of {index!r}"
                    )
                found[int(index)] = count
        return bins

    def arrays(self) -> Iterator[tuple[str, NDArray[np.int64]]]:
        """Each property with its counts, in the order of `BOUNDS`."""
        return ((name, getattr(self, name)) for name in BOUNDS)

    @property
    def add_up(self) -> bool:
        """Whether each property counts every image, and the centres every one with ink."""
        with_ink = self.images - self.blank
        return all(found.sum() == (with_ink if "centre" in name else self.images) for name, found in self.arrays())

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


def _centre(moment: NDArray[np.int64], ink: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the bins of the centres of mass, of images with ink; `moment / ink` is in 0..27."""
    inked = ink > 0
    moment, ink = moment[inked], ink[inked]
    return (4 * moment + ink) // (2 * ink)


def _extent(full: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The lines from the first to the last with anything in it, `[N, 28 * cells]`; 28 where there is nothing."""
    cells = full.shape[1] // SIDE
    before, after = (found.argmax(axis=1) // cells for found in (full, full[:, ::-1]))
    extent: NDArray[np.intp] = SIDE - before - after
    return extent


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
