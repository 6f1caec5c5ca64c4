"""What the images of a run are like, in a few figures and as text, computed from the bins of its table inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOT_KNOWN = "not known"  # of a run that was published before runs had the table
TITLES = {
    "mean": "mean ink",
    "largest": "largest ink",
    "centre_x": "centre, column",
    "centre_y": "centre, row",
    "width": "width of ink",
    "height": "height of ink",
}
_INK = ("mean", "largest")


@dataclass(frozen=True)
class Spread:
    """One property of the images of a run, to the precision of its bins: each image counts as the middle of its bin.

    Attributes:
        statistic: its name in the table.
        images: how many images have it; those without ink have no centre.
        mean: over these images; None if there are none, as the percentiles.
        low, median, high: the 5, 50 and 95 % percentiles.
    """

    statistic: str
    images: int
    mean: float | None = None
    low: float | None = None
    median: float | None = None
    high: float | None = None

    @property
    def title(self) -> str:
        """What it is called where people read it."""
        return TITLES.get(self.statistic, self.statistic)

    @property
    def mean_text(self) -> str:
        """The mean, ink of 0..1 or pixels; a dash if there is none."""
        return "-" if self.mean is None else f"{self.mean:.{3 if self.statistic in _INK else 2}f}"

    @property
    def percentiles_text(self) -> str:
        """The three percentiles; a dash if there are none."""
        found = [each for each in (self.low, self.median, self.high) if each is not None]
        return ", ".join(f"{each:.3f}" if self.statistic in _INK else f"{each:g}" for each in found) or "-"


@dataclass(frozen=True)
class InputStatistics:
    """What the images of a run are like.

    Attributes:
        images: how many there are.
        blank: how many of them have no ink.
        spreads: each property, in the order of the table.
    """

    images: int
    blank: int
    spreads: tuple[Spread, ...]

    @property
    def blank_share(self) -> float | None:
        """The share of blank images, 0..1; None without images."""
        return self.blank / self.images if self.images else None

    @property
    def blank_text(self) -> str:
        """How many images are blank, and their share."""
        share = f" ({100 * self.blank / self.images:.2f} %)" if self.blank else ""
        return f"{self.blank:,} of {self.images:,}{share}"


def input_statistics(
    bins: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]],
) -> InputStatistics:
    """Summarise bins by statistic: the smallest and the largest value of each, `[bins]`, and its images."""
    low, _, images = bins["largest"]
    return InputStatistics(
        int(images.sum()), int(images[low == 0].sum()), tuple(_spread(name, *each) for name, each in bins.items())
    )


def _spread(statistic: str, low: NDArray[np.float64], high: NDArray[np.float64], images: NDArray[np.int64]) -> Spread:
    total, middle = int(images.sum()), (low + high) / 2
    if not total:
        return Spread(statistic, 0)
    up_to = 100 * images.cumsum()
    percentiles = (float(middle[np.searchsorted(up_to, percent * total)]) for percent in (5, 50, 95))
    return Spread(statistic, total, float(middle @ images) / total, *percentiles)
