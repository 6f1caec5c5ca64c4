"""The command as a person meets it, on small data and without Prefect."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mnist_pipeline.cli import app
from mnist_pipeline.core.network import SHAPES
from tests.builders import images_name, make_split

RUN_DATE = "2026-01-31"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder whose settings point at a small data set beside it."""
    make_split(tmp_path / "data", 35)
    make_split(tmp_path / "data", 35, seed=7, split="train")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    variables = {"DATASET": "toy", "DATA_DIR": "../data", "CACHE": "../cache", "SHARD_ROWS": "10"}
    for name, value in variables.items():
        monkeypatch.setenv(f"MNIST_PIPELINE_{name}", value)
    return work


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def run(*words: str) -> Result:
    return command("run", "--direct", "--run-date", RUN_DATE, *words)


def published(home: Path) -> list[Path]:
    return sorted((home / "outputs" / "runs").glob("*"))


def test_run_ends_with_accuracy_the_table_and_where_the_files_are(home: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    (folder,) = published(home)
    assert f"published run {folder.name}" in result.stdout
    assert "accuracy " in result.stdout
    assert "of 35)" in result.stdout
    assert f"files: outputs/runs/{folder.name}" in result.stdout
    assert len([line for line in result.stdout.splitlines() if line.lstrip()[:1].isdigit()]) == 10


def test_the_same_night_again_says_that_nothing_is_new_and_succeeds(home: Path) -> None:
    run()
    before = {path: path.stat().st_mtime_ns for path in home.rglob("runs/**/*")}
    result = run()
    assert result.exit_code == 0
    assert "was published before with the same predictions: nothing new" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in home.rglob("runs/**/*")} == before


def test_show_runs_and_verify_speak_of_what_was_published(home: Path) -> None:
    run()
    (folder,) = published(home)
    for words in (("show",), ("show", RUN_DATE), ("show", folder.name), ("show", "latest")):
        shown = command(*words)
        assert shown.exit_code == 0
        assert f"run {folder.name}" in shown.stdout
    assert folder.name in command("runs").stdout
    verified = command("verify")
    assert verified.exit_code == 0
    assert f"{folder.name}: verified" in verified.stdout
    assert "runs verified: 1" in verified.stdout


def test_verify_names_a_damaged_file_and_fails(home: Path) -> None:
    run()
    (folder,) = published(home)
    target = folder / "predictions" / "part-00002.parquet"
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 1
    target.write_bytes(data)
    for words in (("verify",), ("verify", RUN_DATE)):
        result = command(*words)
        assert result.exit_code == 5
        assert "part-00002.parquet" in result.stdout
        assert "runs damaged: 1 of 1" in result.stderr


def test_runs_marks_a_run_whose_manifest_is_damaged(home: Path) -> None:
    run()
    (folder,) = published(home)
    (folder / "manifest.json").write_text("{}")
    assert "damaged" in command("runs").stdout


def test_an_empty_outputs_folder_says_what_to_do(home: Path) -> None:
    assert "publish one with `mnist-pipeline run`" in command("runs").stdout
    result = command("show")
    assert result.exit_code == 5
    assert "what is there: nothing yet" in result.stderr
    nothing = command("verify")
    assert nothing.exit_code == 5
    assert "expected published runs, got none" in nothing.stderr


def test_images_draws_digits_in_the_terminal(home: Path) -> None:
    result = command("images", "--count", "3")
    assert result.exit_code == 0
    assert all(f"#{number} " in result.stdout for number in range(3))
    assert "█" in result.stdout


def test_images_saves_a_picture_and_only_wrong_ones_if_asked(home: Path) -> None:
    result = command("images", "--wrong", "--count", "4", "--save", "grid.png")
    assert result.exit_code == 0, result.output
    assert (home / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert command("images", "--save", "grid.docx").exit_code == 2


def test_images_past_the_end_says_so(home: Path) -> None:
    assert "no images from there on" in command("images", "--start", "35").stdout


def test_fetch_verifies_every_split(home: Path) -> None:
    result = command("fetch")
    assert result.exit_code == 0
    for prefix in ("t10k", "train"):
        assert f"{prefix}-images-idx3-ubyte" in result.stdout
        assert f"{prefix}-labels-idx1-ubyte" in result.stdout


def test_train_writes_weights_that_run_takes(home: Path) -> None:
    result = command("train", "--direct", "--epochs", "1", "--out", "new.safetensors")
    assert result.exit_code == 0, result.output
    assert "model card: new.md" in result.stdout
    assert run("--weights", "new.safetensors").exit_code == 0


REFUSALS = [
    (["--run-date", "2026-02-30"], 2, "run_date"),
    (["--batch-rows", "0"], 2, "batch_rows"),
    (["--split", "valid"], 2, "split 'valid': expected one of test, train"),
    (["--dataset", "mnist", "--data-dir", "nowhere"], 2, "nowhere: expected a folder"),
    (["--config", "nowhere.toml"], 2, "config file nowhere.toml: cannot be read"),
    (["--weights", "nowhere.npz"], 3, "nowhere.npz: expected a weights file"),
    (["--weights", "nan.npz"], 3, "W1: expected finite values, got 1 NaN"),
    (["--weights", "transposed.npz"], 3, "W1"),
    (["--data-dir", "html"], 3, "this is some other kind of file"),
    (["--dataset", "mnist"], 3, "expected 7840016 bytes, got"),
    (["--outputs", "occupied"], 5, "occupied"),
]


@pytest.mark.parametrize(("words", "exit_code", "message"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_bad_input_is_one_message_an_exit_code_and_nothing_lost(
    home: Path, words: list[str], exit_code: int, message: str
) -> None:
    run()
    before = {path: path.read_bytes() for path in home.rglob("outputs/**/*") if path.is_file()}
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    nan = tensors["W1"].copy()
    nan[0, 0] = np.nan
    np.savez(home / "nan.npz", **tensors | {"W1": nan})
    np.savez(home / "transposed.npz", **tensors | {"W1": tensors["W1"].T})
    make_split(home / "html", 35)
    (home / "html" / images_name()).write_bytes(b"<!DOCTYPE html><html>" + b" " * 100)
    (home / "occupied").write_text("a file where a folder should be")

    result = run(*words)

    assert result.exit_code == exit_code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ") or "\nerror: " in result.stderr
    assert "Traceback" not in result.output
    assert len(published(home)) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert list((home / "outputs" / ".staging").iterdir()) == []


def test_an_unknown_variable_or_flag_is_refused_with_what_was_meant(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("rum").exit_code == 2
    assert command("run", "--batchrows", "3").exit_code == 2
    monkeypatch.setenv("MNIST_PIPELINE_BATCHROWS", "3")
    result = run()
    assert result.exit_code == 2
    assert "did you mean batch_rows?" in result.stderr


def test_debug_shows_the_traceback_and_keeps_message_and_exit_code(home: Path) -> None:
    words = ["--debug", "run", "--direct", "--weights", "nowhere.npz"]
    done = subprocess.run([sys.executable, "-m", "mnist_pipeline", *words], capture_output=True, text=True)
    assert done.returncode == 3
    assert "Traceback (most recent call last)" in done.stderr
    assert "error: " in done.stderr


def test_paths_are_printed_as_they_are(home: Path) -> None:
    result = run("--outputs", "out[b]x[/b]")
    assert result.exit_code == 0, result.output
    assert "files: out[b]x[/b]/runs/" in result.stdout


def test_images_without_labels_are_predicted_and_counted_and_none_is_wrong(home: Path) -> None:
    make_split(home / "unlabelled", 25, labelled=False)
    result = run("--data-dir", "unlabelled")
    assert result.exit_code == 0, result.output
    assert "no labels: predictions without accuracy" in result.stdout
    counts = [line.split() for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in counts] == list("0123456789")
    assert sum(int(row[1]) for row in counts) == 25
    assert command("images", "--data-dir", "unlabelled", "--wrong").exit_code == 3


def test_a_night_to_come_is_refused(home: Path) -> None:
    result = command("run", "--direct", "--run-date", "2999-01-01")
    assert result.exit_code == 2
    assert "run_date: expected a date that has begun in UTC, where today is " in result.stderr


def test_a_folder_without_the_described_files_is_warned_of(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "empty").mkdir()
    unreachable = home / "unreachable.toml"
    unreachable.write_text('[[datasets.mnist.sources]]\nkind = "web"\nurl = "http://127.0.0.1:9/mnist/"\n')
    result = run("--dataset", "mnist", "--data-dir", "empty", "--config", str(unreachable))
    assert result.exit_code == 4
    assert "empty holds no t10k-images-idx3-ubyte; asking the other sources" in caplog.text
    assert "expected a source for t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, got none" in result.stderr


def test_version_is_the_packages() -> None:
    assert command("--version").stdout.strip() == importlib.metadata.version("mnist-pipeline")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_visible(home: Path, stop: signal.Signals) -> None:
    make_split(home / "large", 20_000)
    words = ["run", "--direct", "--data-dir", "large", "--shard-rows", "10", "--batch-rows", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline", *words], stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "20,000 images" in line:
            break
    process.send_signal(stop)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + stop, rest
    assert published(home) == []
    assert "Traceback" not in rest
    if stop is signal.SIGINT:
        assert "interrupted: nothing new is visible" in rest


def test_python_m_is_the_same_command(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mnist_pipeline", "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage:" in done.stdout


def test_backfill_evaluates_the_missing_nights_and_only_those(home: Path) -> None:
    run()
    (kept,) = published(home)
    before = kept.stat().st_mtime_ns
    result = command("backfill", "--from", "2026-01-29", "--to", "2026-02-01", "--direct")
    assert result.exit_code == 0, result.output
    assert [path.name[:10] for path in published(home)] == ["2026-01-29", "2026-01-30", "2026-01-31", "2026-02-01"]
    assert kept.stat().st_mtime_ns == before
    again = command("backfill", "--from", "2026-01-29", "--to", "2026-02-01", "--direct")
    assert "no night is missing: nothing to do" in again.stdout
    assert json.loads((home / "outputs" / "latest.json").read_text())["toy/test"]["run_date"] == "2026-02-01"


def test_backfill_refuses_a_range_that_ends_before_it_begins(home: Path) -> None:
    result = command("backfill", "--from", "2026-02-01", "--to", "2026-01-29", "--direct")
    assert result.exit_code == 2
    assert "--from 2026-02-01: expected a night up to --to 2026-01-29" in result.stderr


def test_backfill_without_a_server_says_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["backfill", "--from", "2026-01-29", "--to", "2026-01-29"]
    done = subprocess.run([sys.executable, "-m", "mnist_pipeline", *words], capture_output=True, text=True)
    assert done.returncode == 4
    assert "expected a Prefect server at PREFECT_API_URL, got none set; set it, or run with --direct" in done.stderr
