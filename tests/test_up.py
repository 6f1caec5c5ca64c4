"""`mnist-pipeline up` in an empty folder, with nothing but the installed package."""

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.builders import make_split
from tests.engine import (
    START_SECONDS,
    ask,
    clean_environment,
    descendants,
    free_port,
    install_wheel,
    python_m,
    wait_until,
)

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_up_runs_a_schedule_ends_with_all_it_started_and_goes_on(tmp_path: Path) -> None:
    work, home, data = (tmp_path / name for name in ("work", "home", "data"))
    work.mkdir()
    make_split(data, 40)
    site, port = install_wheel(tmp_path / "site"), free_port()
    inherited = {name: value for name, value in clean_environment(home).items() if "AUTH_STRING" not in name}
    environment = inherited | {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PYTHONPATH": str(site),
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_DATA_DIR": str(data),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    secret = tmp_path / "config" / "mnist-pipeline" / "prefect.env"
    address = f"http://127.0.0.1:{port}/api"

    def start() -> "subprocess.Popen[bytes]":
        words = [sys.executable, "-m", "mnist_pipeline", "up", "--port", str(port)]
        with (tmp_path / "said.txt").open("wb") as said:
            return subprocess.Popen(words, cwd=work, env=environment, stdout=said, stderr=said)

    def said() -> str:
        return (tmp_path / "said.txt").read_text()

    def asked(path: str, question: object = None) -> Any:
        auth = dict(line.split("=", 1) for line in secret.read_text().splitlines() if "=" in line)
        return ask(address, path, question, auth["PREFECT_API_AUTH_STRING"])

    for again in (False, True):
        up = start()
        try:
            wait_until(lambda: "Ctrl-C ends all of it" in said(), up, "up")
            assert ("unchanged" in said()) == again
            if not again:
                auth = dict(line.split("=", 1) for line in secret.read_text().splitlines() if "=" in line)
                looked = python_m(work, environment | auth | {"PREFECT_API_URL": address}, "mnist_pipeline", "doctor")
                assert "FAIL  worker" not in looked.stdout
                assert "ok    server password" in looked.stdout
                (adhoc,) = asked("deployments/filter", {"deployments": {"name": {"any_": ["adhoc"]}}})
                soon = {"interval": 60.0, "anchor_date": (datetime.now(UTC) + timedelta(seconds=10)).isoformat()}
                asked(f"deployments/{adhoc['id']}/schedules", [{"schedule": soon, "active": True}])
                published = work / "outputs" / "latest.json"
                wait_until(published.exists, up, "a run of the schedule", seconds=120)
                assert "toy/test" in json.loads(published.read_text())
            started = descendants(up.pid)
            assert len(started) >= 2
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(timeout=START_SECONDS)
        assert up.returncode == 0, said()
        assert said().splitlines()[-1] == "ended; `mnist-pipeline up` goes on from here"
        assert [pid for pid in started if Path(f"/proc/{pid}").exists()] == []
    assert secret.stat().st_mode & 0o077 == 0
