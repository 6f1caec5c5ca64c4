"""What --json, --quiet and --verbose make of every command: one document of its declared shape, whatever happens."""

import csv
import io
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mnist_pipeline.cli import app, printing
from mnist_pipeline.cli.console import PANELS, WITHOUT_JSON
from mnist_pipeline.cli.results.by_command import RESULTS
from mnist_pipeline.cli.results.work import DoctorResult, ReportResult
from mnist_pipeline.pipeline import nightly
from mnist_pipeline.weights.files import encode_weights
from tests.builders import make_split, random_network
from tests.documents import command, document, found
from tests.published import flip_bit
from tests.test_cli import all_commands

GATES = "[gates.toy]\nmax_loss = 1\nmin_images = 1000\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder whose settings point at a small data set beside it, and to which no server answers."""
    for seed, split in ((0, "test"), (7, "train")):
        make_split(tmp_path / "data", 35, seed=seed, split=split)
    work = tmp_path / "work"
    work.mkdir()
    (work / "0.safetensors").write_bytes(encode_weights(random_network(0)))
    (work / "strict.toml").write_text(GATES)
    monkeypatch.chdir(work)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    variables = {"DATASET": "toy", "DATA_DIR": "../data", "CACHE": "../cache", "SHARD_ROWS": "10", "REPORT": "false"}
    for name, value in variables.items():
        monkeypatch.setenv(f"MNIST_PIPELINE_{name}", value)
    return work


def test_every_command_that_finds_facts_has_a_shape_and_a_panel() -> None:
    assert {*RESULTS, *WITHOUT_JSON} == {*all_commands(), "--version"} - {"baseline"}
    assert {name for names in PANELS.values() for name in names} == {name.split()[0] for name in all_commands()}


def test_every_command_prints_one_document_of_its_shape(home: Path) -> None:
    night = "run --direct --run-date 2026-01-30"
    first = found(night)
    run_id = first["run_id"]
    assert (first["new"], first["counts"], first["totals"]["images"]) == (True, True, 35)
    assert first["totals"]["accuracy"] == first["totals"]["correct"] / 35  # exact
    assert [row["digit"] for row in first["digits"]] == [*range(10)]
    strict = found("run --direct --run-date 2026-01-31 --config strict.toml", exit_code=7)
    assert (strict["verdict"]["outcome"], strict["error"]["type"]) == ("fail", "VerdictError")
    assert [gate["gate"] for gate in strict["verdict"]["gates"] if gate["outcome"] == "fail"] == ["min_images"]
    assert found(f"accept {strict['run_id']} --reason why")["reason"] == "why"
    assert found(f"show {run_id}")["verdict"] == first["verdict"]
    assert found("show")["decision"]["standing"] == "accepted"
    compared = found("compare 2026-01-30 2026-01-31")
    assert compared["changed"] == 0
    assert (compared["inputs_before"], compared["inputs_now"]["images"]) == (compared["inputs_now"], 35)
    wrong = found(f"images {run_id} --wrong --count 2")
    assert (wrong["total"], len(wrong["images"])) == (35 - first["totals"]["correct"], 2)
    assert found("images --count 3")["images"][2]["image_id"] == 2
    assert [run["run_id"] for run in found("runs")["runs"]] == [run_id, strict["run_id"]]
    assert found("baseline set latest")["baselines"] == found("baseline show")["baselines"]
    assert found("baseline clear")["baselines"] == [{"dataset": "toy", "split": "test", "run_id": None}]
    assert found("verify")["runs"][0] == {
        "run_id": run_id, "state": "verified", "problems": [], "pruned_at": None, "repaired": False
    }  # fmt: skip
    assert Path(found("report")["report"]).exists()
    assert found("reindex")["runs"] == 2
    assert [each["action"] for each in found("prune")["runs"]] == ["keep", "keep"]
    assert found("prune --apply")["use_bytes_after"] > 0
    assert len(found("fetch")["files"]) == 4
    filled = found("backfill --from 2026-01-29 --to 2026-01-31 --direct")
    assert [each["run_date"] for each in filled["dates"]] == ["2026-01-29"]
    trained = found("train --direct --epochs 1 --out new.safetensors")
    assert trained["accuracy"] == trained["correct"] / trained["labelled"]
    rejected = found("promote 0.safetensors --config strict.toml", exit_code=7)
    assert (rejected["promoted"], rejected["run"]["verdict"]["outcome"]) == (False, "fail")
    assert found("promote 0.safetensors --force")["accepted_run"].startswith(f"{rejected['run']['run_id'][:10]}-toy-")
    assert found(f"withdraw {run_id} --reason why")["standing"] == "withdrawn"
    assert found("credentials")["made"] is True
    assert found("--version")["version"]
    flip_bit(home / "outputs" / "runs" / run_id / "predictions" / "part-00001.parquet")
    assert found(f"verify {run_id}", exit_code=5)["runs"][0]["state"] == "damaged"
    (home / "outputs" / "runs" / run_id / "manifest.json").write_text("{}")
    assert next(run for run in found("runs")["runs"] if run["run_id"] == run_id)["accuracy"] is None


@pytest.mark.parametrize(
    ("words", "exit_code", "kind"),
    [
        ("show nothing", 5, "RunNotFoundError"),
        ("run --batch-rows 0", 2, "SettingsError"),
        ("run --batch-rows many", 2, "UsageError"),
        ("run --weights nowhere.npz --direct", 3, "WeightsError"),
        ("setup --project nowhere", 2, "SettingsError"),
        ("rum", 2, "UsageError"),
        ("--rum", 2, "UsageError"),
        ("accept latest", 2, "UsageError"),
        ("accept latest --reason -h", 5, "RunNotFoundError"),
        ("up", 2, "UsageError"),
        ("runs --csv", 2, "SettingsError"),
        ("baseline", 2, "UsageError"),
        ("", 2, "UsageError"),
    ],
)
def test_a_command_that_finds_nothing_prints_why_and_only_that(
    words: str, exit_code: int, kind: str, home: Path
) -> None:
    result = command(f"{words} --json")
    assert result.exit_code == exit_code
    given = document(result)
    assert (given["error"]["type"], given["error"]["exit_code"], [*given]) == (kind, exit_code, ["error"])


def test_what_is_printed_by_whoever_else_stays_out_of_the_document(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def printing(*_: object) -> None:
        print("a library")  # noqa: T201
        raise KeyError("a bug\n")

    monkeypatch.setattr(nightly, "run_nightly", printing)
    result = command("run --direct --json")
    assert document(result)["error"] == {"type": "KeyError", "message": "a bug of ours: 'a bug\\n'", "exit_code": 1}
    assert "a library" in result.stderr


@pytest.mark.parametrize(
    ("number", "exit_code", "kind"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_command_that_is_ended_prints_that(
    number: int, exit_code: int, kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "run_nightly", lambda *_: os.kill(os.getpid(), number))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have begun the tests without
    try:
        result = command("run --direct --json")
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert result.exit_code == exit_code
    assert document(result)["error"]["type"] == kind


def test_a_document_is_ascii_whatever_a_path_is_called() -> None:
    given = ReportResult(run_id="x", report="outputs/\udcff\x1b[2J/Zürich").document
    assert given.isascii()
    assert given.replace("\n", "").isprintable()
    assert json.loads(given)["report"] == "outputs/\udcff\x1b[2J/Zürich"


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        DoctorResult.model_validate({"checks": [], "more": 1})


# --quiet and --verbose


def test_quiet_leaves_errors_and_the_words_that_a_script_needs(home: Path) -> None:
    ran = command("run --direct --run-date 2026-01-30 --quiet")
    run_id = ran.stdout.partition(":")[0]
    assert (ran.stdout, ran.stderr) == (f"{run_id}: none\n", "")
    assert command("runs -q").stdout == f"{run_id}\n"
    assert command("-q show").stdout == f"{run_id}: none\n"
    failed = command("run --direct --run-date 2026-01-31 --config strict.toml --quiet")
    assert failed.exit_code == 7
    assert failed.stdout.endswith(": fail\n")
    assert failed.stderr.startswith("error: run ")
    assert len(failed.stderr.splitlines()) == 1
    assert command("run --quiet --verbose").exit_code == 2
    assert command("runs").stdout.count("toy-test") == 2  # and the next command is not quiet


def test_verbose_shows_debug_lines(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    for words, shown in (("", False), ("--verbose", True)):
        caplog.clear()
        assert command(f"run --direct --shard-rows {7 if shown else 5} {words}").exit_code == 0
        assert any(entry.levelno == logging.DEBUG for entry in caplog.records) is shown


# runs


def listed(words: str) -> Sequence[str]:
    """The run dates in the output of `runs`."""
    return [row["run_date"][-2:] for row in csv.DictReader(io.StringIO(command(f"runs --csv {words}").stdout))]


def test_runs_lists_those_that_were_asked_for_the_newest_last(home: Path) -> None:
    for day in (29, 30, 31):
        command(f"run --direct --run-date 2026-01-{day} {'--config strict.toml' if day == 30 else ''}")
    command("run --direct --run-date 2026-01-28 --split train")
    assert listed("") == ["28", "29", "30", "31"]
    assert listed("--limit 2") == ["30", "31"]
    assert listed("--split train") == ["28"]
    assert listed("--dataset mnist") == []
    assert listed("--since 2026-01-29 --until 2026-01-30") == ["29", "30"]
    assert listed("--outcome fail") == ["30"]
    assert listed("--outcome none --limit 1") == ["29"]
    rows = [*csv.DictReader(io.StringIO(command("runs --csv").stdout))]
    assert [row["outcome"] for row in rows] == [run["outcome"] for run in found("runs")["runs"]]
    assert [float(row["accuracy"]) for row in rows] == [run["accuracy"] for run in found("runs")["runs"]]
    assert "no such runs in " in command("runs --dataset mnist").stdout
    assert "--since 2026-02-01: expected a date up to" in command("runs --since 2026-02-01 --until 2026-01-01").stderr
    assert "expected a calendar date, YYYY-MM-DD, got '2026-02-30'" in command("runs --since 2026-02-30").stderr


def test_no_run_id_is_broken_in_a_pipe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = found("run --direct --run-date 2026-01-30")["run_id"]
    monkeypatch.setattr(printing.out, "_width", 20)  # as of COLUMNS
    for words in ("runs", "show", "prune", "verify", "compare latest latest"):
        assert run_id in command(words).stdout, words


# Completion


def completed(*words: str) -> Sequence[str]:
    variables = {
        "_MNIST_PIPELINE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("mnist-pipeline", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(app, [], prog_name="mnist-pipeline", env=variables)
    assert result.stderr == ""
    return result.stdout.split()


def test_a_shell_completes_commands_runs_and_data_sets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = found("run --direct --run-date 2026-01-30")["run_id"]
    assert completed("ru") == ["run", "runs"]
    assert completed("show", "2026") == [run_id]
    assert completed("compare", "latest", "lat") == ["latest", "latest-passed"]
    assert completed("run", "--dataset", "m") == ["mnist"]
    assert completed("show", "--outputs", "nowhere", "2026") == []
    monkeypatch.setenv("MNIST_PIPELINE_BATCH_ROWS", "many")
    assert completed("show", "2026") == completed("run", "--dataset", "m") == []
