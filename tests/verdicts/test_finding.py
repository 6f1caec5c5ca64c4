from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.errors import RunNotFoundError
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.runs.counting import record_counted
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.views import current_views
from tests.published import at, identity, opened, publish_run, publish_verdict

NIGHT, AGAIN, BY_HAND = (identity(weights_sha256=digit * 64) for digit in "345")


def found(outputs: Path, which: str | date) -> str:
    return find_run(opened(outputs), which, "toy", "test").name.run_id


def test_latest_is_the_newest_date_and_among_its_runs_the_last_published(tmp_path: Path) -> None:
    def latest() -> tuple[str, int]:
        who = find_run(opened(tmp_path), "latest", "toy", "test").manifest().identity
        return str(who.run_date), who.batch_rows

    publish_run(tmp_path, identity("2026-01-30", batch_rows=9), published_at=at(5))
    assert latest() == ("2026-01-30", 9)
    publish_run(tmp_path, identity("2026-01-31", batch_rows=1), published_at=at(3))
    publish_run(tmp_path, identity("2026-01-31", batch_rows=2), published_at=at(4))
    publish_run(tmp_path, identity("2026-01-31", batch_rows=3), published_at=at(2))
    assert latest() == ("2026-01-31", 2)
    publish_run(tmp_path, identity("2026-01-29"), published_at=at(9))  # filled in later
    publish_run(tmp_path, identity("2026-02-28", dataset="other"), published_at=at(9))
    publish_run(tmp_path, identity("2026-02-28", split="train"), published_at=at(9))
    assert latest() == ("2026-01-31", 2)


def test_a_run_is_found_by_its_id_or_its_date(tmp_path: Path) -> None:
    one = publish_run(tmp_path, identity("2026-01-30"))
    publish_run(tmp_path, identity("2026-01-31"))
    publish_run(tmp_path, identity("2026-01-30", dataset="other"))
    # The last is what a run_date column holds.
    for which in (one.name.run_id, "2026-01-30", date(2026, 1, 30), datetime(2026, 1, 30)):
        assert find_run(opened(tmp_path), which, "toy", "test") == one
    assert find_run(opened(tmp_path), one.name.run_id, "whatever", "else") == one  # the id says it all


@pytest.mark.parametrize("which", ["latest", "2026-01-30", date(2026, 1, 30), "rubbish", "../runs"])
def test_a_run_that_is_not_there_is_not_found(which: str | date, tmp_path: Path) -> None:
    with pytest.raises(
        RunNotFoundError, match=r"got none; what is there: nothing yet; publish it with `mnist-pipeline run --d"
    ):
        find_run(opened(tmp_path), which, "toy", "test")
    publish_run(tmp_path, identity("2026-01-29", dataset="other"))
    with pytest.raises(RunNotFoundError, match=r"expected a published run of toy/test in .*what is there: other/test;"):
        find_run(opened(tmp_path), which, "toy", "test")
    if which != "latest":
        known = publish_run(tmp_path, identity("2026-01-28")).name.run_id
        with pytest.raises(RunNotFoundError, match=f"got none; what is there: {known}; publish it"):
            find_run(opened(tmp_path), which, "toy", "test")


def test_the_run_of_a_date_is_the_newest_that_counts(tmp_path: Path) -> None:
    publish_run(tmp_path, NIGHT, published_at=at(2))
    publish_run(tmp_path, AGAIN, published_at=at(3))
    publish_run(tmp_path, BY_HAND, published_at=at(4), counts=False)
    assert found(tmp_path, "2026-01-31") == found(tmp_path, "latest") == AGAIN.run_id
    record_counted(opened(tmp_path), NIGHT.run_id, at(5))  # the first weights are back, and its night found its run
    assert found(tmp_path, "2026-01-31") == found(tmp_path, "latest") == NIGHT.run_id


def test_a_run_by_hand_counts_once_it_is_accepted(tmp_path: Path) -> None:
    publish_run(tmp_path, BY_HAND, published_at=at(4), counts=False)
    for which in ("2026-01-31", "latest"):
        with pytest.raises(
            RunNotFoundError, match=rf"not counted: {BY_HAND.run_id} \(made by hand\); `mnist-pipeline accept RUN_ID"
        ):
            found(tmp_path, which)
    assert found(tmp_path, BY_HAND.run_id) == BY_HAND.run_id
    decide(opened(tmp_path), run_by_id(opened(tmp_path), BY_HAND.run_id), "accepted", "the weights of tomorrow")
    assert found(tmp_path, "2026-01-31") == found(tmp_path, "latest") == BY_HAND.run_id
    publish_run(tmp_path, NIGHT, published_at=at(5))
    assert found(tmp_path, "latest") == BY_HAND.run_id  # accepted later
    record_counted(opened(tmp_path), NIGHT.run_id, datetime.now(UTC))
    assert found(tmp_path, "latest") == NIGHT.run_id


def test_latest_passed_passes_over_what_failed_was_not_judged_or_does_not_count(tmp_path: Path) -> None:
    days: dict[str, tuple[Outcome | None, bool]] = {
        "2026-01-27": ("pass", True),
        "2026-01-28": ("fail", True),
        "2026-01-29": (None, True),
        "2026-01-30": ("pass", False),
    }
    for day, (outcome, counts) in days.items():
        run_id = publish_run(tmp_path, identity(day), counts=counts).name.run_id
        if outcome:
            publish_verdict(tmp_path, run_id, outcome=outcome)
    assert found(tmp_path, "latest-passed") == identity("2026-01-27").run_id
    assert found(tmp_path, "latest") == identity("2026-01-29").run_id
    decide(opened(tmp_path), run_by_id(opened(tmp_path), identity("2026-01-28").run_id), "accepted", "as meant")
    assert found(tmp_path, "latest-passed") == identity("2026-01-28").run_id


def test_without_a_run_that_passed_none_is_shown_for_one(tmp_path: Path) -> None:
    run_id = publish_run(tmp_path, NIGHT).name.run_id
    publish_verdict(tmp_path, run_id, outcome="fail")
    with pytest.raises(
        RunNotFoundError,
        match=f"'latest-passed': expected a published run of toy/test that passed in .*there: {run_id}; `mnist-",
    ):
        found(tmp_path, "latest-passed")


def test_the_views_mark_the_runs_that_are_found(tmp_path: Path) -> None:
    publish_run(tmp_path, identity("2026-01-30"), published_at=at(9))
    publish_run(tmp_path, NIGHT, published_at=at(2))
    publish_run(tmp_path, AGAIN, published_at=at(3))
    publish_run(tmp_path, BY_HAND, published_at=at(4), counts=False)
    publish_run(tmp_path, identity("2026-01-29", dataset="other"), published_at=at(9))

    def marked(table: Any, name: str) -> set[str]:
        return {row["run_id"] for row in table.to_pylist() if row[name]}

    for day in (1, 5):  # the first run of the date is found again on day 5
        record_counted(opened(tmp_path), NIGHT.run_id, at(day + 1))
        views = current_views(opened(tmp_path))
        for table in (views.runs, views.history):
            assert marked(table, "counts") == marked(views.runs, "run_id") - {BY_HAND.run_id}
            of_other = identity("2026-01-29", dataset="other").run_id
            newest = {found(tmp_path, "latest"), of_other}
            assert marked(table, "is_latest") == newest == {(AGAIN if day == 1 else NIGHT).run_id, of_other}
            assert marked(table, "is_of_date") == newest | {identity("2026-01-30").run_id}
