"""Measures the calibration of the probabilities: log loss, Brier score, top-2 accuracy, reliability bins.

Covers labelled images only, all digits together: with about 1,000 images of a digit, its calibration error is noise.
"""

from dataclasses import dataclass
from math import exp, floor, lgamma, log, sqrt

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.counts import Counts, counts, sums
from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.core.intervals import Interval, normal_quantile, wilson

# As in C. Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.
BINS = 15
# A float32 probability may round to 0, whose logarithm would be infinite.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Mean:
    """A mean over images with its standard error."""

    value: float
    standard_error: float

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval by the central limit theorem; valid for thousands of images."""
        half_width = normal_quantile(confidence) * self.standard_error
        return Interval(self.value - half_width, self.value + half_width)


@dataclass(frozen=True)
class ReliabilityBin:
    """The labelled images with `low` < confidence <= `high`."""

    bin: int
    low: float
    high: float
    images: int
    correct: int
    mean_confidence: float | None
    accuracy: float | None
    accuracy_low: float | None  # 95 % Wilson score interval
    accuracy_high: float | None


@dataclass(frozen=True)
class CalibrationScores:
    """The overall calibration scores of a run with labels.

    Attributes:
        top2_accuracy: share of images whose label is among the two most probable digits.
        nll: mean negative log likelihood of the label, in nats; 0 is perfect.
        brier: mean squared distance of the ten probabilities from the truth, 0..2; 0 is perfect.
        ece: expected calibration error over `BINS` bins of equal width, 0..1.
        ece_noise: expected `ece` of a perfectly calibrated network, by chance alone.
    """

    top2_accuracy: float
    nll: float
    nll_error: float  # standard errors of the two means
    brier: float
    brier_error: float
    ece: float
    ece_noise: float


@dataclass(frozen=True, eq=False)
class Calibration(Counts):
    """Calibration sums over labelled images, accumulated while predictions are made.

    Attributes:
        top2_correct: images whose label is among the two most probable digits.
        nll_sum, nll_square_sum: sums of the negative log likelihood of the label, in nats, and of its square.
        brier_sum, brier_square_sum: sums of the squared distance of the probabilities from the truth, 0..2 each, and
            of its square.
        bin_images, bin_correct, bin_confidence_sum: `[BINS]`, by bin of confidence.
    """

    top2_correct: NDArray[np.int64] = counts()
    nll_sum: NDArray[np.float64] = sums()
    nll_square_sum: NDArray[np.float64] = sums()
    brier_sum: NDArray[np.float64] = sums()
    brier_square_sum: NDArray[np.float64] = sums()
    bin_images: NDArray[np.int64] = counts(BINS)
    bin_correct: NDArray[np.int64] = counts(BINS)
    bin_confidence_sum: NDArray[np.float64] = sums(BINS)

    @classmethod
    def count(
        cls,
        labels: NDArray[np.int8] | None,
        predictions: NDArray[np.int8],
        confidence: NDArray[np.float32],
        probabilities: NDArray[np.float32],
    ) -> "Calibration":
        """Count predictions against their labels; `empty` without labels.

        Args:
            labels: `[N]` int8 in 0..9, NO_LABEL where an image has none; None if none has one.
            predictions: `[N]` int8 in 0..9.
            confidence: `[N]` float32 in 0..1, the probability of the digit predicted.
            probabilities: `[10, N]` float32, each column summing to 1.
        """
        if labels is None:
            return cls.empty()
        if not (known := labels != NO_LABEL).all():
            labels, predictions, confidence = labels[known], predictions[known], confidence[known]
            probabilities = probabilities[:, known]
        rows = np.arange(len(labels))
        of_label = probabilities[labels, rows]
        # Digits ranked above the label: the more probable ones and, on a tie, the lower ones, as `choose` breaks ties.
        above = probabilities > of_label
        above |= (probabilities == of_label) & (np.arange(DIGITS)[:, None] < labels)
        nll = -np.log(np.maximum(of_label.astype(np.float64), SMALLEST_PROBABILITY))
        squares = np.einsum("dn,dn->n", probabilities, probabilities, dtype=np.float64)
        brier = squares - 2.0 * of_label + 1.0
        bins = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(np.intp) - 1, 0, BINS - 1)
        correct = labels == predictions
        return cls(
            top2_correct=np.count_nonzero(np.count_nonzero(above, axis=0) < 2) + np.zeros((), np.int64),
            nll_sum=np.sum(nll),
            nll_square_sum=np.sum(nll * nll),
            brier_sum=np.sum(brier),
            brier_square_sum=np.sum(brier * brier),
            bin_images=np.bincount(bins, minlength=BINS),
            bin_correct=np.bincount(bins[correct], minlength=BINS),
            bin_confidence_sum=np.bincount(bins, weights=confidence, minlength=BINS).astype(np.float64, copy=False),
        )

    @property
    def images(self) -> int:
        return int(self.bin_images.sum())

    @property
    def nll(self) -> Mean | None:
        return _mean(self.nll_sum, self.nll_square_sum, self.images)

    @property
    def brier(self) -> Mean | None:
        return _mean(self.brier_sum, self.brier_square_sum, self.images)

    def bins(self) -> tuple[ReliabilityBin, ...]:
        """All `BINS` bins by rising confidence, including empty ones."""
        return tuple(self._bin(index) for index in range(BINS))

    def scores(self) -> CalibrationScores | None:
        """The overall scores; None without labelled images."""
        nll, brier, images = self.nll, self.brier, self.images
        if nll is None or brier is None:
            return None
        filled = [item for item in self.bins() if item.images]
        return CalibrationScores(
            top2_accuracy=int(self.top2_correct) / images,
            nll=nll.value,
            nll_error=nll.standard_error,
            brier=brier.value,
            brier_error=brier.standard_error,
            ece=sum(abs(item.correct - float(self.bin_confidence_sum[item.bin])) for item in filled) / images,
            ece_noise=sum(_mean_deviation(item.images, item.mean_confidence or 0.0) for item in filled) / images,
        )

    def _bin(self, index: int) -> ReliabilityBin:
        images, correct = int(self.bin_images[index]), int(self.bin_correct[index])
        bounds = wilson(correct, images)
        return ReliabilityBin(
            bin=index,
            low=index / BINS,
            high=(index + 1) / BINS,
            images=images,
            correct=correct,
            mean_confidence=float(self.bin_confidence_sum[index]) / images if images else None,
            accuracy=correct / images if images else None,
            accuracy_low=bounds.low if bounds else None,
            accuracy_high=bounds.high if bounds else None,
        )


def _mean(total: NDArray[np.float64], square_total: NDArray[np.float64], images: int) -> Mean | None:
    if not images:
        return None
    mean = float(total) / images
    variance = max(0.0, float(square_total) / images - mean * mean)
    return Mean(mean, sqrt(variance / images))


def _mean_deviation(trials: int, chance: float) -> float:
    """Mean absolute deviation of a binomial count from its mean.

    Formula: A. de Moivre, 1730; see P. Diaconis and S. Zabell, "Closed form summation for classical distributions",
    Statistical Science 6 (1991), 284-302: E|X - np| = 2 k C(n, k) p^k (1 - p)^(n - k + 1) with k = floor(np) + 1.
    """
    if not 0.0 < chance < 1.0:
        return 0.0
    k = floor(trials * chance) + 1
    if k > trials:  # only by rounding, if p is almost 1
        return 0.0
    ways = lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1)
    return 2 * k * exp(ways + k * log(chance) + (trials - k + 1) * log(1 - chance))
