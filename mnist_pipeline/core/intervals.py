"""Two-sided confidence intervals of a proportion and of the difference of two proportions."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

# The closed form is used because `import scipy.stats` takes 0.8 s, more than the evaluation of the test split. The
# tests compare it with SciPy and statsmodels.
from statistics import NormalDist

CHANCE = 0.1  # of the right digit by guessing
HALVINGS = 60  # of a range of at most 2: accurate to 2e-18


@dataclass(frozen=True)
class Interval:
    """The interval `low`..`high`, both included: within 0..1 for a proportion, -1..1 for a difference."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval | None:
    """Two-sided Wilson score interval, without continuity correction.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212. Unlike the textbook interval
    p +- z * sqrt(p * (1 - p) / n) it has a width even if all trials succeed.

    Args:
        successes: number of successful trials, 0..`trials`.
        trials: number of trials.
        confidence: share of such intervals that contain the true value, between 0 and 1, both excluded.

    Returns:
        The interval, or None without trials.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(successes, trials)
    z = normal_quantile(confidence)
    if trials == 0:
        return None
    share = successes / trials
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half_width = z / shrink * sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    # At the extremes the ends are exactly 0 and 1; rounding would leave them one bit off, or outside.
    return Interval(
        low=0.0 if successes == 0 else max(0.0, centre - half_width),
        high=1.0 if successes == trials else min(1.0, centre + half_width),
    )


def clopper_pearson(successes: int, trials: int, confidence: float) -> Interval | None:
    """Two-sided exact interval of a proportion: its coverage never falls below `confidence`, which gates need.

    Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of
    the binomial", Biometrika 26 (1934), 404-413; as quantiles of the beta distribution.

    Args:
        successes: number of successful trials, 0..`trials`.
        trials: number of trials.
        confidence: as for `wilson`.

    Returns:
        The interval, or None without trials.

    Raises:
        ValueError: an argument is out of its range.
    """
    from scipy.special import betaincinv

    _check(successes, trials)
    normal_quantile(confidence)
    if trials == 0:
        return None
    tail = (1 - confidence) / 2
    return Interval(
        low=float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0,
        high=float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0,
    )


def tango(lost: int, gained: int, pairs: int, confidence: float = 0.95) -> Interval | None:
    """Score interval of the difference of two proportions over the same images: (gained - lost) / pairs.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998), 891-908. It has a width even if nothing was
    lost or gained, and keeps its level with the few discordant pairs of two good networks.

    Args:
        lost: images that were right before and are wrong now.
        gained: images that were wrong before and are right now.
        pairs: all images, including unchanged ones.
        confidence: as for `wilson`.

    Returns:
        The interval, or None without pairs.

    Raises:
        ValueError: an argument is out of its range.
    """
    if min(lost, gained) < 0 or lost + gained > pairs:
        raise ValueError(
            f"expected lost and gained from 0, together at most pairs, got lost={lost}, gained={gained}, pairs={pairs}"
        )
    z = normal_quantile(confidence)
    if pairs == 0:
        return None

    def score(difference: float) -> float:
        """Falls as `difference` grows; it is z and -z at the ends of the interval."""
        spread = difference * (1 - difference)
        b = (2 * pairs + lost - gained) * difference - lost - gained
        chance_lost = (sqrt(max(0.0, b * b + 8 * pairs * lost * spread)) - b) / (4 * pairs)
        variance = pairs * (2 * chance_lost + spread)
        distance = gained - lost - pairs * difference
        return distance / sqrt(variance) if variance > 0 else float("inf") if distance > 0 else float("-inf")

    estimate = (gained - lost) / pairs
    return Interval(low=_crossing(score, z, -1.0, estimate), high=_crossing(score, -z, estimate, 1.0))


def newcombe(before: tuple[int, int], now: tuple[int, int], confidence: float = 0.95) -> Interval | None:
    """Hybrid score interval of the difference of two proportions over different images: now minus before.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics
    in Medicine 17 (1998), 873-890, method 10: the Wilson intervals of both, squared and added.

    Args:
        before: successes and trials.
        now: successes and trials.
        confidence: as for `wilson`.

    Returns:
        The interval, or None if either side has no trials.

    Raises:
        ValueError: an argument is out of its range.
    """
    old, new = wilson(*before, confidence), wilson(*now, confidence)
    if old is None or new is None:
        return None
    p, q = before[0] / before[1], now[0] / now[1]
    return Interval(
        low=q - p - sqrt((q - new.low) ** 2 + (old.high - p) ** 2),
        high=q - p + sqrt((new.high - q) ** 2 + (p - old.low) ** 2),
    )


def chance_note(correct: int, labelled: int) -> str:
    """What the first line of a result says of an accuracy that may be that of guessing one of ten digits; else nothing.

    It may be if its 95 % interval reaches down to 10 %.
    """
    interval = wilson(correct, labelled)
    return "perhaps no better than chance, 10 %" if interval and interval.low <= CHANCE else ""


def normal_quantile(confidence: float) -> float:
    """The number of standard errors to either side that cover this share of a normal distribution.

    Raises:
        ValueError: `confidence` is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def _check(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got successes={successes}, trials={trials}")


def _crossing(falling: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a falling function crosses `level`, by bisection of `low`..`high`."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > level else (low, middle)
    return (low + high) / 2
