"""Real Prefect servers and workers for tests: on loopback only, ended afterwards by the process that was started.

Checks nothing about the pipeline itself.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.orchestration.environment import PREFECT_DEFAULTS

ROOT = Path(__file__).parents[1]

# Every server here wants a password, and every command of ours is tried with it.
AUTH = {"PREFECT_SERVER_API_AUTH_STRING": "test:of-loopback", "PREFECT_API_AUTH_STRING": "test:of-loopback"}

# A writer of Prefect's SQLite waits up to 60 seconds for its turn (PRAGMA busy_timeout), and so does the request
# behind it: one request may take that long, and a fact that needs several of them longer.
REQUEST_SECONDS = 100
START_SECONDS = 240
END_SECONDS = 30
POLL_SECONDS = 0.2

# Parameters with which an evaluation of some thousand images takes long enough to be disturbed.
SLOW = {"shard_rows": 10, "batch_rows": 1}

# Kept in memory, a concurrency slot would not outlive a server that a test restarts. A run that waits for one asks
# again every 30 seconds otherwise.
SERVER_SETTINGS = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # 60 otherwise
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
# What a worker does every 15 and 30 seconds otherwise. Each heartbeat is written to the database, and it is missed
# after three of them: the test that waits for that waits as long.
WORKER_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
}


def clean_environment(home: Path) -> dict[str, str]:
    """The variables of a person who has never used Prefect or the pipeline here; Prefect's files are in `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MNIST_"))}
    return inherited | PREFECT_DEFAULTS | AUTH | {"PREFECT_HOME": str(home)}


def request_of(address: str, path: str, question: object = None, auth: str = "") -> urllib.request.Request:
    """A request to a server of these tests, with its password."""
    user = base64.b64encode((auth or AUTH["PREFECT_API_AUTH_STRING"]).encode()).decode()
    return urllib.request.Request(
        f"{address}/{path}",
        data=None if question is None else json.dumps(question).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {user}"},
    )


def ask(address: str, path: str, question: object = None, auth: str = "") -> Any:
    """What a server answers. A question may reach it twice, when SQLite is busy: let it say the same twice."""
    request = request_of(address, path, question, auth)
    answers: list[Any] = []

    def answered() -> bool:
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
                answers.append(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code != 503:  # "database is locked"; Prefect's own client tries again too
                raise
        return bool(answers)

    wait_until(answered, what=path)
    return answers[0]


def python_m(folder: Path, environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )


def install_wheel(site: Path) -> Path:
    """Install the package into a folder as its wheel does; that folder."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    how = ["--no-build-isolation", "--no-compile"]  # hatchling is one of the tools for development
    subprocess.run([*pip, *how, "--target", str(site), str(ROOT)], check=True, capture_output=True)
    return site


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A Prefect server that can be killed and started again: on the same port, with the same database.

    Args:
        environment: needs PREFECT_HOME, the folder of the database and `server.log`.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}/api"
        # A server with the address of another one in its environment would use that one.
        variables = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
        self._environment = PREFECT_DEFAULTS | SERVER_SETTINGS | variables
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start, and return once it is healthy."""
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
        self._process = self._running.enter_context(_prefect(words, self._environment, "server.log"))
        wait_until(lambda: healthy(self.address), self._process, "server")

    def kill(self) -> None:
        """Take it away at once, as a power cut would."""
        _kill([self._process.pid, *descendants(self._process.pid)])
        self._process.wait()

    def stop(self) -> None:
        """End it gracefully."""
        self._running.close()


@contextmanager
def running_server(environment: Mapping[str, str]) -> Iterator[str]:
    """A server of its own: yields its API address once it is healthy, and ends it."""
    server = Server(environment)
    try:
        server.start()
        yield server.address
    finally:
        server.stop()


@contextmanager
def running_worker(environment: dict[str, str], pool: str, name: str = "test") -> Iterator[subprocess.Popen[bytes]]:
    """A process worker that polls `pool` every second: yields its process once it has reported, and ends it.

    Its runs are ended with it. Each of them leads a session of its own, out of reach of signals to the worker's
    group: `kill_with_runs` takes them all.

    Args:
        environment: needs PREFECT_HOME, the folder of `worker-NAME.log`, and PREFECT_API_URL.
        pool: must exist.
        name: of the worker.
    """
    log = Path(environment["PREFECT_HOME"]) / f"worker-{name}.log"
    before = log.stat().st_size if log.exists() else 0
    words = ["--no-prompt", "worker", "start", "--pool", pool, "--type", "process", "--name", name]
    with _prefect(words, {**WORKER_SETTINGS, **PREFECT_DEFAULTS, **environment}, log.name) as process:
        wait_until(lambda: b"started!" in log.read_bytes()[before:], process, f"worker {name}")
        try:
            yield process
        finally:
            runs = descendants(process.pid)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=END_SECONDS)
            _kill(runs)


def kill_with_runs(worker: subprocess.Popen[bytes]) -> None:
    """Take a worker and all runs it has started away at once, as a power cut would."""
    _kill([worker.pid, *descendants(worker.pid)])
    worker.wait()


def descendants(pid: int) -> list[int]:
    """Processes that `pid` has started, and those that they have."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [pid]
    for known in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until(
    fact: Callable[[], bool],
    process: subprocess.Popen[bytes] | None = None,
    what: str = "fact",
    seconds: float = START_SECONDS,
) -> None:
    """Ask until `fact` holds; fail if `process` ends first or the time runs out."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert process is None or process.poll() is None, (
            f"{what}: the process ended with {process and process.returncode}"
        )
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(POLL_SECONDS)


class Deployed:
    """The project deployed on a server, and a terminal in its folder.

    Args:
        project: as `copy_project` makes it.
        environment: of the terminal, with PREFECT_API_URL.
    """

    def __init__(self, project: Path, environment: Mapping[str, str]) -> None:
        self.project, self.environment = project, dict(environment)
        self.outputs = project / "outputs"

    def prefect(self, *words: str) -> subprocess.CompletedProcess[str]:
        return python_m(self.project, self.environment, "prefect", "--no-prompt", *words)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return python_m(self.project, self.environment, "mnist_pipeline", *words)

    def ask(self, path: str, question: object = None) -> Any:
        return ask(self.environment["PREFECT_API_URL"], path, question)

    def start(self, deployment: str, state: object = None, **parameters: Any) -> str:
        """Id of a new run of the deployment of that name."""
        (found,) = self.ask("deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        question: dict[str, object] = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
        question |= {} if state is None else {"state": state}
        return str(self.ask(f"deployments/{found['id']}/create_flow_run", question)["id"])

    def state_of(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state_type"])

    def flow_runs(self, **deployment: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("flow_runs/filter", {"deployments": deployment} if deployment else {})
        return found

    def runs(self, run_date: str = "") -> list[str]:
        """Names of the published runs, of all dates or of one."""
        return sorted(path.name for path in (self.outputs / "runs").glob(f"{run_date}*"))

    def prediction_files(self, run_date: str) -> list[Path]:
        """Prediction files that a run of that date has finished and not yet published."""
        return sorted((self.outputs / ".staging").glob(f"{run_date}-toy-test-*/run/predictions/*.parquet"))


def copy_project(folder: Path) -> Path:
    """`folder` with what is deployed, so that its outputs are not ours."""
    for name in ("prefect.yaml", "prefect.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def night_environment(project: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a terminal in `project`: the data set "toy" in its folder `data`, in small shards."""
    return dict(environment) | {
        "PWD": str(project),
        "PREFECT_API_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(project / "data"),
        "MNIST_PIPELINE_SHARD_ROWS": "10",
        "MNIST_PIPELINE_MAX_TASKS": "4",
    }


@contextmanager
def in_this_process(environment: Mapping[str, str]) -> Iterator[None]:
    """Variables in force here, for flows that a test calls itself; Prefect's own threads have them too.

    They have no heartbeat, so that none waits for it at its end.
    """
    from prefect.context import refresh_global_settings_context  # here: tests/conftest.py imports this module first
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            if name.startswith(("PREFECT_", "MNIST_")):
                patched.setenv(name, value)
        refresh_global_settings_context()
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    refresh_global_settings_context()


def take_down() -> None:
    """Leave nothing that an earlier test has set up on the server in force."""
    from prefect.client.orchestration import get_client  # here: tests/conftest.py imports this module first

    with get_client(sync_client=True) as client:
        for deployment in client.request("POST", "/deployments/filter", json={}).json():
            client.delete_deployment(deployment["id"])
        for automation in client.read_automations():
            client.delete_automation(automation.id)
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def _prefect(words: list[str], environment: dict[str, str], log: str) -> Iterator[subprocess.Popen[bytes]]:
    """`prefect WORDS` in a process group of its own, its output appended to `log` in the home."""
    command = [sys.executable, "-m", "prefect", *words]
    with (Path(environment["PREFECT_HOME"]) / log).open("ab") as lines:
        process = subprocess.Popen(
            command, env=environment, stdout=lines, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the group is this process's own
            process.wait()
