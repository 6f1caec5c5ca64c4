"""Runs server and worker on this machine, as processes of one command that ends them with itself.

Accepted: killed outright, the command leaves them running; started again, it uses the server that answers.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.settings import PREFECT_HOME

from mnist_pipeline.errors import EngineError, masked
from mnist_pipeline.orchestration.credentials import CLIENT_SIDE, SERVER_SIDE, credentials_file, make_credentials
from mnist_pipeline.orchestration.database import require_database
from mnist_pipeline.settings import project_file
from mnist_pipeline.store.disk import read_small

HOST = "127.0.0.1"
API_URL = "PREFECT_API_URL"
START_SECONDS = 180  # the first start in a home creates the server's database
END_SECONDS = 20
POLL_SECONDS = 0.5
LAST_LINES = 3  # of a log, in a message


@dataclass(frozen=True)
class Service:
    """A process that was started here, and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def require_running(self) -> None:
        """Nothing, while it runs.

        Raises:
            EngineError: it has ended; the last lines of its log are shown.
        """
        if self.process.poll() is not None:
            lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            last = masked(" | ".join(lines[-LAST_LINES:]))[-200:]  # before it is cut: half an address looks like none
            raise EngineError(
                f"{self.name}: expected it to run, it ended with {self.process.returncode}: {last}; "
                f"its log is {self.log}"
            )


def prepare(port: int) -> str:
    """Set the environment of server, worker and this command: password, address, no telemetry. The server's address."""
    env_file = project_file("config") / "prefect.env"
    for name, value in _variables(env_file).items():
        os.environ.setdefault(name, value)
    if SERVER_SIDE not in os.environ:
        make_credentials(path := credentials_file())
        os.environ.update(_variables(path))
    os.environ.setdefault(CLIENT_SIDE, os.environ[SERVER_SIDE])
    origins = f"http://{HOST}:{port},http://localhost:{port}"
    os.environ["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] = origins
    os.environ[API_URL] = address = f"http://{HOST}:{port}/api"
    refresh_global_settings_context()
    return address


def credentials_in_force() -> Path | None:
    """The file with the password in force, if it is that of this user."""
    path = credentials_file()
    return path if path.is_file() and _variables(path).get(CLIENT_SIDE) == os.environ.get(CLIENT_SIDE) else None


def answers() -> bool:
    """Whether a server answers at the address in force."""
    with get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


@contextmanager
def running_server(port: int) -> Iterator[Service]:
    """A server on the loopback address; yields once it answers, and ends it after the block.

    Raises:
        EngineError: it cannot start, ended instead, or does not answer in time.
    """
    require_database()
    # With the address of a server in its environment it would be a client of that one.
    variables = {name: value for name, value in os.environ.items() if name != API_URL}
    with _running("server", ["server", "start", "--host", HOST, "--port", str(port)], variables) as server:
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            server.require_running()
            if time.monotonic() > deadline:
                raise EngineError(f"server: expected an answer within {START_SECONDS} seconds, got none: {server.log}")
            time.sleep(POLL_SECONDS)
        yield server


@contextmanager
def running_worker(pool: str) -> Iterator[Service]:
    """A worker of a pool; ends it after the block, and its runs before: the same night goes on from what they did."""
    words = ["--no-prompt", "worker", "start", "--pool", pool, "--type", "process"]
    with _running("worker", words, os.environ) as worker:
        try:
            yield worker
        finally:
            _end_all(_descendants(worker.process.pid))


def watch(services: Sequence[Service]) -> None:
    """Wait for as long as all run.

    Raises:
        EngineError: one has ended by itself.
    """
    while True:
        for service in services:
            service.require_running()
        time.sleep(POLL_SECONDS)


@contextmanager
def _running(name: str, words: Sequence[str], variables: Mapping[str, str]) -> Iterator[Service]:
    log = PREFECT_HOME.value() / f"mnist-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    command = [sys.executable, "-m", "prefect", *words]
    with log.open("ab") as lines:
        # A session of its own: the Ctrl-C of the terminal is for the command, which ends it in order.
        process = subprocess.Popen(
            command, env=variables, stdout=lines, stderr=lines, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield Service(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group is this process's own
            process.wait()


def _variables(path: Path) -> dict[str, str]:
    """The variables of a file of NAME=VALUE lines, without quotes."""
    lines = [line.strip() for line in read_small(path).splitlines()]
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def _descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout  # noqa: S607
    except OSError:  # a small image has none
        listed = "\n".join(_parents_in_proc())
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [pid]
    for known in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def _parents_in_proc() -> Iterator[str]:
    for about in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            yield f"{about.parent.name} {about.read_text().rpartition(')')[2].split()[1]}"


def _end_all(pids: Sequence[int]) -> None:
    """End processes that are not children of this one: ask them first, kill what is left."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + END_SECONDS
        while any(map(_is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
