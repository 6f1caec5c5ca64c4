from collections.abc import Callable
from itertools import product
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm

from mnist_pipeline.core.intervals import (
    Interval,
    chance_note,
    clopper_pearson,
    newcombe,
    normal_quantile,
    tango,
    wilson,
)

GRID = [
    (successes, trials, confidence)
    for trials, confidence in product((1, 2, 3, 10, 37, 980, 1135, 10_000), (0.5, 0.9, 0.95, 0.99))
    for successes in sorted({0, 1, trials // 3, trials // 2, trials - 1, trials})
]


@pytest.mark.parametrize(("successes", "trials", "confidence"), GRID)
def test_scipy_and_statsmodels_get_the_same_interval(successes: int, trials: int, confidence: float) -> None:
    from statsmodels.stats.proportion import proportion_confint  # here: every process of the tests imports this file

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


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


@pytest.mark.parametrize(("successes", "trials", "confidence"), [*GRID, (9880, 10_000, 0.998), (9352, 10_000, 0.9999)])
def test_scipy_and_statsmodels_get_the_same_exact_interval(successes: int, trials: int, confidence: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    interval = ends(clopper_pearson(successes, trials, confidence))
    scipys = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert interval == pytest.approx((scipys.low, scipys.high), rel=1e-9, abs=1e-12)
    assert interval == pytest.approx(
        proportion_confint(successes, trials, alpha=1 - confidence, method="beta"), rel=1e-9, abs=1e-12
    )


@settings(deadline=None)
@given(st.data(), st.integers(1, 5000), st.floats(0.5, 0.9999))
def test_the_exact_interval_leaves_either_tail_its_share(data: st.DataObject, trials: int, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = ends(clopper_pearson(successes, trials, confidence))
    tail = (1 - confidence) / 2
    assert 0 <= low <= successes / trials <= high <= 1
    assert low == 0 if successes == 0 else binom.sf(successes - 1, trials, low) == pytest.approx(tail, rel=1e-6)
    assert high == 1 if successes == trials else binom.cdf(successes, trials, high) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("chance", [0.5, 0.94, 0.988, 0.999])
def test_the_exact_interval_never_promises_more_than_it_holds(chance: float) -> None:
    trials, confidence = 400, 0.95
    missed_low = missed_high = 0.0
    for successes in range(trials + 1):
        low, high = ends(clopper_pearson(successes, trials, confidence))
        weight = float(binom.pmf(successes, trials, chance))
        missed_low += weight * (chance < low)
        missed_high += weight * (chance > high)
    assert missed_low <= 0.025
    assert missed_high <= 0.025


def chance_lost(lost: int, gained: int, pairs: int, difference: float) -> float:
    """The most likely chance of losing an image, given the difference: found by looking, not by formula."""

    def unlikelihood(chance: float) -> float:
        chances = (chance, chance + difference, 1 - 2 * chance - difference)
        counted = (lost, gained, pairs - lost - gained)
        if any(share <= 0 < number for share, number in zip(chances, counted, strict=True)):
            return float("inf")
        return -sum(number * log(share) for share, number in zip(chances, counted, strict=True) if number)

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(unlikelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
    return min((low, high, float(found.x)), key=unlikelihood)


def searched(lost: int, gained: int, pairs: int, confidence: float) -> tuple[float, float]:
    """The differences that the score test does not refuse, by numeric likelihood and root finding."""
    z = float(norm.ppf((1 + confidence) / 2))
    estimate = (gained - lost) / pairs

    def score(difference: float) -> float:
        lose = chance_lost(lost, gained, pairs, difference)
        variance = (2 * lose + difference - difference * difference) / pairs
        return (estimate - difference) / sqrt(variance)

    inside = 1e-9
    return (
        float(brentq(lambda d: score(d) - z, -1 + inside, estimate - inside, xtol=1e-12)),
        float(brentq(lambda d: score(d) + z, estimate + inside, 1 - inside, xtol=1e-12)),
    )


@pytest.mark.parametrize(
    ("lost", "gained", "pairs"),
    [
        (0, 0, 1), (0, 0, 40), (1, 0, 40), (0, 1, 40), (5, 9, 40), (20, 20, 40), (12, 3, 50), (30, 2, 900),
        (0, 9, 1000), (9, 0, 1000), (30, 30, 10_000), (120, 20, 10_000), (25, 70, 10_000), (300, 200, 100_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.998])
def test_the_paired_interval_is_that_of_a_searched_likelihood(
    lost: int, gained: int, pairs: int, confidence: float
) -> None:
    assert ends(tango(lost, gained, pairs, confidence)) == pytest.approx(
        searched(lost, gained, pairs, confidence), abs=2e-7
    )


@settings(deadline=None)
@given(st.integers(1, 10**8), st.floats(0.01, 0.9999))
def test_where_nothing_changed_the_paired_interval_keeps_a_width(pairs: int, confidence: float) -> None:
    z = normal_quantile(confidence)
    end = z * z / (pairs + z * z)
    assert ends(tango(0, 0, pairs, confidence)) == pytest.approx((-end, end), rel=1e-9)


@st.composite
def pairs_of(draw: st.DrawFn, most: int = 20_000) -> tuple[int, int, int]:
    pairs = draw(st.integers(1, most))
    lost = draw(st.integers(0, pairs))
    return lost, draw(st.integers(0, pairs - lost)), pairs


@settings(deadline=None)
@given(pairs_of(), st.floats(0.1, 0.999))
def test_the_paired_interval_mirrors_when_lost_and_gained_swap(counts: tuple[int, int, int], confidence: float) -> None:
    lost, gained, pairs = counts
    low, high = ends(tango(lost, gained, pairs, confidence))
    mirrored = ends(tango(gained, lost, pairs, confidence))
    assert -1 <= low <= (gained - lost) / pairs <= high <= 1
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-9)


@st.composite
def two_samples(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    before, now = draw(st.integers(1, 20_000)), draw(st.integers(1, 20_000))
    return (draw(st.integers(0, before)), before), (draw(st.integers(0, now)), now)


@settings(deadline=None)
@given(two_samples(), st.floats(0.1, 0.999))
def test_the_unpaired_interval_mirrors_when_before_and_now_swap(
    samples: tuple[tuple[int, int], tuple[int, int]], confidence: float
) -> None:
    before, now = samples
    low, high = ends(newcombe(before, now, confidence))
    mirrored = ends(newcombe(now, before, confidence))
    difference = now[0] / now[1] - before[0] / before[1]
    assert -1 - 1e-12 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1 + 1e-12
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-12)


@settings(deadline=None)
@given(pairs_of(), two_samples(), st.floats(0.1, 0.999), st.floats(0.1, 0.999))
def test_more_confidence_never_narrows_an_interval(
    counts: tuple[int, int, int], samples: tuple[tuple[int, int], tuple[int, int]], one: float, other: float
) -> None:
    less, more = sorted((one, other))
    methods: list[Callable[[float], Interval | None]] = [
        lambda confidence: tango(*counts, confidence),
        lambda confidence: newcombe(*samples, confidence),
        lambda confidence: clopper_pearson(*samples[0], confidence),
        lambda confidence: wilson(*samples[0], confidence),
    ]
    for method in methods:
        (inner_low, inner_high), (outer_low, outer_high) = ends(method(less)), ends(method(more))
        assert outer_low <= inner_low + 1e-12
        assert inner_high <= outer_high + 1e-12


@settings(deadline=None)
@given(st.data(), st.integers(2, 3000))
def test_one_more_image_lost_moves_the_paired_interval_down(data: st.DataObject, pairs: int) -> None:
    # Found by halving, which asks for one crossing only: no interval may jump.
    lost = data.draw(st.integers(0, pairs - 1))
    gained = data.draw(st.integers(0, pairs - 1 - lost))
    fewer, more = ends(tango(lost, gained, pairs)), ends(tango(lost + 1, gained, pairs))
    assert more[0] < fewer[0]
    assert more[1] <= fewer[1] + 1e-12


@pytest.mark.parametrize(
    ("chance_lost", "chance_gained", "pairs"),
    [(0.003, 0.003, 10_000), (0.012, 0.002, 10_000), (0.003, 0.003, 1000), (0.02, 0.01, 1000)],
)
@pytest.mark.parametrize("confidence", [0.95, 0.998])
def test_the_paired_interval_holds_the_truth_as_often_as_promised(
    chance_lost: float, chance_gained: float, pairs: int, confidence: float
) -> None:
    nights = 3000
    drawn = np.random.default_rng(20260131).multinomial(
        pairs, [chance_lost, chance_gained, 1 - chance_lost - chance_gained], size=nights
    )
    truth, held, known = chance_gained - chance_lost, 0, dict[tuple[int, int], tuple[float, float]]()
    for lost, gained, _ in drawn.tolist():
        if (lost, gained) not in known:
            known[lost, gained] = ends(tango(lost, gained, pairs, confidence))
        low, high = known[lost, gained]
        held += low <= truth <= high
    # Four standard errors for the seed, and half a tail for the method: counts are whole numbers.
    missed, promised = 1 - held / nights, 1 - confidence
    assert abs(missed - promised) <= 4 * sqrt(promised * confidence / nights) + promised / 2


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.998])
@pytest.mark.parametrize("now", [(9, 10), (0, 7), (7, 7), (9880, 10_000)])
@pytest.mark.parametrize("before", [(8, 10), (0, 3), (3, 3), (985, 1009), (9884, 10_000)])
def test_statsmodels_gets_the_same_unpaired_interval(
    before: tuple[int, int], now: tuple[int, int], confidence: float
) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    statsmodels = confint_proportions_2indep(*now, *before, method="newcomb", compare="diff", alpha=1 - confidence)
    assert ends(newcombe(before, now, confidence)) == pytest.approx(statsmodels, abs=1e-12)


@pytest.mark.parametrize(
    ("now", "before", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_unpaired_interval_is_the_published_one(
    now: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    assert ends(newcombe(before, now)) == pytest.approx((low, high), abs=5e-5)


def test_differences_have_95_percent_confidence_by_default() -> None:
    assert tango(3, 1, 50) == tango(3, 1, 50, 0.95)
    assert newcombe((8, 10), (9, 10)) == newcombe((8, 10), (9, 10), 0.95)


def test_without_images_no_method_knows_an_interval() -> None:
    assert clopper_pearson(0, 0, 0.95) is None
    assert tango(0, 0, 0) is None
    assert newcombe((0, 0), (1, 2)) is None
    assert newcombe((1, 2), (0, 0)) is None


@pytest.mark.parametrize(("successes", "trials"), [(-1, 10), (11, 10), (0, -1), (1, 0)])
def test_impossible_counts_are_refused_by_every_method(successes: int, trials: int) -> None:
    message = f"expected 0 <= successes <= trials, got successes={successes}, trials={trials}"
    with pytest.raises(ValueError, match=message):
        clopper_pearson(successes, trials, 0.95)
    with pytest.raises(ValueError, match=message):
        newcombe((successes, trials), (1, 2))
    with pytest.raises(ValueError, match=message):
        newcombe((1, 2), (successes, trials))


@pytest.mark.parametrize(("lost", "gained", "pairs"), [(-1, 2, 10), (2, -1, 10), (6, 5, 10), (0, 0, -1), (1, 0, 0)])
def test_impossible_pairs_are_refused(lost: int, gained: int, pairs: int) -> None:
    message = f"expected lost and gained from 0.*got lost={lost}, gained={gained}, pairs={pairs}"
    with pytest.raises(ValueError, match=message):
        tango(lost, gained, pairs)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5, float("nan")])
@pytest.mark.parametrize("trials", [0, 2])
def test_impossible_confidence_is_refused_by_every_method(confidence: float, trials: int) -> None:
    message = "expected a confidence between 0 and 1, such as 0.95, got"
    with pytest.raises(ValueError, match=message):
        clopper_pearson(0, trials, confidence)
    with pytest.raises(ValueError, match=message):
        tango(0, 0, trials, confidence)
    with pytest.raises(ValueError, match=message):
        newcombe((0, trials), (0, trials), confidence)
    with pytest.raises(ValueError, match=message):
        normal_quantile(confidence)


@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.95, 0.998, 0.999999])
def test_the_normal_quantile_is_that_of_scipy(confidence: float) -> None:
    assert normal_quantile(confidence) == pytest.approx(norm.ppf((1 + confidence) / 2), rel=1e-12)


CHANCES = [(0, 0, False), (20, 500, True), (60, 500, True), (64, 500, False), (2, 10, True), (1, 1, False)]


@pytest.mark.parametrize(("correct", "labelled", "chance"), CHANCES)
def test_an_accuracy_whose_interval_reaches_ten_percent_may_be_chance(
    correct: int, labelled: int, chance: bool
) -> None:
    assert bool(chance_note(correct, labelled)) is chance
