import json
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, fisher_exact

from mnist_pipeline.core.comparison import Comparison, Paired, Pairs, Unpaired, holm, unpaired
from mnist_pipeline.core.intervals import newcombe, tango
from mnist_pipeline.core.plan import cut
from mnist_pipeline.core.tally import Tally

Digits = NDArray[np.int8]
UNDERFLOW = 1e-290  # below it the judges' binomials give 0 where sums of SciPy's do not


def paired(lost: int, gained: int, images: int) -> Paired:
    return Paired(None, images, both_right=images - lost - gained, lost=lost, gained=gained)


@st.composite
def pairs_of(draw: st.DrawFn, most: int = 3000) -> Paired:
    images = draw(st.integers(0, most))
    lost = draw(st.integers(0, images))
    return paired(lost, draw(st.integers(0, images - lost)), images)


@st.composite
def samples(draw: st.DrawFn, least: int = 0, most: int = 600) -> Unpaired:
    images, images_before = draw(st.integers(least, most)), draw(st.integers(least, most))
    return Unpaired(
        None, images, draw(st.integers(0, images)), images_before, draw(st.integers(0, images_before))
    )  # fmt: skip


@given(pairs_of())
@example(paired(lost=14, gained=1061, images=1100))  # ours 1.45e-292, statsmodels' 0
def test_statsmodels_and_scipy_get_the_same_paired_p(line: Paired) -> None:
    from statsmodels.stats.contingency_tables import mcnemar  # here: every process of the tests imports this file

    table = [[line.both_right, line.lost], [line.gained, 0]]
    assert line.p == pytest.approx(float(mcnemar(table, exact=True).pvalue), rel=1e-9, abs=UNDERFLOW)
    if changed := line.lost + line.gained:
        assert line.p == pytest.approx(binomtest(line.lost, changed).pvalue, rel=1e-9, abs=UNDERFLOW)
        worse = binomtest(line.lost, changed, alternative="greater").pvalue
        assert line.p_worse == pytest.approx(worse, rel=1e-9, abs=UNDERFLOW)


@pytest.mark.parametrize("images", [0, 1, 10_000])
def test_where_nothing_changed_both_p_are_1(images: int) -> None:
    line = paired(0, 0, images)
    assert (line.p, line.p_worse) == (1.0, 1.0)


@pytest.mark.parametrize(("lost", "gained"), [(1, 1), (7, 7), (500, 500)])
def test_as_much_lost_as_gained_is_no_change_and_no_proof_of_none(lost: int, gained: int) -> None:
    line = paired(lost, gained, 1000)
    assert line.p == 1.0
    assert 0.5 < line.p_worse <= 0.75


@pytest.mark.parametrize(
    ("lost", "gained", "p", "p_worse"), [(1, 0, 1.0, 0.5), (0, 1, 1.0, 1.0), (10, 0, 2 / 1024, 1 / 1024)]
)
def test_paired_p_of_a_few_images_is_that_of_tossed_coins(lost: int, gained: int, p: float, p_worse: float) -> None:
    line = paired(lost, gained, 100)
    assert (line.p, line.p_worse) == pytest.approx((p, p_worse), rel=1e-12)


@given(samples())
@example(Unpaired(None, 0, 0, 0, 0))
@example(Unpaired(None, 0, 0, 5, 3))
@example(Unpaired(None, 5, 3, 0, 0))
@example(Unpaired(None, 10_000, 9880, 10_000, 9935))
def test_scipy_gets_the_same_unpaired_p(line: Unpaired) -> None:
    wrong, wrong_before = line.images - line.correct, line.images_before - line.correct_before
    table = [[line.correct, wrong], [line.correct_before, wrong_before]]
    assert line.p == pytest.approx(float(fisher_exact(table).pvalue), rel=1e-9, abs=UNDERFLOW)
    worse = float(fisher_exact(table, alternative="less").pvalue)
    assert line.p_worse == pytest.approx(worse, rel=1e-9, abs=UNDERFLOW)


@pytest.mark.parametrize(
    "line", [Unpaired(3, 0, 0, 0, 0), Unpaired(3, 0, 0, 9, 8), Unpaired(3, 9, 8, 0, 0), paired(0, 0, 0)]
)
def test_without_images_on_either_side_nothing_is_known(line: Comparison) -> None:
    assert (line.difference, line.interval(), line.detectable(0.001)) == (None, None, None)
    assert (line.p, line.p_worse) == (1.0, 1.0)


@given(pairs_of())
def test_paired_difference_and_interval_are_of_now_less_before(line: Paired) -> None:
    if line.images:
        assert line.difference == (line.gained - line.lost) / line.images
    assert line.interval(0.9) == tango(line.lost, line.gained, line.images, 0.9)
    assert line.interval() == tango(line.lost, line.gained, line.images, 0.95)


@given(samples(least=1))
def test_unpaired_difference_and_interval_are_of_now_less_before(line: Unpaired) -> None:
    assert line.difference == line.correct / line.images - line.correct_before / line.images_before
    before, now = (line.correct_before, line.images_before), (line.correct, line.images)
    assert line.interval(0.9) == newcombe(before, now, 0.9)
    assert line.interval() == newcombe(before, now, 0.95)


def smallest_paired(line: Paired, alpha: float) -> float | None:
    """Every number of lost images tried, from none."""
    for lost in range(line.images - line.gained + 1):
        if lost and binomtest(lost, lost + line.gained, alternative="greater").pvalue <= alpha:
            return (lost - line.gained) / line.images
    return None


@given(pairs_of(most=60), st.sampled_from([0.001, 0.01, 0.05, 0.2]))
def test_the_detectable_paired_loss_is_the_smallest_that_is_significant(line: Paired, alpha: float) -> None:
    assert line.detectable(alpha) == smallest_paired(line, alpha)


# No p of Fisher's test is one of these: where one is alpha itself, its last bit decides.
@given(samples(most=40), st.sampled_from([0.00101317, 0.0101317, 0.0501317, 0.201317]))
def test_the_detectable_unpaired_loss_is_the_smallest_that_is_significant(line: Unpaired, alpha: float) -> None:
    smallest = None
    if line.images and line.images_before:
        before = line.correct_before
        for wrong in range(line.images + 1):
            table = [[line.images - wrong, wrong], [before, line.images_before - before]]
            if fisher_exact(table, alternative="less").pvalue <= alpha:
                smallest = before / line.images_before - (line.images - wrong) / line.images
                break
    assert line.detectable(alpha) == (None if smallest is None else pytest.approx(smallest, abs=1e-12))


@pytest.mark.parametrize(
    "make",
    [
        lambda lost: paired(lost, 30, 10_000),
        lambda lost: Unpaired(None, 10_000, 9880 - lost, 10_000, 9880),
    ],
)
def test_a_detectable_loss_is_significant_and_one_image_fewer_is_not(make: Callable[[int], Comparison]) -> None:
    alpha = 0.001
    detectable = make(0).detectable(alpha)
    assert detectable is not None
    first = next(lost for lost in range(10_000) if make(lost).p_worse <= alpha)
    difference = make(first).difference
    assert difference is not None
    assert -difference == pytest.approx(detectable, abs=1e-12)
    assert make(first - 1).p_worse > alpha


@st.composite
def two_runs(draw: st.DrawFn, max_rows: int = 60) -> tuple[Digits | None, Digits, Digits]:
    rows = draw(st.integers(0, max_rows))
    digits = st.lists(st.integers(0, 9), min_size=rows, max_size=rows).map(lambda values: np.array(values, np.int8))
    few = st.lists(st.integers(0, 1), min_size=rows, max_size=rows).map(lambda values: np.array(values, np.int8))
    return draw(st.none() | digits | few), draw(digits | few), draw(digits | few)


def same(a: Pairs, b: Pairs) -> bool:
    return a.to_json() == b.to_json()


@given(two_runs())
def test_pairs_are_those_of_counting_image_by_image(runs: tuple[Digits | None, Digits, Digits]) -> None:
    labels, before, now = runs
    cells, changed = np.zeros((10, 2, 2), int), 0
    for row in range(len(before)):
        changed += before[row] != now[row]
        if labels is not None:
            right_before, right_now = before[row] == labels[row], now[row] == labels[row]
            cells[labels[row], int(right_before), int(right_now)] += 1
    counted = Pairs.count(*runs)
    assert counted.cells.tolist() == cells.tolist()
    assert counted.changed == changed
    assert str(counted.cells.dtype) == str(np.asarray(counted.changed).dtype) == "int64"


@given(two_runs(), st.integers(1, 70), st.randoms(use_true_random=False))
def test_batches_add_up_to_the_total_in_any_order(
    runs: tuple[Digits | None, Digits, Digits], size: int, random: Any
) -> None:
    labels, before, now = runs
    spans = [slice(piece.start, piece.stop) for piece in cut(len(before), size)]
    parts = [Pairs.count(None if labels is None else labels[span], before[span], now[span]) for span in spans]
    shuffled = random.sample(parts, len(parts))
    assert same(reduce(Pairs.merge, shuffled, Pairs.empty()), Pairs.count(*runs))


@given(two_runs())
def test_pairs_come_back_from_json(runs: tuple[Digits | None, Digits, Digits]) -> None:
    counted = Pairs.count(*runs)
    back = Pairs.from_json(json.loads(json.dumps(counted.to_json())))
    assert same(back, counted)
    assert back.comparisons() == counted.comparisons()


def test_images_without_labels_are_counted_as_changed_only() -> None:
    counted = Pairs.count(None, np.array([1, 2, 3], np.int8), np.array([1, 5, 7], np.int8))
    assert counted.changed == 2
    assert counted.cells.sum() == 0


@given(two_runs())
def test_lines_are_all_digits_together_and_then_each(runs: tuple[Digits | None, Digits, Digits]) -> None:
    labels, before, now = runs
    lines = Pairs.count(*runs).comparisons()
    assert [line.digit for line in lines] == [None, *range(10)]
    for line in lines:
        if labels is None:
            assert (line.images, line.both_right, line.lost, line.gained) == (0, 0, 0, 0)
            continue
        mine = labels == line.digit if line.digit is not None else np.ones(len(labels), bool)
        right_before, right_now = (before == labels)[mine], (now == labels)[mine]
        assert line.images == mine.sum()
        assert line.both_right == (right_before & right_now).sum()
        assert line.lost == (right_before & ~right_now).sum()
        assert line.gained == (~right_before & right_now).sum()
        assert line.method == "McNemar exact, Tango"


@given(two_runs())
def test_paired_differences_are_those_of_the_two_accuracies(runs: tuple[Digits | None, Digits, Digits]) -> None:
    labels, before, now = runs
    sure = np.ones(len(before), np.float32)
    a, b = Tally.count(labels, before, sure), Tally.count(labels, now, sure)
    for one, other in zip(Pairs.count(*runs).comparisons(), unpaired(a, b), strict=True):
        assert (one.digit, one.images) == (other.digit, other.images)
        if one.difference is None or other.difference is None:
            assert one.difference is other.difference is None
        else:
            assert one.difference == pytest.approx(other.difference, abs=1e-12)


def test_unpaired_lines_are_those_of_two_tallies() -> None:
    def tally(labels: list[int], predictions: list[int]) -> Tally:
        rows = np.ones(len(labels), np.float32)
        return Tally.count(np.array(labels, np.int8), np.array(predictions, np.int8), rows)

    before, now = (
        tally([3, 3, 3, 5], [3, 3, 8, 5]),
        tally([3, 3, 7], [3, 5, 7]) + Tally.count(None, np.array([3, 3], np.int8), np.ones(2, np.float32)),
    )
    lines = unpaired(before, now)
    assert [line.digit for line in lines] == [None, *range(10)]
    assert lines[0] == Unpaired(None, images=3, correct=2, images_before=4, correct_before=3)
    assert lines[1 + 3] == Unpaired(3, images=2, correct=1, images_before=3, correct_before=2)
    assert lines[1 + 5] == Unpaired(5, images=0, correct=0, images_before=1, correct_before=1)
    assert lines[1 + 7] == Unpaired(7, images=1, correct=1, images_before=0, correct_before=0)
    assert lines[1 + 0] == Unpaired(0, 0, 0, 0, 0)
    assert {line.method for line in lines} == {"Fisher exact, Newcombe"}


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.001, 0.01, 0.5, 1.0]), max_size=12))
def test_several_p_values_are_corrected_as_holm_has_it(p_values: list[float]) -> None:
    def of(p: float) -> float:
        """The largest of all smaller ones and itself, each times how many are not smaller still (Holm 1979)."""
        return max(min(1.0, q * sum(other >= q for other in p_values)) for q in p_values if q <= p)

    assert holm(p_values) == pytest.approx([of(p) for p in p_values], rel=1e-12, abs=1e-300)


def test_statsmodels_corrects_several_p_values_the_same_way() -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = [0.03, 0.2, 0.001, 0.03, 0.0, 1.0, 0.004]  # one call: it takes 60 ms
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12)


def test_equal_p_values_are_corrected_equally() -> None:
    assert holm([0.02, 0.01, 0.02, 0.01]) == pytest.approx([0.04] * 4)


def test_a_single_p_value_needs_no_correction() -> None:
    assert holm([0.03]) == [0.03]


def test_correcting_leaves_the_p_values_given_alone() -> None:
    p_values = [0.5, 0.001]
    holm(p_values)
    assert p_values == [0.5, 0.001]
