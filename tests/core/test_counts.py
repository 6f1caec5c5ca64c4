import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.calibration import Calibration
from mnist_pipeline.core.comparison import Pairs
from mnist_pipeline.core.counts import Counts, counts, sums
from mnist_pipeline.core.tally import Tally


@dataclass(frozen=True, eq=False)
class Apples(Counts):
    """One field of each kind: a number, rows, a table; integers and floats."""

    baskets: NDArray[np.int64] = counts()
    by_tree: NDArray[np.int64] = counts(2, 3)
    weight: NDArray[np.float64] = sums()
    weight_by_tree: NDArray[np.float64] = sums(2)


INTEGERS = ("baskets", "by_tree")
FLOATS = ("weight", "weight_by_tree")

whole_numbers = st.integers(0, 2**40)
weights = st.floats(0, 1e12)


@st.composite
def apples(draw: st.DrawFn) -> Apples:
    by_tree = draw(st.lists(whole_numbers, min_size=6, max_size=6))
    by_tree_weight = draw(st.lists(weights, min_size=2, max_size=2))
    return Apples(
        np.array(draw(whole_numbers)),
        np.array(by_tree).reshape(2, 3),
        np.array(draw(weights)),
        np.array(by_tree_weight),
    )


def bits(counted: Counts) -> list[tuple[str, tuple[int, ...], bytes]]:
    arrays = [np.asarray(getattr(counted, item.name)) for item in fields(counted)]
    return [(str(array.dtype), array.shape, array.tobytes()) for array in arrays]


@given(st.lists(apples(), max_size=6), st.randoms(use_true_random=False))
def test_integers_merge_the_same_in_any_order(parts: list[Apples], random: Any) -> None:
    in_order, any_order = Apples.total(parts), Apples.total(random.sample(parts, len(parts)))
    for name in INTEGERS:
        assert np.array_equal(getattr(in_order, name), getattr(any_order, name))
    for name in FLOATS:
        assert getattr(in_order, name) == pytest.approx(getattr(any_order, name), rel=1e-12)


@given(st.lists(apples(), max_size=6), st.integers(0, 6))
def test_integers_merge_the_same_in_any_grouping(parts: list[Apples], place: int) -> None:
    grouped, flat = Apples.total(parts[:place]) + Apples.total(parts[place:]), Apples.total(parts)
    assert all(np.array_equal(getattr(grouped, name), getattr(flat, name)) for name in INTEGERS)


@given(st.lists(apples(), max_size=6))
def test_a_total_is_the_sum_of_every_number_by_itself(parts: list[Apples]) -> None:
    total = Apples.total(parts)
    assert total.baskets == sum(int(part.baskets) for part in parts)
    assert total.by_tree.tolist() == [
        [sum(int(part.by_tree[row, column]) for part in parts) for column in range(3)] for row in range(2)
    ]
    weight, by_tree = 0.0, [0.0, 0.0]
    for part in parts:
        weight += float(part.weight)
        by_tree = [a + float(b) for a, b in zip(by_tree, part.weight_by_tree, strict=True)]
    assert (float(total.weight), total.weight_by_tree.tolist()) == (weight, by_tree)


def test_floats_add_in_the_order_given() -> None:
    small, large = (Apples(np.array(0), np.zeros((2, 3), np.int64), np.array(w), np.zeros(2)) for w in (1.0, 2.0**53))
    assert Apples.total([small, small, large]).weight == 2.0**53 + 2
    assert Apples.total([large, small, small]).weight == 2.0**53  # each 1 by itself is rounded away


@given(apples(), apples())
def test_merging_changes_neither_side_and_empty_changes_nothing(left: Apples, right: Apples) -> None:
    before = bits(left), bits(right)
    merged = left.merge(right)
    assert (bits(left), bits(right)) == before
    assert bits(merged) == bits(left + right)
    assert bits(left + Apples.empty()) == bits(Apples.empty() + left) == bits(left)


def test_nothing_merged_is_empty_with_the_declared_shapes_and_types() -> None:
    assert bits(Apples.total([])) == bits(Apples.empty())
    assert [(dtype, shape) for dtype, shape, _ in bits(Apples.empty())] == [
        ("int64", ()),
        ("int64", (2, 3)),
        ("float64", ()),
        ("float64", (2,)),
    ]


@given(apples(), apples())
def test_json_brings_back_every_bit(left: Apples, right: Apples) -> None:
    merged = left + right
    back = Apples.from_json(json.loads(json.dumps(merged.to_json(), allow_nan=False)))
    assert bits(back) == bits(merged)
    assert bits(back + left) == bits(merged + left)


@pytest.mark.parametrize("kind", [Tally, Calibration, Pairs, Apples])
def test_every_kind_comes_back_from_json_even_when_empty(kind: type[Counts]) -> None:
    document = json.loads(json.dumps(kind.empty().to_json(), allow_nan=False))
    assert list(document) == [item.name for item in fields(kind)]
    assert bits(kind.from_json(document)) == bits(kind.empty())


def test_a_sum_that_json_carries_as_a_whole_number_is_a_float_again() -> None:
    back = Apples.from_json(Apples.empty().to_json() | {"weight": 3, "weight_by_tree": [1, 2]})
    assert str(back.weight.dtype) == str(back.weight_by_tree.dtype) == "float64"
    assert (float(back.weight), back.weight_by_tree.tolist()) == (3.0, [1.0, 2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baskets": [1]}, r"baskets: expected numbers of shape \(\), got int64 \(1,\)"),
        ({"baskets": 1.0}, r"baskets: expected counts, got float64 from 1.0"),
        ({"baskets": -1}, r"baskets: expected counts, got int64 from -1"),
        ({"baskets": None}, r"baskets: expected numbers of shape \(\), got object \(\)"),
        ({"baskets": True}, r"baskets: expected numbers of shape \(\), got bool \(\)"),
        ({"baskets": "1"}, r"baskets: expected numbers of shape \(\), got <U1 \(\)"),
        ({"baskets": 2**64}, r"baskets: expected numbers of shape \(\), got object \(\)"),
        ({"baskets": 2**63}, r"baskets: expected numbers of shape \(\), got uint64 \(\)"),
        ({"by_tree": [[1, 2, 3]]}, r"by_tree: expected numbers of shape \(2, 3\), got int64 \(1, 3\)"),
        ({"by_tree": [[1, 2, 3], [1]]}, r"by_tree: expected numbers of shape \(2, 3\), got rows of unequal length"),
        ({"by_tree": [[1, 2, 3], [1, 2, -3]]}, r"by_tree: expected counts, got int64 from -3"),
        ({"weight": None}, r"weight: expected numbers of shape \(\), got object \(\)"),
        ({"weight_by_tree": ["0", "1"]}, r"weight_by_tree: expected numbers of shape \(2,\), got <U1 \(2,\)"),
        ({"pears": 1, "plums": 2}, "unexpected pears; unexpected plums"),
    ],
)
def test_json_of_another_form_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^apples: {message}$"):
        Apples.from_json(Apples.empty().to_json() | change)


def test_all_that_is_missing_or_unexpected_is_listed() -> None:
    message = "^apples: missing by_tree; missing weight; missing weight_by_tree; unexpected pears$"
    with pytest.raises(ValueError, match=message):
        Apples.from_json({"baskets": 1, "pears": 2})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("nan"), 1.0]])
def test_a_sum_that_is_not_finite_is_refused(value: Any) -> None:
    field = "weight" if isinstance(value, float) else "weight_by_tree"
    with pytest.raises(ValueError, match=f"^apples: {field}: expected finite numbers, got (nan|inf)"):
        Apples.from_json(Apples.empty().to_json() | {field: value})


@pytest.mark.parametrize("make", [Apples.empty, Tally.empty, Calibration.empty, Pairs.empty])
def test_a_tally_of_counts_cannot_be_reassigned(make: Callable[[], Counts]) -> None:
    counted = make()
    with pytest.raises(AttributeError, match="cannot assign to field"):
        setattr(counted, fields(counted)[0].name, 1)
