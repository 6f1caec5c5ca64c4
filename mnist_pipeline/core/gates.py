"""Value types of gates: the bounds of a run, the references it is compared with, and the result of each gate.

It judges nothing; see `judgement.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from mnist_pipeline.core import DIGITS

if TYPE_CHECKING:
    from mnist_pipeline.core.comparison import Comparison

GateOutcome = Literal["pass", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive", "none"]  # of a verdict; none: no gate was judged
MAX_BOUND = 1e12  # of images, and of any other bound that is not a share
MIN_ALPHA = 1e-9
# Gates whose values are shown as percentages or points; other values are shown as they are.
SHARES = ("min_accuracy", "min_digit_accuracy")
LOSSES = ("max_loss", "max_digit_loss")
DIFFERENCES = (*LOSSES, "no_certain_loss")  # their values are accuracy now less accuracy before: a loss is below 0
WORST_FIRST: tuple[GateOutcome, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Gates:
    """The bounds of a run. None switches a gate off; a field's name is the gate's name in the tables too.

    Accuracies, losses and `alpha` are shares, 0..1.

    Raises:
        ValueError: a value is out of range, or a key of `digit_accuracy` is not a digit.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt key must not switch a gate off

    alpha: float = 0.001  # false alarm rate of each gate, one-sided
    min_images: int | None = None  # all images, with or without a label
    min_digit_images: int | None = None  # images labelled with each digit
    min_accuracy: float | None = None
    min_digit_accuracy: float | None = None
    digit_accuracy: Mapping[int, float] = field(default_factory=dict)  # by digit, overrides min_digit_accuracy
    max_loss: float | None = None  # of accuracy, against each reference
    max_digit_loss: float | None = None
    no_certain_loss: bool = False  # of accuracy, against each reference; needs no bound
    max_flips_unchanged: int | None = 0  # changed predictions with the same images and the same weights
    same_images: bool = False  # images and labels must be those of the references
    max_nll: float | None = None  # mean negative log likelihood, nats
    max_brier: float | None = None  # mean Brier score, 0..2
    inconclusive: Literal["warn", "fail"] = "warn"  # what an inconclusive verdict does

    def __post_init__(self) -> None:
        given = {name: value for name in (*SHARES, *LOSSES) if (value := getattr(self, name)) is not None}
        given |= {f"digit_accuracy.{digit}": share for digit, share in self.digit_accuracy.items()}
        problems = [
            *(f"{name}: expected a share 0..1, got {value}" for name, value in given.items() if not 0 <= value <= 1),
            *(
                f"digit_accuracy: expected digits 0-9, got {digit}"
                for digit in self.digit_accuracy
                if not 0 <= digit < DIGITS
            ),
            *(
                f"{name}: expected a number from 0 to {MAX_BOUND:g}, got {value}"
                for name in ("min_images", "min_digit_images", "max_flips_unchanged", "max_nll", "max_brier")
                if (value := getattr(self, name)) is not None
                and not 0 <= value <= MAX_BOUND  # NaN is rejected too: every comparison with it is false
            ),
        ]
        if not MIN_ALPHA <= self.alpha < 0.5:
            problems.append(f"alpha: expected a chance from {MIN_ALPHA:g} to below 0.5, got {self.alpha}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def confidence(self) -> float:
        """The confidence of two-sided intervals with an error rate of `alpha` at each end."""
        return 1 - 2 * self.alpha

    def accuracy_bound(self, digit: int) -> float | None:
        return self.digit_accuracy.get(digit, self.min_digit_accuracy)


# For a data set without gates of its own.
DEFAULT_GATES = Gates(no_certain_loss=True)


@dataclass(frozen=True)
class Reference:
    """A run that another run is compared with.

    Attributes:
        against: "last passed", "earlier" (a run without a judged gate) or "baseline".
        run_id: of the reference.
        problem: why the comparison is impossible (the attributes below are then not set); None if it is possible.
        same_images: whether both runs are over the same images, by hash.
        same_weights: whether both used the same weights, by hash.
        changed: images whose prediction changed; None if the images differ.
        comparisons: all digits together, then each digit; empty without labels.
        same_labels: whether both have the same labels, by hash. If not, accuracies are compared as of other images.
    """

    against: str
    run_id: str
    problem: str | None = None
    same_images: bool = False
    same_weights: bool = False
    changed: int | None = None
    comparisons: "tuple[Comparison, ...]" = ()
    same_labels: bool = True


@dataclass(frozen=True)
class GateResult:
    """The result of one gate.

    Attributes:
        gate: name of the field of `Gates`.
        against: the reference it compares with; None if it concerns the run alone.
        digit: 0..9; None for all digits together.
        outcome: pass, fail or inconclusive.
        bound: the bound of the gate as it was chosen; one of a loss counts the loss upwards.
        value, low, high: estimate, and interval at the gates' confidence; all None if unknown, low and high None if the
            value is exact. Of a loss they are differences, accuracy now less accuracy before: a loss is below 0.
        p: p-value of the test that fails the gate, Holm-corrected; None without a test.
        detectable: the smallest loss that would have failed the gate, of one digit alone, in the unit of `bound`;
            counted from the bound, or from the reference if there is one; None if no loss would.
        reason: the outcome in a sentence.
    """

    gate: str
    against: str | None
    digit: int | None
    outcome: GateOutcome
    bound: float
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    detectable: float | None
    reason: str

    @property
    def brief(self) -> str:
        """What was found, the end of its interval that decided, and the bound.

        For example `max_digit_loss of digit 3 (0.43 points lost, interval up to 0.81, bound 0.50)`.
        """
        which = self.gate if self.digit is None else f"{self.gate} of digit {self.digit}"
        if self.value is None:
            return f"{which} (unknown)"
        unit = " %" if self.gate in SHARES else ""
        found = [f"{self._shown(self.value)}{unit}"]
        if self.gate in DIFFERENCES:
            found = [f"{abs(100 * self.value):.2f} points {'gained' if self.value > 0 else 'lost'}"]
        if (end := self._deciding_end) is not None:
            side = "up" if (end > self.value) != (self.gate in DIFFERENCES) else "down"
            found.append(f"interval {side} to {self._shown(end)}{unit}")
        if self.gate != "no_certain_loss":
            bound = -self.bound if self.gate in LOSSES else self.bound
            found.append(f"bound {self._shown(bound)}{unit}")
        return f"{which} ({', '.join(found)})"

    @property
    def _deciding_end(self) -> float | None:
        """The end of the interval that explains the outcome.

        Of a loss, the largest that is not excluded. Of anything else that failed, the end that is nearest to the bound
        and still breaks it; of what is inconclusive, the end on the other side of the bound.
        """
        if self.value is None or self.gate in LOSSES:
            return self.low
        if self.gate == "no_certain_loss" and self.outcome != "fail":
            return None  # too few images to say anything
        at_least = self.gate in (*SHARES, *DIFFERENCES)
        best, worst = (self.high, self.low) if at_least else (self.low, self.high)
        kept = self.value >= self.bound if at_least else self.value <= self.bound
        return worst if kept else best

    def _shown(self, value: float) -> str:
        if self.gate in DIFFERENCES:
            return f"{-100 * value:.2f}"
        return f"{100 * value:.2f}" if self.gate in SHARES else f"{value:.6g}"


def outcome_of(results: Iterable[GateResult]) -> Outcome:
    """The worst outcome; "none" without results, since a run that was not judged has not passed."""
    found = {result.outcome for result in results}
    return next((outcome for outcome in WORST_FIRST if outcome in found), "none")
