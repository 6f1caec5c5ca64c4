import json
from collections import Counter
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.core.plan import cut
from mnist_pipeline.core.tally import DigitScore, Tally, partly_labelled
from mnist_pipeline.errors import LabelError

Predicted = tuple[NDArray[np.int8] | None, NDArray[np.int8], NDArray[np.float32]]


@st.composite
def predicted(draw: st.DrawFn, max_rows: int = 60) -> Predicted:
    """Labels, NO_LABEL for some images, or None; predictions and confidence, of a batch of predictions."""
    rows = draw(st.integers(0, max_rows))

    def digits(lowest: int) -> st.SearchStrategy[NDArray[np.int8]]:
        values = st.lists(st.integers(lowest, 9), min_size=rows, max_size=rows)
        return values.map(lambda each: np.array(each, np.int8))

    shares = st.lists(st.floats(0, 1, width=32), min_size=rows, max_size=rows)
    labels = draw(st.none() | digits(0) | digits(NO_LABEL))
    return labels, draw(digits(0)), np.array(draw(shares), np.float32)


def same_integers(a: Tally, b: Tally) -> bool:
    return np.array_equal(a.confusion, b.confusion) and np.array_equal(a.unlabelled, b.unlabelled)


def same(a: Tally, b: Tally) -> bool:
    return same_integers(a, b) and a.confidence_sum.tobytes() == b.confidence_sum.tobytes()


def dtypes(tally: Tally) -> list[str]:
    return [str(array.dtype) for array in (tally.confusion, tally.unlabelled, tally.confidence_sum)]


def count(labels: list[int] | None, predictions: list[int], confidence: float = 0.5) -> Tally:
    return Tally.count(
        None if labels is None else np.array(labels, np.int8),
        np.array(predictions, np.int8),
        np.full(len(predictions), confidence, np.float32),
    )


@settings(deadline=None)
@given(predicted())
def test_counts_are_those_of_counting_one_by_one(batch: Predicted) -> None:
    labels, predictions, confidence = batch
    tally = Tally.count(*batch)
    known = [NO_LABEL] * len(predictions) if labels is None else labels.tolist()
    pairs, alone, sums = Counter[tuple[int, int]](), Counter[int](), [0.0] * 10
    for label, prediction, share in zip(known, predictions.tolist(), confidence.tolist(), strict=True):
        if label == NO_LABEL:
            alone[prediction] += 1
        else:
            pairs[label, prediction] += 1
            sums[label] += share
    assert tally.confusion.tolist() == [[pairs[row, column] for column in range(10)] for row in range(10)]
    assert tally.unlabelled.tolist() == [alone[digit] for digit in range(10)]
    assert tally.confidence_sum.tolist() == sums
    assert dtypes(tally) == ["int64", "int64", "float64"]
    assert tally.images == len(predictions)
    assert tally.labelled == len(known) - known.count(NO_LABEL)
    assert tally.correct == sum(number for (label, prediction), number in pairs.items() if label == prediction)


@settings(deadline=None)
@given(st.lists(predicted(max_rows=15), max_size=6), st.randoms(use_true_random=False))
def test_integers_merge_the_same_in_any_order(batches: list[Predicted], random: Any) -> None:
    tallies = [Tally.count(*batch) for batch in batches]
    shuffled = random.sample(tallies, len(tallies))
    in_order, any_order = (reduce(Tally.merge, parts, Tally.empty()) for parts in (tallies, shuffled))
    assert same_integers(in_order, any_order)
    assert in_order.confidence_sum == pytest.approx(any_order.confidence_sum, rel=1e-12)


@settings(deadline=None)
@given(predicted(), st.integers(1, 70))
def test_batches_add_up_to_the_total(batch: Predicted, size: int) -> None:
    labels, predictions, confidence = batch
    parts = [
        Tally.count(None if labels is None else labels[a:b], predictions[a:b], confidence[a:b])
        for a, b in ((piece.start, piece.stop) for piece in cut(len(predictions), size))
    ]
    whole, merged = Tally.count(*batch), sum(parts, Tally.empty())
    assert same_integers(whole, merged)
    assert whole.confidence_sum == pytest.approx(merged.confidence_sum, rel=1e-12)


@settings(deadline=None)
@given(predicted(), predicted())
def test_merging_changes_neither_side_and_empty_changes_nothing(a: Predicted, b: Predicted) -> None:
    left, right = Tally.count(*a), Tally.count(*b)
    assert same_integers(left.merge(right), left + right)
    assert same(left, Tally.count(*a))
    assert same(right, Tally.count(*b))
    assert same(left + Tally.empty(), left)
    assert same(Tally.empty() + left, left)


@settings(deadline=None)
@given(predicted(), predicted())
def test_json_brings_back_every_bit(a: Predicted, b: Predicted) -> None:
    tally = Tally.count(*a) + Tally.count(*b)
    back = Tally.from_json(json.loads(json.dumps(tally.to_json(), allow_nan=False)))
    assert same(tally, back)
    assert dtypes(back) == ["int64", "int64", "float64"]


@pytest.mark.parametrize("labels", [None, []])
def test_a_batch_without_images_is_the_empty_tally(labels: list[int] | None) -> None:
    tally = count(labels, [])
    assert same(tally, Tally.empty())
    assert dtypes(tally) == dtypes(Tally.empty()) == ["int64", "int64", "float64"]


def test_sums_are_made_in_float64() -> None:
    # In float32 a sum of ones stands still at 2**24, and of tenths long before.
    rows = 200_000
    tally = Tally.count(np.zeros(rows, np.int8), np.zeros(rows, np.int8), np.full(rows, 0.1, np.float32))
    assert tally.confidence_sum[0] == pytest.approx(rows * float(np.float32(0.1)), rel=1e-9)


def test_every_field_of_a_score() -> None:
    # Six images labelled 3: four right, one 5, one 8. One 5 taken for a 3. One unlabelled image taken for a 3.
    tally = count([3, 3, 3, 3, 3, 3, 5], [3, 3, 3, 3, 8, 5, 3], confidence=0.75) + count(None, [3])
    interval = binomtest(4, 6).proportion_ci(0.95, method="wilson")
    score = tally.scores()[3]
    assert (score.accuracy_low, score.accuracy_high) == pytest.approx((interval.low, interval.high))
    assert score == DigitScore(
        digit=3,
        images=6,
        predicted=6,
        correct=4,
        accuracy=4 / 6,
        accuracy_low=score.accuracy_low,
        accuracy_high=score.accuracy_high,
        precision=4 / 5,
        f1=8 / 11,
        mean_confidence=0.75,
        top_wrong_prediction=5,
        top_wrong_count=1,
    )
    assert (tally.images, tally.labelled, tally.correct, tally.accuracy) == (8, 7, 4, 4 / 7)


def test_there_is_a_score_for_each_digit_in_order() -> None:
    assert [score.digit for score in count([9], [9]).scores()] == list(range(10))


def test_a_digit_without_images_scores_none_and_never_zero_or_nan() -> None:
    assert count([3], [3]).scores()[7] == DigitScore(
        digit=7,
        images=0,
        predicted=0,
        correct=0,
        accuracy=None,
        accuracy_low=None,
        accuracy_high=None,
        precision=None,
        f1=None,
        mean_confidence=None,
        top_wrong_prediction=None,
        top_wrong_count=0,
    )


def test_an_unlabelled_set_has_predictions_and_no_scores() -> None:
    tally = count(None, [4, 4, 1])
    assert (tally.images, tally.labelled, tally.correct, tally.accuracy) == (3, 0, 0, None)
    assert [score.predicted for score in tally.scores()] == [0, 1, 0, 0, 2, 0, 0, 0, 0, 0]
    for score in tally.scores():
        assert (score.accuracy, score.accuracy_low, score.accuracy_high, score.mean_confidence) == (None,) * 4
        assert (score.precision, score.f1, score.top_wrong_prediction) == (None,) * 3


def test_no_images_have_no_accuracy() -> None:
    assert Tally.empty().accuracy is None
    assert Tally.empty().images == 0


def test_precision_is_none_only_if_the_digit_was_never_predicted() -> None:
    scores = count([1, 1, 2], [2, 3, 2]).scores()
    assert (scores[1].precision, scores[1].f1) == (None, 0.0)
    assert (scores[2].precision, scores[2].f1) == (0.5, 2 / 3)
    assert (scores[3].precision, scores[3].f1, scores[3].accuracy) == (0.0, 0.0, None)


def test_the_most_common_mistake_is_named_and_equals_go_to_the_lowest_digit() -> None:
    scores = count([4] * 6 + [5] * 3, [9, 9, 4, 4, 4, 1, 8, 2, 5]).scores()
    assert (scores[4].top_wrong_prediction, scores[4].top_wrong_count) == (9, 2)
    assert (scores[5].top_wrong_prediction, scores[5].top_wrong_count) == (2, 1)


def test_a_digit_without_mistakes_has_no_most_common_one() -> None:
    score = count([4, 4], [4, 4]).scores()[4]
    assert (score.top_wrong_prediction, score.top_wrong_count) == (None, 0)
    assert score.accuracy_high == 1.0


@settings(deadline=None)
@given(predicted(), predicted())
def test_scores_add_up_to_the_totals(a: Predicted, b: Predicted) -> None:
    tally = Tally.count(*a) + Tally.count(*b)
    scores = tally.scores()
    assert sum(score.images for score in scores) == tally.labelled
    assert sum(score.predicted for score in scores) == tally.images
    assert sum(score.correct for score in scores) == tally.correct
    assert all((score.accuracy is None) == (score.images == 0) for score in scores)
    for score in scores:
        if score.accuracy is not None and score.accuracy_low is not None and score.accuracy_high is not None:
            assert score.accuracy_low <= score.accuracy <= score.accuracy_high


@pytest.mark.parametrize("labels", [[1], [1, 2, 3], []])
def test_labels_and_predictions_of_different_number_are_refused(labels: list[int]) -> None:
    with pytest.raises(LabelError, match=rf"expected one per image, shape \(2,\), got \({len(labels)},?\)"):
        count(labels, [1, 2])


@pytest.mark.parametrize(("labels", "bounds"), [([0, 10], r"0\.\.10"), ([-2, 3], r"-2\.\.3")])
def test_labels_that_are_no_digits_are_refused(labels: list[int], bounds: str) -> None:
    with pytest.raises(LabelError, match=f"labels: expected digits 0-9, got {bounds}; correct the labels"):
        count(labels, [1, 2])


@pytest.mark.parametrize("prediction", [-1, 10])
def test_predictions_that_are_no_digits_are_our_own_bug(prediction: int) -> None:
    with pytest.raises(AssertionError, match="predictions are not digits 0-9"):
        count([1], [prediction])


def test_confidence_of_another_length_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match=r"\(2,\) predictions, \(3,\) confidence"):
        Tally.count(None, np.zeros(2, np.int8), np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabelled": [0] * 9}, r"unlabelled: expected numbers of shape \(10,\), got int64 \(9,\)"),
        ({"unlabelled": [0.5] * 10}, r"unlabelled: expected counts, got float64 from 0.5"),
        ({"unlabelled": [0] * 9 + [-1]}, r"unlabelled: expected counts, got int64 from -1"),
        ({"unlabelled": None}, r"unlabelled: expected numbers of shape \(10,\), got object \(\)"),
        ({"unlabelled": [True] * 10}, r"unlabelled: expected numbers of shape \(10,\), got bool \(10,\)"),
        ({"confusion": [[0] * 10] * 9}, r"confusion: expected numbers of shape \(10, 10\), got int64 \(9, 10\)"),
        (
            {"confusion": [[0] * 10, [0]]},
            r"confusion: expected numbers of shape \(10, 10\), got rows of unequal length",
        ),
        ({"confidence_sum": ["0"] * 10}, r"confidence_sum: expected numbers of shape \(10,\), got <U1 \(10,\)"),
        ({"extra": 1, "more": 2}, r"unexpected extra; unexpected more"),
    ],
)
def test_json_of_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"tally: {message}"):
        Tally.from_json(Tally.empty().to_json() | change)


def test_missing_fields_are_all_listed() -> None:
    with pytest.raises(ValueError, match="tally: missing confidence_sum; missing unlabelled"):
        Tally.from_json({"confusion": []})


@pytest.mark.parametrize(("labelled", "said"), [(0, False), (1, True), (11, True), (12, False)])
def test_of_how_many_images_an_accuracy_is_is_said_where_only_some_have_a_label(labelled: int, said: bool) -> None:
    assert bool(partly_labelled(labelled, 12)) == said
