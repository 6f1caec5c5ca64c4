"""How far a proportion from few images can be trusted: the Wilson score interval."""

from dataclasses import dataclass
from math import sqrt

# The closed form is written out here because `import scipy.stats` takes 0.8 s, more than the evaluation of
# the whole test split. SciPy and statsmodels judge it in the tests.
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """A proportion lies between `low` and `high`, both in 0..1 and both included."""

    low: float
    high: float


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval | None:
    """Two-sided Wilson score interval, without continuity correction.

    Formula: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212. Unlike the textbook interval
    p +- z * sqrt(p * (1 - p) / n) it keeps a width when all trials succeed.

    Args:
        successes: how many trials succeeded, 0..`trials`.
        trials: how many there were.
        confidence: share of such intervals that hold the true proportion, between 0 and 1, neither included.

    Returns:
        The interval, or None without trials, when nothing is known.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, got successes={successes}, trials={trials}")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
    if trials == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    shrink = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / shrink
    half_width = z / shrink * sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    # At the extremes the ends are 0 and 1 exactly; rounding would leave them a last bit away, or outside.
    return Interval(
        low=0.0 if successes == 0 else max(0.0, centre - half_width),
        high=1.0 if successes == trials else min(1.0, centre + half_width),
    )
