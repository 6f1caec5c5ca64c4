from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mnist_pipeline.core.retention import Aged, Retention, kept

TODAY = date(2026, 3, 31)


def nights(*ages: int, kind: str = "toy/test") -> list[Aged]:
    return [Aged(f"{kind} {age}", TODAY - timedelta(days=age), kind) for age in sorted(ages, reverse=True)]


def test_a_run_of_the_last_days_is_kept_and_one_a_day_older_is_not() -> None:
    found = kept(nights(0, 1, 2, 3, 4), Retention(keep_days=3, keep_last=1), TODAY, {})
    assert found == {
        "toy/test 0": "one of the last 1",
        "toy/test 1": "of the last 3 days",
        "toy/test 2": "of the last 3 days",
    }


def test_the_last_runs_of_each_kind_are_kept_however_old() -> None:
    runs = nights(100, 200, 300) + nights(500, 600, kind="toy/train")
    found = kept(runs, Retention(keep_days=1, keep_last=2), TODAY, {})
    assert set(found) == {"toy/test 100", "toy/test 200", "toy/train 500", "toy/train 600"}


def test_a_run_that_is_needed_is_kept_whatever_the_rule_says() -> None:
    found = kept(nights(5, 900), Retention(keep_days=1, keep_last=1), TODAY, {"toy/test 900": "the baseline"})
    assert found["toy/test 900"] == "the baseline"


def test_a_run_of_a_day_to_come_is_kept() -> None:
    assert len(kept(nights(-3, -2), Retention(keep_days=1, keep_last=1), TODAY, {})) == 2


@given(
    st.sets(st.integers(-5, 400), max_size=30),
    st.integers(1, 100),
    st.integers(1, 10),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_keeping_more_never_keeps_less(ages: set[int], days: int, last: int, more_days: int, more_last: int) -> None:
    runs = nights(*ages)
    few = kept(runs, Retention(days, last), TODAY, {})
    assert set(few) <= set(kept(runs, Retention(days + more_days, last + more_last), TODAY, {}))
    assert len(few) >= min(last, len(runs))
    assert len(few) == len(runs) or {run.run_id for run in runs[len(runs) - len(few) :]} == set(few)
