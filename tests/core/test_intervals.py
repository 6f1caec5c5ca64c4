from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from mnist_pipeline.core.intervals import Interval, wilson

GRID = [
    (successes, trials, confidence)
    for trials, confidence in product((1, 2, 3, 10, 37, 980, 1135, 10_000), (0.5, 0.9, 0.95, 0.99))
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials})
]


@pytest.mark.parametrize(("successes", "trials", "confidence"), GRID)
def test_scipy_and_statsmodels_get_the_same_interval(successes: int, trials: int, confidence: float) -> None:
    interval = wilson(successes, trials, confidence)
    assert interval is not None
    scipys = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    statsmodels = proportion_confint(successes, trials, alpha=1 - confidence, method="wilson")
    assert (interval.low, interval.high) == pytest.approx((scipys.low, scipys.high), rel=1e-12, abs=1e-14)
    assert (interval.low, interval.high) == pytest.approx(statsmodels, rel=1e-12, abs=1e-14)


def test_the_default_confidence_is_95_percent() -> None:
    assert wilson(9, 10) == wilson(9, 10, 0.95)


def test_without_trials_there_is_no_interval() -> None:
    assert wilson(0, 0) is None


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(0.01, 0.999))
def test_ends_are_exact_when_none_or_all_succeed(trials: int, confidence: float) -> None:
    none, every = wilson(0, trials, confidence), wilson(trials, trials, confidence)
    assert none is not None
    assert every is not None
    assert none.low == 0.0 < none.high < 1
    assert 0 < every.low < 1.0 == every.high


@settings(deadline=None)
@given(st.data())
def test_interval_holds_the_observed_share_and_mirrors_when_success_and_failure_swap(data: st.DataObject) -> None:
    trials = data.draw(st.integers(1, 10**6))
    successes = data.draw(st.integers(0, trials))
    interval, mirrored = wilson(successes, trials), wilson(trials - successes, trials)
    assert interval is not None
    assert mirrored is not None
    assert 0 <= interval.low <= successes / trials <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (0, -1), (1, 0)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(
        ValueError, match=f"expected 0 <= successes <= trials, got successes={successes}, trials={trials}"
    ):
        wilson(successes, trials)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="expected a confidence between 0 and 1"):
        wilson(1, 2, confidence)


def test_interval_is_a_value() -> None:
    assert Interval(0.25, 0.5) == Interval(0.25, 0.5)
