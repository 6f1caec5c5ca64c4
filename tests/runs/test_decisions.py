import json
import logging
from datetime import date
from pathlib import Path
from typing import Literal

import pytest

from mnist_pipeline.errors import DamagedError, RunNotFoundError, SettingsError
from mnist_pipeline.maintenance.verification import check_decisions
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.reporting import write_report
from mnist_pipeline.runs.decisions import newest_decision, standing_of
from mnist_pipeline.runs.lookup import missing_run_dates, run_by_id
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.views import current_views, update_views
from tests.published import at, flip_bit, hashes, identity, on_disk, opened, publish_run
from tests.stores import MemoryStore

OLD, NEW = identity("2026-01-30"), identity("2026-01-31")
AGAIN = identity("2026-01-31", weights_sha256="9" * 64)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for day, who in enumerate((OLD, NEW, AGAIN), 1):
        publish_run(tmp_path, who, seed=day, published_at=at(day))
    return tmp_path


def run(outputs: Path, run_id: str) -> Run:
    return run_by_id(opened(outputs), run_id)


def latest(outputs: Path) -> str:
    pointer = json.loads((outputs / "latest.json").read_bytes())["toy/test"]["run_id"]
    assert find_run(opened(outputs), "latest", "toy", "test").name.run_id == pointer
    return str(pointer)


def standings(outputs: Path) -> dict[str, str | None]:
    rows = current_views(opened(outputs)).runs.to_pylist()
    assert rows == current_views(opened(outputs), afresh=True).runs.to_pylist()
    return {row["run_id"]: row["standing"] for row in rows}


def test_the_last_decision_holds_and_all_are_kept_in_numbered_documents(outputs: Path) -> None:
    content = run(outputs, NEW.run_id).manifest().content
    assert newest_decision(opened(outputs), content) is None
    order: tuple[Literal["accepted", "withdrawn"], ...] = ("accepted", "withdrawn", "accepted")
    made = [decide(opened(outputs), run(outputs, NEW.run_id), what, f"reason {n}") for n, what in enumerate(order, 1)]
    assert newest_decision(opened(outputs), content) == made[-1]
    names = [path.name for path in sorted((outputs / "decisions" / NEW.run_id).iterdir())]
    assert names == ["000001.json", "000002.json", "000003.json"]
    assert made[-1].line.endswith(": reason 3")
    assert standings(outputs) == {OLD.run_id: None, NEW.run_id: "accepted", AGAIN.run_id: None}


def test_a_decision_changes_no_file_of_the_run(outputs: Path) -> None:
    before = hashes(run(outputs, NEW.run_id).folder)
    decide(opened(outputs), run(outputs, NEW.run_id), "withdrawn", "wrong camera")
    assert hashes(run(outputs, NEW.run_id).folder) == before
    assert run(outputs, NEW.run_id).problems() == []


def test_a_withdrawn_run_is_neither_latest_nor_that_of_its_date(outputs: Path) -> None:
    assert latest(outputs) == AGAIN.run_id
    decide(opened(outputs), run(outputs, AGAIN.run_id), "withdrawn", "bad weights")
    assert latest(outputs) == NEW.run_id
    assert find_run(opened(outputs), "2026-01-31", "toy", "test").name.run_id == NEW.run_id  # two runs before
    assert find_run(opened(outputs), AGAIN.run_id, "toy", "test").name.run_id == AGAIN.run_id
    decide(opened(outputs), run(outputs, NEW.run_id), "withdrawn", "bad weights")
    assert latest(outputs) == OLD.run_id
    with pytest.raises(
        RunNotFoundError, match=r"not counted: .* \(withdrawn\), .* \(withdrawn\); `mnist-pipeline accept"
    ):
        find_run(opened(outputs), "2026-01-31", "toy", "test")
    day = date(2026, 1, 31)
    assert missing_run_dates(opened(outputs), "toy", "test", [date(2026, 1, 30), day]) == [day]
    decide(opened(outputs), run(outputs, NEW.run_id), "accepted", "it was right after all")
    assert latest(outputs) == NEW.run_id
    assert missing_run_dates(opened(outputs), "toy", "test", [day]) == []


def test_the_views_are_told_of_decisions_that_were_made_while_they_could_not_be_written(outputs: Path) -> None:
    store = opened(outputs).store
    before = {name: store.read(name) for name in ("runs.parquet", "history.parquet", "latest.json")}
    decide(opened(outputs), run(outputs, AGAIN.run_id), "withdrawn", "bad weights")
    for name, data in before.items():
        store.write(name, data)
    assert standings(outputs)[AGAIN.run_id] == "withdrawn"
    update_views(opened(outputs))
    assert latest(outputs) == NEW.run_id


def test_a_run_that_was_published_anew_with_other_content_is_undecided(outputs: Path) -> None:
    decide(opened(outputs), run(outputs, NEW.run_id), "withdrawn", "wrong camera")
    on_disk(run(outputs, NEW.run_id).folder).rename(outputs / "away")
    publish_run(outputs, NEW, seed=7)
    assert standing_of(opened(outputs), run(outputs, NEW.run_id).manifest().content) is None
    assert standings(outputs)[NEW.run_id] is None


def test_a_damaged_decision_makes_the_run_neither_and_is_named(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    decide(opened(outputs), run(outputs, AGAIN.run_id), "accepted", "as good as before")
    (path,) = (outputs / "decisions" / AGAIN.run_id).iterdir()
    flip_bit(path, 30)
    with pytest.raises(DamagedError, match=f"{path}: expected a decision.*; decide again with `mnist-pipeline accept`"):
        newest_decision(opened(outputs), run(outputs, AGAIN.run_id).manifest().content)
    with caplog.at_level(logging.WARNING):
        update_views(opened(outputs), afresh=True)
    assert "a run of which this is not known does not count: " in caplog.text
    assert standings(outputs)[AGAIN.run_id] == "damaged"
    assert latest(outputs) == NEW.run_id
    ((_, problem),) = check_decisions(opened(outputs))
    assert problem is not None
    decide(opened(outputs), run(outputs, AGAIN.run_id), "accepted", "as good as before")
    assert latest(outputs) == AGAIN.run_id
    assert [problem for _, problem in check_decisions(opened(outputs))] == [None]


def test_a_report_that_is_there_shows_the_decision_and_none_is_written_otherwise(outputs: Path) -> None:
    report = outputs / "reports" / f"{NEW.run_id}.html"
    decide(opened(outputs), run(outputs, NEW.run_id), "accepted", "as good as before")
    assert not report.exists()
    write_report(opened(outputs), run(outputs, NEW.run_id))
    assert ": as good as before." in report.read_text()
    decide(opened(outputs), run(outputs, NEW.run_id), "withdrawn", "<b>wrong</b> camera")
    assert ": &lt;b&gt;wrong&lt;/b&gt; camera." in report.read_text()


def test_a_damaged_run_stays_withdrawn_and_keeps_no_other_from_being_found(outputs: Path) -> None:
    decide(opened(outputs), run(outputs, AGAIN.run_id), "withdrawn", "wrong camera")
    decide(opened(outputs), run(outputs, OLD.run_id), "accepted", "as good as before")
    for who in (AGAIN, OLD):
        (on_disk(run(outputs, who.run_id).folder) / "manifest.json").write_bytes(b"damaged")
    assert latest(outputs) == NEW.run_id
    assert find_run(opened(outputs), "2026-01-30", "toy", "test").name.run_id == OLD.run_id


def test_a_decision_under_the_name_of_another_run_is_damaged(outputs: Path) -> None:
    decide(opened(outputs), run(outputs, OLD.run_id), "withdrawn", "wrong camera")
    (outputs / "decisions" / OLD.run_id).rename(outputs / "decisions" / NEW.run_id)
    with pytest.raises(DamagedError, match=f"expected a decision on {NEW.run_id}, got one on {OLD.run_id}; decide"):
        newest_decision(opened(outputs), run(outputs, NEW.run_id).manifest().content)


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "x" * 201])
def test_a_reason_is_one_line(reason: str, outputs: Path) -> None:
    with pytest.raises(SettingsError, match=r"reason '.*'(\.\.\.)?: expected one line of 1 to 200 characters, got \d+"):
        decide(opened(outputs), run(outputs, NEW.run_id), "accepted", reason)
    assert not (outputs / "decisions").exists()


def test_in_a_bucket_decisions_are_the_same() -> None:
    store = MemoryStore(Path("/nowhere/outputs"), has_rename=False)
    outputs = Outputs(store)
    for day, who in enumerate((OLD, NEW), 1):
        publish_run(outputs, who, published_at=at(day))
    decide(outputs, run_by_id(outputs, NEW.run_id), "withdrawn", "wrong camera")
    assert find_run(outputs, "latest", "toy", "test").name.run_id == OLD.run_id
    assert json.loads(store.read("latest.json"))["toy/test"]["run_id"] == OLD.run_id
