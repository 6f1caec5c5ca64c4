"""Counts right and wrong predictions by digit and derives the scores of the ten digits.

Unknown scores are None, never 0 or NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.counts import Counts, counts, sums
from mnist_pipeline.core.images import DIGITS, NO_LABEL
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.errors import LabelError


@dataclass(frozen=True)
class DigitScore:
    """The scores of one digit.

    Counts of images: `images` carry the digit as label, `correct` of these were predicted as it, and
    `predicted` counts every image predicted as it, with or without a label (so it also serves data sets
    without labels). `precision` and `f1` cover labelled images only.

    None means unknown: accuracy, its bounds and `mean_confidence` without an image of the
    digit, `precision` if no labelled image was predicted as the digit, `f1` without either, and
    `top_wrong_prediction` without an error.
    """

    digit: int
    images: int
    predicted: int
    correct: int
    accuracy: float | None
    accuracy_low: float | None  # 95 % Wilson score interval
    accuracy_high: float | None
    precision: float | None
    f1: float | None
    mean_confidence: float | None  # over the images of this digit, right or wrong
    top_wrong_prediction: int | None  # the lowest digit on a tie
    top_wrong_count: int


@dataclass(frozen=True, eq=False)
class Tally(Counts):
    """Counts of right and wrong predictions, accumulated while predictions are made.

    Attributes:
        confusion: `[10, 10]` int64, labelled images by (label, prediction).
        unlabelled: `[10]` int64, images without a label by prediction.
        confidence_sum: `[10]` float64, summed confidence of labelled images by label.
    """

    confusion: NDArray[np.int64] = counts(DIGITS, DIGITS)
    unlabelled: NDArray[np.int64] = counts(DIGITS)
    confidence_sum: NDArray[np.float64] = sums(DIGITS)

    @classmethod
    def count(
        cls, labels: NDArray[np.int8] | None, predictions: NDArray[np.int8], confidence: NDArray[np.float32]
    ) -> "Tally":
        """Count predictions, against the labels if there are any.

        Args:
            labels: `[N]` int8 in 0..9, NO_LABEL where an image has none; None if none has one.
            predictions: `[N]` int8 in 0..9.
            confidence: `[N]` float32 in 0..1, the probability of the digit predicted.

        Raises:
            LabelError: the labels differ from the predictions in number, or are not digits.
        """
        assert predictions.shape == confidence.shape, f"{predictions.shape} predictions, {confidence.shape} confidence"
        assert _are_digits(predictions), "predictions are not digits 0-9"
        if labels is None:
            labels = np.full(predictions.shape, NO_LABEL, np.int8)
        if labels.shape != predictions.shape:
            raise LabelError(
                f"labels: expected one per image, shape {predictions.shape}, got {labels.shape}; "
                "check that labels and images belong together"
            )
        if not _are_digits(labels, lowest=NO_LABEL):
            raise LabelError(f"labels: expected digits 0-9, got {labels.min()}..{labels.max()}; correct the labels")
        lines = labels.astype(np.intp) - NO_LABEL  # the first line is of images without a label
        # bincount of no rows returns integers even with weights.
        confidence_sum = np.bincount(lines, weights=confidence, minlength=DIGITS + 1).astype(np.float64, copy=False)
        cells = np.bincount(lines * DIGITS + predictions, minlength=(DIGITS + 1) * DIGITS).reshape(-1, DIGITS)
        return cls(confusion=cells[1:], unlabelled=cells[0], confidence_sum=confidence_sum[1:])

    @property
    def labelled(self) -> int:
        return int(self.confusion.sum())

    @property
    def images(self) -> int:
        return self.labelled + int(self.unlabelled.sum())

    @property
    def correct(self) -> int:
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float | None:
        return _ratio(self.correct, self.labelled)

    def scores(self) -> tuple[DigitScore, ...]:
        """One score for each digit, 0 to 9."""
        return tuple(self._score(digit) for digit in range(DIGITS))

    def _score(self, digit: int) -> DigitScore:
        images = int(self.confusion[digit].sum())
        predicted = int(self.confusion[:, digit].sum())
        correct = int(self.confusion[digit, digit])
        bounds = wilson(correct, images)
        wrong = self.confusion[digit].copy()
        wrong[digit] = 0
        top_wrong = int(wrong.argmax())
        top_wrong_count = int(wrong[top_wrong])
        return DigitScore(
            digit=digit,
            images=images,
            predicted=predicted + int(self.unlabelled[digit]),
            correct=correct,
            accuracy=_ratio(correct, images),
            accuracy_low=bounds.low if bounds else None,
            accuracy_high=bounds.high if bounds else None,
            precision=_ratio(correct, predicted),
            f1=_ratio(2 * correct, images + predicted),
            mean_confidence=_ratio(float(self.confidence_sum[digit]), images),
            top_wrong_prediction=top_wrong if top_wrong_count else None,
            top_wrong_count=top_wrong_count,
        )


def partly_labelled(labelled: int, images: int) -> str:
    """What is to be said of an accuracy if only some of the images have a label; else nothing."""
    if not 0 < labelled < images:
        return ""
    return f"accuracy is over {labelled:,} of {images:,} images: the others have no label"


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _are_digits(values: NDArray[np.int8], lowest: int = 0) -> bool:
    return values.size == 0 or bool(values.min() >= lowest and values.max() < DIGITS)
