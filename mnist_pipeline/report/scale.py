"""Scales with round ends and ticks, for drawings of any kind; waits for no plotting library."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, log10

NICE_STEPS = (1.0, 2.0, 5.0, 10.0)
SMALLEST_STEP = 1e-5  # of a scale of shares: 0.001 %


@dataclass(frozen=True)
class Scale:
    """A range of values with round ends and round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Iterable[float], lower: float = -1.0, upper: float = 1.0, steps: int = 4) -> "Scale":
        """The smallest range around `values` within `lower`..`upper`; all of it without values."""
        found = list(values) or [lower, upper]
        rough = max((max(found) - min(found)) / steps, SMALLEST_STEP)
        power = 10.0 ** floor(log10(rough))
        step = power * next(nice for nice in NICE_STEPS if nice * power >= rough * (1 - 1e-9))
        first, last = floor(min(found) / step + 1e-9), ceil(max(found) / step - 1e-9)
        if first == last:  # widen it, within the limits
            first, last = (first - 1, last) if (last + 1) * step > upper else (first, last + 1)
        ticks = tuple(
            tick for position in range(first, last + 1) if lower <= (tick := round(position * step, 9)) <= upper
        )
        return cls(max(lower, round(first * step, 9)), min(upper, round(last * step, 9)), ticks)

    def at(self, value: float) -> float:
        """The relative position of a value in the range, 0..1."""
        return (value - self.low) / (self.high - self.low)
