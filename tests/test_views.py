import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mnist_pipeline import tables
from mnist_pipeline.errors import OutputsError
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.runs.counting import counted_at
from mnist_pipeline.runs.layout import RUNS, VERDICTS
from mnist_pipeline.runs.lookup import list_runs, runs_of, runs_of_dates
from mnist_pipeline.runs.manifest import Totals
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.opening import open_store
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.views import current_views, update_views
from tests.builders import small_settings
from tests.processes import run_at_once, start_together
from tests.published import (
    compared_with,
    flip_bit,
    give_up,
    identity,
    left_over,
    on_disk,
    opened,
    publish_run,
    publish_verdict,
    snapshot,
    staged,
)
from tests.stores import FaultyStore


def at(day: int) -> datetime:
    return datetime(2026, 2, day, 3, 30, 0, 123456, UTC)


def stored(outputs: Location) -> list[dict[str, Any]]:
    data = on_disk(outputs / "history.parquet").read_bytes()
    rows: list[dict[str, Any]] = tables.decode(tables.HISTORY, data, "history").to_pylist()
    return rows


def stored_runs(outputs: Location) -> list[dict[str, Any]]:
    data = on_disk(outputs / "runs.parquet").read_bytes()
    rows: list[dict[str, Any]] = tables.decode(tables.RUNS, data, "runs").to_pylist()
    return rows


def expected(outputs: Location) -> list[dict[str, Any]]:
    """The history as it follows from the runs, the slow way: each run's summary and what holds for all of it."""
    rows = []
    of_dates = {
        split: runs_of_dates(opened(outputs), runs_of(opened(outputs), *split))
        for split in {(run.name.dataset, run.name.split) for run in list_runs(opened(outputs))}
    }
    for run in list_runs(opened(outputs)):
        nights = of_dates[run.name.dataset, run.name.split]
        manifest = run.manifest()
        verdict = newest_verdict(opened(outputs), manifest.content)
        of_run = {
            "weights_sha256": manifest.identity.weights_sha256,
            "outcome": verdict and verdict.outcome,
            "published_at": manifest.published_at,
            "counts": counted_at(opened(outputs), run) is not None,
            "is_of_date": run in nights,
            "is_latest": run in nights[-1:],
        }
        rows += [{**row, **of_run} for row in run.read(tables.SUMMARY).to_pylist()]
    return rows


def latest(outputs: Location) -> dict[str, dict[str, str]]:
    document: dict[str, dict[str, str]] = json.loads(on_disk(outputs / "latest.json").read_bytes())
    return document


def pointer(run: Run) -> dict[str, str]:
    return {"run_id": run.name.run_id, "run_date": str(run.name.run_date)}


def test_history_has_ten_rows_for_each_run_taken_from_the_run(tmp_path: Path) -> None:
    for day, run_date in enumerate(["2026-01-30", "2026-01-31", "2026-01-02"], 1):
        publish_run(tmp_path, identity(run_date), seed=day, published_at=at(day))
        assert len(stored(tmp_path)) == 10 * day
        assert stored(tmp_path) == expected(tmp_path)
    assert [row["digit"] for row in stored(tmp_path)] == [*range(10)] * 3
    assert current_views(opened(tmp_path)).history.to_pylist() == expected(tmp_path)
    assert left_over(tmp_path) == []


def test_history_kept_up_night_by_night_is_byte_for_byte_that_made_from_nothing(tmp_path: Path) -> None:
    for day in (3, 1, 2):
        publish_run(tmp_path, identity(f"2026-01-{day:02}"), seed=day, published_at=at(day))
    kept = (tmp_path / "history.parquet").read_bytes()
    (tmp_path / "history.parquet").unlink()
    update_views(opened(tmp_path))
    assert (tmp_path / "history.parquet").read_bytes() == kept


def test_without_runs_history_is_an_empty_table(tmp_path: Path) -> None:
    assert current_views(opened(tmp_path)).history.num_rows == 0
    update_views(opened(tmp_path))
    assert stored(tmp_path) == []
    assert latest(tmp_path) == {}
    assert list(pd.read_parquet(tmp_path / "history.parquet").columns) == tables.HISTORY.schema.names


@pytest.mark.parametrize("damage", ["bits", "empty", "rubbish", "other table", "cut short", "gone"])
def test_a_damaged_history_is_made_anew(damage: str, tmp_path: Path) -> None:
    runs = [publish_run(tmp_path, identity(f"2026-01-0{day}"), published_at=at(day)) for day in (1, 2)]
    path = tmp_path / "history.parquet"
    whole = path.read_bytes()
    broken: dict[str, Callable[[], object]] = {
        "bits": lambda: flip_bit(path, 100),
        "empty": lambda: path.write_bytes(b""),
        "rubbish": lambda: path.write_bytes(b"PAR1 rubbish PAR1"),
        "other table": lambda: shutil.copy(runs[0].folder / "summary.parquet", path),
        "cut short": lambda: path.write_bytes(whole[:-9]),
        "gone": path.unlink,
    }
    broken[damage]()
    assert current_views(opened(tmp_path)).history.to_pylist() == expected(tmp_path)
    update_views(opened(tmp_path))
    assert path.read_bytes() == whole


def test_a_history_that_lost_some_rows_of_a_run_is_made_whole(tmp_path: Path) -> None:
    # One flipped bit in the footer's number of rows does this, and no checksum covers it.
    for day in (1, 2):
        publish_run(tmp_path, identity(f"2026-01-0{day}"), published_at=at(day))
    path = tmp_path / "history.parquet"
    fewer = tables.decode(tables.HISTORY, path.read_bytes(), "x").slice(0, 16)
    path.write_bytes(tables.encode(tables.HISTORY, fewer))
    assert current_views(opened(tmp_path)).history.to_pylist() == expected(tmp_path)


def test_a_removed_run_disappears_without_a_trace(tmp_path: Path) -> None:
    gone = publish_run(tmp_path, identity("2026-01-30"))
    kept = publish_run(tmp_path, identity("2026-01-29"))
    shutil.rmtree(gone.folder)
    update_views(opened(tmp_path))
    frame = pd.read_parquet(tmp_path / "history.parquet")
    assert frame["run_id"].cat.categories.tolist() == [kept.name.run_id]
    assert len(frame) == 10
    assert latest(tmp_path) == {"toy/test": pointer(kept)}


def test_a_run_made_again_with_other_digits_replaces_its_rows(tmp_path: Path) -> None:
    first = publish_run(tmp_path, identity(), seed=0, published_at=at(1))
    before = stored(tmp_path)
    shutil.rmtree(first.folder)
    publish_run(tmp_path, identity(), seed=1, published_at=at(2))
    assert stored(tmp_path) == expected(tmp_path)
    assert [row["mean_confidence"] for row in stored(tmp_path)] != [row["mean_confidence"] for row in before]


def test_a_damaged_run_keeps_no_other_out_of_the_views(tmp_path: Path) -> None:
    damaged = publish_run(tmp_path, identity("2026-01-31", batch_rows=1), views=False)
    other = publish_run(tmp_path, identity("2026-01-31", batch_rows=2), views=False)
    flip_bit(damaged.folder / "manifest.json")
    update_views(opened(tmp_path))
    assert {row["run_id"] for row in stored(tmp_path)} == {other.name.run_id}
    assert latest(tmp_path) == {"toy/test": pointer(other)}
    flip_bit(damaged.folder / "manifest.json")  # as it was
    update_views(opened(tmp_path))
    assert stored(tmp_path) == expected(tmp_path)
    assert len(stored(tmp_path)) == 20


def test_a_run_whose_summary_does_not_verify_is_left_out_until_it_does(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity(), views=False)
    flip_bit(run.folder / "summary.parquet")
    update_views(opened(tmp_path))
    assert stored(tmp_path) == []
    flip_bit(run.folder / "summary.parquet")
    update_views(opened(tmp_path))
    assert stored(tmp_path) == expected(tmp_path)


def test_latest_names_the_newest_run_and_never_moves_back(tmp_path: Path) -> None:
    january = publish_run(tmp_path, identity("2026-01-30"), published_at=at(1))
    assert latest(tmp_path) == {"toy/test": pointer(january)}
    publish_run(tmp_path, identity("2026-01-01"), published_at=at(9))  # filled in later
    assert latest(tmp_path) == {"toy/test": pointer(january)}
    again = publish_run(tmp_path, identity("2026-01-30", batch_rows=9), published_at=at(2))
    assert latest(tmp_path) == {"toy/test": pointer(again)}
    earlier = publish_run(tmp_path, identity("2026-01-30", batch_rows=8), published_at=at(1))
    assert latest(tmp_path) == {"toy/test": pointer(again)}
    assert earlier.name.run_id != again.name.run_id
    newer = publish_run(tmp_path, identity("2026-02-01"), published_at=at(2))
    other = publish_run(tmp_path, identity("2025-01-01", dataset="other", split="train"))
    assert latest(tmp_path) == {"other/train": pointer(other), "toy/test": pointer(newer)}
    assert list(latest(tmp_path)) == ["other/train", "toy/test"]


def test_bringing_the_views_up_touches_no_run(tmp_path: Path) -> None:
    publish_run(tmp_path, identity())
    before = snapshot(tmp_path / "runs")
    update_views(opened(tmp_path))
    assert snapshot(tmp_path / "runs") == before


def read_of_runs(outputs: Path, **how: Any) -> set[str]:
    """The dates of the runs of which an update of the views has read anything, in `runs` or in `verdicts`."""
    counting = FaultyStore(open_store(outputs))
    update_views(Outputs(counting), **how)
    names = [name.split("/") for operation, name in counting.calls if operation == "read"]
    return {run_id[:10] for top, run_id, *_ in (name for name in names if len(name) > 1) if top in (RUNS, VERDICTS)}


def test_of_runs_that_have_not_changed_nothing_is_read(tmp_path: Path) -> None:
    days = [f"2026-01-{day}" for day in (29, 30, 31)]
    first, second, third = (publish_run(tmp_path, identity(day)).name.run_id for day in days)
    assert read_of_runs(tmp_path) == set()
    publish_verdict(tmp_path, first)
    assert read_of_runs(tmp_path) == {days[0]}
    assert stored_runs(tmp_path)[0]["outcome"] == "pass"
    give_up(tmp_path, second)
    assert read_of_runs(tmp_path) == {days[1]}
    assert stored_runs(tmp_path)[1]["pruned_at"] is not None
    (tmp_path / "runs" / third / "manifest.json").touch()
    assert read_of_runs(tmp_path) == {days[2]}
    assert read_of_runs(tmp_path) == set()
    assert read_of_runs(tmp_path, afresh=True) == set(days)
    assert stored(tmp_path) == expected(tmp_path)


def test_damage_that_changes_neither_size_nor_times_shows_where_all_is_read_afresh(tmp_path: Path) -> None:
    damaged, other = (publish_run(tmp_path, identity(f"2026-01-{day}")) for day in (30, 31))
    flip_bit(damaged.folder / "manifest.json")
    update_views(opened(tmp_path))
    assert [row["run_id"] for row in stored_runs(tmp_path)] == [damaged.name.run_id, other.name.run_id]
    update_views(opened(tmp_path), afresh=True)
    assert [row["run_id"] for row in stored_runs(tmp_path)] == [other.name.run_id]
    assert {row["run_id"] for row in stored(tmp_path)} == {other.name.run_id}


def test_an_update_for_one_run_looks_for_no_other_that_the_views_have(tmp_path: Path) -> None:
    first, second = (publish_run(tmp_path, identity(f"2026-01-{day}")).name.run_id for day in (30, 31))
    for run_id in (first, second):
        publish_verdict(tmp_path, run_id)
    assert read_of_runs(tmp_path, run_id=second) == {"2026-01-31"}
    assert [row["outcome"] for row in stored_runs(tmp_path)] == [None, "pass"]
    assert read_of_runs(tmp_path, run_id="2026-02-01-toy-test-000000000000") == {"2026-01-30"}  # which they have not
    assert [row["outcome"] for row in stored_runs(tmp_path)] == ["pass", "pass"]


def test_the_views_are_brought_up_by_one_publisher_at_a_time(tmp_path: Path) -> None:
    publish_run(tmp_path, identity("2026-01-30"))
    with ThreadPoolExecutor(1) as pool:
        with opened(tmp_path).store.lock("history.parquet"):
            waiting = pool.submit(update_views, opened(tmp_path))
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            publish_run(tmp_path, identity("2026-01-31"), views=False)
        waiting.result(timeout=60)
    assert len(stored(tmp_path)) == 20  # it listed the runs once it was its turn


@pytest.mark.parametrize("view", ["history.parquet", "runs.parquet", "latest.json"])
def test_a_view_that_cannot_be_written_is_an_outputs_error_and_leaves_no_rubbish(view: str, tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity(), views=False)
    (tmp_path / view).mkdir()
    (tmp_path / view / "in the way").write_text("")
    with pytest.raises(OutputsError, match=f"cannot write {tmp_path}/{view}: .*then run again"):
        update_views(opened(tmp_path))
    assert run.problems() == []
    assert left_over(tmp_path) == []


def evaluate_with_others(folder: Path, run_date: str) -> tuple[str, bool]:
    settings = small_settings(folder, run_date=run_date)
    start_together()
    published = evaluation.evaluate(settings)
    return published.run_id, published.new


def test_eight_processes_at_once_publish_each_run_once_and_lose_no_row(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    dates = ["2026-01-28", "2026-01-29", "2026-01-30", "2026-01-31"]
    said = run_at_once(evaluate_with_others, [(tmp_path, run_date) for run_date in dates * 2])
    published = [run.name.run_id for run in list_runs(opened(settings.outputs))]
    assert len(published) == 4
    assert sorted(said) == sorted((run_id, new) for run_id in published for new in (True, False))
    assert [run.problems() for run in list_runs(opened(settings.outputs))] == [[]] * 4
    assert stored(settings.outputs) == expected(settings.outputs)
    assert len(stored(settings.outputs)) == 40
    assert [row["run_id"] for row in stored_runs(settings.outputs)] == published
    assert latest(settings.outputs)["toy/test"]["run_id"] == published[-1]
    assert left_over(settings.outputs) == []
    assert sorted(path.name for path in on_disk(settings.outputs).iterdir()) == [
        ".staging",
        "counted",
        "history.parquet",
        "latest.json",
        "runs",
        "runs.parquet",
        "shards",
        "weights",
    ]


def test_a_run_that_is_left_out_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = publish_run(tmp_path, identity("2026-01-30"))
    on_disk(run.folder / "summary.parquet").unlink()
    (tmp_path / "history.parquet").unlink()
    assert current_views(opened(tmp_path)).history.num_rows == 0
    assert "left out of the history" in caplog.text
    assert "summary.parquet" in caplog.text


# One row a run


def test_every_run_has_one_row_with_what_its_manifest_says(tmp_path: Path) -> None:
    for day, run_date in enumerate(["2026-01-30", "2026-01-31", "2026-01-02"], 1):
        publish_run(tmp_path, identity(run_date, images=10 * day), seed=day, published_at=at(day))
    frame = pd.read_parquet(tmp_path / "runs.parquet")
    assert frame["run_date"].dt.strftime("%Y-%m-%d").tolist() == ["2026-01-02", "2026-01-30", "2026-01-31"]
    for run, (_, row) in zip(list_runs(opened(tmp_path)), frame.iterrows(), strict=True):
        manifest = run.manifest()
        predictions = pd.read_parquet(run.folder / "predictions")
        right = predictions["label"] == predictions["prediction"]
        assert row["run_id"] == run.name.run_id
        assert (row["dataset"], row["split"], row["engine"]) == ("toy", "test", "direct")
        assert (row["images"], row["labelled"], row["correct"]) == (len(right), len(right), right.sum())
        assert row["accuracy"] == right.mean()
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["accuracy_high"] - row["accuracy_low"] > 0.1
        totals = manifest.totals.model_dump()
        for name in ("top2_accuracy", "nll", "nll_error", "brier", "brier_error", "ece", "ece_noise"):
            assert row[name] == totals[name] is not None
        for name in ("images_sha256", "labels_sha256", "weights_sha256", "batch_rows", "shard_rows"):
            assert row[name] == getattr(manifest.identity, name)
        assert (row["evaluated_at"], row["published_at"]) == (manifest.evaluated_at, manifest.published_at)
        assert row["seconds"] == 0.25
        assert row[["verdict_id", "outcome", "pruned_at"]].isna().all()
    assert current_views(opened(tmp_path)).runs.to_pylist() == stored_runs(tmp_path)


def test_without_runs_there_are_no_rows(tmp_path: Path) -> None:
    assert current_views(opened(tmp_path)).runs.num_rows == 0
    update_views(opened(tmp_path))
    assert stored_runs(tmp_path) == []
    assert list(pd.read_parquet(tmp_path / "runs.parquet").columns) == tables.RUNS.schema.names


def test_a_run_without_labels_has_null_figures(tmp_path: Path) -> None:
    publish_run(tmp_path, identity(labels_sha256=None))
    (row,) = stored_runs(tmp_path)
    assert (row["images"], row["labelled"], row["correct"]) == (12, 0, 0)
    unknown = {name for name, value in row.items() if value is None}
    assert unknown == {
        *("accuracy", "accuracy_low", "accuracy_high", "top2_accuracy", "nll", "nll_error", "brier", "brier_error"),
        *("ece", "ece_noise", "verdict_id", "outcome", "changed", "standing", "labels_sha256", "pruned_at"),
    }


def test_a_verdict_that_was_added_later_appears_and_the_newest_one_counts(tmp_path: Path) -> None:
    one, other = (publish_run(tmp_path, identity(f"2026-01-{day}")).name.run_id for day in (30, 31))

    def verdicts() -> dict[str, tuple[str | None, str | None]]:
        return {row["run_id"]: (row["verdict_id"], row["outcome"]) for row in stored_runs(tmp_path)}

    assert verdicts() == {one: (None, None), other: (None, None)}
    publish_verdict(tmp_path, one, "b" * 12, outcome="fail", judged_at=at(3))
    assert verdicts() == {one: (None, None), other: (None, None)}
    assert current_views(opened(tmp_path)).runs["outcome"].to_pylist() == ["fail", None]
    update_views(opened(tmp_path))
    assert verdicts() == {one: ("b" * 12, "fail"), other: (None, None)}
    publish_verdict(tmp_path, one, "a" * 12, outcome="pass", judged_at=at(4), views=True)
    publish_verdict(tmp_path, other, "c" * 12, outcome="inconclusive", judged_at=at(4), views=True)
    assert verdicts() == {one: ("a" * 12, "pass"), other: ("c" * 12, "inconclusive")}
    publish_verdict(tmp_path, one, "d" * 12, outcome="fail", judged_at=at(2), views=True)  # judged before, seen later
    assert verdicts()[one] == ("a" * 12, "pass")


def test_a_damaged_verdict_keeps_no_run_out_of_the_views(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = publish_run(tmp_path, identity())
    sound = publish_verdict(tmp_path, run.name.run_id, "a" * 12, outcome="fail", judged_at=at(2))
    damaged = publish_verdict(tmp_path, run.name.run_id, "b" * 12, judged_at=at(3))
    flip_bit(damaged.folder / "verdict.json")
    on_disk(damaged.folder.parent / ".DS_Store").write_text("rubbish")
    update_views(opened(tmp_path))
    (row,) = stored_runs(tmp_path)
    assert (row["verdict_id"], row["outcome"]) == (sound.document.verdict_id, "fail")
    assert f"left out: {damaged.folder}" in caplog.text


def test_a_run_whose_manifest_is_damaged_has_no_row_and_its_verdict_no_effect(tmp_path: Path) -> None:
    damaged, other = (publish_run(tmp_path, identity(f"2026-01-{day}")) for day in (30, 31))
    publish_verdict(tmp_path, damaged.name.run_id)
    flip_bit(damaged.folder / "manifest.json")
    update_views(opened(tmp_path))
    assert [row["run_id"] for row in stored_runs(tmp_path)] == [other.name.run_id]


def test_a_run_of_an_earlier_version_without_counts_has_its_row(tmp_path: Path) -> None:
    with staged(tmp_path, identity()) as (staging, manifest):
        few = {name: getattr(manifest.totals, name) for name in ("images", "labelled", "correct", "accuracy")}
        earlier = {"totals": Totals(**few), "tally": None, "calibration": None}
        assert commit(opened(tmp_path), staging, manifest.model_copy(update=earlier))
    update_views(opened(tmp_path))
    (row,) = stored_runs(tmp_path)
    assert row["accuracy"] == few["accuracy"] is not None
    assert row["nll"] is None


def test_rows_of_a_table_with_fewer_columns_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = publish_run(tmp_path, identity())
    compared = [compared_with(None), compared_with(7), compared_with(9)]  # the first has other images
    publish_verdict(tmp_path, run.name.run_id, references=compared)
    fewer = replace(tables.RUNS, columns=tuple(each for each in tables.RUNS.columns if each.name != "changed"))
    with monkeypatch.context() as earlier:
        earlier.setattr(tables, "RUNS", fewer)
        update_views(opened(tmp_path))
    assert [row["changed"] for row in stored_runs(tmp_path)] == [None]
    update_views(opened(tmp_path))
    assert [row["changed"] for row in stored_runs(tmp_path)] == [7]


def test_a_damaged_table_of_runs_is_made_anew(tmp_path: Path) -> None:
    publish_run(tmp_path, identity())
    whole = (tmp_path / "runs.parquet").read_bytes()
    for damage in (b"", b"rubbish", whole[:-9]):
        (tmp_path / "runs.parquet").write_bytes(damage)
        update_views(opened(tmp_path))
        assert (tmp_path / "runs.parquet").read_bytes() == whole


def test_publishing_judging_and_bringing_up_at_once_loses_nothing(tmp_path: Path) -> None:
    def night(day: int) -> None:
        run = publish_run(tmp_path, identity(f"2026-01-{day:02}"), seed=day)
        publish_verdict(tmp_path, run.name.run_id, f"{day:012x}", outcome="fail", views=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(night, range(1, 13)))
    assert [row["verdict_id"] for row in stored_runs(tmp_path)] == [f"{day:012x}" for day in range(1, 13)]
    assert stored(tmp_path) == expected(tmp_path)
    assert len(stored(tmp_path)) == 120
    assert latest(tmp_path)["toy/test"]["run_date"] == "2026-01-12"
    assert left_over(tmp_path) == []
