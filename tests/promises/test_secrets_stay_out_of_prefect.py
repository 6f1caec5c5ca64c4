"""Secrets stay out of Prefect: its database holds none of what is planted where a flow run may meet it."""

import base64
from pathlib import Path

import pytest

from tests.engine import free_port
from tests.mirror import Site
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.promises.test_secrets_stay_secret import FORMS, RUN_DATE, Machine, data_sets, found_in, leaks
from tests.promises.test_secrets_stay_secret import machine as machine
from tests.promises.test_secrets_stay_secret import site as site

# A fetch is asked for again at once.
FLOW = """
import sys
from mnist_pipeline.orchestration import tasks
from mnist_pipeline.cli import app

tasks.open_images.retry_delay_seconds = [0, 0]
app(sys.argv[1:])
"""


@pytest.mark.engine
def test_no_secret_is_found_in_what_prefect_keeps_of_its_runs(
    machine: Machine, site: Site, prefect_server: dict[str, str], tried: Tried
) -> None:
    config = machine.config("good", data_sets(site))
    attempts = [
        (0, ["--debug", "run", "--run-date", RUN_DATE, "--config", config]),
        (4, ["--debug", "run", "--run-date", RUN_DATE, "--config", config, "--dataset", "moved"]),
    ]
    # What the server is sent is what it may keep; its password is the only secret that it needs.
    client = {name: prefect_server[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}
    said = ""
    for code, words in attempts:
        done = machine.python(FLOW, *words, PREFECT_LOGGING_LEVEL="DEBUG", **client)
        assert done.returncode == code, done.stderr
        said += done.stdout + done.stderr
    unused = f"http://127.0.0.1:{free_port()}/api"
    gone = machine.python(FLOW, "--debug", "run", "--config", config, PREFECT_API_URL=unused)
    assert gone.returncode == 4, gone.stderr
    said += gone.stdout + gone.stderr
    assert found_in(said.encode(), FORMS) == [], said
    assert leaks(machine.left, FORMS) == {}
    kept = b"".join(path.read_bytes() for path in Path(prefect_server["PREFECT_HOME"]).glob("prefect.db*"))
    assert found_in(kept, FORMS) == []
    password = prefect_server["PREFECT_API_AUTH_STRING"].encode()
    assert found_in(kept + said.encode(), {"password": password, "in base64": base64.b64encode(password)}) == []
    # What is there is seen: names, parameters, logs, states, artifacts.
    for row in (
        f"evaluate toy/test {RUN_DATE}",
        config,
        "did not serve",
        "expected a source for",
        "## toy/test, night",
    ):
        assert row.encode() in kept, row
    tried(len(attempts), "flow runs with secrets planted")


MUTANTS = (
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        'raise SourceFailure(f"no connection ({type(error).__name__})", retryable=retryable) from error',
        'raise SourceFailure(f"no connection ({error})", retryable=retryable) from error',
        "test_no_secret_is_found_in_what_prefect_keeps_of_its_runs",
    ),
)
