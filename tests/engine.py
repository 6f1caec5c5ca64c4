"""Real Prefect servers and workers for tests: on loopback only, ended afterwards by the process that was started.

Checks nothing about the pipeline itself.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mnist_pipeline.orchestration.environment import PREFECT_DEFAULTS

START_SECONDS = 120
END_SECONDS = 30
POLL_SECONDS = 0.2

# Kept in memory, a concurrency slot would not outlive a server that a test restarts.
SERVER_SETTINGS = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
# What a worker does every 15 and 30 seconds otherwise.
WORKER_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "2",
}


def clean_environment(home: Path) -> dict[str, str]:
    """The variables of a person who has never used Prefect or the pipeline here; Prefect's files lie in `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MNIST_"))}
    return inherited | PREFECT_DEFAULTS | {"PREFECT_HOME": str(home)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running_server(environment: dict[str, str], port: int | None = None) -> Iterator[str]:
    """A Prefect server of its own: yields its API address once it is healthy, and ends it.

    Args:
        environment: needs PREFECT_HOME, where the database and `server.log` lie.
        port: give the same one, and the same home, to start a server again; a free one if left out.
    """
    port = port or free_port()
    address = f"http://127.0.0.1:{port}/api"
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    # A server that is told another server's address would ask that one.
    variables = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
    with _prefect(words, PREFECT_DEFAULTS | SERVER_SETTINGS | variables, "server.log") as process:
        wait_until(lambda: healthy(address), process, "server")
        yield address


@contextmanager
def running_worker(environment: dict[str, str], pool: str, name: str = "test") -> Iterator[subprocess.Popen[bytes]]:
    """A process worker that polls `pool` every second: yields its process once it has reported, and ends it.

    Its runs are ended with it. Each of them leads a session of its own, out of reach of signals to the worker's
    group: `kill_with_runs` takes them all.

    Args:
        environment: needs PREFECT_HOME, where `worker-NAME.log` lies, and PREFECT_API_URL.
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
