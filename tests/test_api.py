import json
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mnist_pipeline
from mnist_pipeline.api import load_history, load_run
from mnist_pipeline.errors import AmbiguousRunError, DamagedError, RunNotFoundError
from tests.published import flip_bit, identity, publish_run

OLD, NEW = identity("2026-01-30"), identity("2026-01-31")


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for seed, who in enumerate((OLD, NEW)):
        publish_run(tmp_path, who, seed=seed)
    return tmp_path


@pytest.mark.parametrize(
    ("which", "run_id"),
    [
        ("latest", NEW.run_id),
        ("2026-01-30", OLD.run_id),
        (date(2026, 1, 30), OLD.run_id),
        (OLD.run_id, OLD.run_id),
    ],
)
def test_a_run_is_loaded_by_what_it_is_called(which: str | date, run_id: str, outputs: Path) -> None:
    frame = load_run(which, "toy", "test", outputs=outputs)
    assert frame.attrs == {"run_id": run_id}
    assert frame["run_id"].unique().tolist() == [run_id]


@pytest.mark.parametrize("table", ["predictions", "summary", "confusion"])
def test_a_table_is_what_plain_pandas_reads_from_the_folder(table: Any, outputs: Path) -> None:
    frame = load_run("latest", "toy", "test", table, outputs=outputs)
    folder = outputs / "runs" / NEW.run_id
    plain = pd.read_parquet(folder / table if table == "predictions" else folder / f"{table}.parquet")
    pd.testing.assert_frame_equal(frame, plain)
    assert dtypes(frame) == dtypes(plain)


def test_predictions_are_the_table_that_is_loaded_if_none_is_named(outputs: Path) -> None:
    frame = load_run("latest", "toy", "test", outputs=outputs)
    assert frame["image_id"].tolist() == list(range(12))
    assert frame["correct"].tolist() == (frame["prediction"] == frame["label"]).tolist()


def test_history_is_what_plain_pandas_reads_from_the_file(outputs: Path) -> None:
    frame = load_history(outputs)
    pd.testing.assert_frame_equal(frame, pd.read_parquet(outputs / "history.parquet"))
    assert frame["run_id"].tolist() == [OLD.run_id] * 10 + [NEW.run_id] * 10
    assert dtypes(frame)["top_wrong_prediction"] == "Int8"


def test_history_is_right_even_where_the_file_is_damaged_or_behind(outputs: Path) -> None:
    expected = load_history(outputs)
    flip_bit(outputs / "history.parquet", 100)
    pd.testing.assert_frame_equal(load_history(outputs), expected)
    publish_run(outputs, identity("2026-02-01"), views=False)
    assert len(load_history(outputs)) == 30


def test_without_runs_there_is_an_empty_history_and_no_run(tmp_path: Path) -> None:
    assert len(load_history(tmp_path)) == 0
    with pytest.raises(RunNotFoundError, match="run 'latest': expected a published run of mnist/test"):
        load_run(outputs=tmp_path)


def test_a_date_with_several_runs_is_refused(outputs: Path) -> None:
    publish_run(outputs, identity("2026-01-30", batch_rows=9))
    with pytest.raises(AmbiguousRunError, match=f"name one:\n(.*\n)?  {OLD.run_id}"):
        load_run("2026-01-30", "toy", "test", outputs=outputs)


@pytest.mark.parametrize("path", ["predictions/part-00001.parquet", "manifest.json"])
def test_a_damaged_run_is_refused(path: str, outputs: Path) -> None:
    flip_bit(outputs / "runs" / NEW.run_id / path)
    with pytest.raises(DamagedError, match=path):
        load_run("latest", "toy", "test", outputs=outputs)


def test_the_outputs_folder_is_the_configured_one_unless_given(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", str(outputs))
    assert load_run(dataset="toy").attrs["run_id"] == NEW.run_id
    assert len(load_history()) == 20
    assert len(load_history(str(outputs))) == 20


def test_the_package_is_the_door_to_both(outputs: Path) -> None:
    assert mnist_pipeline.load_run is load_run
    assert mnist_pipeline.load_history is load_history


def test_latest_json_names_the_run_that_latest_loads(outputs: Path) -> None:
    pointer = json.loads((outputs / "latest.json").read_text())["toy/test"]
    assert load_run("latest", "toy", "test", outputs=outputs).attrs["run_id"] == pointer["run_id"]
