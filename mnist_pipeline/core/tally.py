"""Mergeable counts of a run, and the scores of the ten digits that follow from them.

Counts are summed shard by shard and divided once, at the end. What cannot be known is None, never 0 or NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.intervals import wilson
from mnist_pipeline.errors import LabelError


@dataclass(frozen=True)
class DigitScore:
    """How one digit fared.

    Counts of images: `images` carry the digit as label, `correct` of these were predicted as it, and
    `predicted` counts every image predicted as it, with or without label (so it means something for a
    data set without labels). `precision` and `f1` are about labelled images only.

    None stands for what cannot be known: accuracy, its bounds and `mean_confidence` without an image of the
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
    top_wrong_prediction: int | None  # the lowest digit among equals
    top_wrong_count: int


@dataclass(frozen=True, eq=False)
class Tally:
    """What is counted while predictions are made; tallies of parts add up to the tally of the whole.

    Attributes:
        confusion: `[10, 10]` int64, labelled images by (label, prediction).
        unlabelled: `[10]` int64, images without label by prediction.
        confidence_sum: `[10]` float64, summed confidence of labelled images by label.
    """

    confusion: NDArray[np.int64]
    unlabelled: NDArray[np.int64]
    confidence_sum: NDArray[np.float64]

    @classmethod
    def empty(cls) -> "Tally":
        """No images: what merging starts from."""
        return cls(np.zeros((DIGITS, DIGITS), np.int64), np.zeros(DIGITS, np.int64), np.zeros(DIGITS))

    @classmethod
    def count(
        cls, labels: NDArray[np.int8] | None, predictions: NDArray[np.int8], confidence: NDArray[np.float32]
    ) -> "Tally":
        """Count predictions, against the labels if there are any.

        Args:
            labels: `[N]` int8 in 0..9, or None for images without labels.
            predictions: `[N]` int8 in 0..9.
            confidence: `[N]` float32 in 0..1, the probability of the digit predicted.

        Raises:
            LabelError: the labels differ from the predictions in number, or are not digits.
        """
        assert predictions.shape == confidence.shape, f"{predictions.shape} predictions, {confidence.shape} confidence"
        assert _are_digits(predictions), "predictions are not digits 0-9"
        if labels is None:
            unlabelled = np.bincount(predictions, minlength=DIGITS)
            return cls(np.zeros((DIGITS, DIGITS), np.int64), unlabelled, np.zeros(DIGITS))
        if labels.shape != predictions.shape:
            raise LabelError(
                f"labels: expected one per image, shape {predictions.shape}, got {labels.shape}; "
                "check that labels and images belong together"
            )
        if not _are_digits(labels):
            raise LabelError(f"labels: expected digits 0-9, got {labels.min()}..{labels.max()}; mend the labels")
        # bincount gives integers for no rows even with weights.
        confidence_sum = np.bincount(labels, weights=confidence, minlength=DIGITS).astype(np.float64, copy=False)
        cells = np.bincount(labels.astype(np.intp) * DIGITS + predictions, minlength=DIGITS * DIGITS)
        return cls(
            confusion=cells.reshape(DIGITS, DIGITS),
            unlabelled=np.zeros(DIGITS, np.int64),
            confidence_sum=confidence_sum,
        )

    def merge(self, other: "Tally") -> "Tally":
        """The tally of both sets of images together, also written `self + other`.

        The integers come out the same in any order. The sums of confidence are floats, whose last bits depend
        on the order: merge in shard order, and a rerun gives the same bytes.
        """
        return Tally(
            self.confusion + other.confusion,
            self.unlabelled + other.unlabelled,
            self.confidence_sum + other.confidence_sum,
        )

    __add__ = merge

    def to_json(self) -> dict[str, Any]:
        """Plain lists of int and float, which JSON carries exactly."""
        return {
            "confusion": self.confusion.tolist(),
            "unlabelled": self.unlabelled.tolist(),
            "confidence_sum": self.confidence_sum.tolist(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Tally":
        """The tally that `to_json` wrote, to the last bit.

        Raises:
            ValueError: a field is missing, unknown, or holds something else than was written.
        """
        expected = cls.empty()
        if problems := [
            *(f"missing {name}" for name in sorted(expected.to_json().keys() - document.keys())),
            *(f"unexpected {name}" for name in sorted(document.keys() - expected.to_json().keys())),
        ]:
            raise ValueError("tally: " + "; ".join(problems))
        return cls(
            confusion=_counts(document, "confusion", expected.confusion.shape),
            unlabelled=_counts(document, "unlabelled", expected.unlabelled.shape),
            confidence_sum=_numbers(document, "confidence_sum", expected.confidence_sum.shape).astype(np.float64),
        )

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


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _are_digits(values: NDArray[np.int8]) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < DIGITS)


def _numbers(document: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        values = np.array(document[name])
    except ValueError as error:
        raise ValueError(f"tally: {name}: expected numbers of shape {shape}, got rows of unequal length") from error
    if values.shape != shape or values.dtype.kind not in "if":
        raise ValueError(f"tally: {name}: expected numbers of shape {shape}, got {values.dtype} {values.shape}")
    return values


def _counts(document: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    values = _numbers(document, name, shape)
    if values.dtype.kind != "i" or values.min() < 0:
        raise ValueError(f"tally: {name}: expected counts, got {values.dtype} from {values.min()}")
    return values.astype(np.int64)
