"""Whatever happens to Prefect, or to the command, a run is published whole or not at all, always with the same bytes.

A cancelled run, a worker that is killed and a server that is killed need deployments and workers:
tests/pipeline/test_nightly.py and tests/test_crashed.py hold the promise for them.
"""

import base64
import json
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.cache_policies import FLOW_PARAMETERS, INPUTS, TASK_SOURCE, CachePolicy
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_PERSIST_RESULT,
    temporary_settings,
)
from prefect.tasks import Task

from mnist_pipeline.orchestration import tasks
from mnist_pipeline.pipeline.nightly import run_nightly
from tests.builders import make_split, small_settings
from tests.engine import Deployed, clean_environment, running_server, wait_until
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import hashes

pytestmark = pytest.mark.engine

RUN_DATE = "2026-01-31"
ROWS = 8_000  # in 80 shards and one image at a time: long enough to be disturbed
SIZES = {"shard_rows": 100, "batch_rows": 1}
END_SECONDS = 120
# When a run is ended, each of its two threads may not have written its last checkpoint record yet.
UNRECORDED = 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_split(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of the run without any engine, and undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_nightly(small_settings(folder, data_dir=data, **SIZES))
    return tables_of(folder)


def tables_of(folder: Path) -> dict[str, str]:
    """The hash of each published table below `folder`; nothing if no run is published."""
    runs = folder / "outputs" / "runs"
    return {name: digest for name, digest in hashes(runs).items() if name.endswith(".parquet")}


def variables(data: Path) -> dict[str, str]:
    """Of the pipeline, for a person whose nights are of `data`."""
    return {
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(data),
        "MNIST_PIPELINE_RUN_DATE": RUN_DATE,
        "MNIST_PIPELINE_SHARD_ROWS": str(SIZES["shard_rows"]),
        "MNIST_PIPELINE_BATCH_ROWS": str(SIZES["batch_rows"]),
        "MNIST_PIPELINE_MAX_TASKS": "4",
        "MNIST_PIPELINE_WORKERS": "2",
        "MNIST_PIPELINE_REPORT": "false",
    }


@pytest.fixture(scope="module")
def on_server(data: Path, prefect_server: dict[str, str]) -> dict[str, str]:
    return variables(data) | prefect_server


@pytest.fixture(scope="module")
def without_server(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prefect starts temporary servers, all in one home."""
    return clean_environment(tmp_path_factory.mktemp("temporary")) | variables(data)


class Command:
    """`mnist-pipeline run` in a session of its own, as a terminal would start it.

    Args:
        folder: where it is started; its outputs are below.
        environment: its variables.
        words: of the command line.
        code: what runs in place of the command.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *words: str, code: str = "") -> None:
        self.folder = folder
        self._log = folder / "log"
        start = ["-c", code] if code else ["-m", "mnist_pipeline"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *start, "run", *words],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Whoever started the tests in the background may have had Ctrl-C ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def prediction_files(self) -> list[Path]:
        """Prediction files that are finished and not yet published."""
        return sorted(self.folder.glob("outputs/.staging/*/run/predictions/*.parquet"))

    def wait_for_the_middle(self) -> None:
        wait_until(lambda: len(self.prediction_files()) > 4, self.process, "prediction files of the run")

    def stop(self, number: signal.Signals) -> None:
        if number is signal.SIGINT:
            os.killpg(self.process.pid, number)  # a terminal sends Ctrl-C to all processes of the command
        else:
            self.process.send_signal(number)

    def ends_with(self, code: int) -> None:
        """It ends so, and nothing of it is left."""
        assert self.process.wait(timeout=END_SECONDS) == code, self.said
        wait_until(lambda: self._alive() == [], what="end of every process", seconds=END_SECONDS)

    def _alive(self) -> list[str]:
        listed = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        of_session = [line.split(maxsplit=2) for line in listed.splitlines()]
        return [" ".join(line) for line in of_session if line[0] == str(self.process.pid) and line[1][0] != "Z"]

    def clean_up(self) -> None:
        if self._alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Those that a test has started; what it leaves is ended."""
    started: list[Command] = []
    yield started
    for command in started:
        command.clean_up()


# The command is stopped


def stopped(engine: str, stop: signal.Signals, again: bool, *, slow: bool = False) -> Any:
    name = f"{engine}-{stop.name}-{'again and again' if again else 'once'}"
    return pytest.param(engine, stop, again, marks=[pytest.mark.slow] if slow else [], id=name)


@pytest.mark.parametrize(
    ("engine", "stop", "again"),
    [
        stopped("direct", signal.SIGINT, False, slow=True),
        stopped("direct", signal.SIGTERM, False, slow=True),
        stopped("direct", signal.SIGINT, True, slow=True),
        stopped("direct", signal.SIGTERM, True, slow=True),
        stopped("server", signal.SIGINT, False, slow=True),
        stopped("server", signal.SIGTERM, False, slow=True),
        stopped("server", signal.SIGINT, True, slow=True),
        stopped("server", signal.SIGTERM, True, slow=True),
        stopped("temporary server", signal.SIGINT, False, slow=True),
        stopped("temporary server", signal.SIGTERM, False, slow=True),
        stopped("temporary server", signal.SIGINT, True, slow=True),
        stopped("temporary server", signal.SIGTERM, True, slow=True),
    ],
)
def test_a_stopped_command_leaves_no_process_and_nothing_visible_and_the_same_command_completes(
    engine: str,
    stop: signal.Signals,
    again: bool,
    on_server: dict[str, str],
    without_server: dict[str, str],
    expected: dict[str, str],
    commands: list[Command],
    tmp_path: Path,
    tried: Tried,
) -> None:
    environment = on_server if engine == "server" else without_server
    words = ["--direct"] if engine == "direct" else []
    command = Command(tmp_path, environment, *words)
    commands.append(command)
    command.wait_for_the_middle()
    finished = {path.name: path.stat().st_mtime_ns for path in command.prediction_files()}
    command.stop(stop)
    while again and command.process.poll() is None:  # one that comes too soon is taken for the first
        time.sleep(0.05)
        command.stop(stop)
    command.ends_with(128 + stop)
    if engine != "temporary server":  # which may show one of its own as it ends
        assert "Traceback" not in command.said
    assert tables_of(tmp_path) == {}
    assert not (tmp_path / "outputs" / "latest.json").exists()
    if not again and stop is signal.SIGINT:
        assert "interrupted: nothing new is visible" in command.said
    if not again and engine != "direct":
        assert "Finished in state Crashed" in command.said  # the server was still there for the report

    same = Command(tmp_path, environment, *words)
    commands.append(same)
    same.ends_with(0)
    assert tables_of(tmp_path) == expected
    (predictions,) = tmp_path.glob("outputs/runs/*/predictions")
    kept = [name for name, written in finished.items() if (predictions / name).stat().st_mtime_ns == written]
    assert len(kept) >= len(finished) - UNRECORDED
    tried(1, "runs stopped in the middle of inference")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_command_stopped_while_its_server_starts_stops_the_server_too(
    stop: signal.Signals, without_server: dict[str, str], commands: list[Command], tmp_path: Path
) -> None:
    command = Command(tmp_path, without_server)
    commands.append(command)
    wait_until(lambda: "Starting temporary server" in command.said, command.process, "start of the server")
    os.killpg(command.process.pid, stop)
    command.ends_with(128 + stop)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_ctrl_c_on_a_run_whose_server_is_gone_is_still_ctrl_c(
    without_server: dict[str, str], commands: list[Command], tmp_path: Path
) -> None:
    with running_server(without_server) as address:
        environment = without_server | {"PREFECT_API_URL": address, "PREFECT_CLIENT_MAX_RETRIES": "1"}
        command = Command(tmp_path, environment)
        commands.append(command)
        command.wait_for_the_middle()
    command.process.send_signal(signal.SIGINT)
    command.ends_with(128 + signal.SIGINT)
    assert tables_of(tmp_path) == {}


# The server's database is locked


@pytest.mark.slow
def test_a_run_is_published_while_the_database_of_the_server_is_locked_and_ends_well_once_it_is_free(
    on_server: dict[str, str], expected: dict[str, str], commands: list[Command], tmp_path: Path, tried: Tried
) -> None:
    command = Command(tmp_path, on_server)
    commands.append(command)
    command.wait_for_the_middle()
    database = Path(on_server["PREFECT_HOME"]) / "prefect.db"
    with closing(sqlite3.connect(database, isolation_level=None, timeout=END_SECONDS)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        wait_until(lambda: tables_of(tmp_path) == expected, command.process, "published run")
        locked.execute("ROLLBACK")
    command.ends_with(0)
    verified = Deployed(tmp_path, on_server).command("verify")
    assert verified.returncode == 0, verified.stderr
    tried(1, "exclusive locks on the server's database")


# Flows and tasks that are retried

# The command, with a task that fails once when it has done its work.
FAILS_ONCE = """
from mnist_pipeline.pipeline import evaluation, planning
from mnist_pipeline.cli import app

module = planning if "{step}" == "make_plan" else evaluation
whole, failed = module.{step}, []

def fails_once(*given, **named):
    done = whole(*given, **named)
    if not failed:
        failed.append(1)
        raise OSError("planted")
    return done

module.{step} = fails_once
app()
"""


@pytest.mark.slow
@pytest.mark.parametrize("retried", ["FLOWS", "TASKS"])
@pytest.mark.parametrize("step", ["make_plan", "build_shards", "predict_shards", "publish"])
def test_a_flow_is_retried_if_the_environment_says_so_and_a_task_is_not_and_both_come_to_the_same_bytes(
    retried: str,
    step: str,
    on_server: dict[str, str],
    expected: dict[str, str],
    commands: list[Command],
    tmp_path: Path,
    tried: Tried,
) -> None:
    storage = {"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "storage"), "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true"}
    forced = storage | {f"PREFECT_{retried}_DEFAULT_RETRIES": "2", "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "true"}
    command = Command(tmp_path, on_server | forced, code=FAILS_ONCE.format(step=step))
    commands.append(command)
    command.ends_with(0 if retried == "FLOWS" else 1)
    assert "planted" in command.said
    if retried == "TASKS":
        assert tables_of(tmp_path) == (expected if step == "publish" else {})
        commands.append(Command(tmp_path, on_server | forced))
        commands[-1].ends_with(0)
    assert tables_of(tmp_path) == expected
    # Prefect stores the exception of a failed flow under an unpredictable name; of a task it stores nothing.
    assert len(hashes(tmp_path / "storage")) <= 1
    tried(1, "failures with retries asked for by the environment")


# Records of results that somebody has planted


class Trap:
    """Makes a folder of that name when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.sentinel), 0o777, True)


def poison(storage: Path, sentinel: Path) -> int:
    """Put a trap into every record; how many there are."""
    records = [path for path in storage.rglob("*") if path.is_file()]
    trap = base64.b64encode(pickle.dumps(Trap(sentinel))).decode()
    for path in records:
        said = path.read_text()
        path.write_text(json.dumps(json.loads(said) | {"result": trap}) if said.startswith("{") else trap)
    return len(records)


@pytest.mark.parametrize(
    "policy",
    [
        INPUTS,
        pytest.param(TASK_SOURCE, marks=pytest.mark.slow),
        pytest.param(INPUTS + TASK_SOURCE, marks=pytest.mark.slow),
        pytest.param(FLOW_PARAMETERS, marks=pytest.mark.slow),
    ],
    ids=["inputs", "source", "inputs and source", "flow parameters"],
)
def test_planted_results_are_never_unpickled_though_the_environment_asks_for_results_to_be_kept(
    policy: CachePolicy,
    on_server: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: Tried,
) -> None:
    run_nightly(small_settings(tmp_path))
    expected = tables_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    storage, sentinel = tmp_path / "storage", tmp_path / "unpickled"
    forced = {
        PREFECT_API_URL: on_server["PREFECT_API_URL"],
        PREFECT_HOME: Path(on_server["PREFECT_HOME"]),
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_LOCAL_STORAGE_PATH: storage,
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_TASKS_DEFAULT_PERSIST_RESULT: True,
    }

    def night() -> dict[str, str]:
        """The same run again, as if it had never been published."""
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        flow: Any = load_flow_from_entrypoint("mnist_pipeline.flows.evaluate.evaluate")
        given = {"dataset": "toy", "data_dir": tmp_path / "data", "run_date": RUN_DATE, "report": False}
        flow(**given, shard_rows=10, batch_rows=4, return_state=True)
        return tables_of(tmp_path)

    with temporary_settings(forced):
        # The keys that such a policy would give are asked of tasks that have it.
        with monkeypatch.context() as caching:
            for name, found in vars(tasks).items():
                if isinstance(found, Task):
                    caching.setattr(tasks, name, found.with_options(cache_policy=policy, persist_result=True))
            night()
            planted = poison(storage, sentinel)
            assert planted > 0
            night()
            assert sentinel.exists()  # the trap works
        sentinel.rmdir()
        planted = poison(storage, sentinel)
        before = hashes(storage)
        assert night() == expected != {}
    assert not sentinel.exists()
    assert hashes(storage) == before
    tried(planted, "planted results")


MUTANTS = (
    Mutant(
        "mnist_pipeline/orchestration/server.py",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
        "pass",
        "test_a_stopped_command_leaves_no_process_and_nothing_visible_and_the_same_command_completes",
    ),
    Mutant(
        "mnist_pipeline/orchestration/server.py",
        "        server.kill()",
        "        server.poll()",
        "test_a_stopped_command_leaves_no_process_and_nothing_visible_and_the_same_command_completes",
    ),
    Mutant(
        "mnist_pipeline/cli/engine.py",
        "isinstance(cause, KeyboardInterrupt)",
        "isinstance(cause, FloatingPointError)",
        "test_ctrl_c_on_a_run_whose_server_is_gone_is_still_ctrl_c",
    ),
    Mutant(
        "mnist_pipeline/orchestration/tasks.py",
        '"plan {source_images.dataset}/{source_images.split}",\n'
        "    retries=0,\n    cache_policy=NO_CACHE,\n    persist_result=False,\n",
        '"plan {source_images.dataset}/{source_images.split}",\n'
        '    cache_policy=__import__("prefect").cache_policies.TASK_SOURCE,\n',
        "test_planted_results_are_never_unpickled_though_the_environment_asks_for_results_to_be_kept",
    ),
    Mutant(
        "mnist_pipeline/orchestration/tasks.py",
        '@task(task_run_name="predict {group}", retries=0, cache_policy=NO_CACHE, persist_result=False)',
        '@task(task_run_name="predict {group}")',
        "test_a_flow_is_retried_if_the_environment_says_so_and_a_task_is_not_and_both_come_to_the_same_bytes",
    ),
    Mutant(
        "mnist_pipeline/orchestration/tasks.py",
        '@task(task_run_name="publish {plan.run_id}", retries=0, cache_policy',
        '@task(task_run_name="publish {plan.run_id}", cache_policy',
        "test_a_flow_is_retried_if_the_environment_says_so_and_a_task_is_not_and_both_come_to_the_same_bytes",
    ),
)
