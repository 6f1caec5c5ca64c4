"""A nightly run as operators have it: a real server, a real worker, the deployments of prefect.yaml.

How commands and flows end without a worker is tested by tests/test_flows.py.
"""

import json
import logging
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from mnist_pipeline.orchestration.deployments import server_in_force, set_up
from mnist_pipeline.orchestration.doctor.diagnosis import diagnose
from mnist_pipeline.orchestration.doctor.findings import Finding
from mnist_pipeline.orchestration.flow_runs import WAITING
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs.staging import staging_directory
from mnist_pipeline.settings import load_settings
from tests.builders import make_split, small_settings
from tests.engine import (
    SLOW,
    Deployed,
    copy_project,
    in_this_process,
    kill_with_runs,
    night_environment,
    running_worker,
    wait_until,
)
from tests.published import on_disk, opened

pytestmark = pytest.mark.engine

DATE = "2026-01-31"
EVERY = timedelta(minutes=1)  # of a schedule that is to fire at once, or at the latest then


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("project"))
    make_split(folder / "data", 95)
    return folder


@pytest.fixture(scope="module")
def night(project: Path, prefect_server: dict[str, str]) -> Deployed:
    night = Deployed(project, night_environment(project, prefect_server))
    with in_this_process(night.environment):
        set_up(project, night.outputs)
    return night


@pytest.fixture(scope="module", autouse=True)
def worker(night: Deployed) -> Iterator[subprocess.Popen[bytes]]:
    with running_worker(night.environment, "mnist") as worker:
        yield worker


@pytest.mark.slow  # each command is a process; called in the test: below, and in tests/test_setup.py
def test_a_second_set_up_changes_nothing_and_the_doctor_is_content(night: Deployed) -> None:
    again = night.command("setup")
    assert again.returncode == 0, again.stderr
    states = [line.split()[0] for line in again.stdout.splitlines() if "  " in line]
    deployed = yaml.safe_load((night.project / "prefect.yaml").read_text())["deployments"]
    assert states == ["unchanged"] * (1 + len(deployed) + 2)  # a pool, the deployments, two automations
    wait_until(lambda: night.command("doctor", "--outputs", str(night.outputs)).returncode == 0, what="doctor")


def test_a_schedule_fires_and_its_run_publishes_what_the_steps_publish_and_shows_it(
    night: Deployed, tmp_path: Path
) -> None:
    (deployment,) = night.ask("deployments/filter", {"deployments": {"name": {"any_": ["adhoc"]}}})
    schedules = f"deployments/{deployment['id']}/schedules"
    first = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=10)  # the server plans every 5 seconds
    often = {"interval": EVERY.total_seconds(), "anchor_date": first.isoformat(), "timezone": "UTC"}
    (schedule,) = night.ask(schedules, [{"schedule": often, "active": True}])

    def fired(*but: str) -> list[dict[str, Any]]:
        found = night.flow_runs(name={"any_": ["adhoc"]})
        return [run for run in found if run["auto_scheduled"] and run["state_type"] not in but]

    wait_until(lambda: bool(fired("SCHEDULED")), what="a run of the schedule", seconds=90)
    with in_this_process(night.environment), server_in_force() as client:
        client.delete_deployment_schedule(UUID(deployment["id"]), UUID(schedule["id"]))
    wait_until(lambda: {run["state_type"] for run in fired("SCHEDULED")} == {"COMPLETED"}, what="its end", seconds=60)
    run = fired("SCHEDULED")[0]
    scheduled = datetime.fromisoformat(run["expected_start_time"]).astimezone(UTC)
    assert (scheduled - first) % EVERY == timedelta()
    assert run["name"] == f"evaluate toy/test {scheduled.date()}"
    assert {"mnist", "adhoc"} <= set(run["tags"])

    (name,) = night.runs(f"{scheduled.date()}-toy-test-")
    same = small_settings(tmp_path, data_dir=night.project / "data", run_date=scheduled.date(), batch_rows=1000)
    run_nightly(same)

    def tables(outputs: Path) -> dict[str, bytes]:
        folder = outputs / "runs" / name
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}

    assert tables(night.outputs) == tables(on_disk(same.outputs)) != {}
    manifest = json.loads((night.outputs / "runs" / name / "manifest.json").read_text())
    assert manifest["engine"] == "prefect"
    assert (night.outputs / "counted" / f"{name}.json").exists()
    artifacts = night.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert {found["key"] for found in artifacts if found["type"] != "progress"} == {
        "toy-test-confusion",
        "toy-test-digits",
        "toy-test-summary",
    }
    (summary,) = [found for found in artifacts if found["key"] == "toy-test-summary"]
    assert manifest["identity"]["weights_sha256"] in summary["data"]

    def own_lines() -> list[str]:
        question = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
        return [line["message"] for line in night.ask("logs/filter", question) if "mnist_pipeline" in line["name"]]

    wait_until(lambda: any("published" in line for line in own_lines()), what="lines of our loggers")


@pytest.mark.slow  # beside a worker; of its parts: tests/test_setup.py, tests/test_scheduled.py
def test_the_doctor_is_content_with_what_set_up_made_and_a_worker(
    night: Deployed, prefect_server: dict[str, str], tmp_path: Path
) -> None:
    settings = load_settings(None, outputs=tmp_path / "outputs", cache=tmp_path / "cache")

    def look() -> dict[str, Finding]:
        return {finding.what: finding for finding in diagnose(settings, night.project)}

    def failed(findings: dict[str, Finding]) -> list[Finding]:
        return [finding for finding in findings.values() if finding.healthy is False]

    with in_this_process(prefect_server | {"MNIST_PIPELINE_CACHE": str(tmp_path / "cache")}):
        with server_in_force() as client:
            for run in client.read_flow_runs():  # that another test has left
                client.delete_flow_run(run.id)
        wait_until(lambda: failed(look()) == [], what="health", seconds=60)
        findings = look()
    assert findings["worker of mnist"].found == "polling: test"
    assert findings["late runs"].found == "none"
    assert "02:30 UTC" in findings["schedule of mnist-evaluation/nightly"].found
    assert "will be fetched" in findings["cache of mnist/test"].found
    assert not on_disk(settings.outputs).exists()


@pytest.mark.slow
def test_a_run_by_hand_ends_with_0(night: Deployed) -> None:
    parameters = ["--param", f"run_date={DATE}", "--param", "batch_rows=100"]
    done = night.prefect("deployment", "run", "mnist-evaluation/adhoc", *parameters, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = [run for run in night.flow_runs(name={"any_": ["adhoc"]}) if run["name"] == f"evaluate toy/test {DATE}"]
    assert {"mnist", "adhoc"} <= set(run["tags"])
    (name,) = night.runs(DATE)
    assert not (night.outputs / "counted" / f"{name}.json").exists()  # batch_rows were given by hand


@pytest.mark.slow
def test_a_bad_parameter_is_refused_before_any_run_exists(night: Deployed) -> None:
    def by_hand() -> list[str]:
        return sorted(run["id"] for run in night.flow_runs(name={"any_": ["adhoc"]}))

    before = by_hand()
    for parameter in ("batch_rows=0", "spilt=train", "run_date=yesterday"):
        done = night.prefect("deployment", "run", "mnist-evaluation/adhoc", "--param", parameter)
        assert done.returncode == 1, done.stdout + done.stderr
    assert by_hand() == before


@pytest.mark.slow
def test_a_run_that_fails_ends_with_1_and_publishes_nothing(night: Deployed) -> None:
    parameters = ["--param", "weights=/nowhere.npz", "--param", "run_date=2026-01-04"]
    done = night.prefect("deployment", "run", "mnist-evaluation/adhoc", *parameters, "--watch")
    assert done.returncode == 1, done.stdout + done.stderr
    assert night.runs("2026-01-04") == []


@pytest.mark.slow
def test_a_run_that_its_gates_reject_is_reported_everywhere(night: Deployed, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text("[gates.toy]\nmin_accuracy = 0.9\n")
    where = {"outputs": str(tmp_path / "outputs"), "run_date": DATE}
    rejected = night.start("adhoc", **where, config=str(tmp_path / "strict.toml"))
    wait_until(lambda: night.state_of(rejected) == "FAILED", what="a rejected run")
    state = night.ask(f"flow_runs/{rejected}")["state"]
    assert state["name"] == "Rejected"
    assert "fail: min_accuracy (" in state["message"]

    logs = {"logs": {"flow_run_id": {"any_": [rejected]}, "level": {"ge_": logging.ERROR}}}
    wait_until(lambda: night.ask("logs/filter", logs) != [], what="its log")
    (line,) = night.ask("logs/filter", logs)  # and no traceback of what Prefect raises for it
    assert line["message"] == state["message"]

    due = night.start("deadline", **where)
    wait_until(lambda: night.state_of(due) == "FAILED", what="the deadline")
    assert state["message"] in night.ask(f"flow_runs/{due}")["state"]["message"]
    for words, exit_code in ((["runs"], 0), (["show", DATE], 0), (["doctor"], 8)):
        found = night.command(*words, "--outputs", where["outputs"])
        assert found.returncode == exit_code, found.stderr
        assert re.search(r"\bfail\b", found.stdout), words
    assert f"FAIL  newest night of toy/test: {state['message']}" in found.stdout


@pytest.mark.slow
def test_backfill_starts_the_missing_nights_and_leaves_the_published_ones(night: Deployed) -> None:
    words = ["backfill", "--from", "2026-01-20", "--to", "2026-01-22"]
    outputs = ["--outputs", str(night.outputs)]
    night.command("run", "--direct", "--run-date", "2026-01-21", *outputs)
    before = {name: (night.outputs / "runs" / name).stat().st_mtime_ns for name in night.runs()}
    done = night.command(*words, *outputs)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["2026-01-20", "2026-01-22"]
    filled = ["2026-01-20", "2026-01-21", "2026-01-22"]
    wait_until(lambda: sorted({name[:10] for name in night.runs()} & set(filled)) == filled, what="back-filled runs")
    assert len([name for name in night.runs() if name[:10] in filled]) == 3
    for name, changed in before.items():
        assert (night.outputs / "runs" / name).stat().st_mtime_ns == changed
    assert "no date is missing" in night.command(*words, *outputs).stdout


@pytest.mark.slow
def test_a_run_that_is_late_stands_for_the_night_it_was_scheduled_for(night: Deployed) -> None:
    scheduled = "2026-01-15T02:30:00Z"
    night.start("nightly", state={"type": "SCHEDULED", "state_details": {"scheduled_time": scheduled}})
    wait_until(lambda: night.runs("2026-01-15-toy-test-") != [], what="the late night")


@pytest.fixture(scope="module")
def large(project: Path) -> str:
    """A data set whose evaluation with `SLOW` takes long enough to be disturbed."""
    make_split(project / "large", 6_000)
    return str(project / "large")


def start(night: Deployed, run_date: str, large: str) -> str:
    return night.start("adhoc", run_date=run_date, data_dir=large, **SLOW)


@pytest.mark.slow
def test_a_cancelled_run_ends_leaves_nothing_visible_and_is_completed_by_the_next_of_its_night(
    night: Deployed, large: str
) -> None:
    run = start(night, "2026-01-01", large)
    wait_until(
        lambda: len(night.prediction_files("2026-01-01")) > 20, what="prediction files of the run to be cancelled"
    )
    night.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: night.state_of(run) == "CANCELLED", what="the cancelled state")
    (staging,) = (night.outputs / ".staging").glob("2026-01-01-toy-test-*[!k]")
    with staging_directory(opened(night.outputs), staging.name) as locked:
        assert locked.name == staging.name  # the lock ended with the process
    assert night.runs("2026-01-01") == []
    again = start(night, "2026-01-01", large)
    wait_until(lambda: night.state_of(again) == "COMPLETED", what="the next run")
    assert len(night.runs("2026-01-01")) == 1
    assert night.command("verify", "--outputs", str(night.outputs)).returncode == 0


@pytest.mark.slow  # a worker has to start it; what it shows while it waits: tests/test_flows.py
def test_a_run_that_waits_for_its_data_can_be_cancelled(night: Deployed) -> None:
    run = night.start("adhoc", run_date="2026-01-03", data_dir="in/{run_date}", wait_for_data_minutes=60)
    wait_until(lambda: night.ask(f"flow_runs/{run}")["state_name"] == WAITING, what="the waiting state")
    night.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_until(lambda: night.state_of(run) == "CANCELLED", what="the cancelled state")
    assert night.runs("2026-01-03") == []


@pytest.mark.slow  # without a server: tests/promises/test_exactly_one.py
def test_two_runs_of_one_night_at_the_same_time_publish_once(night: Deployed, large: str) -> None:
    runs = [start(night, "2026-01-02", large) for _ in range(2)]
    wait_until(lambda: all(night.state_of(run) == "COMPLETED" for run in runs), what="both runs")
    assert len(night.runs("2026-01-02")) == 1
    assert night.command("verify", "--outputs", str(night.outputs)).returncode == 0


@pytest.mark.slow
def test_a_run_killed_with_its_worker_is_finished_by_the_next_run_of_its_night(
    night: Deployed, worker: subprocess.Popen[bytes], large: str
) -> None:
    start(night, "2026-01-03", large)
    wait_until(lambda: len(night.prediction_files("2026-01-03")) > 20, what="prediction files of the run to be killed")
    kill_with_runs(worker)
    finished = {path: path.stat().st_mtime_ns for path in night.prediction_files("2026-01-03")}
    assert night.runs("2026-01-03") == []
    with running_worker(night.environment, "mnist", "second"):
        run = start(night, "2026-01-03", large)
        wait_until(lambda: night.state_of(run) == "COMPLETED", what="the next run")
    (name,) = night.runs("2026-01-03")
    predictions = night.outputs / "runs" / name / "predictions"
    kept = [path for path, written in finished.items() if (predictions / path.name).stat().st_mtime_ns == written]
    # Each thread may not have written the checkpoint record of its last file yet.
    assert len(kept) >= len(finished) - 2
