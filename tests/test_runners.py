"""The same run on threads, in processes and on a Dask cluster: same bytes, none lost."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import Client, LocalCluster
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings

from mnist_pipeline.errors import EngineError, MachineError, SettingsError
from mnist_pipeline.orchestration import runners
from mnist_pipeline.orchestration.runners import require_runner, started_runner
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.run import Run
from tests.builders import make_split, small_settings
from tests.engine import END_SECONDS, START_SECONDS, descendants, in_this_process, python_m, wait_until
from tests.published import on_disk, opened

pytestmark = pytest.mark.engine

ROWS = 3000
RUN_DATE = "2026-01-31"
# One image at a time, so that a run takes long enough for a worker to be killed in it.
SLOW = ["--batch-rows", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_split(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def environment(prefect_server: dict[str, str], data: Path) -> dict[str, str]:
    return prefect_server | {
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(data),
        "MNIST_PIPELINE_SHARD_ROWS": "50",
        "MNIST_PIPELINE_MAX_TASKS": "12",
        "MNIST_PIPELINE_REPORT": "false",
    }


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the run without any engine."""
    folder = tmp_path_factory.mktemp("direct")
    run_nightly(small_settings(folder, data_dir=data, run_date=RUN_DATE, shard_rows=50, batch_rows=1))
    return tables_of(folder)


def start(folder: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "mnist_pipeline", "run", "--run-date", RUN_DATE, *words]
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return python_m(folder, environment, "mnist_pipeline", "run", "--run-date", RUN_DATE, *words)


def runs_of(folder: Path) -> list[Run]:
    return list_runs(opened(folder / "outputs"))


def prediction_files_of(folder: Path) -> list[Path]:
    """Prediction files that are finished and not yet published."""
    return sorted((folder / "outputs" / ".staging").glob("*/run/predictions/*.parquet"))


def tables_of(folder: Path) -> dict[str, bytes]:
    outputs = folder / "outputs"
    return {str(path.relative_to(outputs)): path.read_bytes() for path in (outputs / "runs").rglob("*.parquet")}


class DaskCluster:
    """A scheduler and worker processes over TCP on loopback, as `dask scheduler` and `dask worker` start them."""

    def __init__(self, folder: Path, environment: dict[str, str], running: ExitStack) -> None:
        self.folder, self.environment, self.running = folder, environment, running
        self._about = folder / "scheduler.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        wait_until(lambda: self._about.exists() and bool(self._about.read_text()), what="scheduler")
        self.address = str(json.loads(self._about.read_text())["address"])

    def start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self._about), *words]
        log = self.running.enter_context((self.folder / "dask.log").open("ab"))
        process = subprocess.Popen(line, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.running.callback(end, process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=END_SECONDS)
    process.kill()
    process.wait()


@contextmanager
def dask_cluster(folder: Path, environment: dict[str, str]) -> Iterator[tuple[DaskCluster, Client]]:
    """A scheduler, and a client that looks at it."""
    with ExitStack() as running:
        cluster = DaskCluster(folder, environment, running)
        client = Client(cluster.address, set_as_default=False, timeout=END_SECONDS)
        yield cluster, running.enter_context(client)


@pytest.mark.slow  # in `make test` a Parquet file is evaluated in processes: tests/test_flows.py
@pytest.mark.parametrize("workers", ["2", pytest.param("5", id="more than cores")])
def test_processes_publish_the_same_files(
    workers: str, environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    done = command(tmp_path, environment, "--runner", "processes", "--workers", workers, *SLOW)
    assert done.returncode == 0, done.stderr
    assert tables_of(tmp_path) == expected
    assert "Traceback" not in done.stdout + done.stderr


def test_a_cluster_publishes_the_same_files(environment: dict[str, str], data: Path, tmp_path: Path) -> None:
    """Its worker is a thread of this process: one in a process of its own is below, and takes ten seconds to start."""
    rows: dict[str, Any] = {"run_date": RUN_DATE, "shard_rows": 500, "batch_rows": 100}
    run_nightly(small_settings(tmp_path / "direct", data_dir=data, **rows))
    evaluate: Any = load_flow_from_entrypoint("mnist_pipeline.flows.evaluate.evaluate")
    here = {"processes": False, "protocol": "tcp://", "host": "127.0.0.1", "dashboard_address": None}
    with (
        in_this_process(environment),
        LocalCluster(n_workers=1, threads_per_worker=1, **here) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        evaluate(runner="dask", cluster=cluster.scheduler_address, outputs=tmp_path / "outputs", **rows)
        (tasks,) = client.run(lambda dask_worker: dask_worker.state.executed_count).values()
    assert tables_of(tmp_path) == tables_of(tmp_path / "direct") != {}
    assert tasks >= 12  # of 6 groups each is sharded and predicted there


@pytest.mark.slow
def test_a_cluster_outlives_a_worker_killed_in_the_middle(
    environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    with dask_cluster(tmp_path, environment) as (cluster, client):
        victim, _ = cluster.worker(), cluster.worker()
        client.wait_for_workers(2, timeout=START_SECONDS)
        process = start(tmp_path, environment, "--runner", "dask", "--cluster", cluster.address, *SLOW)
        wait_until(lambda: bool(prediction_files_of(tmp_path)), what="first prediction file")
        victim.send_signal(signal.SIGKILL)
        assert 0 < len(prediction_files_of(tmp_path)) < len(expected)  # in the middle
        _, errors = process.communicate(timeout=START_SECONDS)
        assert process.returncode == 0, errors
        assert len(client.scheduler_info()["workers"]) == 1
    assert tables_of(tmp_path) == expected
    (run,) = runs_of(tmp_path)
    assert run.problems() == []
    assert pd.read_parquet(run.folder / "predictions")["image_id"].tolist() == list(range(ROWS))


@pytest.mark.slow
def test_a_worker_process_that_is_killed_ends_the_run_unseen_and_the_next_one_takes_over(
    environment: dict[str, str], expected: dict[str, bytes], tmp_path: Path
) -> None:
    words = ["--runner", "processes", "--workers", "2", *SLOW]
    process = start(tmp_path, environment, *words)
    wait_until(lambda: bool(prediction_files_of(tmp_path)), what="first prediction file")
    workers = [pid for pid in descendants(process.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    assert 0 < len(prediction_files_of(tmp_path)) < len(expected)  # in the middle
    output, errors = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 4, errors
    assert "error: runner processes: expected every worker process to live" in errors
    assert "Traceback" not in output + errors
    assert runs_of(tmp_path) == []
    finished = {path.name: path.stat().st_ino for path in prediction_files_of(tmp_path)}
    assert finished
    again = command(tmp_path, environment, *words)
    assert again.returncode == 0, again.stderr
    assert tables_of(tmp_path) == expected
    published = {
        path.name: path.stat().st_ino for path in on_disk(runs_of(tmp_path)[0].folder / "predictions").iterdir()
    }
    assert finished.items() & published.items()


def test_a_cluster_that_does_not_answer_is_named(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "CONNECT_SECONDS", 1)
    changes: dict[str, Any] = {"runner": "dask", "cluster": "tcp://127.0.0.1:1"}
    expected = "cluster tcp://127.0.0.1:1: expected a Dask scheduler that answers within 1 s"
    with (
        temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}),  # else one is started for this
        pytest.raises(EngineError, match=expected) as caught,
        started_runner(small_settings(tmp_path, **changes)),
    ):
        pass
    assert caught.value.exit_code == 4


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    changes: dict[str, Any] = {"runner": "dask"}
    with (
        pytest.raises(SettingsError, match=r"pip install 'mnist-pipeline\[dask\]'"),
        started_runner(small_settings(tmp_path, **changes)),
    ):
        pass


@pytest.mark.parametrize("runner", ["processes", "dask"])
@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), ImportError("no sem_open")])
def test_without_semaphores_it_is_said_which_runner_needs_none(
    runner: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise error

    monkeypatch.setattr(SpawnContext, "Semaphore", none)
    changes: dict[str, Any] = {"runner": runner}
    with (
        pytest.raises(
            MachineError, match=f"^runner {runner}: expected semaphores, .* /dev/shm, got .*; .*--runner threads"
        ),
        started_runner(small_settings(tmp_path, **changes)),
    ):
        pass
    require_runner(small_settings(tmp_path))
    require_runner(small_settings(tmp_path, runner="dask", cluster="tcp://127.0.0.1:1"))
