"""Compares the accuracy of two runs: images lost and gained, intervals, p-values, and the smallest detectable loss.

Over the same images it counts pairs (McNemar, Tango); over different images it compares two proportions (Fisher,
Newcombe). "Before" is the reference, "now" the run that is judged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.counts import Counts, counts
from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.core.intervals import Interval, newcombe, tango
from mnist_pipeline.core.tally import Tally

ROW_CONFIDENCE = 0.95


class Comparison(Protocol):
    """The comparison of one digit, or of all digits together (`digit` is None)."""

    method: ClassVar[str]

    @property
    def digit(self) -> int | None:
        """0..9; None for all digits together."""

    @property
    def images(self) -> int:
        """Labelled images of the run that is judged."""

    @property
    def correct(self) -> int:
        """Correctly predicted images among `images`."""

    @property
    def images_before(self) -> int:
        """Labelled images of the reference."""

    @property
    def correct_before(self) -> int:
        """Correctly predicted images among `images_before`."""

    @property
    def difference(self) -> float | None:
        """Accuracy now minus accuracy before, -1..1; None if it is unknown."""

    @property
    def p(self) -> float:
        """Two-sided p-value of the null hypothesis "no change"; 1 if it is unknown."""

    @property
    def p_worse(self) -> float:
        """One-sided p-value of the null hypothesis "not worse"."""

    def interval(self, confidence: float = ROW_CONFIDENCE) -> Interval | None:
        """The two-sided interval of the difference."""

    def detectable(self, alpha: float) -> float | None:
        """The smallest loss of accuracy that would have given `p_worse <= alpha`; None if no loss would."""


@dataclass(frozen=True)
class Paired:
    """The same images before and now: exact McNemar test, Tango's interval.

    Source of the test: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12 (1947), 153-157, with the binomial distribution in place of the normal.
    """

    method: ClassVar[str] = "McNemar exact, Tango"

    digit: int | None
    images: int
    both_right: int
    lost: int
    gained: int

    @property
    def correct(self) -> int:
        return self.both_right + self.gained

    @property
    def images_before(self) -> int:
        return self.images

    @property
    def correct_before(self) -> int:
        return self.both_right + self.lost

    @property
    def difference(self) -> float | None:
        return (self.gained - self.lost) / self.images if self.images else None

    @property
    def p(self) -> float:
        if self.lost == self.gained:  # also without any change
            return 1.0
        from scipy.special import bdtr

        return min(1.0, 2 * float(bdtr(min(self.lost, self.gained), self.lost + self.gained, 0.5)))

    @property
    def p_worse(self) -> float:
        return _p_worse_paired(self.lost, self.gained)

    def interval(self, confidence: float = ROW_CONFIDENCE) -> Interval | None:
        return tango(self.lost, self.gained, self.images, confidence)

    def detectable(self, alpha: float) -> float | None:
        largest = self.images - self.gained
        lost = _smallest(lambda lost: _p_worse_paired(lost, self.gained) <= alpha, self.gained, largest)
        return None if lost is None else (lost - self.gained) / self.images


@dataclass(frozen=True)
class Unpaired:
    """Different images before and now: Fisher's exact test, Newcombe's interval."""

    method: ClassVar[str] = "Fisher exact, Newcombe"

    digit: int | None
    images: int
    correct: int
    images_before: int
    correct_before: int

    @property
    def difference(self) -> float | None:
        if not self.images or not self.images_before:
            return None
        return self.correct / self.images - self.correct_before / self.images_before

    @property
    def p(self) -> float:
        from scipy.stats import fisher_exact  # slow to import, and needed only for different images

        wrong, wrong_before = self.images - self.correct, self.images_before - self.correct_before
        return float(fisher_exact([[self.correct, wrong], [self.correct_before, wrong_before]]).pvalue)

    @property
    def p_worse(self) -> float:
        return self._p_worse(self.correct)

    def interval(self, confidence: float = ROW_CONFIDENCE) -> Interval | None:
        return newcombe((self.correct_before, self.images_before), (self.correct, self.images), confidence)

    def detectable(self, alpha: float) -> float | None:
        if not self.images or not self.images_before:
            return None
        wrong = _smallest(lambda wrong: self._p_worse(self.images - wrong) <= alpha, 0, self.images)
        if wrong is None:
            return None
        return self.correct_before / self.images_before - (self.images - wrong) / self.images

    def _p_worse(self, correct: int) -> float:
        from scipy.stats import hypergeom

        if not self.images or not self.images_before:
            return 1.0
        every, right = self.images + self.images_before, correct + self.correct_before
        return float(hypergeom.cdf(correct, every, right, self.images))


@dataclass(frozen=True, eq=False)
class Pairs(Counts):
    """Counts of the same images in two runs.

    Attributes:
        cells: `[10, 2, 2]` int64, labelled images by (label, right before, right now).
        changed: int64, images whose prediction changed, with or without a label, right or wrong.
    """

    cells: NDArray[np.int64] = counts(DIGITS, 2, 2)
    changed: NDArray[np.int64] = counts()

    @classmethod
    def count(cls, labels: NDArray[np.int8] | None, before: NDArray[np.int8], now: NDArray[np.int8]) -> "Pairs":
        """Count two predictions of each image.

        Args:
            labels: `[N]` int8 in 0..9, NO_LABEL where an image has none; None if none has one.
            before: `[N]` int8 in 0..9, the reference's predictions.
            now: `[N]` int8 in 0..9, the predictions of the run that is judged.
        """
        changed = np.count_nonzero(before != now) + np.zeros((), np.int64)
        if labels is None:
            return cls(np.zeros((DIGITS, 2, 2), np.int64), changed)
        cell = (labels.astype(np.intp) - NO_LABEL) * 4 + (before == labels) * 2 + (now == labels)
        return cls(np.bincount(cell, minlength=(DIGITS + 1) * 4).reshape(-1, 2, 2)[1:], changed)

    def comparisons(self) -> tuple[Paired, ...]:
        """The comparison of all digits together, then of each digit."""
        return (_paired(None, self.cells.sum(axis=0)), *(_paired(digit, self.cells[digit]) for digit in range(DIGITS)))


def unpaired(before: Tally, now: Tally) -> tuple[Unpaired, ...]:
    """Compare two runs over different images: all digits together, then each digit."""
    whole = Unpaired(None, now.labelled, now.correct, before.labelled, before.correct)
    old, new = before.confusion, now.confusion
    return (
        whole,
        *(
            Unpaired(d, int(new[d].sum()), int(new[d, d]), int(old[d].sum()), int(old[d, d]))
            for d in range(DIGITS)
        ),
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing: rejecting those <= alpha keeps the family-wise error rate at alpha.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979), 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def holm_over_digits(comparisons: Sequence[Comparison]) -> list[float | None]:
    """The two-sided p of each comparison, adjusted over the digits; None for all digits together."""
    corrected = iter(holm([line.p for line in comparisons if line.digit is not None]))
    return [None if line.digit is None else next(corrected) for line in comparisons]


def _paired(digit: int | None, cells: NDArray[np.int64]) -> Paired:
    return Paired(
        digit, images=int(cells.sum()), both_right=int(cells[1, 1]), lost=int(cells[1, 0]), gained=int(cells[0, 1])
    )


def _p_worse_paired(lost: int, gained: int) -> float:
    """The probability of at least `lost` losses among the changed images if losses and gains are equally likely."""
    if not lost:
        return 1.0
    from scipy.special import bdtr

    return float(bdtr(gained, lost + gained, 0.5))


def _smallest(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number in `low`..`high` with `holds`, which must be monotonic; None if there is none."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
