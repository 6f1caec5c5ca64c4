import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_pipeline.core.plan import RowRange, Shard, begin_where, cut, group, plan_groups, plan_shards

rows = st.integers(0, 2000)
sizes = st.integers(1, 2500)


@settings(deadline=None)
@given(rows, sizes)
def test_cut_covers_every_row_exactly_once_and_in_order(rows: int, size: int) -> None:
    covered = [row for piece in cut(rows, size) for row in range(piece.start, piece.stop)]
    assert covered == list(range(rows))


@settings(deadline=None)
@given(rows, sizes)
def test_only_the_last_range_may_be_shorter_and_none_is_empty(rows: int, size: int) -> None:
    lengths = [piece.rows for piece in cut(rows, size)]
    assert all(length == size for length in lengths[:-1])
    assert all(1 <= length <= size for length in lengths[-1:])


def test_the_short_last_range_is_kept() -> None:
    assert cut(10, 4) == (RowRange(0, 4), RowRange(4, 8), RowRange(8, 10))


def test_no_rows_are_cut_into_no_ranges() -> None:
    assert cut(0, 100) == ()
    assert plan_shards(0, 100) == ()


@pytest.mark.parametrize(("rows", "size"), [(-1, 1), (1, 0), (1, -5)])
def test_cut_refuses_negative_rows_and_sizes_below_one(rows: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"expected rows >= 0 and size >= 1, got rows={rows}, size={size}"):
        cut(rows, size)


@settings(deadline=None)
@given(rows, sizes)
def test_shards_are_numbered_in_order_and_cover_every_row(rows: int, shard_rows: int) -> None:
    shards = plan_shards(rows, shard_rows)
    assert tuple(shard.range for shard in shards) == cut(rows, shard_rows)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert {shard.count for shard in shards} <= {len(shards)}


def test_shards_name_themselves_for_files_and_for_people() -> None:
    shard = Shard(2, 7, RowRange(20, 30))
    assert shard.file_name == "part-00002.parquet"
    assert str(shard) == "shard 3 of 7"


@settings(deadline=None)
@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_file_names_sort_like_shards(a: int, b: int) -> None:
    first, second = (Shard(index, 100_000, RowRange(index, index + 1)).file_name for index in sorted((a, b)))
    assert first <= second


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 40))
def test_group_keeps_the_order_and_its_bounds(length: int, most: int) -> None:
    # The length is drawn, not a list: drawn lists are short, and then nearly every group holds one item.
    items = [str(item) for item in range(length)]
    groups = group(items, most)
    assert [item for members in groups for item in members] == items
    assert len(groups) == min(most, len(items))
    lengths = {len(members) for members in groups}
    assert 0 not in lengths
    assert not lengths or max(lengths) - min(lengths) <= 1


def test_more_groups_than_items_are_not_made() -> None:
    assert group("abc", 40) == (("a",), ("b",), ("c",))
    assert group("", 40) == ()


@pytest.mark.parametrize("most", [0, -1])
def test_group_refuses_to_make_no_groups(most: int) -> None:
    with pytest.raises(ValueError, match=f"expected max_groups >= 1, got {most}"):
        group([1, 2], most)


@pytest.mark.parametrize(("start", "stop"), [(3, 3), (4, 3), (-1, 3)])
def test_an_empty_or_negative_row_range_is_our_own_bug(start: int, stop: int) -> None:
    with pytest.raises(AssertionError, match=f"empty or negative row range {start}..{stop}"):
        RowRange(start, stop)


# Groups that may begin at some shards only


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40), st.sets(st.integers(0, 300)))
def test_groups_that_may_begin_at_some_shards_only_still_hold_every_shard_once_in_order(
    rows: int, shard_rows: int, most: int, allowed: set[int]
) -> None:
    groups = plan_groups(rows, shard_rows, most)
    moved = begin_where(groups, lambda shard: shard.index in allowed)
    assert [shard for group in moved for shard in group.shards] == list(plan_shards(rows, shard_rows))
    assert len(moved) <= len(groups)
    assert all(group.shards[0].index in allowed for group in moved[1:])


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_groups_stay_as_they_are_where_every_shard_may_begin_one(rows: int, shard_rows: int, most: int) -> None:
    groups = plan_groups(rows, shard_rows, most)
    assert begin_where(groups, lambda shard: True) == groups
    assert len(begin_where(groups, lambda shard: False)) == 1


def test_a_group_begins_at_the_next_shard_that_may() -> None:
    moved = begin_where(plan_groups(100, 10, 5), lambda shard: shard.index in {1, 3, 7, 8})
    assert [[shard.index for shard in group.shards] for group in moved] == [[0, 1, 2], [3, 4, 5, 6], [7], [8, 9]]
