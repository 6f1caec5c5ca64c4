"""Judges a run by its gates: each passes, fails or is inconclusive.

It decides by intervals and exact tests, never by a share alone:

- pass: even the unfavourable end of the interval keeps the bound;
- fail: a test shows that the bound is broken; for a loss, that there is one, and the interval does not exclude one
  beyond the margin. If nothing has changed, a gate fails with probability alpha at most, and so do its ten digits
  together (Holm);
- inconclusive: neither, because there are too few images or no reference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from mnist_pipeline.core.calibration import Calibration, Mean
from mnist_pipeline.core.comparison import Comparison, holm
from mnist_pipeline.core.gates import GateOutcome, GateResult, Gates, Reference
from mnist_pipeline.core.images import DIGITS
from mnist_pipeline.core.intervals import Interval, clopper_pearson, normal_quantile
from mnist_pipeline.core.tally import Tally

# With fewer images the mean of a skewed score is not normal enough for its interval to be valid.
MIN_IMAGES_FOR_MEANS = 1000


def judge(
    gates: Gates, tally: Tally, calibration: Calibration, references: Sequence[Reference]
) -> tuple[GateResult, ...]:
    """Judge a run by every gate that is on, in the order of the fields of `Gates`.

    A gate that compares runs gives results for each reference, and none without references.
    """
    return (
        *_enough_images(gates, tally),
        *_accuracy(gates, tally),
        *_digit_accuracy(gates, tally),
        *(result for reference in references for result in _against(gates, reference)),
        *_mean_gate(gates, "max_nll", "NLL", gates.max_nll, calibration.nll, calibration.images),
        *_mean_gate(gates, "max_brier", "Brier score", gates.max_brier, calibration.brier, calibration.images),
    )


def _enough_images(gates: Gates, tally: Tally) -> Iterator[GateResult]:
    if gates.min_images is not None:
        yield _certain("min_images", None, None, tally.images, gates.min_images, f"{tally.images:,} images", "least")
    if gates.min_digit_images is None:
        return
    if tally.images and not tally.labelled:
        reason = "images of each digit cannot be counted: no labelled images"
        yield _unknown("min_digit_images", None, None, gates.min_digit_images, reason)
        return
    for digit in range(DIGITS):
        images = int(tally.confusion[digit].sum())
        what = f"{images:,} images of digit {digit}"
        yield _certain("min_digit_images", None, digit, images, gates.min_digit_images, what, "least")


def _accuracy(gates: Gates, tally: Tally) -> Iterator[GateResult]:
    if gates.min_accuracy is not None:
        correct, images = tally.correct, tally.labelled
        yield _proportion(gates, gates.alpha, "min_accuracy", None, correct, images, gates.min_accuracy)


def _digit_accuracy(gates: Gates, tally: Tally) -> Iterator[GateResult]:
    images = [int(number) for number in tally.confusion.sum(axis=1)]
    bounds = {digit: bound for digit in range(DIGITS) if (bound := gates.accuracy_bound(digit)) is not None}
    if bounds and not tally.labelled:
        reason = "accuracy of each digit cannot be known: no labelled images"
        yield _unknown("min_digit_accuracy", None, None, min(bounds.values()), reason)
        return
    alone = gates.alpha / max(1, sum(images[digit] > 0 for digit in bounds))  # Holm's smallest threshold
    results = [
        _proportion(gates, alone, "min_digit_accuracy", digit, int(tally.confusion[digit, digit]), images[digit], bound)
        for digit, bound in bounds.items()
    ]
    yield from _together(gates, results)


def _against(gates: Gates, reference: Reference) -> Iterator[GateResult]:
    """Judge every gate that compares the run with this reference."""
    if gates.same_images:
        yield _same_images(reference)
    if gates.no_certain_loss:
        yield from _certain_losses(gates, reference)
    if gates.max_flips_unchanged is not None:
        yield from _flips(gates.max_flips_unchanged, reference)
    comparisons = () if reference.problem else reference.comparisons
    whole, digits = comparisons[:1], comparisons[1:]
    if gates.max_loss is not None:
        yield from (_loss(gates, gates.alpha, "max_loss", reference, line, gates.max_loss) for line in whole)
        if not whole:
            yield _no_comparison("max_loss", reference, gates.max_loss)
    if gates.max_digit_loss is not None:
        bound = gates.max_digit_loss
        alone = gates.alpha / max(1, sum(line.difference is not None for line in digits))
        yield from _together(gates, [_loss(gates, alone, "max_digit_loss", reference, line, bound) for line in digits])
        if not digits:
            yield _no_comparison("max_digit_loss", reference, bound)


def _same_images(reference: Reference) -> GateResult:
    if reference.problem:
        return _no_comparison("same_images", reference, 1)
    same = reference.same_images and reference.same_labels
    what = "labels" if reference.same_images and not same else "images and labels"
    reason = f"the {what} are {'' if same else 'not '}those of the {reference.against} run"
    outcome: GateOutcome = "pass" if same else "fail"
    value = float(same)
    return GateResult("same_images", reference.against, None, outcome, 1, value, None, None, None, None, reason)


def _flips(bound: int, reference: Reference) -> Iterator[GateResult]:
    if reference.problem:  # the weights may be the same: unknown is not a pass
        yield _no_comparison("max_flips_unchanged", reference, bound)
    elif reference.comparisons and not reference.same_labels:
        return  # predictions say nothing about other labels, and a pass would be taken for one of the accuracy
    elif reference.same_weights and reference.changed is not None:
        same = f"with the same images and weights as in the {reference.against} run"
        what = f"{reference.changed:,} predictions changed {same}"
        result = _certain("max_flips_unchanged", reference.against, None, reference.changed, bound, what, "most")
        alarm = "; the stack has changed: compare the versions in the two manifests"
        yield replace(result, reason=result.reason + alarm) if result.outcome == "fail" else result


def _certain(
    gate: str, against: str | None, digit: int | None, value: int, bound: int, what: str, side: Literal["least", "most"]
) -> GateResult:
    """Judge a count, which is exact: it needs no interval and is never inconclusive."""
    kept = value >= bound if side == "least" else value <= bound
    reason = f"{what}, at {side} {bound:,} {'wanted' if side == 'least' else 'allowed'}"
    return GateResult(gate, against, digit, "pass" if kept else "fail", bound, value, None, None, None, None, reason)


def _proportion(
    gates: Gates, alone: float, gate: str, digit: int | None, correct: int, images: int, bound: float
) -> GateResult:
    """Judge by Clopper-Pearson's interval and the binomial test, which agree with each other."""
    from scipy.special import bdtr

    what = _accuracy_of(digit)
    interval = clopper_pearson(correct, images, gates.confidence)
    if interval is None:
        return _unknown(gate, None, digit, bound, f"{what} cannot be known: no labelled images")
    share = correct / images
    p = float(bdtr(correct, images, bound))
    most_correct = _most_correct_that_fails(images, bound, alone)
    return GateResult(
        gate, None, digit,
        outcome="fail" if p <= gates.alpha else "pass" if interval.low >= bound else "inconclusive",
        bound=bound, value=share, low=interval.low, high=interval.high, p=p,
        detectable=None if most_correct is None else bound - most_correct / images,
        reason=f"{what} {_percent(share)} ({correct:,} of {images:,}), {_between(interval, gates)}, "
        f"at least {_percent(bound)} wanted",
    )  # fmt: skip


def _loss(gates: Gates, alone: float, gate: str, reference: Reference, line: Comparison, margin: float) -> GateResult:
    """Non-inferiority: pass if a loss beyond the margin is excluded; fail if it is not and there is a loss."""
    interval, difference = line.interval(gates.confidence), line.difference
    if interval is None or difference is None:
        reason = f"{_accuracy_of(line.digit)} cannot be compared with the {reference.against} run: no labelled images"
        return _unknown(gate, reference.against, line.digit, margin, reason)
    p = line.p_worse
    outcome: GateOutcome = "pass" if interval.low >= -margin else "fail" if p <= gates.alpha else "inconclusive"
    return GateResult(
        gate, reference.against, line.digit, outcome,
        bound=margin, value=difference, low=interval.low, high=interval.high, p=p,
        detectable=line.detectable(alone),
        reason=f"{_change(gates, reference, line.digit, difference, interval)}, "
        f"{'no' if outcome == 'pass' else 'a'} loss beyond the {100 * margin:.2f} allowed "
        f"{'is possible' if outcome == 'pass' else 'is not excluded'}",
    )  # fmt: skip


def _certain_losses(gates: Gates, reference: Reference) -> Iterator[GateResult]:
    """Judge whether a loss is certain, of all digits together and of each; no results without labels.

    A digit with so few images that no loss could be certain is not judged.
    """
    gate = "no_certain_loss"
    if reference.problem:
        yield _no_comparison(gate, reference, 0)
        return
    lines = [line for line in reference.comparisons if line.difference is not None]
    if lines and reference.changed == 0:  # exact: needs no test, and so no SciPy, which is slow to import
        reason = f"no prediction changed against the {reference.against} run"
        yield GateResult(gate, reference.against, None, "pass", 0.0, 0.0, None, None, None, None, reason)
        return
    whole, digits = lines[:1], lines[1:]
    yield from (_certain_loss(gates, gates.alpha, reference, line, line.p_worse) for line in whole)
    alone = gates.alpha / max(1, len(digits))
    for line, p in zip(digits, holm([line.p_worse for line in digits]), strict=True):
        result = _certain_loss(gates, alone, reference, line, p)
        if result.outcome != "inconclusive":
            yield result


def _certain_loss(gates: Gates, alone: float, reference: Reference, line: Comparison, p: float) -> GateResult:
    """Fail if a loss is certain; pass if a loss would have been detected, or is certainly absent."""
    interval, difference = line.interval(gates.confidence), line.difference
    assert interval is not None, "both have labelled images"
    assert difference is not None, "both have labelled images"
    detectable = line.detectable(alone)
    seen = detectable is not None or interval.low >= 0
    outcome: GateOutcome = "fail" if p <= gates.alpha else "pass" if seen else "inconclusive"
    found = {"fail": "a loss is certain", "pass": "no loss is certain", "inconclusive": "too few images to be certain"}
    return GateResult(
        "no_certain_loss", reference.against, line.digit, outcome,
        bound=0.0, value=difference, low=interval.low, high=interval.high, p=p, detectable=detectable,
        reason=f"{_change(gates, reference, line.digit, difference, interval)}, {found[outcome]}",
    )  # fmt: skip


def _accuracy_of(digit: int | None) -> str:
    return "accuracy" if digit is None else f"accuracy of digit {digit}"


def _change(gates: Gates, reference: Reference, digit: int | None, difference: float, interval: Interval) -> str:
    return (
        f"{_accuracy_of(digit)} changed by {_points(difference)} points against the {reference.against} run, "
        f"{_confidence(gates)} interval {_points(interval.low)} to {_points(interval.high)}"
    )


def _mean_gate(
    gates: Gates, gate: str, what: str, bound: float | None, mean: Mean | None, images: int
) -> Iterator[GateResult]:
    if bound is None:
        return
    if mean is None or images < MIN_IMAGES_FOR_MEANS:
        reason = f"{what} cannot be judged: {images:,} labelled images, at least {MIN_IMAGES_FOR_MEANS:,} wanted"
        yield _unknown(gate, None, None, bound, reason)
        return
    interval = mean.interval(gates.confidence)
    outcome: GateOutcome
    outcome = "pass" if interval.high <= bound else "fail" if interval.low > bound else "inconclusive"
    yield GateResult(
        gate, None, None, outcome, bound, mean.value, interval.low, interval.high, None,
        detectable=normal_quantile(gates.confidence) * mean.standard_error,
        reason=f"{what} {mean.value:.4f}, {_confidence(gates)} interval {interval.low:.4f} to {interval.high:.4f}, "
        f"at most {bound:.4f} allowed",
    )  # fmt: skip


def _together(gates: Gates, results: Sequence[GateResult]) -> Iterator[GateResult]:
    """Treat the ten digits as one family: a digit fails only if it still does after Holm's correction."""
    known = [result for result in results if result.p is not None]
    corrected = iter(holm([result.p for result in known if result.p is not None]))
    for result in results:
        if result.p is None:
            yield result
            continue
        p = next(corrected)
        outcome = "inconclusive" if result.outcome == "fail" and p > gates.alpha else result.outcome
        yield replace(result, p=p, outcome=outcome)


def _no_comparison(gate: str, reference: Reference, bound: float) -> GateResult:
    problem = reference.problem or "no labels"
    reason = f"the {reference.against} run {reference.run_id} cannot be compared with: {problem}"
    return _unknown(gate, reference.against, None, bound, reason)


def _unknown(gate: str, against: str | None, digit: int | None, bound: float, reason: str) -> GateResult:
    return GateResult(gate, against, digit, "inconclusive", bound, None, None, None, None, None, reason)


def _most_correct_that_fails(images: int, bound: float, alpha: float) -> int | None:
    """The largest number of correct images that fails the test; None if even 0 does not."""
    from scipy.special import bdtr

    if float(bdtr(0, images, bound)) > alpha:
        return None
    low, high = 0, images
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if float(bdtr(middle, images, bound)) <= alpha else (low, middle - 1)
    return low


def _between(interval: Interval, gates: Gates) -> str:
    return f"{_confidence(gates)} interval {_percent(interval.low)} to {_percent(interval.high)}"


def _confidence(gates: Gates) -> str:
    return f"{100 * gates.confidence:g} %"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
