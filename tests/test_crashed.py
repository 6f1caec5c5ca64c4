"""What a night outlives: a server that is killed and comes back, and a run that is gone without a word.

Each test has a server and a worker of its own, and waits as long as a person would: `make slow` runs them.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from mnist_pipeline.orchestration.deployments import POOL, set_up
from tests.builders import make_split
from tests.engine import (
    SLOW,
    Deployed,
    Server,
    clean_environment,
    copy_project,
    kill_with_runs,
    night_environment,
    running_worker,
    wait_until,
)

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DATE = "2026-01-03"
IMAGES = 40_000  # with `SLOW` they take longer than a server does to start
# The least that Prefect takes, and one beat with time to spare.
HEARTBEAT_SECONDS, HEARTBEAT_LOST = 30, timedelta(seconds=40)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for name in ("project", "prefect"):
        (tmp_path / name).mkdir()
    # With many small tasks there is always something to report to the server.
    many = {"MNIST_PIPELINE_MAX_TASKS": "40"}
    return night_environment(copy_project(tmp_path / "project"), clean_environment(tmp_path / "prefect")) | many


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[Server]:
    server = Server(environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def night(environment: dict[str, str], server: Server) -> Deployed:
    night = Deployed(Path(environment["PWD"]), environment | {"PREFECT_API_URL": server.address})
    make_split(night.project / "data", IMAGES)
    done = night.command("setup")
    assert done.returncode == 0, done.stdout + done.stderr
    return night


def start_nightly(night: Deployed) -> str:
    """A run of the deployment that has one concurrency slot: a slot that is not given back shows."""
    return night.start("nightly", run_date=DATE, **SLOW)


def test_a_server_killed_in_the_middle_of_a_night_and_started_again_stops_neither_run_nor_worker(
    server: Server, night: Deployed
) -> None:
    with running_worker(night.environment, POOL):
        disturbed = start_nightly(night)
        wait_until(lambda: len(night.prediction_files(DATE)) > 20, what="prediction files of the run")
        server.kill()
        finished = len(night.prediction_files(DATE))
        server.start()
        assert night.runs(DATE) or len(night.prediction_files(DATE)) > finished  # the run went on meanwhile
        runs = [disturbed, start_nightly(night)]
        wait_until(lambda: all(night.state_of(run) == "COMPLETED" for run in runs), what="both runs")
    assert len(night.runs(DATE)) == 1
    assert night.command("verify", "--outputs", str(night.outputs)).returncode == 0


@pytest.mark.parametrize("with_server", [False, True], ids=["worker alone", "worker and server"])
def test_a_run_killed_with_its_worker_is_marked_crashed_and_the_next_run_of_its_night_reuses_its_parts(
    server: Server, night: Deployed, with_server: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = night.environment["PREFECT_HOME"]
    monkeypatch.setenv("PREFECT_HOME", home)
    with temporary_settings({PREFECT_API_URL: night.environment["PREFECT_API_URL"], PREFECT_HOME: Path(home)}):
        set_up(night.project, night.outputs, heartbeat_lost=HEARTBEAT_LOST)
    beating = night.environment | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
    with running_worker(beating, POOL) as worker:
        killed = start_nightly(night)
        wait_until(lambda: len(night.prediction_files(DATE)) > 20, what="prediction files of the run to be killed")
        if with_server:
            server.kill()
        kill_with_runs(worker)
    if with_server:
        server.start()
    finished = {path.name: path.stat().st_mtime_ns for path in night.prediction_files(DATE)}
    wait_until(lambda: night.state_of(killed) != "RUNNING", what="the end of the killed run")
    state: dict[str, Any] = night.ask(f"flow_runs/{killed}")["state"]
    assert (state["type"], state["message"]) == ("CRASHED", "No heartbeat for 40 seconds: its process is gone.")
    assert night.runs(DATE) == []
    with running_worker(beating, POOL, "second"):
        run = start_nightly(night)
        wait_until(lambda: night.state_of(run) == "COMPLETED", what="the next run")
    (name,) = night.runs(DATE)
    predictions = night.outputs / "runs" / name / "predictions"
    kept = [name for name, written in finished.items() if (predictions / name).stat().st_mtime_ns == written]
    # Each thread may not have written the checkpoint record of its last file yet.
    assert len(kept) >= len(finished) - 2
    assert night.command("verify", "--outputs", str(night.outputs)).returncode == 0
