"""The command as a person meets it, on small data and without Prefect."""

import html
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from mnist_pipeline import load_run
from mnist_pipeline.cli import app
from mnist_pipeline.cli.options import FILES_ONLY
from mnist_pipeline.core.network import BOOK, Architecture
from mnist_pipeline.datasets.sources import fetching
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import encode_weights, load_weights, weights_sha256
from tests.builders import images_name, make_split, random_network
from tests.published import flip_bit, hashes, identity, publish_run

RUN_DATE = "2026-01-31"
OTHER = Architecture((20,), "relu")


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
    variables = {"DATASET": "toy", "DATA_DIR": "../data", "CACHE": "../cache", "SHARD_ROWS": "10", "REPORT": "false"}
    for name, value in variables.items():
        monkeypatch.setenv(f"MNIST_PIPELINE_{name}", value)
    return work


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def run(*words: str) -> Result:
    return command("run", "--direct", "--run-date", RUN_DATE, *words)


def imported_by(*words: str) -> set[str]:
    """The modules that a command imports."""
    script = [sys.executable, "-X", "importtime", "-m", "mnist_pipeline", *words]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


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


def test_a_night_like_the_one_before_imports_nothing_that_is_slow(home: Path) -> None:
    for date in ("2026-01-30", "2026-01-31"):
        imported = imported_by("run", "--direct", "--no-report", "--run-date", date)
        assert "pyarrow.parquet" in imported
        assert not imported & {"pandas", "scipy", "matplotlib", "prefect"}, date


def test_the_list_of_commands_needs_no_settings_and_no_numpy() -> None:
    imported = imported_by("--help")
    assert "typer" in imported
    assert not imported & {"mnist_pipeline.settings", "pydantic", "numpy"}


def test_show_imports_nothing_that_judges_or_reads_images(home: Path) -> None:
    run()
    imported = imported_by("show")
    assert "mnist_pipeline.verdicts.reading" in imported
    rooms = ("mnist_pipeline.datasets.formats", "mnist_pipeline.pipeline", "mnist_pipeline.weights", "jinja2", "scipy")
    assert [name for name in imported if name.startswith(rooms)] == []


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


def test_a_name_between_colons_is_no_emoji(home: Path) -> None:
    (home / ":apple:").mkdir()
    assert "/:apple: yet" in command("runs", "--outputs", ":apple:").stdout


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
    assert "no such images from there on" in command("images", "--start", "35").stdout


def test_images_of_a_run_are_listed_and_drawn_as_it_predicted_them(home: Path) -> None:
    run()
    wrong = load_run("latest", "toy").query("not correct")
    result = command("images", "latest", "--wrong", "--count", "3", "--save", "grid.png")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 3
    assert {int(row[0]) for row in rows} <= set(wrong["image_id"])
    assert f"3 of {len(wrong)} such images; `--count {len(wrong)}` lists all" in result.stdout
    assert (home / "grid.png").read_bytes().startswith(b"\x89PNG")
    pair = command("images", RUN_DATE, "--wrong", "--label", rows[0][1], "--prediction", rows[0][2])
    assert {tuple(line.split()[1:3]) for line in pair.stdout.splitlines() if "%)" in line} == {tuple(rows[0][1:3])}


def test_images_of_a_run_without_shards_are_listed_and_not_drawn(home: Path) -> None:
    run()
    shutil.rmtree(home / "outputs" / "shards")
    result = command("images", "latest", "--save", "grid.png")
    assert result.exit_code == 0, result.output
    assert "not drawn: " in result.stderr
    assert "expected a shard, got no file" in result.stderr
    assert "10 of 35 such images" in result.stdout
    assert not (home / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--changed",), "expected a RUN, got none"),
        (("--against", "latest"), "expected a RUN, got none"),
        (("latest", "--weights", "x", "--data-dir", "y"), "--weights, --data-dir: expected none of these with a RUN"),
    ],
)
def test_options_of_images_that_do_not_go_together_are_refused(
    words: tuple[str, ...], message: str, home: Path
) -> None:
    result = command("images", *words)
    assert result.exit_code == 2
    assert message in result.stderr


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
    assert "next: `mnist-pipeline promote new.safetensors` to use them every night" in result.stdout
    assert run("--weights", "new.safetensors").exit_code == 0


def test_train_makes_a_network_of_the_layers_asked_for(home: Path) -> None:
    words = ("--hidden", "20,9", "--activation", "relu", "--epochs", "1", "--out", "new.safetensors")
    result = command("train", "--direct", *words)
    assert result.exit_code == 0, result.output
    assert "architecture: 784-20-9-10 relu, 15,989 parameters" in result.stdout
    assert command("train", "--direct", "--hidden", "none", *words[4:]).exit_code == 0
    assert load_weights(home / "new.safetensors").architecture == Architecture((), None)


@pytest.mark.parametrize("hidden", ["", "200,x", "200, 100", "200,", "-1", "٢"])
def test_widths_that_are_no_numbers_are_refused(hidden: str) -> None:
    result = command("train", "--hidden", hidden)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(f"error: --hidden {hidden!r}: expected the widths of the hidden layers")


def test_layers_that_cannot_be_are_refused() -> None:
    result = command("train", "--hidden", "0")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: hidden layers '0': expected ")


REFUSALS = [
    (["--run-date", "2026-02-30"], 2, "run_date"),
    (["--batch-rows", "0"], 2, "batch_rows"),
    (["--split", "valid"], 2, "split 'valid', from --split: expected one of test, train"),
    (
        ["--dataset", "mnist", "--data-dir", "nowhere"],
        3,
        "nowhere: expected a folder with IDX files, got nothing there",
    ),
    (["--config", "nowhere.toml"], 2, "config file nowhere.toml: cannot be read"),
    (["--weights", "nowhere.npz"], 3, "nowhere.npz: expected a weights file"),
    (["--weights", "nan.npz"], 3, "W1: expected finite values, got 1 NaN"),
    (["--weights", "transposed.npz"], 3, "W1"),
    (
        ["--weights", "other.npz"],
        3,
        "other.npz: weights of 784-20-10: expected the activation of the hidden layers",
    ),
    (["--activation", "relu"], 2, "activation 'relu', from --activation: expected none without weights"),
    (["--data-dir", "html"], 3, "this is some other kind of file"),
    (["--dataset", "mnist"], 3, "expected 7840016 bytes, got"),
    (["--outputs", "occupied"], 5, "occupied"),
    (["--runner", "ray"], 2, "runner: expected 'threads', 'processes' or 'dask', got 'ray'"),
    (["--runner", "processes"], 2, "--direct: expected runner threads, got processes; leave one of the two out"),
    (["--runner", "dask", "--cluster", "tcp://127.0.0.1:1"], 2, "--direct: expected runner threads, got dask"),
    (["--config", "gates.toml"], 2, "gates.toy.min_acuracy: no such setting (did you mean min_accuracy?)"),
]


@pytest.mark.parametrize(("words", "exit_code", "message"), REFUSALS, ids=[" ".join(case[0]) for case in REFUSALS])
def test_bad_input_is_one_message_an_exit_code_and_nothing_lost(
    home: Path, words: list[str], exit_code: int, message: str
) -> None:
    publish_run(home / "outputs", identity("2026-01-30"))
    before = {path: path.read_bytes() for path in home.rglob("outputs/**/*") if path.is_file()}
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in BOOK.shapes.items()}
    nan = tensors["W1"].copy()
    nan[0, 0] = np.nan
    np.savez(home / "nan.npz", **tensors | {"W1": nan})
    np.savez(home / "transposed.npz", **tensors | {"W1": tensors["W1"].T})
    other_file(home)
    make_split(home / "html", 35)
    (home / "html" / images_name()).write_bytes(b"<!DOCTYPE html><html>" + b" " * 100)
    (home / "occupied").write_text("a file where a folder should be")
    (home / "gates.toml").write_text("[gates.toy]\nmin_acuracy = 0.9\n")

    result = run(*words)

    assert result.exit_code == exit_code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("error: ") or "\nerror: " in result.stderr
    assert "Traceback" not in result.output
    assert len(published(home)) == 1
    assert {path: path.read_bytes() for path in before} == before
    assert list((home / "outputs" / ".staging").iterdir()) == []


def test_outputs_that_cannot_be_kept_are_refused_before_a_server_is_started(home: Path) -> None:
    (home / "occupied").write_text("a file where a folder should be")
    for words in (["run", "--outputs", "occupied/outputs"], ["train", "--out", "occupied/new.safetensors"]):
        result = command(*words)
        assert result.exit_code == 5, result.output
        assert f"got {home / 'occupied'}, which is none" in result.stderr


def test_a_project_that_cannot_be_entered_is_a_wrong_flag(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert "nowhere: expected a folder, got none" in command("doctor", "--project", "nowhere").stderr
    monkeypatch.setattr(os, "chdir", denied)
    result = command("doctor", "--project", ".")
    assert result.exit_code == 2
    assert f"--project {home}: Permission denied; give this user the permission" in result.stderr


@pytest.mark.parametrize("flag", ["--outputs", "--weights", "--images", "--data-dir", "--cache", "--config"])
def test_an_empty_path_is_refused(flag: str, home: Path) -> None:
    result = run(flag, "")
    assert result.exit_code == 2, result.output
    assert "expected a path" in result.stderr
    assert published(home) == []
    for words in (["doctor", "--project"], ["images", "--save"], ["train", "--direct", "--out"]):
        assert "expected a path" in command(*words, "").stderr


def test_an_unknown_variable_or_flag_is_refused_with_what_was_meant(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("rum").exit_code == 2
    assert command("run", "--batchrows", "3").exit_code == 2
    monkeypatch.setenv("MNIST_PIPELINE_BATCHROWS", "3")
    result = run()
    assert result.exit_code == 2
    assert "did you mean batch_rows?" in result.stderr


def test_verbose_shows_the_traceback_and_keeps_message_and_exit_code(home: Path) -> None:
    words = ["--verbose", "run", "--direct", "--weights", "nowhere.npz"]
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


def test_a_folder_without_the_described_files_is_warned_of(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", ())
    (home / "other").mkdir()
    (home / "other" / "README").touch()
    unreachable = home / "unreachable.toml"
    unreachable.write_text('[[datasets.mnist.sources]]\nkind = "web"\nurl = "http://127.0.0.1:9/mnist/"\n')
    result = run("--dataset", "mnist", "--data-dir", "other", "--config", str(unreachable))
    assert result.exit_code == 4
    assert "other holds no t10k-images-idx3-ubyte; asking the other sources" in caplog.text
    assert "expected a source for t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, got none" in result.stderr


def test_version_is_the_packages() -> None:
    assert command("--version").stdout.strip() == importlib.metadata.version("mnist-pipeline")


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
    assert f"no date is missing in {home / 'outputs'}: nothing to do" in again.stdout
    assert json.loads((home / "outputs" / "latest.json").read_text())["toy/test"]["run_date"] == "2026-02-01"


def test_backfill_refuses_a_range_that_ends_before_it_begins(home: Path) -> None:
    result = command("backfill", "--from", "2026-02-01", "--to", "2026-01-29", "--direct")
    assert result.exit_code == 2
    assert "--from 2026-02-01: expected a date up to --to 2026-01-29" in result.stderr


def test_backfill_without_a_server_says_what_to_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["backfill", "--from", "2026-01-29", "--to", "2026-01-29"]
    done = subprocess.run([sys.executable, "-m", "mnist_pipeline", *words], capture_output=True, text=True)
    assert done.returncode == 4
    assert "expected a Prefect server at PREFECT_API_URL, got none set; set it, or run with --direct" in done.stderr


# Verdicts


def gates(home: Path, *lines: str) -> tuple[str, str]:
    """The flag that lays these gates of the data set over the defaults."""
    (home / "mine.toml").write_text("\n".join(["[gates.toy]", *lines, ""]))
    return "--config", "mine.toml"


def night(home: Path, run_date: str, *words: str) -> str:
    """The run_id of a night without a report."""
    result = command("run", "--direct", "--run-date", run_date, *words)
    return next(line for line in result.stdout.splitlines() if line.startswith("published run ")).split()[2]


def file_of(home: Path, seed: int) -> str:
    (home / f"{seed}.safetensors").write_bytes(encode_weights(random_network(seed)))
    return f"{seed}.safetensors"


def other_file(home: Path) -> str:
    """Weights of another architecture, in a file that does not say their activation."""
    tensors: dict[str, Any] = dict(random_network(architecture=OTHER))
    np.savez(home / "other.npz", **tensors)
    return "other.npz"


def test_a_first_night_passes_and_says_that_it_was_compared_with_nothing(home: Path) -> None:
    result = run("--report", *gates(home, "min_images = 35"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    start = lines.index("verdict: pass (1 of 1 gates passed)")
    assert lines[start + 1] == (
        "  compared with nothing: no earlier run of toy/test has passed, and no baseline is set"
    )
    assert lines[start + 2].startswith("files: outputs/runs/")
    assert lines[start + 3].startswith("report: outputs/reports/")


def test_a_night_that_fails_says_which_gates_and_why_and_ends_with_7(home: Path) -> None:
    before = night(home, "2026-01-30")
    result = run(*gates(home, "min_images = 36", "min_accuracy = 0.999", "max_loss = 0.3"))
    assert result.exit_code == 7, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith(("verdict", "  "))]
    at = lines.index("verdict: fail (2 of 4 gates passed)")
    assert lines[at + 1] == "  fail  min_images: 35 images, at least 36 wanted"
    assert lines[at + 2].startswith("  fail  min_accuracy: accuracy ")
    assert lines[at + 2].endswith(", at least 99.90 % wanted")
    assert lines[at + 3] == f"  earlier: {before}"
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    run_id = published(home)[-1].name
    assert error.startswith(f"error: run {run_id}: fail: min_images (35, bound 36), min_accuracy (")
    assert error.endswith("; what was published stays published")
    assert "Traceback" not in result.output
    shown = command("show", run_id)
    assert shown.exit_code == 0
    said = [line for line in shown.stdout.splitlines() if line.startswith(("verdict", "  "))]
    assert said[-len(lines[at:]) :] == lines[at:]
    listed = [line.split() for line in command("runs").stdout.splitlines()[-2:]]
    assert [(name, verdict) for name, _, _, _, verdict, *_ in listed] == [(before, "none"), (run_id, "fail")]


def test_runs_that_another_of_their_date_has_replaced_say_so(home: Path) -> None:
    hours = {4: 9, 5: 11, 6: 10}  # of their publication, by batch_rows
    for rows, hour in hours.items():
        who, published_at = identity(batch_rows=rows), datetime(2026, 2, 1, hour, tzinfo=UTC)
        publish_run(home / "outputs", who, published_at=published_at)
    publish_run(home / "outputs", identity(batch_rows=7), counts=False)
    replaced = [line.split()[0] for line in command("runs").stdout.splitlines() if "another counts" in line]
    assert replaced == [identity(batch_rows=rows).run_id for rows in (4, 6)]


def test_a_run_whose_verdict_is_damaged_is_shown_all_the_same(home: Path) -> None:
    run_id = night(home, "2026-01-30", *gates(home, "min_images = 35"))
    (table,) = (home / "outputs" / "verdicts" / run_id).glob("*/gates.parquet")
    flip_bit(table)
    shown = command("show", run_id)
    assert shown.exit_code == 0, shown.output
    assert "verdict: damaged: " in shown.stdout
    assert "weights sha256 " in shown.stdout


def test_run_writes_a_report_unless_asked_not_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNIST_PIPELINE_REPORT")
    result = run("--no-report")
    assert "report: " not in result.stdout
    assert list((home / "outputs" / "reports").glob("*-toy-test-*")) == []
    again = run("--report")
    (page,) = (home / "outputs" / "reports").glob("*-toy-test-*")
    assert f"report: outputs/reports/{page.name}" in again.stdout
    assert page.name == f"{published(home)[0].name}.html"


def test_a_report_that_fails_costs_no_night(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "outputs").mkdir()
    (home / "outputs" / "reports").write_text("in the way")
    result = run("--report")
    assert result.exit_code == 0, result.output
    assert "report: " not in result.stdout
    assert "could not be written" in caplog.text


# compare


def test_compare_shows_what_changed_in_80_columns_and_cuts_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = []
    for seed, day in enumerate(("2026-01-30", RUN_DATE)):
        monkeypatch.setenv("MNIST_PIPELINE_WEIGHTS", str(file_of(home, seed)))
        nights.append(night(home, day))
    monkeypatch.setenv("COLUMNS", "80")
    result = command("compare", "2026-01-30", "latest")
    assert result.exit_code == 0, result.output
    assert f"from {nights[0]}" in result.stdout
    assert f"to   {nights[1]}" in result.stdout
    assert "the same images, different weights; predictions changed: " in result.stdout
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    table = [
        line.split()
        for line in result.stdout.splitlines()
        if line.split()[:1] in [["all"], *([d] for d in "0123456789")]
    ]
    assert [row[0] for row in table] == ["all", *"0123456789"]
    images, lost, gained = (sum(int(row[column]) for row in table[1:]) for column in (1, 2, 3))
    assert [images, lost, gained] == [int(cell) for cell in table[0][1:4]]
    assert command("compare", *nights).stdout == result.stdout


def test_compare_of_different_images_says_so_and_has_nothing_lost_or_gained(home: Path) -> None:
    make_split(home / "other", 40, seed=3)
    result = command("compare", night(home, "2026-01-30"), night(home, RUN_DATE, "--data-dir", "other"))
    assert "different images, the same weights" in result.stdout
    assert "Fisher exact, Newcombe" in result.stdout
    (row,) = [line.split() for line in result.stdout.splitlines() if line.split()[:1] == ["all"]]
    assert row[1:4] == ["40", "-", "-"]


def test_compare_of_images_without_labels_counts_what_changed_and_no_more(home: Path) -> None:
    make_split(home / "bare", 25, labelled=False)
    before = night(home, "2026-01-30", "--data-dir", "bare", "--weights", file_of(home, 0))
    now = night(home, RUN_DATE, "--data-dir", "bare", "--weights", file_of(home, 1))
    lines = command("compare", before, now).stdout.splitlines()
    assert lines[2].startswith("the same images, different weights; predictions changed: ")
    assert lines[3] == f"accuracies are not compared: no labels in {before} and {now}"
    assert lines[4] == ""  # no table of digits
    assert lines[5].split() == ["images", "mean", "5,", "50,", "95", "%"]
    assert lines[-1] == "blank images: 0 of 25"


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("latest", "2026-01-29"), 5, "run '2026-01-29': expected a published run of toy/test"),
        (("latest",), 2, "Missing argument"),
        (("OTHER", "latest"), 2, "expected two of the same data set and split, got other/test and toy/test"),
    ],
)
def test_compare_of_what_cannot_be_compared_is_refused(
    home: Path, words: tuple[str, ...], exit_code: int, message: str
) -> None:
    night(home, RUN_DATE)
    other = night(home, RUN_DATE, "--dataset", "other")
    result = command("compare", *(word.replace("OTHER", other) for word in words))
    assert result.exit_code == exit_code
    assert message in result.stderr


def test_compare_with_a_damaged_run_is_an_error(home: Path) -> None:
    first = night(home, "2026-01-30")
    night(home, RUN_DATE)
    flip_bit(home / "outputs" / "runs" / first / "predictions" / "part-00001.parquet")
    result = command("compare", "2026-01-30", RUN_DATE)
    assert result.exit_code == 5
    assert "part-00001.parquet: expected sha256" in result.stderr


# baseline


def test_a_baseline_is_set_shown_used_and_cleared(home: Path) -> None:
    nothing = command("baseline", "show")
    assert nothing.exit_code == 0
    assert nothing.stdout == (
        f"no baseline is set in {home / 'outputs'}: pin one with `mnist-pipeline baseline set RUN`\n"
    )
    assert command("baseline", "clear").exit_code == 5
    assert not (home / "outputs").exists()
    pinned = night(home, "2026-01-29")
    night(home, "2026-01-30")
    assert command("baseline", "set", "2026-01-29").stdout == f"baseline of toy/test: {pinned}\n"
    assert command("baseline", "show").stdout == f"toy/test: {pinned}\n"
    assert f"  baseline: {pinned}" in run().stdout
    assert command("baseline", "clear").stdout == "baseline of toy/test: none\n"
    assert "no baseline is set" in command("baseline", "show").stdout
    assert "  baseline: " not in run().stdout


def test_a_run_that_is_not_there_cannot_be_pinned(home: Path) -> None:
    result = command("baseline", "set", "2026-01-29")
    assert result.exit_code == 5
    assert "run '2026-01-29': expected a published run of toy/test" in result.stderr
    assert not (home / "outputs" / "baselines.json").exists()


def test_baselines_that_are_no_longer_ours_are_an_error_that_says_what_to_do(home: Path) -> None:
    (home / "outputs").mkdir()
    (home / "outputs" / "baselines.json").write_text("{")
    for words in (("show",), ("clear",)):
        result = command("baseline", *words)
        assert result.exit_code == 5
        assert "baselines.json: expected run_ids by data set" in result.stderr
        assert "delete it and set them again" in result.stderr


# accept, withdraw


def test_a_failed_night_that_was_accepted_is_what_the_next_is_compared_with(home: Path) -> None:
    flag = gates(home, "max_loss = 1", "min_images = 1_000")
    assert command("run", "--direct", "--run-date", "2026-01-30", *flag).exit_code == 7
    run_id = published(home)[0].name
    done = command("accept", "2026-01-30", "--reason", "half a [bold]night[/bold] on purpose")
    assert done.exit_code == 0, done.output
    said = f"{datetime.now(UTC):%Y-%m-%d}: half a [bold]night[/bold] on purpose"
    assert done.stdout.splitlines() == [f"run {run_id}: accepted {said}"]
    assert f"accepted {said}" in command("show").stdout.splitlines()
    assert "fail, accepted" in command("runs").stdout
    next_night = command("run", "--direct", "--run-date", "2026-01-31", *flag)
    assert f"  last passed: {run_id}" in next_night.stdout.splitlines()


def test_a_run_by_hand_says_so_everywhere_until_it_is_accepted(home: Path) -> None:
    result = run("--report", "--weights", file_of(home, 3))
    (folder,) = published(home)
    advice = f"`mnist-pipeline accept {folder.name} --reason TEXT` counts it"
    assert f"not counted, with weights given by hand; {advice}" in result.stdout.splitlines()
    said = f"not counted, with weights or settings given by hand; {advice}"
    assert said in command("show", folder.name).stdout.splitlines()
    assert "none, by hand" in command("runs").stdout
    page = html.unescape((home / "outputs" / "reports" / f"{folder.name}.html").read_text())
    assert said.removeprefix("not counted") in page
    missing = command("show")
    assert (missing.exit_code, "made by hand" in missing.stderr) == (5, True)
    flip_bit(folder / "summary.parquet")
    assert command("verify", "--repair").exit_code == 0
    assert command("show").exit_code == 5  # what is repaired is what it was
    assert command("accept", folder.name, "--reason", "the weights of tomorrow").exit_code == 0
    shown = command("show").stdout
    assert f"run {folder.name}" in shown
    assert "by hand" not in shown + command("runs").stdout


def test_a_withdrawn_night_is_shown_by_its_run_id_only(home: Path) -> None:
    for run_date in ("2026-01-30", "2026-01-31"):
        command("run", "--direct", "--run-date", run_date)
    first, second = (path.name for path in published(home))
    assert command("withdraw", "latest", "--reason", "wrong camera").exit_code == 0
    assert f"run {first}" in command("show").stdout
    assert "withdrawn" in command("show", second).stdout
    gone = command("show", "2026-01-31")
    assert gone.exit_code == 5
    assert f"not counted: {second} (withdrawn); `mnist-pipeline accept RUN_ID" in gone.stderr
    verified = command("verify")
    assert verified.exit_code == 0
    assert "decisions: 1 verified, 0 damaged" in verified.stdout


@pytest.mark.parametrize("word", ["accept", "withdraw"])
def test_a_decision_needs_a_run_and_a_reason(word: str, home: Path) -> None:
    run()
    for words in ((), ("latest",), ("latest", "--reason", ""), ("--reason", "why")):
        assert command(word, *words).exit_code == 2, words
    assert command(word, "2026-01-01", "--reason", "why").exit_code == 5
    assert not (home / "outputs" / "decisions").exists()


# promote


def test_promote_says_what_is_current_now_and_the_next_run_uses_it(home: Path) -> None:
    flag = gates(home, "max_loss = 1")
    run()
    before = published(home)
    result = command("promote", file_of(home, 0), *flag)
    assert result.exit_code == 0, result.output
    sha256 = weights_sha256(random_network(0))
    assert "verdict: pass" in result.stdout
    assert f"promoted: {sha256}" in result.stdout
    assert "record: outputs/promotions/000001.json" in result.stdout
    assert published(home) == before
    run()
    assert f"weights sha256 {sha256}" in command("show").stdout
    again = command("promote", "0.safetensors", *flag)
    assert again.exit_code == 0
    assert "these are the current weights already: nothing to do" in again.stdout
    assert command("images", "--count", "1").exit_code == 0


def test_promote_of_weights_that_are_not_as_good_ends_with_7_unless_forced(home: Path) -> None:
    flag = gates(home, "max_loss = 1", "min_accuracy = 0.999")
    run()
    result = command("promote", file_of(home, 0), *flag)
    assert result.exit_code == 7, result.output
    assert "verdict: fail" in result.stdout
    assert "fail: min_accuracy (" in result.stderr
    assert "; not promoted, " in result.stderr
    assert "`--force` promotes it all the same" in result.stderr
    assert not (home / "outputs" / "promotions").exists()
    forced = command("promote", "0.safetensors", "--force", *flag)
    assert forced.exit_code == 0, forced.output
    assert json.loads((home / "outputs" / "promotions" / "000001.json").read_text())["forced"] is True
    assert f"run {published(home)[-1].name}: accepted " in forced.stdout
    assert ": promoted by force (fail)" in forced.stdout
    assert (home / "outputs" / "reports" / f"{published(home)[-1].name}.html").exists()


@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("nowhere.npz", "--config", "mine.toml"), 3, "nowhere.npz: expected a weights file, got nothing"),
        (("0.safetensors",), 2, "gates of toy: expected max_loss or max_digit_loss, got neither"),
        ((), 2, "Missing argument"),
    ],
)
def test_promote_of_what_cannot_be_judged_is_refused(
    home: Path, words: tuple[str, ...], exit_code: int, message: str
) -> None:
    gates(home, "max_loss = 1")
    file_of(home, 0)
    run()
    result = command("promote", *words)
    assert result.exit_code == exit_code
    assert message in result.stderr
    assert not (home / "outputs" / "candidates").exists()


def test_promote_where_no_night_was_published_is_refused_and_makes_no_folder(home: Path) -> None:
    result = command("promote", file_of(home, 0), "--force", *gates(home, "max_loss = 1"))
    assert result.exit_code == 5
    assert f"{home / 'outputs'}: expected the folder of the nights, got nothing there; name it with" in result.stderr
    assert not (home / "outputs").exists()


def test_promoted_weights_that_are_gone_are_an_error_of_the_next_run(home: Path) -> None:
    run()
    command("promote", file_of(home, 0), *gates(home, "max_loss = 1"))
    (home / "outputs" / "weights" / f"{weights_sha256(random_network(0))}.safetensors").unlink()
    for words in (("run", "--direct"), ("images",)):
        result = command(*words)
        assert result.exit_code == 5
        assert "expected the weights that were promoted last, got none" in result.stderr


# Networks of other architectures


def test_a_network_of_another_architecture_is_named_wherever_its_weights_are(home: Path) -> None:
    first = night(home, "2026-01-30")
    given = other_file(home), "--activation", "relu"
    result = run("--report", "--weights", *given)
    assert result.exit_code == 0, result.output
    other = published(home)[-1].name
    shown = command("show", other).stdout.splitlines()
    assert shown[shown.index("architecture 784-20-10 relu") + 1].startswith("weights sha256 ")
    both = "different weights: 784-50-100-10 sigmoid -> 784-20-10 relu"
    assert f"the same images, {both}; predictions changed: " in command("compare", first, other).stdout
    page = (home / "outputs" / "reports" / f"{other}.html").read_text()
    assert html.escape(both) in page
    assert "<dt>architecture</dt><dd><code>784-20-10 relu</code></dd>" in page
    for run_id, architecture in ((first, "784-50-100-10 sigmoid"), (other, "784-20-10 relu")):
        (line,) = (line for line in command("runs").stdout.splitlines() if line.startswith(run_id))
        assert architecture in line
    assert command("images", "--weights", *given, "--count", "1").exit_code == 0
    assert command("images", "--count", "1", "--weights", given[0]).exit_code == 3
    flag = gates(home, "max_loss = 1")
    assert command("promote", given[0], *flag).exit_code == 3
    promoted = command("promote", *given, *flag)
    assert promoted.exit_code == 0, promoted.output
    assert "candidate: 784-20-10 relu; current: 784-50-100-10 sigmoid" in promoted.stdout.splitlines()
    assert run().exit_code == 0
    assert "run 2026-01-31-toy-test-" in command("show", "2026-01-31").stdout  # the same run counts now
    verified = command("verify")
    assert verified.exit_code == 0
    assert "weights: 2 verified, 0 damaged" in verified.stdout


# report, reindex


def test_report_writes_that_of_the_run_named(home: Path) -> None:
    for day in ("2026-01-30", RUN_DATE):
        night(home, day)
    first, last = published(home)
    assert command("report").stdout == f"report: outputs/reports/{last.name}.html\n"
    assert command("report", "2026-01-30").stdout == f"report: outputs/reports/{first.name}.html\n"
    assert command("report", last.name).exit_code == 0
    assert sorted(path.stem for path in (home / "outputs" / "reports").glob("*-toy-*")) == [first.name, last.name]
    missing = command("report", "2026-01-29")
    assert missing.exit_code == 5
    assert "run '2026-01-29': expected a published run" in missing.stderr


def test_reindex_rebuilds_the_same_bytes_whatever_has_become_of_them(home: Path) -> None:
    for day in ("2026-01-30", RUN_DATE):
        command("run", "--direct", "--report", "--run-date", day)
    outputs = home / "outputs"
    before = hashes(outputs)
    views = [outputs / name for name in ("history.parquet", "runs.parquet", "latest.json")]
    pages = sorted((outputs / "reports").iterdir())
    assert len(pages) == 4
    for path in (views[0], pages[0]):
        path.unlink()
    for path in (*views[1:], *pages[1:]):
        path.write_text("altered")
    result = command("reindex")
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs indexed: 2\n"
    assert hashes(outputs) == before


def test_reindex_does_all_it_can_around_a_damaged_run_and_names_it(home: Path) -> None:
    first = night(home, "2026-01-30")
    last = night(home, RUN_DATE)
    flip_bit(home / "outputs" / "runs" / first / "predictions" / "part-00001.parquet")
    result = command("reindex")
    assert result.exit_code == 5
    assert result.stdout == "runs indexed: 1\n"
    assert f"{first}/predictions/part-00001.parquet: expected sha256" in result.stderr
    assert [path.stem for path in (home / "outputs" / "reports").glob("*-toy-*")] == [last]


def test_reindex_without_published_runs_is_an_error(home: Path) -> None:
    result = command("reindex", "--outputs", "typo")
    assert result.exit_code == 5
    assert "typo: expected published runs, got none" in result.stderr
    assert not (home / "typo").exists()
    (home / "outputs").mkdir()
    assert command("reindex").exit_code == 5


# Help


def all_commands() -> list[str]:
    def names(group: Any, above: str) -> Iterator[str]:
        for name, each in group.commands.items():
            yield f"{above}{name}"
            if hasattr(each, "commands"):
                yield from names(each, f"{above}{name} ")

    return sorted(names(get_command(app), ""))


@pytest.mark.parametrize("name", all_commands())
def test_every_command_explains_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for flag in ("--help", "-h"):
        result = command(*name.split(), flag)
        assert result.exit_code == 0
        assert f"Usage: root {name}" in result.stdout.replace("mnist-pipeline", "root") or name in result.stdout
        assert "…" not in result.stdout


def test_options_of_settings_are_explained_by_the_model_and_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = command("run", "--help").stdout.splitlines()
    for name, field in Settings.model_fields.items():
        shown = [line for line in lines if f"--{name.replace('_', '-')} " in line]
        if name not in FILES_ONLY:
            assert field.description is not None
            assert field.description[1:] in shown[0]
        else:
            assert shown == []
    assert [line for line in lines if "--batch-rows" in line and "<int>" in line and "(1000)." in line]
    assert [line for line in lines if "--outputs" in line and "PATH" in line and "(outputs)." in line]
    assert [line for line in lines if "--no-report" in line and "<bool>" in line and "(yes)." in line]


def with_config(folder: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, where the project's config is this text and no more."""
    (folder / "mine.toml").write_text(text)
    code = f"""if True:
        from pathlib import Path
        from mnist_pipeline.settings import layers
        layers.project_file = lambda name: Path({str(folder)!r})
        from mnist_pipeline.cli import app
        app()
    """
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_help_does_not_repeat_an_address_which_may_hold_a_password(tmp_path: Path) -> None:
    text = 'outputs = "s3://user:hunter2@nights/a"\ndataset = "mine"\nreport = false\n'
    shown = with_config(tmp_path, text, "run", "--help")
    assert shown.returncode == 0
    assert "hunter2" not in shown.stdout
    assert "(mine)" in shown.stdout
    assert "(no)" in shown.stdout


def test_help_is_shown_even_though_the_config_cannot_be_read(tmp_path: Path) -> None:
    shown, ended = (with_config(tmp_path, "dataset = ", "run", word) for word in ("--help", "--direct"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ended.returncode == 2
    assert "mine.toml: not valid TOML" in ended.stderr


def test_the_commands_are_these() -> None:
    assert set(all_commands()) >= {
        *("run", "backfill", "compare", "promote", "report", "reindex", "runs", "show", "verify"),
        *("baseline set", "baseline clear", "baseline show", "fetch", "images", "train", "doctor", "setup"),
    }
    assert "7  the run is published, but fails its gates" in command("--help").stdout
