"""Secrets stay out of Prefect: its database holds none of what is planted where a flow run may meet it."""

import base64
import json
from pathlib import Path

import pytest

from tests.engine import free_port
from tests.mirror import Site
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.promises.test_secrets_stay_secret import (
    COMMANDS,
    FORMS,
    RUN_DATE,
    Machine,
    address,
    data_sets,
    found_in,
    leaks,
)
from tests.promises.test_secrets_stay_secret import machine as machine
from tests.promises.test_secrets_stay_secret import site as site

# A fetch is asked for again at once. A flow may be called without the command.
FLOWS = f"""
from mnist_pipeline.orchestration import tasks

tasks.open_images.retry_delay_seconds = [0, 0]
{COMMANDS}
from mnist_pipeline.errors import SettingsError
from mnist_pipeline.flows.evaluate import evaluate

for name in ("images", "data_dir", "weights"):
    try:
        evaluate(**{{name: {address("https", "mirror.test/a")!r}}})
    except SettingsError:
        print("refused")
"""


@pytest.mark.engine
def test_no_secret_is_found_in_what_prefect_keeps_of_its_runs(
    machine: Machine, site: Site, prefect_server: dict[str, str], tried: Tried
) -> None:
    config = machine.config("good", data_sets(site))
    run = ["--verbose", "run", "--run-date", RUN_DATE, "--config", config]
    # What the server is sent is what it may keep; its password is the only secret that it needs.
    client = {name: prefect_server[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}
    here = json.dumps([({}, run), ({}, [*run, "--dataset", "moved"])])
    done = machine.python(FLOWS, here, PREFECT_LOGGING_LEVEL="DEBUG", **client)
    *_, ends, first, second, third = done.stdout.splitlines()
    assert json.loads(ends) == [0, 4], done.stderr
    assert first == second == third == "refused"
    gone = machine.python(COMMANDS, json.dumps([({}, run)]), PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
    assert json.loads(gone.stdout.splitlines()[-1]) == [4], gone.stderr
    said = done.stdout + done.stderr + gone.stdout + gone.stderr
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
    tried(2, "flow runs with secrets planted")


MUTANTS = (
    Mutant(
        "mnist_pipeline/datasets/sources/connections.py",
        'raise SourceFailure(f"no connection ({type(error).__name__})", retryable=retryable) from error',
        'raise SourceFailure(f"no connection ({error})", retryable=retryable) from error',
        "test_no_secret_is_found_in_what_prefect_keeps_of_its_runs",
    ),
)
