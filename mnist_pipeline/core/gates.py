"""The gates of a night: the bounds that a run has to keep, what it is compared with, and how a gate was judged.

Values only; `judgement.py` judges by them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mnist_pipeline.core.comparison import Comparison
from mnist_pipeline.core.images import DIGITS

GateOutcome = Literal["pass", "fail", "inconclusive"]
Outcome = Literal["pass", "fail", "inconclusive", "none"]  # of a verdict; none: nothing was judged
MAX_BOUND = 1e12  # images, or any other bound that is no share
MIN_ALPHA = 1e-9
# How the value of a gate is said to people: as it is, where it is not listed.
SHARES = ("min_accuracy", "min_digit_accuracy")
LOSSES = ("max_loss", "max_digit_loss")
WORST_FIRST: tuple[GateOutcome, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Gates:
    """What a run has to keep. None switches a gate off; a name here is the gate's name in the tables too.

    Accuracies, losses and `alpha` are shares, 0..1.

    Raises:
        ValueError: a value is out of its range, or a digit is none.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt key must not switch a gate off

    alpha: float = 0.001  # chance of a false alarm of each gate, one-sided
    min_images: int | None = None  # images in all
    min_digit_images: int | None = None  # images of each digit
    min_accuracy: float | None = None
    min_digit_accuracy: float | None = None
    digit_accuracy: Mapping[int, float] = field(default_factory=dict)  # in place of min_digit_accuracy, by digit
    max_loss: float | None = None  # of accuracy, against each reference
    max_digit_loss: float | None = None
    no_certain_loss: bool = False  # of accuracy, against each reference; needs no bound to be chosen
    max_flips_unchanged: int | None = 0  # changed predictions with the same images and the same weights
    same_images: bool = False  # the images must be those of the references
    max_nll: float | None = None  # mean negative log likelihood, nats
    max_brier: float | None = None  # mean Brier score, 0..2
    inconclusive: Literal["warn", "fail"] = "warn"  # how a night ends whose verdict is inconclusive

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
                and not 0 <= value <= MAX_BOUND  # nor NaN, which keeps and breaks every bound
            ),
        ]
        if not MIN_ALPHA <= self.alpha < 0.5:
            problems.append(f"alpha: expected a chance from {MIN_ALPHA:g} to below 0.5, got {self.alpha}")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def confidence(self) -> float:
        """Of two-sided intervals whose either end is missed with a chance of `alpha`."""
        return 1 - 2 * self.alpha

    def accuracy_bound(self, digit: int) -> float | None:
        return self.digit_accuracy.get(digit, self.min_digit_accuracy)


# For a data set without gates of its own.
DEFAULT_GATES = Gates(no_certain_loss=True)


@dataclass(frozen=True)
class Reference:
    """What a run is compared with.

    Attributes:
        against: "last passed", "earlier" (a run on which nothing was judged) or "baseline".
        run_id: of the reference.
        problem: why it cannot be compared with; None if it can. Nothing below holds then.
        same_images: whether both runs are over the same images and labels, by hash.
        same_weights: whether both used the same weights, by hash.
        changed: images whose prediction changed; None if the images differ.
        comparisons: all digits together first, then each; empty without labels.
    """

    against: str
    run_id: str
    problem: str | None = None
    same_images: bool = False
    same_weights: bool = False
    changed: int | None = None
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True)
class GateResult:
    """One gate, judged.

    Attributes:
        gate: name of the field of `Gates`.
        against: the reference it is about; None if it is about the run alone.
        digit: 0..9; None for all together.
        outcome: pass, fail or inconclusive.
        bound: what had to be kept.
        value, low, high: estimate, and interval at the gates' own confidence; None where nothing can be known,
            and no interval where the value is certain.
        p: of the test that would fail the gate, after Holm's correction; None where none was made.
        detectable: the smallest loss (beyond the bound, or for a gate about references from the reference), in the
            unit of `bound`, that the test would have called certain here, of one digit alone; None if none.
        reason: a sentence for people.
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
        """For example `max_digit_loss of digit 3 (3.07 points, bound 2.00)`."""
        which = self.gate if self.digit is None else f"{self.gate} of digit {self.digit}"
        if self.value is None:
            return f"{which} (unknown)"
        if self.gate in SHARES:
            return f"{which} ({100 * self.value:.2f} %, bound {100 * self.bound:.2f} %)"
        if self.gate in LOSSES:
            return f"{which} ({100 * self.value:.2f} points, bound {100 * self.bound:.2f})"
        if self.gate == "no_certain_loss":
            return f"{which} ({100 * self.value:.2f} points lost)"
        return f"{which} ({self.value:.6g}, bound {self.bound:.6g})"


def outcome_of(results: Iterable[GateResult]) -> Outcome:
    """The worst of them; none if there are none: what nobody has looked at has not passed."""
    found = {result.outcome for result in results}
    return next((outcome for outcome in WORST_FIRST if outcome in found), "none")
