import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.comparison import Comparison, Paired, Pairs, Unpaired, unpaired
from mnist_pipeline.core.gates import GateOutcome, GateResult, Gates, Reference, outcome_of
from mnist_pipeline.core.intervals import clopper_pearson
from mnist_pipeline.core.judgement import judge
from mnist_pipeline.core.tally import Tally

OFF = Gates(max_flips_unchanged=None)
ALL_ON = Gates(
    alpha=0.001,
    min_images=1000,
    min_digit_images=100,
    min_accuracy=0.97,
    min_digit_accuracy=0.94,
    max_loss=0.005,
    max_digit_loss=0.02,
    no_certain_loss=True,
    same_images=True,
    max_nll=0.10,
    max_brier=0.05,
)


def tally_of(correct: Sequence[int], images: Sequence[int]) -> Tally:
    """So many correct of so many images of each digit; the wrong ones are taken for the next digit."""
    confusion = np.diag(np.array(correct, np.int64))
    for digit in range(10):
        confusion[digit, (digit + 1) % 10] += images[digit] - correct[digit]
    return Tally(confusion, np.zeros(10, np.int64), np.zeros(10))


def all_of_digit(digit: int, correct: int, images: int) -> Tally:
    return tally_of(*([number if place == digit else 0 for place in range(10)] for number in (correct, images)))


GOOD = tally_of([990] * 10, [1000] * 10)
UNLABELLED = Tally.count(None, np.zeros(500, np.int8), np.ones(500, np.float32))


def calibration_of(images: int, sure: float, wrong: int = 0) -> Calibration:
    """Predictions of the digit 0, each as `sure`; the last `wrong` of them are mistaken."""
    probabilities = np.full((10, images), (1 - sure) / 9, np.float32)
    probabilities[0] = sure
    labels = np.array([0] * (images - wrong) + [1] * wrong, np.int8)
    return Calibration.count(labels, np.zeros(images, np.int8), probabilities[0], probabilities)


ABOUT_REFERENCES = ("same_images", "no_certain_loss", "max_flips_unchanged", "max_loss", "max_digit_loss")
SURE = calibration_of(10_000, 0.99, wrong=50)


def lines_of(lost: dict[int, int], gained: dict[int, int] | None = None, images: int = 1000) -> tuple[Paired, ...]:
    """All digits and each, of `images` a digit, of which so many were lost and gained."""
    cells = np.zeros((10, 2, 2), np.int64)
    for digit in range(10):
        cells[digit, 1, 0] = lost.get(digit, 0)
        cells[digit, 0, 1] = (gained or {}).get(digit, 0)
        cells[digit, 1, 1] = images - cells[digit].sum()
    return Pairs(cells, np.array(0)).comparisons()


def reference_of(comparisons: tuple[Comparison, ...], **facts: Any) -> Reference:
    return Reference("baseline", "mnist-7", comparisons=comparisons, **facts)


SAME_AGAIN = reference_of(lines_of({}), same_images=True, same_weights=True, changed=0)


def judged(gates: Gates, tally: Tally = GOOD, *references: Reference) -> tuple[GateResult, ...]:
    return judge(gates, tally, SURE, references)


def only(results: tuple[GateResult, ...]) -> GateResult:
    (result,) = results
    return result


def of_digit(results: tuple[GateResult, ...], digit: int) -> GateResult:
    return only(tuple(result for result in results if result.digit == digit))


def outcomes(results: tuple[GateResult, ...]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for result in results:
        found.setdefault(result.gate, set()).add(result.outcome)
    return found


# What can be set


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_accuracy": 97.0}, "min_accuracy: expected a share 0..1, got 97.0"),
        ({"min_accuracy": -0.1}, "min_accuracy: expected a share 0..1, got -0.1"),
        ({"min_accuracy": float("nan")}, "min_accuracy: expected a share 0..1, got nan"),
        ({"min_digit_accuracy": 1.01}, "min_digit_accuracy: expected a share 0..1, got 1.01"),
        ({"digit_accuracy": {3: 95}}, "digit_accuracy.3: expected a share 0..1, got 95"),
        ({"digit_accuracy": {10: 0.9}}, "digit_accuracy: expected digits 0-9, got 10"),
        ({"digit_accuracy": {-1: 0.9}}, "digit_accuracy: expected digits 0-9, got -1"),
        ({"max_loss": 1.5}, "max_loss: expected a share 0..1, got 1.5"),
        ({"max_loss": -0.005}, "max_loss: expected a share 0..1, got -0.005"),
        ({"max_digit_loss": 2}, "max_digit_loss: expected a share 0..1, got 2"),
        ({"min_images": -1}, "min_images: expected a number from 0 to 1e+12, got -1"),
        ({"min_digit_images": -1}, "min_digit_images: expected a number from 0 to 1e+12, got -1"),
        ({"max_flips_unchanged": -1}, "max_flips_unchanged: expected a number from 0 to 1e+12, got -1"),
        ({"max_nll": -0.1}, "max_nll: expected a number from 0 to 1e+12, got -0.1"),
        ({"max_nll": float("inf")}, "max_nll: expected a number from 0 to 1e+12, got inf"),
        ({"alpha": 1e-300}, "alpha: expected a chance from 1e-09 to below 0.5, got 1e-300"),
        ({"max_nll": float("nan")}, "max_nll: expected a number from 0 to 1e+12, got nan"),
        ({"max_brier": -0.1}, "max_brier: expected a number from 0 to 1e+12, got -0.1"),
        ({"alpha": 0}, "alpha: expected a chance from 1e-09 to below 0.5, got 0"),
        ({"alpha": 0.5}, "alpha: expected a chance from 1e-09 to below 0.5, got 0.5"),
        ({"alpha": float("nan")}, "alpha: expected a chance from 1e-09 to below 0.5, got nan"),
        (
            {"max_loss": 2, "digit_accuracy": {11: 3}, "max_nll": -1, "alpha": 1},
            (
                "max_loss: expected a share 0..1, got 2; digit_accuracy.11: expected a share 0..1, got 3; "
                "digit_accuracy: expected digits 0-9, got 11; max_nll: expected a number from 0 to 1e+12, got -1; "
                "alpha: expected a chance from 1e-09 to below 0.5, got 1"
            ),
        ),
    ],
)
def test_values_out_of_range_are_refused_and_all_are_listed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Gates(**given)


def test_the_ends_of_every_range_are_allowed() -> None:
    lowest = Gates(min_images=0, min_accuracy=0, max_loss=0, max_nll=0, max_brier=0, digit_accuracy={0: 0.0, 9: 1.0})
    assert (lowest.min_images, lowest.max_nll) == (0, 0)
    assert Gates(min_accuracy=1.0, max_digit_loss=1.0).max_digit_loss == 1.0


def test_either_end_of_an_interval_is_missed_with_the_chance_alpha() -> None:
    assert Gates(alpha=0.001).confidence == pytest.approx(0.998)


# On and off


def test_only_changed_predictions_are_judged_by_default() -> None:
    assert outcomes(judged(Gates(), GOOD, SAME_AGAIN)) == {"max_flips_unchanged": {"pass"}}
    assert judged(Gates()) == ()


@pytest.mark.parametrize(
    ("gate", "off"),
    [
        ("min_images", None),
        ("min_digit_images", None),
        ("min_accuracy", None),
        ("min_digit_accuracy", None),
        ("max_loss", None),
        ("max_digit_loss", None),
        ("max_flips_unchanged", None),
        ("same_images", False),
        ("max_nll", None),
        ("max_brier", None),
    ],
)
def test_a_gate_that_is_off_is_not_judged_and_all_others_are(gate: str, off: Any) -> None:
    every = judged(ALL_ON, GOOD, SAME_AGAIN)
    rest = judged(replace(ALL_ON, **{gate: off}), GOOD, SAME_AGAIN)
    assert rest == tuple(result for result in every if result.gate != gate)
    assert len(rest) < len(every)


def test_nothing_on_means_nothing_judged() -> None:
    assert judged(OFF, GOOD, SAME_AGAIN) == ()


def test_every_gate_has_the_name_of_its_setting() -> None:
    settings = {item.name for item in fields(Gates)}
    assert set(outcomes(judged(ALL_ON, GOOD, SAME_AGAIN))) == settings - {"alpha", "digit_accuracy", "inconclusive"}


def test_each_reference_is_judged_by_itself() -> None:
    worse = Reference("last passed", "mnist-6", comparisons=lines_of({3: 900}))
    first, second = judged(Gates(max_loss=0.005), GOOD, worse, replace(SAME_AGAIN, same_weights=False))
    assert (first.against, first.outcome) == ("last passed", "fail")
    assert (second.against, second.outcome) == ("baseline", "pass")


# Numbers of images


@pytest.mark.parametrize(
    ("wanted", "outcome"), [(9999, "pass"), (10_000, "pass"), (10_001, "fail"), (0, "pass")]
)  # fmt: skip
def test_too_few_images_fail(wanted: int, outcome: str) -> None:
    result = only(judged(replace(OFF, min_images=wanted)))
    assert (result.outcome, result.value, result.bound) == (outcome, 10_000, wanted)
    assert (result.low, result.high, result.p, result.detectable, result.digit, result.against) == (None,) * 6
    assert result.reason == f"10,000 images, at least {wanted:,} wanted"


def test_too_few_images_of_a_digit_fail() -> None:
    results = judged(replace(OFF, min_digit_images=100), tally_of([0] * 10, [100] * 7 + [99, 0, 100]))
    assert [result.outcome for result in results] == ["pass"] * 7 + ["fail", "fail", "pass"]
    assert of_digit(results, 7).reason == "99 images of digit 7, at least 100 wanted"
    assert of_digit(results, 8).reason == "0 images of digit 8, at least 100 wanted"


def test_images_without_label_are_images_but_of_no_known_digit() -> None:
    results = judged(replace(OFF, min_images=500, min_digit_images=1), UNLABELLED)
    assert results[0].outcome == "pass"
    assert [(result.digit, result.outcome) for result in results[1:]] == [(None, "inconclusive")]
    assert results[1].reason == "images of each digit cannot be counted: no labelled images"
    empty = judged(replace(OFF, min_images=1, min_digit_images=1), Tally.empty())
    assert {result.outcome for result in empty} == {"fail"}


# Accuracy


@pytest.mark.parametrize(
    ("correct", "outcome"),
    [(9900, "pass"), (9760, "pass"), (9740, "inconclusive"), (9660, "inconclusive"), (9640, "fail")],
)
def test_accuracy_passes_and_fails_only_where_the_interval_lets_it(correct: int, outcome: str) -> None:
    tally = tally_of([correct // 10] * 10, [1000] * 10)
    result = only(judged(replace(OFF, min_accuracy=0.97), tally))
    interval = clopper_pearson(correct, 10_000, 0.998)
    assert interval is not None
    assert (result.outcome, result.value, result.bound) == (outcome, correct / 10_000, 0.97)
    assert (result.low, result.high) == (interval.low, interval.high)
    assert (result.digit, result.against) == (None, None)


def test_the_reason_says_what_was_found_and_what_was_wanted() -> None:
    result = only(judged(replace(OFF, min_accuracy=0.97)))
    assert result.reason == (
        "accuracy 99.00 % (9,900 of 10,000), 99.8 % interval 98.65 % to 99.28 %, at least 97.00 % wanted"
    )
    result = of_digit(judged(replace(OFF, min_digit_accuracy=0.94)), 4)
    assert result.reason == (
        "accuracy of digit 4 99.00 % (990 of 1,000), 99.8 % interval 97.60 % to 99.70 %, at least 94.00 % wanted"
    )


@pytest.mark.parametrize(
    ("bound", "correct", "outcome"), [(1.0, 9, "fail"), (1.0, 10, "inconclusive"), (0.0, 0, "pass")]
)
def test_the_extreme_bounds_are_judged_without_a_warning(bound: float, correct: int, outcome: str) -> None:
    result = only(judged(replace(OFF, min_accuracy=bound), all_of_digit(0, correct, 10)))
    assert result.outcome == outcome


@given(st.integers(1, 3000), st.data(), st.floats(0, 1), st.sampled_from([0.0001, 0.001, 0.01, 0.2]))
@example(10, None, 0.5, 0.001)
def test_accuracy_is_judged_as_its_interval_says(images: int, data: Any, bound: float, alpha: float) -> None:
    correct = data.draw(st.integers(0, images)) if data else 0
    result = only(judged(replace(OFF, alpha=alpha, min_accuracy=bound), all_of_digit(0, correct, images)))
    interval = clopper_pearson(correct, images, 1 - 2 * alpha)
    assert interval is not None
    assert (result.outcome == "pass") == (interval.low >= bound)
    if abs(interval.high - bound) > 1e-9:  # the test and the end of the interval are one, but for rounding
        assert (result.outcome == "fail") == (interval.high < bound)
    if result.outcome == "fail":
        assert interval.low < bound


@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.001, 0.01, 0.2]))
def test_a_detectable_shortfall_fails_and_one_image_less_does_not(images: int, bound: float, alpha: float) -> None:
    gates = replace(OFF, alpha=alpha, min_accuracy=bound)
    failing = [
        correct
        for correct in range(images + 1)
        if only(judged(gates, all_of_digit(0, correct, images))).outcome == "fail"
    ]
    detectable = only(judged(gates, all_of_digit(0, images, images))).detectable
    assert detectable == (None if not failing else pytest.approx(bound - max(failing) / images, abs=1e-12))


# Accuracy of each digit


def test_a_digit_with_its_own_bound_is_judged_by_that() -> None:
    results = judged(replace(OFF, min_digit_accuracy=0.9, digit_accuracy={8: 0.999, 3: 0.5}))
    assert [result.bound for result in results] == [0.9] * 3 + [0.5] + [0.9] * 4 + [0.999] + [0.9]
    assert [result.outcome for result in results] == ["pass"] * 8 + ["fail", "pass"]
    assert {result.gate for result in results} == {"min_digit_accuracy"}


def test_a_bound_of_one_digit_alone_judges_no_other() -> None:
    result = only(judged(replace(OFF, digit_accuracy={8: 0.9})))
    assert (result.digit, result.outcome, result.bound) == (8, "pass", 0.9)


def test_a_digit_that_falls_far_below_fails_alone() -> None:
    results = judged(replace(OFF, min_digit_accuracy=0.94), tally_of([990] * 5 + [800] + [990] * 4, [1000] * 10))
    assert [result.digit for result in results if result.outcome == "fail"] == [5]
    assert {result.outcome for result in results} == {"pass", "fail"}


def test_a_digit_without_images_is_inconclusive_and_says_so() -> None:
    results = judged(replace(OFF, min_digit_accuracy=0.94), tally_of([990] * 9 + [0], [1000] * 9 + [0]))
    assert [result.outcome for result in results] == ["pass"] * 9 + ["inconclusive"]
    nine = of_digit(results, 9)
    assert nine.reason == "accuracy of digit 9 cannot be known: no labelled images"
    assert (nine.value, nine.low, nine.high, nine.p, nine.detectable) == (None,) * 5


def test_p_just_under_alpha_fails_one_digit_alone_but_not_among_ten() -> None:
    # 10 lost and none gained: 1 / 1024, just under 0.001. 14: 1 / 16384, which times ten is still under it.
    def judge_lost(lost: int, images_of_others: int = 100) -> tuple[GateResult, ...]:
        lines = lines_of({3: lost}, images=100)
        others = tuple(
            line if line.digit in (None, 3) else Paired(line.digit, images_of_others, images_of_others, 0, 0)
            for line in lines
        )
        return judged(replace(OFF, max_digit_loss=0.02), GOOD, reference_of(others))

    ten = of_digit(judge_lost(10), 3)
    assert ten.outcome == "inconclusive"
    assert ten.p == pytest.approx(10 / 1024)
    fourteen = of_digit(judge_lost(14), 3)
    assert fourteen.outcome == "fail"
    assert fourteen.p == pytest.approx(10 / 16384)
    alone = of_digit(judge_lost(10, images_of_others=0), 3)
    assert alone.outcome == "fail"
    assert alone.p == pytest.approx(1 / 1024)
    assert (ten.detectable, alone.detectable) == (0.14, 0.1)


def test_the_only_digit_with_images_is_judged_like_all_digits_together() -> None:
    tally = all_of_digit(5, 920, 1000)
    whole = only(judged(replace(OFF, min_accuracy=0.94), tally))
    digit = of_digit(judged(replace(OFF, min_digit_accuracy=0.94), tally), 5)
    assert (digit.outcome, digit.p, digit.detectable) == (whole.outcome, whole.p, whole.detectable)


def test_accuracy_of_a_digit_is_corrected_for_ten_too() -> None:
    def judge_correct(correct: int) -> GateResult:
        tally = tally_of([1000] * 5 + [correct] + [1000] * 4, [1000] * 10)
        return of_digit(judged(replace(OFF, min_digit_accuracy=0.94), tally), 5)

    ps = {
        correct: only(judged(replace(OFF, min_accuracy=0.94), all_of_digit(5, correct, 1000))).p
        for correct in range(900, 930)
    }
    between = [correct for correct, p in ps.items() if p is not None and 0.0001 < p <= 0.001]
    below = [correct for correct, p in ps.items() if p is not None and p <= 0.0001]
    assert between
    assert below
    for correct in between:
        result = judge_correct(correct)
        assert result.outcome == "inconclusive"
        assert result.p == pytest.approx(10 * (ps[correct] or 0))
    assert {judge_correct(correct).outcome for correct in below} == {"fail"}


@pytest.mark.parametrize("images", [100, 300])
def test_what_is_detectable_of_a_digit_is_what_fails_among_ten(images: int) -> None:
    def judge_lost(lost: int) -> GateResult:
        lines = lines_of({3: lost}, images=images)
        return of_digit(judged(replace(OFF, max_digit_loss=0.0), GOOD, reference_of(lines)), 3)

    smallest = next(lost for lost in range(images) if judge_lost(lost).outcome == "fail")
    assert judge_lost(0).detectable == smallest / images

    def judge_correct(correct: int) -> GateResult:
        tally = tally_of([correct if digit == 3 else images for digit in range(10)], [images] * 10)
        return of_digit(judged(replace(OFF, min_digit_accuracy=0.94), tally), 3)

    most = max(correct for correct in range(images) if judge_correct(correct).outcome == "fail")
    assert judge_correct(images).detectable == pytest.approx(0.94 - most / images)


# Loss against a reference


@pytest.mark.parametrize(
    ("lost", "gained", "outcome"),
    [
        (0, 0, "pass"),
        (30, 30, "pass"),
        (10, 40, "pass"),
        (25, 5, "pass"),  # certainly a loss (p = 0.0002), and certainly one that is allowed
        (60, 40, "inconclusive"),
        (80, 40, "fail"),
        (120, 20, "fail"),
    ],
)
def test_a_loss_fails_if_it_is_certain_and_may_be_too_large(lost: int, gained: int, outcome: str) -> None:
    lines = lines_of({0: lost}, {0: gained})
    result = only(judged(replace(OFF, max_loss=0.005), GOOD, reference_of(lines)))
    interval = lines[0].interval(0.998)
    assert interval is not None
    assert (result.outcome, result.value) == (outcome, (gained - lost) / 10_000)
    assert (result.low, result.high) == (interval.low, interval.high)
    assert (result.p, result.detectable) == (lines[0].p_worse, lines[0].detectable(0.001))
    assert (result.against, result.bound) == ("baseline", 0.005)


def test_the_reason_of_a_loss_names_the_reference_and_the_margin() -> None:
    result = only(judged(replace(OFF, max_loss=0.005), GOOD, reference_of(lines_of({0: 120}, {0: 20}))))
    assert result.reason == (
        "accuracy changed by -1.00 points against the baseline run, 99.8 % interval -1.40 to -0.66, "
        "a loss beyond the 0.50 allowed is not excluded"
    )
    kept = only(judged(replace(OFF, max_loss=0.02), GOOD, reference_of(lines_of({0: 120}, {0: 20}))))
    assert kept.reason.endswith("-0.66, no loss beyond the 2.00 allowed is possible")
    results = judged(replace(OFF, max_digit_loss=0.02), GOOD, reference_of(lines_of({}, {6: 5})))
    assert of_digit(results, 6).reason.startswith(
        "accuracy of digit 6 changed by +0.50 points against the baseline run, 99.8 % interval "
    )


def test_different_images_are_compared_by_proportions() -> None:
    before, now = tally_of([990] * 10, [1000] * 10), tally_of([970] * 10, [1000] * 10)
    lines = unpaired(before, now)
    results = judged(replace(OFF, max_loss=0.005, max_digit_loss=0.02), now, reference_of(lines))
    assert [result.outcome for result in results] == ["fail"] + ["inconclusive"] * 10
    assert results[0].p == lines[0].p_worse
    assert results[0].value == pytest.approx(-0.02)


@given(
    st.integers(1, 2000),
    st.data(),
    st.sampled_from([0.0, 0.005, 0.02, 0.3]),
    st.sampled_from([0.001, 0.01, 0.2]),
    st.booleans(),
)
def test_a_loss_is_judged_by_its_interval_and_its_test(
    images: int, data: Any, margin: float, alpha: float, same_images: bool
) -> None:
    line: Comparison
    if same_images:
        lost = data.draw(st.integers(0, images))
        gained = data.draw(st.integers(0, images - lost))
        line = Paired(None, images, images - lost - gained, lost, gained)
    else:
        correct, correct_before = data.draw(st.integers(0, images)), data.draw(st.integers(0, images))
        line = Unpaired(None, images, correct, images, correct_before)
    result = only(judged(replace(OFF, alpha=alpha, max_loss=margin), GOOD, reference_of((line,))))
    interval = line.interval(1 - 2 * alpha)
    assert interval is not None
    assert (result.outcome == "pass") == (interval.low >= -margin)
    assert (result.outcome == "fail") == (interval.low < -margin and line.p_worse <= alpha)
    assert result.value is not None
    if result.outcome == "fail":
        assert result.value < 0


def test_a_digit_without_images_cannot_be_compared() -> None:
    lines = unpaired(tally_of([990] * 9 + [0], [1000] * 9 + [0]), tally_of([990] * 10, [1000] * 10))
    results = judged(replace(OFF, max_digit_loss=0.1), GOOD, reference_of(lines))
    assert [result.outcome for result in results] == ["pass"] * 9 + ["inconclusive"]
    reason = "accuracy of digit 9 cannot be compared with the baseline run: no labelled images"
    assert of_digit(results, 9).reason == reason


PROBLEMS = ["it is no longer published", "it does not verify: part-00003.parquet is damaged"]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("comparisons", [(), lines_of({}), lines_of({0: 900})])
def test_a_reference_with_a_problem_makes_every_gate_about_it_inconclusive(
    problem: str, comparisons: tuple[Paired, ...]
) -> None:
    reference = reference_of(comparisons, problem=problem, changed=7, same_images=True, same_weights=True)
    results = judged(ALL_ON, GOOD, reference)
    about_it = [result for result in results if result.against]
    assert [result.gate for result in about_it] == list(ABOUT_REFERENCES)
    for result in about_it:
        assert result.outcome == "inconclusive"
        assert result.reason == f"the baseline run mnist-7 cannot be compared with: {problem}"
        assert (result.value, result.low, result.high, result.p, result.detectable) == (None,) * 5
    assert {result.outcome for result in results if not result.against} == {"pass"}


def test_a_reference_without_labels_leaves_losses_inconclusive() -> None:
    results = judged(replace(OFF, max_loss=0.005, max_digit_loss=0.02), GOOD, reference_of((), same_images=True))
    assert outcomes(results) == {"max_loss": {"inconclusive"}, "max_digit_loss": {"inconclusive"}}
    assert {result.reason for result in results} == {"the baseline run mnist-7 cannot be compared with: no labels"}


@pytest.mark.parametrize("comparisons", [(), Pairs.empty().comparisons(), unpaired(UNLABELLED, UNLABELLED)])
def test_without_any_labels_everything_about_right_and_wrong_is_inconclusive(
    comparisons: tuple[Comparison, ...],
) -> None:
    reference = reference_of(comparisons, same_images=True, same_weights=True, changed=0)
    results = judge(replace(ALL_ON, min_images=500), UNLABELLED, Calibration.empty(), [reference])
    certain = {"min_images", "max_flips_unchanged", "same_images"}
    assert {gate for gate, found in outcomes(results).items() if found == {"pass"}} == certain
    assert {gate for gate, found in outcomes(results).items() if found == {"inconclusive"}} == {
        item.gate for item in results
    } - certain
    assert outcome_of(results) == "inconclusive"


# The same again


def test_identical_runs_pass_every_gate() -> None:
    results = judged(ALL_ON, GOOD, SAME_AGAIN)
    assert {result.outcome for result in results} == {"pass"}
    assert outcome_of(results) == "pass"


@pytest.mark.parametrize(("most", "outcome"), [(0, "fail"), (2, "fail"), (3, "pass"), (4, "pass")])
def test_changed_predictions_with_unchanged_weights_fail_and_point_to_the_stack(most: int, outcome: str) -> None:
    result = only(judged(Gates(max_flips_unchanged=most), GOOD, replace(SAME_AGAIN, changed=3)))
    reason = f"3 predictions changed with the same images and weights as in the baseline run, at most {most} allowed"
    alarm = "; the stack has changed: compare the versions in the two manifests"
    assert (result.outcome, result.value, result.bound) == (outcome, 3, most)
    assert result.reason == reason + alarm * (outcome == "fail")


@pytest.mark.parametrize("facts", [{"same_weights": False}, {"same_images": False, "changed": None}])
def test_changed_predictions_with_other_weights_or_images_are_no_matter(facts: dict[str, Any]) -> None:
    assert judged(Gates(), GOOD, replace(SAME_AGAIN, **{"changed": 3} | facts)) == ()


@pytest.mark.parametrize(("same", "outcome", "word"), [(True, "pass", ""), (False, "fail", "not ")])
def test_other_images_than_those_of_the_reference_fail(same: bool, outcome: str, word: str) -> None:
    result = only(judged(replace(OFF, same_images=True), GOOD, replace(SAME_AGAIN, same_images=same)))
    assert (result.outcome, result.value, result.bound) == (outcome, float(same), 1)
    assert result.reason == f"the images and labels are {word}those of the baseline run"


# Means of probabilities


@pytest.mark.parametrize("gate", ["max_nll", "max_brier"])
def test_a_mean_passes_and_fails_only_where_its_interval_lets_it(gate: str) -> None:
    mean = SURE.nll if gate == "max_nll" else SURE.brier
    assert mean is not None
    interval = mean.interval(0.998)
    for bound, outcome in (
        (interval.high, "pass"),
        (interval.high - 1e-9, "inconclusive"),
        (interval.low, "inconclusive"),
        (interval.low - 1e-9, "fail"),
    ):
        changed: dict[str, Any] = {gate: bound}
        result = only(judged(replace(OFF, **changed)))
        assert (result.gate, result.outcome, result.value) == (gate, outcome, mean.value)
        assert (result.low, result.high, result.p) == (interval.low, interval.high, None)
        what = "NLL" if gate == "max_nll" else "Brier score"
        assert result.reason == (
            f"{what} {mean.value:.4f}, 99.8 % interval {interval.low:.4f} to {interval.high:.4f}, "
            f"at most {bound:.4f} allowed"
        )
        assert result.detectable == pytest.approx(mean.value - interval.low)


@pytest.mark.parametrize("images", [0, 999])
def test_a_mean_over_few_images_is_not_judged(images: int) -> None:
    few = replace(SURE, bin_images=np.array([0] * 14 + [images]))
    results = judge(replace(OFF, max_nll=0.1, max_brier=0.05), UNLABELLED, few, [])
    assert [(result.gate, result.outcome, result.reason) for result in results] == [
        ("max_nll", "inconclusive", f"NLL cannot be judged: {images} labelled images, at least 1,000 wanted"),
        ("max_brier", "inconclusive", f"Brier score cannot be judged: {images} labelled images, at least 1,000 wanted"),
    ]


# All together


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ([], "none"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
        (["fail"], "fail"),
    ],
)
def test_a_night_is_as_good_as_its_worst_gate(found: list[GateOutcome], outcome: str) -> None:
    some = only(judged(replace(OFF, min_images=1)))
    assert outcome_of(replace(some, outcome=each) for each in found) == outcome


# No loss that is certain


CERTAIN = replace(OFF, no_certain_loss=True)


def test_a_loss_that_is_certain_fails_of_all_and_of_each_digit() -> None:
    results = judged(CERTAIN, GOOD, reference_of(lines_of({3: 200, 5: 2}), same_images=True, changed=202))
    failed = [result for result in results if result.outcome == "fail"]
    assert [result.digit for result in failed] == [None, 3]
    assert [len(results), {result.outcome for result in results}] == [11, {"fail", "pass"}]
    assert failed[1].brief == "no_certain_loss of digit 3 (20.00 points lost, interval down to 16.38)"
    assert failed[1].reason.startswith("accuracy of digit 3 changed by -20.00 points against the baseline run, 99.8 %")
    assert failed[1].reason.endswith(", a loss is certain")


@pytest.mark.parametrize("lost", [{}, {3: 5}, dict.fromkeys(range(10), 1)])
def test_a_loss_that_may_be_chance_passes(lost: dict[int, int]) -> None:
    results = judged(CERTAIN, GOOD, reference_of(lines_of(lost, {4: 3}), same_images=True, changed=9))
    assert {result.outcome for result in results} == {"pass"}


def test_images_that_are_not_the_same_are_judged_too() -> None:
    worse = tally_of([600] * 10, [1000] * 10)
    assert outcome_of(judged(CERTAIN, worse, reference_of(unpaired(GOOD, worse)))) == "fail"
    assert outcome_of(judged(CERTAIN, GOOD, reference_of(unpaired(worse, GOOD)))) == "pass"


def test_what_is_too_few_to_show_any_loss_does_not_pass() -> None:
    five = tally_of([5] + [0] * 9, [5] + [0] * 9)
    assert outcome_of(judged(CERTAIN, five, reference_of(unpaired(five, five)))) == "inconclusive"
    some = tally_of([95, 5] + [0] * 8, [95, 5] + [0] * 8)
    results = judged(CERTAIN, some, reference_of(unpaired(some, some)))
    assert [(result.digit, result.outcome) for result in results] == [(None, "pass"), (0, "pass")]


def test_predictions_that_are_all_the_same_need_no_test() -> None:
    result = only(judged(CERTAIN, GOOD, SAME_AGAIN))
    assert (result.outcome, result.value, result.p, result.reason) == (
        "pass", 0.0, None, "no prediction changed against the baseline run",
    )  # fmt: skip


@pytest.mark.parametrize("comparisons", [(), Pairs.empty().comparisons(), unpaired(UNLABELLED, UNLABELLED)])
@pytest.mark.parametrize("changed", [None, 0, 250])
def test_without_labels_no_loss_is_judged(comparisons: tuple[Comparison, ...], changed: int | None) -> None:
    assert judged(CERTAIN, UNLABELLED, reference_of(comparisons, changed=changed)) == ()


def test_results_come_in_a_fixed_order() -> None:
    results = judged(ALL_ON, GOOD, replace(SAME_AGAIN, against="last passed"), SAME_AGAIN)
    order = list(dict.fromkeys((result.gate, result.against) for result in results))
    assert order == [
        *((gate, None) for gate in ("min_images", "min_digit_images", "min_accuracy", "min_digit_accuracy")),
        *((gate, "last passed") for gate in ABOUT_REFERENCES),
        *((gate, "baseline") for gate in ABOUT_REFERENCES),
        ("max_nll", None),
        ("max_brier", None),
    ]
    for gate in ("min_digit_images", "min_digit_accuracy"):
        assert [result.digit for result in results if result.gate == gate] == list(range(10))


def test_results_are_plain_numbers() -> None:
    allowed = (str, int, float, type(None))
    for result in judged(ALL_ON, GOOD, SAME_AGAIN, reference_of(unpaired(GOOD, GOOD))):
        for item in fields(result):
            assert type(getattr(result, item.name)) in allowed


# How often the gates are wrong, by simulated nights

# The network that ships with the package on the test images: 98.8 %.
CONFUSION = np.array(
    [
        [975, 0, 0, 0, 0, 1, 2, 1, 1, 0],
        [0, 1132, 0, 0, 0, 0, 1, 0, 2, 0],
        [1, 0, 1018, 3, 0, 0, 2, 6, 2, 0],
        [0, 0, 1, 999, 0, 6, 0, 0, 2, 2],
        [0, 0, 1, 0, 973, 0, 1, 0, 0, 7],
        [0, 0, 1, 7, 0, 877, 2, 0, 2, 3],
        [4, 1, 0, 0, 5, 2, 944, 0, 2, 0],
        [0, 2, 7, 2, 0, 0, 0, 1015, 1, 1],
        [3, 0, 4, 0, 1, 1, 1, 1, 962, 1],
        [1, 2, 0, 1, 10, 1, 0, 6, 3, 985],
    ],
    np.int64,
)
IMAGES = 10_000
SHIPPED = replace(ALL_ON, same_images=False)  # but for what fresh images cannot keep


class Sample(Unpaired):
    """Does not search for the smallest loss that would have shown, which takes most of a verdict's time."""

    def detectable(self, alpha: float) -> float | None:
        return None


def fresh_night(rng: np.random.Generator, confusion: NDArray[np.int64] = CONFUSION) -> Tally:
    """As many images again from where these came from: nothing has changed."""
    drawn = rng.multinomial(IMAGES, confusion.ravel() / confusion.sum()).reshape(10, 10)
    return Tally(drawn, np.zeros(10, np.int64), np.zeros(10))


def fresh_reference(against: str, before: Tally, now: Tally) -> Reference:
    lines = (
        Sample(line.digit, line.images, line.correct, line.images_before, line.correct_before)
        for line in unpaired(before, now)
    )
    return Reference(against, against, comparisons=tuple(lines))


def unchanged_nights(nights: int, length: int = 20) -> list[tuple[GateResult, ...]]:
    """Verdicts over `nights`, in series of `length` that have a baseline of their own."""
    rng, verdicts = np.random.default_rng(20260131), []
    for night in range(nights):
        if night % length == 0:
            baseline = passed = fresh_night(rng)
        now = fresh_night(rng)
        references = [fresh_reference("last passed", passed, now), fresh_reference("baseline", baseline, now)]
        results = judge(SHIPPED, now, SURE, references)
        verdicts.append(results)
        if outcome_of(results) == "pass":
            passed = now
    return verdicts


def share_of(verdicts: Sequence[Any], holds: Callable[[Any], bool]) -> float:
    return sum(map(holds, verdicts)) / len(verdicts)


def test_fewer_than_one_night_in_a_hundred_fails_when_nothing_has_changed() -> None:
    verdicts = unchanged_nights(300)
    assert share_of(verdicts, lambda results: outcome_of(results) == "fail") < 0.01
    broken = Counter(result.gate for results in verdicts for result in results if result.outcome == "fail")
    assert set(broken) <= {"no_certain_loss", "max_loss", "max_digit_loss"}


@pytest.mark.parametrize(("accuracy", "least"), [(0.988, 0.15), (0.935, 0.75)])
def test_a_drop_of_a_point_in_any_digit_is_a_false_alarm_on_many_nights(accuracy: float, least: float) -> None:
    confusion = CONFUSION
    if accuracy < 0.988:  # a network with more mistakes: the book's
        images = CONFUSION.sum(axis=1)
        confusion = tally_of(np.rint(images * accuracy).astype(int).tolist(), images.tolist()).confusion
    rng = np.random.default_rng(20260131)
    shares = []
    for _ in range(1000):
        drawn = fresh_night(rng, confusion).confusion
        shares.append(drawn.diagonal() / drawn.sum(axis=1))
    alarms = [bool(np.any(now < before - 0.01)) for before, now in pairwise(shares)]
    assert np.mean(alarms) > least


def paired_night(rng: np.random.Generator, lost: float, gained: float) -> tuple[Tally, tuple[Paired, ...]]:
    """The test images again, another network: so large a share of each digit's images is lost and gained."""
    cells = np.array(
        [
            rng.multinomial(images, [0.012 - gained, gained, lost, 0.988 - lost]).reshape(2, 2)
            for images in CONFUSION.sum(axis=1)
        ]
    )
    images, correct = cells.sum(axis=(1, 2)), cells[:, :, 1].sum(axis=1)
    return tally_of(correct.tolist(), images.tolist()), Pairs(cells, np.array(0)).comparisons()


@pytest.mark.parametrize(("lost", "gained"), [(0.012, 0.002), (0.02, 0.01)])
def test_a_true_loss_of_one_point_over_the_same_images_fails_95_nights_in_100(lost: float, gained: float) -> None:
    rng, nights = np.random.default_rng(20260131), 300
    failed = 0
    for _ in range(nights):
        tally, lines = paired_night(rng, lost, gained)
        results = judge(replace(ALL_ON, max_digit_loss=None), tally, SURE, [reference_of(lines, same_images=True)])
        failed += any(result.outcome == "fail" for result in results if result.gate == "max_loss")
    assert failed / nights >= 0.95


def test_another_network_that_is_as_good_almost_never_fails_over_the_same_images() -> None:
    rng, nights = np.random.default_rng(20260131), 300
    found: Counter[str] = Counter()
    for _ in range(nights):
        tally, lines = paired_night(rng, 0.003, 0.003)
        found[outcome_of(judge(ALL_ON, tally, SURE, [reference_of(lines, same_images=True)]))] += 1
    assert found["fail"] / nights < 0.01
    assert found["pass"] / nights > 0.8


# In a few words


def result_of(gate: str, outcome: GateOutcome, bound: float, value: float | None, *ends: float | None) -> GateResult:
    low, high = ends or (None, None)
    return GateResult(gate, None, None, outcome, bound, value, low, high, None, None, "")


@pytest.mark.parametrize(
    ("result", "brief"),
    [
        (
            result_of("max_loss", "fail", 0.005, -0.0043, -0.0081, -0.0005),
            "0.43 points lost, interval up to 0.81, bound 0.50",
        ),
        (
            result_of("max_loss", "inconclusive", 0.005, 0.001, -0.009, 0.011),
            "0.10 points gained, interval up to 0.90, bound 0.50",
        ),
        (result_of("no_certain_loss", "fail", 0, -0.02, -0.03, -0.01), "2.00 points lost, interval down to 1.00"),
        (result_of("no_certain_loss", "inconclusive", 0, -0.02, -0.3, 0.1), "2.00 points lost"),
        (result_of("min_accuracy", "fail", 0.98, 0.95, 0.94, 0.96), "95.00 %, interval up to 96.00 %, bound 98.00 %"),
        (
            result_of("min_accuracy", "inconclusive", 0.98, 0.985, 0.97, 0.99),
            "98.50 %, interval down to 97.00 %, bound 98.00 %",
        ),
        (
            result_of("min_accuracy", "inconclusive", 0.98, 0.975, 0.96, 0.99),
            "97.50 %, interval up to 99.00 %, bound 98.00 %",
        ),
        (result_of("max_nll", "fail", 0.06, 0.08, 0.07, 0.09), "0.08, interval down to 0.07, bound 0.06"),
        (result_of("max_nll", "inconclusive", 0.06, 0.055, 0.05, 0.065), "0.055, interval up to 0.065, bound 0.06"),
        (result_of("max_brier", "inconclusive", 0.06, 0.065, 0.05, 0.08), "0.065, interval down to 0.05, bound 0.06"),
        (result_of("min_images", "fail", 13, 12), "12, bound 13"),
        (result_of("max_loss", "inconclusive", 0.005, None), "unknown"),
    ],
)
def test_what_decided_is_said_with_the_end_of_the_interval_that_explains_it(result: GateResult, brief: str) -> None:
    assert result.brief == f"{result.gate} ({brief})"
