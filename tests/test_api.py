import json
import shutil
import traceback
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

import mnist_pipeline
from mnist_pipeline.api import init_network, load_history, load_images, load_run, run_files
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.images import normalise
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import DamagedError, PipelineError, RunNotFoundError, SettingsError
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.judging import judge_run
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.training import check_target
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.weights.files import load_weights
from tests.builders import random_images, small_settings
from tests.published import flip_bit, identity, on_disk, opened, publish_run

LATER = datetime(2026, 3, 1, tzinfo=UTC)

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


def test_without_runs_there_is_no_history_and_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=f"{tmp_path}: expected published runs, got none; name the folder"):
        load_history(tmp_path)
    with pytest.raises(RunNotFoundError, match="run 'latest': expected a published run of mnist/test"):
        load_run(outputs=tmp_path)


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


ADDRESS = "https://me:hunter2@host/a?token=hunter2"
NPZ = "https:/me:hunter2@host/a.npz"  # what a path makes of it


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load_run(ADDRESS), "^run: expected a run_id, a run date, latest or latest-passed, got an address"),
        (lambda: load_images(ADDRESS), "^run: expected a run_id, a run date"),
        (lambda: load_run(dataset=ADDRESS), "^dataset and split: expected the names of published runs, got an address"),
        (lambda: run_files(split=ADDRESS), "^dataset and split: expected"),
        (lambda: run_files("all", ADDRESS), "expected published runs of "),
        (lambda: load_run(table=ADDRESS), "^table "),  # type: ignore[arg-type]
        (lambda: load_run(table=3), "^table '3': expected one of predictions, "),  # type: ignore[arg-type]
        (lambda: load_history(ADDRESS), "outputs: expected a folder, or SCHEME://BUCKET/PREFIX"),
        (lambda: init_network(ADDRESS), "^weights: expected a folder, or SCHEME://BUCKET/PREFIX"),
        (lambda: load_weights(Path(NPZ)), "^weights: expected a path, or SCHEME://BUCKET/NAME, got another address"),
        (lambda: check_target(Path(NPZ)), "^weights file: expected a path on disk, got an address"),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(
    call: Callable[[], object], message: str, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", str(outputs))
    with pytest.raises(PipelineError, match=message) as caught:
        call()
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("reason", [f"copied from {ADDRESS}", "https://me:hunter 2@host"])
def test_a_reason_with_a_password_is_not_kept(reason: str, outputs: Path) -> None:
    with pytest.raises(SettingsError, match=r"^reason: expected no address with a user name.* the reason is kept"):
        decide(opened(outputs), run_by_id(opened(outputs), NEW.run_id), "accepted", reason)
    assert not (outputs / "decisions").exists()


def test_the_package_shows_what_is_public_and_no_more() -> None:
    public = [name for name in dir(mnist_pipeline) if not name.startswith("__")]
    assert public == sorted(mnist_pipeline.__all__)
    assert {name: getattr(mnist_pipeline, name).__name__ for name in public} == {name: name for name in public}
    assert mnist_pipeline.__version__ == version("mnist-pipeline")
    assert "__version__" in dir(mnist_pipeline)


@pytest.mark.parametrize("table", ["predictions", "gates"])
def test_columns_of_a_run_come_in_the_order_asked_for(table: Any, below_a_key: Path) -> None:
    every = load_run("latest", "toy", table=table, outputs=below_a_key)
    columns = every.columns[:3:-2].tolist()
    frame = load_run("latest", "toy", table=table, outputs=below_a_key, columns=columns)
    pd.testing.assert_frame_equal(frame, every[columns])
    assert frame.attrs == every.attrs
    with pytest.raises(SettingsError, match=f"columns: {table} has no 'digti'"):
        load_run("latest", "toy", table=table, outputs=below_a_key, columns=["digti"])


def test_a_table_of_a_verdict_that_is_empty_says_why(outputs: Path) -> None:
    def reason(table: Any) -> str:
        because: str = load_run(NEW.run_id, table=table, outputs=outputs).attrs["empty_because"]
        return because

    judge_run(opened(outputs), NEW.run_id, Gates(), against={})
    assert reason("comparison") == reason("flips") == "compared with nothing: no run had passed, no baseline was set"
    assert reason("gates").startswith("no gate was judged; compared with nothing")
    same = publish_run(outputs, identity("2026-02-01", labels_sha256=None), views=False, seed=1)
    judge_run(opened(outputs), NEW.run_id, Gates(), against={"baseline": same.name.run_id, "earlier": "gone"})
    gone = "against the earlier run gone: it is no longer published"
    against = f"against the baseline run {same.name.run_id}: "
    assert reason("comparison") == f"{against}no labels; {gone}"
    assert reason("flips") == f"{against}no prediction changed; {gone}"


def test_latest_json_names_the_run_that_latest_loads(outputs: Path) -> None:
    pointer = json.loads((outputs / "latest.json").read_text())["toy/test"]
    assert load_run("latest", "toy", "test", outputs=outputs).attrs["run_id"] == pointer["run_id"]


# All nights at once


@pytest.fixture
def below_a_key(tmp_path: Path) -> Path:
    """An outputs folder in one that readers may take for a column, with a table of verdicts too."""
    outputs = tmp_path / "label=5" / "outputs"
    for seed, who in enumerate((OLD, NEW)):
        publish_run(outputs, who, seed=seed)
        judge_run(opened(outputs), who.run_id, Gates(min_images=1, max_loss=0.9))
    return outputs


def test_run_files_of_all_are_those_of_each_run_oldest_first(outputs: Path) -> None:
    of_each = [run_files(who.run_id, table="summary", outputs=outputs) for who in (OLD, NEW)]
    assert run_files("all", "toy", "test", "summary", outputs) == [file for files in of_each for file in files]
    with pytest.raises(RunNotFoundError, match="expected published runs of mnist/test with summary, got none"):
        run_files("all", "mnist", "test", "summary", outputs=outputs)
    third = publish_run(outputs, identity("2026-02-01"))
    assert len(run_files("all", "toy", table="summary", outputs=outputs)) == 3
    decide(opened(outputs), third, "withdrawn", "wrong camera")
    assert len(run_files("all", "toy", table="summary", outputs=outputs)) == 2
    carry_out(opened(outputs), plan_prune(opened(outputs), Retention(0, 1), timedelta(), LATER), LATER)
    assert run_files("all", "toy", outputs=outputs) == run_files(NEW.run_id, outputs=outputs)
    assert len(run_files("all", "toy", table="confusion", outputs=outputs)) == 2


def test_all_nights_are_read_at_once_whatever_the_folders_above_are_called(below_a_key: Path) -> None:
    rows = [row for who in (OLD, NEW) for row in load_run(who.run_id, outputs=below_a_key).to_dict("records")]
    expected = [(row["run_id"], row["image_id"], row["label"]) for row in rows]
    assert {label for *_, label in expected} == set(range(10))
    files, pattern = run_files("all", "toy", outputs=below_a_key), f"{below_a_key}/runs/*/predictions/*.parquet"
    columns = ["run_id", "image_id", "label"]
    of_pandas = pd.read_parquet(files, partitioning=None)  # type: ignore[call-overload]
    assert of_pandas[columns].to_numpy().tolist() == [list(row) for row in expected]
    assert pl.scan_parquet(files, hive_partitioning=False).select(columns).collect().rows() == expected
    assert sorted(pl.scan_parquet(pattern, hive_partitioning=False).select(columns).collect().rows()) == expected
    query = f"SELECT run_id, image_id, label FROM read_parquet('{pattern}', hive_partitioning = false) ORDER BY ALL"
    assert duckdb.connect().execute(query).fetchall() == expected


def test_tables_are_joined_by_their_keys_in_polars(below_a_key: Path) -> None:
    runs = pl.read_parquet(below_a_key / "runs.parquet", hive_partitioning=False)
    keys = ["run_id", "run_date", "dataset", "split"]
    for pattern in ("runs/*/*.parquet", "runs/*/predictions/*.parquet", "verdicts/*/*/*.parquet", "history.parquet"):
        for path in below_a_key.glob(pattern):
            table = pl.read_parquet(path, hive_partitioning=False)
            assert table.join(runs, on=keys).height == table.height, path
    gates = pl.concat([pl.read_parquet(p, hive_partitioning=False) for p in below_a_key.glob("verdicts/*/*/gates.*")])
    assert gates.join(runs, on=[*keys, "verdict_id"]).height == gates.height > 0


# Pixels


def test_a_prediction_leads_to_its_pixels(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, run_date="2026-01-31")
    run_nightly(settings)
    outputs, every = on_disk(settings.outputs), normalise(random_images(25))
    wrong = load_run("latest", "toy", outputs=outputs).query("not correct")["image_id"]
    pixels = load_images("latest", wrong, "toy", outputs=outputs)
    np.testing.assert_array_equal(pixels, every[wrong], strict=True)
    assert pixels.shape == (len(wrong), 28, 28)
    twice = load_images("2026-01-31", [24, 0, 24], "toy", outputs=outputs)
    np.testing.assert_array_equal(twice, every[[24, 0, 24]], strict=True)
    assert load_images("latest", [], "toy", outputs=outputs).shape == (0, 28, 28)
    with pytest.raises(SettingsError, match="expected 0 to 24, got -1, 25; take them from its predictions"):
        load_images("latest", [-1, 0, 25], "toy", outputs=outputs)
    for strange in ([3.7], ["3"], [float("nan")], 3):
        with pytest.raises(SettingsError, match=r"^image_ids: expected whole numbers, got .+; take them"):
            load_images("latest", strange, "toy", outputs=outputs)  # type: ignore[arg-type]
    assert load_images("latest", np.array([3.0]), "toy", outputs=outputs).shape == (1, 28, 28)
    shutil.rmtree(outputs / "shards")
    with pytest.raises(DamagedError, match="expected a shard, got no file; run --run-date 2026-01-31 again"):
        load_images("latest", [0], "toy", outputs=outputs)
