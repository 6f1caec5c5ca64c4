"""Divides N rows into shards, batches and groups of shards, without reading any file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")

# Shard names have five digits; with more shards a folder would no longer list in image order.
MAX_SHARDS = 100_000


@dataclass(frozen=True, order=True)
class RowRange:
    """Rows `start` (included) to `stop` (excluded)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.stop, f"empty or negative row range {self.start}..{self.stop}"

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Shard:
    """One planned shard: its index, the number of shards, and its rows."""

    index: int
    count: int
    range: RowRange

    @property
    def file_name(self) -> str:
        return f"part-{self.index:05d}.parquet"

    def __str__(self) -> str:
        return f"shard {self.index + 1} of {self.count}"


@dataclass(frozen=True)
class ShardGroup:
    """Consecutive shards that one task processes; at least one."""

    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.range.rows for shard in self.shards)

    def __str__(self) -> str:
        first, last = self.shards[0], self.shards[-1]
        return str(first) if first == last else f"shards {first.index + 1}-{last.index + 1} of {first.count}"


def cut(rows: int, size: int) -> tuple[RowRange, ...]:
    """Divide rows 0..`rows` into ranges of `size` rows, in order; the last may be shorter, none is empty."""
    if rows < 0 or size < 1:
        raise ValueError(f"expected rows >= 0 and size >= 1, got rows={rows}, size={size}")
    return tuple(RowRange(start, min(start + size, rows)) for start in range(0, rows, size))


def plan_shards(rows: int, shard_rows: int) -> tuple[Shard, ...]:
    """Divide a data set of `rows` images into shards of `shard_rows` images."""
    ranges = cut(rows, shard_rows)
    assert len(ranges) <= MAX_SHARDS, f"{len(ranges)} shards: their names would not sort in order"
    return tuple(Shard(index, len(ranges), each) for index, each in enumerate(ranges))


def plan_groups(rows: int, shard_rows: int, max_groups: int) -> tuple[ShardGroup, ...]:
    """Distribute the shards of a data set over at most `max_groups` tasks, in order."""
    return tuple(ShardGroup(shards) for shards in group(plan_shards(rows, shard_rows), max_groups))


def begin_where(groups: Sequence[ShardGroup], may_begin: Callable[[Shard], bool]) -> tuple[ShardGroup, ...]:
    """Move the start of each group to the next shard that may start one; drop groups that become empty.

    Args:
        groups: all shards of a data set, in order.
        may_begin: whether a group may start at this shard; not called for the first shard.
    """
    wanted = {group.shards[0] for group in groups}
    moved: list[list[Shard]] = []
    due = False
    for shard in (shard for group in groups for shard in group.shards):
        due = due or shard in wanted
        if not moved or (due and may_begin(shard)):
            moved.append([])
            due = False
        moved[-1].append(shard)
    return tuple(ShardGroup(tuple(shards)) for shards in moved)


def group(items: Sequence[T], max_groups: int) -> tuple[tuple[T, ...], ...]:
    """Split `items`, in order, into at most `max_groups` runs whose lengths differ by at most one.

    This bounds the number of tasks of a run, whatever the size of its data set.
    """
    if max_groups < 1:
        raise ValueError(f"expected max_groups >= 1, got {max_groups}")
    groups = min(max_groups, len(items))
    edges = [len(items) * k // groups for k in range(groups + 1)] if groups else [0]
    return tuple(tuple(items[a:b]) for a, b in pairwise(edges))
