import json
from fractions import Fraction
from functools import reduce
from math import log, sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from mnist_pipeline.core.calibration import (
    BINS,
    SMALLEST_PROBABILITY,
    Calibration,
    CalibrationScores,
    Mean,
    ReliabilityBin,
)
from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.core.network import choose
from mnist_pipeline.core.plan import cut

INTEGERS = ("top2_correct", "bin_images", "bin_correct")
SUMS = ("nll_sum", "nll_square_sum", "brier_sum", "brier_square_sum", "bin_confidence_sum")

Batch = tuple[NDArray[np.int8], NDArray[np.float32]]


def count(labels: NDArray[np.int8] | None, probabilities: NDArray[np.float32]) -> Calibration:
    """As the pipeline counts: prediction and confidence are what `choose` makes of the probabilities."""
    return Calibration.count(labels, *choose(probabilities), probabilities)


@st.composite
def batches(draw: st.DrawFn, max_rows: int = 40) -> Batch:
    """Labels, and columns of probabilities with many ties, zeros and ones."""
    rows = draw(st.integers(0, max_rows))
    weight = st.sampled_from([0, 0, 0, 1, 1, 2, 5, 40, 1000, 10**6])
    columns = draw(st.lists(st.lists(weight, min_size=10, max_size=10), min_size=rows, max_size=rows))
    weights = np.array(columns, np.float32).reshape(rows, 10).T
    weights[:, weights.sum(axis=0) == 0] = 1
    labels = np.array(draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows)), np.int8)
    return labels, np.ascontiguousarray(weights / weights.sum(axis=0))


def one(label: int, probabilities: list[float]) -> Calibration:
    return count(np.array([label], np.int8), np.array(probabilities, np.float32)[:, None])


def of_bins(images: dict[int, int], correct: dict[int, int], confidence: dict[int, float]) -> Calibration:
    """A calibration with the given bins; `confidence` is the mean of each."""
    document = Calibration.empty().to_json()
    for place, number in images.items():
        document["bin_images"][place] = number
        document["bin_correct"][place] = correct[place]
        document["bin_confidence_sum"][place] = number * confidence[place]
    return Calibration.from_json(document)


def naive_bin(confidence: np.float32) -> int:
    """By exact fractions: the bin whose upper end is the first that is not below the confidence."""
    return next(place for place in range(BINS) if Fraction(float(confidence)) <= Fraction(place + 1, BINS))


def naive_top2(label: int, column: list[float]) -> bool:
    best_first = sorted(range(10), key=lambda digit: (-column[digit], digit))
    return label in best_first[:2]


@given(batches())
def test_sums_are_those_of_counting_image_by_image(batch: Batch) -> None:
    labels, probabilities = batch
    predictions, confidence = choose(probabilities)
    nll, brier, top2 = [], [], 0
    images, correct, confidence_sum = [0] * BINS, [0] * BINS, [0.0] * BINS
    for row, label in enumerate(labels.tolist()):
        column = [float(probability) for probability in probabilities[:, row]]
        nll.append(-log(max(column[label], SMALLEST_PROBABILITY)))
        brier.append(sum((share - (digit == label)) ** 2 for digit, share in enumerate(column)))
        top2 += naive_top2(label, column)
        place = naive_bin(confidence[row])
        images[place] += 1
        correct[place] += label == predictions[row]
        confidence_sum[place] += float(confidence[row])
    counted = count(labels, probabilities)
    assert counted.top2_correct == top2
    assert counted.bin_images.tolist() == images
    assert counted.bin_correct.tolist() == correct
    assert counted.bin_confidence_sum == pytest.approx(confidence_sum, rel=1e-12)
    assert counted.nll_sum == pytest.approx(sum(nll), rel=1e-12)
    assert counted.nll_square_sum == pytest.approx(sum(value * value for value in nll), rel=1e-12)
    assert counted.brier_sum == pytest.approx(sum(brier), rel=1e-12, abs=1e-12)
    assert counted.brier_square_sum == pytest.approx(sum(value * value for value in brier), rel=1e-12, abs=1e-12)
    assert counted.images == len(labels)


@given(batches())
def test_means_have_the_textbook_standard_error(batch: Batch) -> None:
    labels, probabilities = batch
    counted = count(labels, probabilities)
    if not len(labels):
        assert (counted.nll, counted.brier, counted.scores()) == (None, None, None)
        return
    of_label = probabilities[labels, np.arange(len(labels))].astype(float)
    nll = -np.log(np.maximum(of_label, SMALLEST_PROBABILITY))
    truth = np.arange(10)[:, None] == labels
    brier = ((probabilities.astype(float) - truth) ** 2).sum(axis=0)
    for mean, values in ((counted.nll, nll), (counted.brier, brier)):
        assert mean is not None
        assert mean.value == pytest.approx(values.mean(), rel=1e-12, abs=1e-12)
        # Two nearly equal numbers are subtracted: the last bits of their squares are left.
        assert mean.standard_error**2 == pytest.approx(values.var() / len(values), rel=1e-9, abs=1e-12)
    scores = counted.scores()
    assert scores is not None
    assert 0 <= scores.brier <= 2 + 1e-6
    assert scores.nll >= 0


@given(batches())
def test_ece_is_that_of_the_textbook(batch: Batch) -> None:
    labels, probabilities = batch
    predictions, confidence = choose(probabilities)
    places = np.array([naive_bin(share) for share in confidence], int)
    ece = 0.0
    for place in range(BINS):
        inside = places == place
        if inside.any():
            gap = (predictions[inside] == labels[inside]).mean() - confidence[inside].astype(float).mean()
            ece += inside.mean() * abs(gap)
    scores = count(labels, probabilities).scores()
    assert scores is None if not len(labels) else scores is not None and scores.ece == pytest.approx(ece, abs=1e-12)


@given(batches(), st.integers(1, 45))
def test_batches_add_up_to_the_total(batch: Batch, size: int) -> None:
    labels, probabilities = batch
    checkpoints = [(piece.start, piece.stop) for piece in cut(len(labels), size)]
    parts = [count(labels[start:stop], probabilities[:, start:stop]) for start, stop in checkpoints]
    whole, merged = count(labels, probabilities), reduce(Calibration.merge, parts, Calibration.empty())
    for name in INTEGERS:
        assert np.array_equal(getattr(whole, name), getattr(merged, name))
    for name in SUMS:
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-12, abs=1e-12)


@given(batches(), batches())
def test_json_brings_back_every_bit(first: Batch, second: Batch) -> None:
    counted = count(*first) + count(*second)
    back = Calibration.from_json(json.loads(json.dumps(counted.to_json(), allow_nan=False)))
    for name in (*INTEGERS, *SUMS):
        a, b = np.asarray(getattr(counted, name)), getattr(back, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    assert back.scores() == counted.scores()


def test_without_labels_nothing_is_counted() -> None:
    counted = count(None, np.full((10, 4), 0.1, np.float32))
    assert counted.to_json() == Calibration.empty().to_json()
    assert (counted.images, counted.scores()) == (0, None)


@pytest.mark.parametrize("size", [0, 1, 7, 12])
def test_images_without_a_label_count_as_if_they_were_not_there(size: int) -> None:
    random = np.random.default_rng(size)
    probabilities = random.dirichlet(np.ones(10), 12).T.astype(np.float32)
    labels = random.integers(0, 10, 12).astype(np.int8)
    known = np.sort(random.permutation(12)[:size])
    some = np.full(12, NO_LABEL, np.int8)
    some[known] = labels[known]
    assert count(some, probabilities).to_json() == count(labels[known], probabilities[:, known]).to_json()


@pytest.mark.parametrize("labels", [None, np.zeros(0, np.int8)])
def test_a_batch_without_images_is_the_empty_calibration(labels: NDArray[np.int8] | None) -> None:
    nothing = np.zeros((10, 0), np.float32)
    counted = Calibration.count(labels, np.zeros(0, np.int8), np.zeros(0, np.float32), nothing)
    assert counted.to_json() == Calibration.empty().to_json()
    for name in (*INTEGERS, *SUMS):
        assert np.asarray(getattr(counted, name)).dtype == (np.int64 if name in INTEGERS else np.float64)


def test_a_certain_and_right_network_scores_perfectly() -> None:
    scores = one(3, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]).scores()
    assert scores == CalibrationScores(
        top2_accuracy=1.0, nll=0.0, nll_error=0.0, brier=0.0, brier_error=0.0, ece=0.0, ece_noise=0.0
    )


def test_a_certain_and_wrong_network_has_the_worst_brier_score_and_a_finite_nll() -> None:
    scores = one(4, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]).scores()
    assert scores is not None
    assert (scores.brier, scores.ece, scores.top2_accuracy) == (2.0, 1.0, 0.0)
    assert scores.nll == pytest.approx(87.34, abs=0.01)  # -ln of the smallest normal float32


def test_a_network_that_knows_nothing_scores_ln_10_and_nine_tenths() -> None:
    scores = count(np.arange(10, dtype=np.int8), np.full((10, 10), 0.1, np.float32)).scores()
    assert scores is not None
    assert (scores.nll, scores.brier, scores.ece) == pytest.approx((log(10), 0.9, 0.0), abs=1e-6)
    assert scores.top2_accuracy == 0.2  # ten equals: the digits 0 and 1 come first
    assert (scores.nll_error, scores.brier_error) == pytest.approx((0.0, 0.0), abs=1e-6)


@pytest.mark.parametrize(
    ("label", "probabilities", "among_two"),
    [
        (0, [0.2, 0.3, 0.5, 0, 0, 0, 0, 0, 0, 0], False),
        (1, [0.2, 0.3, 0.5, 0, 0, 0, 0, 0, 0, 0], True),
        (2, [0.2, 0.3, 0.5, 0, 0, 0, 0, 0, 0, 0], True),
        # Equals for the second place: the lowest digit has it, as among predictions.
        (4, [0, 0, 0.5, 0, 0.25, 0, 0, 0.25, 0, 0], True),
        (7, [0, 0, 0.5, 0, 0.25, 0, 0, 0.25, 0, 0], False),
        # Equals for the first place take both places if they are two, the two lowest if they are more.
        (9, [0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5], True),
        (5, [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0, 0], True),
        (6, [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0, 0], False),
        # All else is impossible: the second place goes to the lowest of the impossible.
        (0, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], True),
        (1, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], False),
    ],
)
def test_ties_for_the_top_two_go_to_the_lowest_digit(label: int, probabilities: list[float], among_two: bool) -> None:
    assert one(label, probabilities).top2_correct == among_two


@given(st.integers(0, BINS), st.sampled_from([-1, 0, 1]))
@example(0, 0)
@example(BINS, 0)
def test_confidence_next_to_an_edge_falls_where_exact_fractions_put_it(edge: int, step: int) -> None:
    confidence = np.float32(edge / BINS)
    if step:
        confidence = np.nextafter(confidence, np.float32(2 * step))
    confidence = np.clip(confidence, np.float32(0), np.float32(1))
    probabilities = np.zeros((10, 1), np.float32)
    counted = Calibration.count(
        np.zeros(1, np.int8), np.zeros(1, np.int8), np.array([confidence], np.float32), probabilities
    )
    assert int(counted.bin_images.argmax()) == naive_bin(confidence)


@pytest.mark.parametrize("edge", range(1, BINS + 1))
def test_confidence_exactly_on_an_edge_belongs_to_the_lower_bin(edge: int) -> None:
    # Only 1 is exact in float32; the other edges are rounded in float64, and have to come out exact again.
    confidence = np.array([edge / BINS], np.float64)
    counted = Calibration.count(
        np.zeros(1, np.int8),
        np.zeros(1, np.int8),
        confidence,  # type: ignore[arg-type]
        np.zeros((10, 1), np.float32),
    )
    assert counted.bin_images.tolist() == [int(place == edge - 1) for place in range(BINS)]


@pytest.mark.parametrize(("confidence", "place"), [(0.0, 0), (1e-45, 0), (1.0, BINS - 1), (1.0000002, BINS - 1)])
def test_no_confidence_falls_outside_the_bins(confidence: float, place: int) -> None:
    counted = Calibration.count(
        np.zeros(1, np.int8), np.zeros(1, np.int8), np.array([confidence], np.float32), np.zeros((10, 1), np.float32)
    )
    assert counted.bin_images.tolist() == [int(index == place) for index in range(BINS)]


def test_every_field_of_a_bin() -> None:
    counted = of_bins({12: 40}, {12: 31}, {12: 0.85})
    interval = binomtest(31, 40).proportion_ci(0.95, method="wilson")
    bins = counted.bins()
    found = bins[12]
    assert (found.accuracy_low, found.accuracy_high) == pytest.approx((interval.low, interval.high))
    assert found == ReliabilityBin(
        bin=12,
        low=12 / 15,
        high=13 / 15,
        images=40,
        correct=31,
        mean_confidence=0.85,
        accuracy=31 / 40,
        accuracy_low=found.accuracy_low,
        accuracy_high=found.accuracy_high,
    )


def test_all_bins_are_listed_and_empty_ones_know_nothing() -> None:
    bins = Calibration.empty().bins()
    assert [item.bin for item in bins] == list(range(BINS))
    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)
    assert [item.high for item in bins[:-1]] == [item.low for item in bins[1:]]
    for item in bins:
        assert (item.images, item.correct) == (0, 0)
        assert (item.mean_confidence, item.accuracy, item.accuracy_low, item.accuracy_high) == (None,) * 4


@pytest.mark.parametrize("trials", [1, 2, 3, 10, 99, 1000, 9586])
@pytest.mark.parametrize("chance", [1e-9, 0.001, 1 / 3, 0.5, 0.9, 0.9976, 1 - 1e-9])
def test_ece_noise_of_one_bin_is_the_mean_deviation_of_a_binomial_count(trials: int, chance: float) -> None:
    scores = of_bins({7: trials}, {7: 0}, {7: chance}).scores()
    outcomes = np.arange(trials + 1)
    deviation = float(np.sum(binom.pmf(outcomes, trials, chance) * np.abs(outcomes - trials * chance)))
    assert scores is not None
    assert scores.ece_noise == pytest.approx(deviation / trials, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("chance", [0.0, 1.0, float(np.nextafter(1.0, 0.0)), 5e-324, 1.0000001])
@pytest.mark.parametrize("trials", [1, 3, 10_000])
def test_ece_noise_of_a_certain_bin_is_nothing(trials: int, chance: float) -> None:
    scores = of_bins({14: trials}, {14: trials}, {14: chance}).scores()
    assert scores is not None
    assert scores.ece_noise == pytest.approx(0.0, abs=1e-12)
    assert scores.ece_noise >= 0


def test_ece_noise_is_the_mean_ece_of_simulated_runs_whose_confidence_is_right() -> None:
    images = {4: 30, 9: 80, 12: 200, 14: 5000}
    confidence = {4: 0.3, 9: 0.62, 12: 0.84, 14: 0.99}
    rng = np.random.default_rng(20260131)
    simulated = []
    for _ in range(2000):
        correct = {place: int(rng.binomial(images[place], confidence[place])) for place in images}
        scores = of_bins(images, correct, confidence).scores()
        assert scores is not None
        simulated.append(scores.ece)
    assert scores is not None
    # Four standard errors of the mean: once in 16,000 seeds.
    assert scores.ece_noise == pytest.approx(np.mean(simulated), abs=4 * float(np.std(simulated)) / sqrt(2000))


def test_sums_are_made_in_float64() -> None:
    # In float32 a sum of ones stands still at 2**24, and of tenths long before.
    rows = 200_000
    counted = count(np.zeros(rows, np.int8), np.full((10, rows), 0.1, np.float32))
    tenth = float(np.float32(0.1))
    assert counted.nll_sum == pytest.approx(-rows * log(tenth), rel=1e-12)
    assert counted.brier_sum == pytest.approx(rows * (9 * tenth**2 + (1 - tenth) ** 2), rel=1e-12)
    assert counted.bin_confidence_sum.sum() == pytest.approx(rows * tenth, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.998])
def test_the_interval_of_a_mean_is_so_many_standard_errors_wide(confidence: float) -> None:
    interval = Mean(0.25, 0.125).interval(confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    assert (interval.low, interval.high) == pytest.approx((0.25 - z * 0.125, 0.25 + z * 0.125))


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_the_interval_of_a_mean_refuses_an_impossible_confidence(confidence: float) -> None:
    with pytest.raises(ValueError, match=f"expected a confidence between 0 and 1, such as 0.95, got {confidence}"):
        Mean(0.25, 0.125).interval(confidence)


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_promised() -> None:
    rng = np.random.default_rng(7)
    nights, images, truth = 4000, 2000, 0.2
    values = rng.exponential(truth, (nights, images))
    means, square_means = values.mean(axis=1), (values**2).mean(axis=1)
    errors = np.sqrt((square_means - means**2) / images)
    intervals = [Mean(float(m), float(e)).interval(0.95) for m, e in zip(means, errors, strict=True)]
    held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert held == pytest.approx(0.95, abs=4 * sqrt(0.95 * 0.05 / nights))
