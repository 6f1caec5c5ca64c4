import logging
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mnist_pipeline.api import load_history, load_predictions, load_run
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import DamagedError, RunNotFoundError, SettingsError
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.runs.lookup import list_runs
from tests.published import at, flip_bit, identity, opened, publish_run

FIRST, SECOND, THIRD = (identity(f"2026-01-{day}") for day in (29, 30, 31))


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A run of each of three dates that counts, and another of the last that does not."""
    for seed, who in enumerate((THIRD, FIRST, SECOND)):
        publish_run(tmp_path, who, views=False, seed=seed)
    publish_run(tmp_path, identity("2026-01-31", weights_sha256="9" * 64), views=False, counts=False, seed=3)
    return tmp_path


def test_predictions_of_all_nights_are_those_of_the_run_of_each_date(outputs: Path) -> None:
    frame = load_predictions("toy", outputs=outputs)
    of_each = [load_run(who.run_id, outputs=outputs) for who in (FIRST, SECOND, THIRD)]
    expected = pd.concat(of_each, ignore_index=True).astype({"run_id": "category"})
    pd.testing.assert_frame_equal(frame, expected)
    assert frame.attrs == {"pruned": []}


@pytest.mark.parametrize(
    ("limits", "days"),
    [
        ({"since": "2026-01-30"}, [30, 31]),
        ({"until": date(2026, 1, 30)}, [29, 30]),
        ({"since": pd.Timestamp("2026-01-30"), "until": datetime(2026, 1, 30, 12)}, [30]),
    ],
)
def test_both_ends_of_a_range_of_dates_belong_to_it(limits: Any, days: list[int], outputs: Path) -> None:
    frame = load_predictions("toy", **limits, outputs=outputs)
    assert [day.day for day in frame["run_date"].unique()] == days


def test_columns_come_in_the_order_asked_for_and_no_others(outputs: Path) -> None:
    columns = ["prediction", "run_id", "correct"]
    frame = load_predictions("toy", columns=iter(columns), outputs=outputs)
    pd.testing.assert_frame_equal(frame, load_predictions("toy", outputs=outputs)[columns])
    assert list(load_predictions("toy", columns="label", outputs=outputs)) == ["label"]


def test_pruned_nights_are_left_out_and_named(outputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    carry_out(opened(outputs), plan_prune(opened(outputs), Retention(0, 1), timedelta(), at(28)), at(28))
    frame = load_predictions("toy", columns=["run_id"], outputs=outputs)
    assert frame["run_id"].unique().tolist() == [THIRD.run_id]
    assert frame.attrs["pruned"] == [FIRST.run_id, SECOND.run_id]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert line == f"left out, as their predictions were pruned: {FIRST.run_id}, {SECOND.run_id}"
    pruned = load_predictions("toy", until="2026-01-30", outputs=outputs)
    assert pruned.attrs["empty_because"] == "the predictions of all runs were pruned"


def test_a_range_without_runs_is_empty_and_says_why(outputs: Path) -> None:
    full, frame = (load_predictions("toy", since=since, outputs=outputs) for since in (None, "2026-02-01"))
    assert frame.attrs["empty_because"] == "all runs are of other dates: 2026-01-29 to 2026-01-31"
    assert frame.dtypes.drop("run_id").equals(full.dtypes.drop("run_id"))
    for run in list_runs(opened(outputs)):
        decide(opened(outputs), run, "withdrawn", "wrong camera")
    reason = load_predictions("toy", until="2026-01-29", outputs=outputs).attrs["empty_because"]
    assert reason.startswith(f"not counted: {FIRST.run_id} (withdrawn); ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"columns": ["label", "predictoin"]},
            r"no 'predictoin' \(did you mean prediction\?\); expected some of",
        ),
        ({"columns": []}, "columns: expected some of run_id, .* got none; leave it out for all"),
        ({"since": pd.NaT}, "since 'NaT': expected a date, YYYY-MM-DD"),
        ({"columns": 3}, "columns '3': expected names, some of run_id, "),
        ({"columns": [["label"]]}, "expected names, some of run_id, "),
        ({"since": "yesterday"}, "since 'yesterday': expected a date, YYYY-MM-DD"),
        ({"until": 20260131}, "until '20260131': expected a date, YYYY-MM-DD"),
        ({"until": "20260131"}, "until '20260131': expected a date, YYYY-MM-DD"),
        (
            {"since": "2026-02-01", "until": "2026-01-01"},
            "since 2026-02-01: expected a date up to until, got",
        ),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments: Any, message: str, outputs: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        load_predictions("toy", **arguments, outputs=outputs)


def test_a_data_set_without_runs_and_a_damaged_night_are_errors(outputs: Path) -> None:
    with pytest.raises(RunNotFoundError, match="expected published runs of toy/train, got none; name the folder"):
        load_predictions("toy", "train", outputs=outputs)
    flip_bit(outputs / "runs" / SECOND.run_id / "predictions" / "part-00001.parquet")
    with pytest.raises(DamagedError, match=f"{SECOND.run_id}/predictions/part-00001"):
        load_predictions("toy", columns=["label"], outputs=outputs)


def test_a_history_of_damaged_runs_is_empty_and_says_why(tmp_path: Path) -> None:
    publish_run(tmp_path, FIRST, views=False)
    flip_bit(tmp_path / "runs" / FIRST.run_id / "manifest.json")
    frame = load_history(tmp_path)
    assert frame.empty
    assert frame.attrs["empty_because"].startswith("every published run is damaged")


def test_a_spreadsheet_needs_one_column_of_the_history_without_its_time_zone(outputs: Path) -> None:
    frame = load_history(outputs)
    assert frame.attrs == {}
    assert list(frame.select_dtypes("datetimetz")) == ["published_at"]
