"""The server that a run starts for itself where none is configured."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine import ROOT, clean_environment, free_port
from tests.test_front_door import require_closed

TEMPORARY = """
import sys
from mnist_pipeline.orchestration.environment import prepare_environment

prepare_environment()
from prefect.client.orchestration import get_client
from mnist_pipeline.orchestration.server import start_temporary_server

start_temporary_server()
with get_client(sync_client=True) as client:
    client.read_flows()
    print(client.api_url.port, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def used_home(prefect_server: dict[str, str], tmp_path: Path) -> Path:
    """A PREFECT_HOME as another server of this version has left it, so that the next one need not make its tables."""
    home = tmp_path / "used"
    home.mkdir()
    with (
        closing(sqlite3.connect(Path(prefect_server["PREFECT_HOME"]) / "prefect.db")) as used,
        closing(sqlite3.connect(home / "prefect.db")) as copy,
    ):
        used.backup(copy)
    return home


@pytest.mark.engine
@pytest.mark.slow
def test_the_temporary_server_accepts_no_other_client_and_is_asked_through_no_proxy(used_home: Path) -> None:
    unreachable = f"http://127.0.0.1:{free_port()}"
    environment = clean_environment(used_home) | {
        "HTTP_PROXY": unreachable,
        "http_proxy": unreachable,
        "NO_PROXY": ".example",
    }
    for name in ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"):
        del environment[name]
    process = subprocess.Popen(
        [sys.executable, "-c", TEMPORARY],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        require_closed(int(process.stdout.readline()))
    finally:
        process.communicate("", timeout=60)
    assert process.returncode == 0
