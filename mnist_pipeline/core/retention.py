"""Selects the runs that keep their predictions, by age, rank and need. Deletes nothing; callers pass the date."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta


@dataclass(frozen=True)
class Retention:
    """The rule: keep runs with a run date in the last `keep_days` days, and the `keep_last` newest of each kind."""

    keep_days: int
    keep_last: int


@dataclass(frozen=True)
class Aged:
    """What the rule needs of a run: its id, its run date, and its kind (data set and split)."""

    run_id: str
    run_date: date
    kind: str


def kept(runs: Sequence[Aged], retention: Retention, today: date, needed: Mapping[str, str]) -> dict[str, str]:
    """The ids of the runs that keep their predictions, each with the reason.

    Args:
        runs: oldest first.
        retention: the rule.
        today: the UTC date; the last `keep_days` days end with it, and later run dates are kept too.
        needed: run_ids that are kept whatever the rule says, each with the reason.
    """
    reasons = {}
    rank: dict[str, int] = defaultdict(int)
    oldest = today - timedelta(days=retention.keep_days)
    for run in reversed(runs):
        rank[run.kind] += 1
        if run.run_id in needed:
            reasons[run.run_id] = needed[run.run_id]
        elif rank[run.kind] <= retention.keep_last:
            reasons[run.run_id] = f"one of the last {retention.keep_last}"
        elif run.run_date > oldest:
            reasons[run.run_id] = f"of the last {retention.keep_days} days"
    return reasons
