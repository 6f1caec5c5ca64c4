"""What every test shares."""

import functools
import gc
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from mnist_pipeline.orchestration.environment import prepare_environment
from tests.engine import AUTH, clean_environment, running_server

# The files of which a test takes `prefect_server`. The scheduler of xdist knows of a test no more than its name.
SHARE_SERVER = (
    "tests/pipeline/test_nightly.py",
    "tests/test_setup.py",
    "tests/test_scheduled.py",
    "tests/test_flows.py",
    "tests/test_runners.py",
    "tests/promises/test_outputs_do_not_depend_on_the_engine.py",
    "tests/promises/test_secrets_stay_out_of_prefect.py",
    "tests/test_front_door.py",
    "tests/test_temporary_server.py",
)
TRIED = "tried"  # what a test of a promise notes: tests/promises/conftest.py

gc.set_threshold(
    20_000
)  # objects: importing makes a million, and hardly any garbage; a quarter of collecting the tests
prepare_environment()  # before anything imports Prefect: no telemetry from tests either
os.environ.update(AUTH)

# The command is built once, and not for each test that calls it.
vars(typer.testing)["_get_command"] = functools.cache(vars(typer.testing)["_get_command"])

# Two cores, and tests run side by side: how long one example takes says nothing.
# A red test must be somebody's change and never luck: the same examples each time. `make search` draws more.
settings.register_profile("everyday", deadline=None, derandomize=True, max_examples=30)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("everyday")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The one Prefect server of all tests that need no server of their own, as the variables of its user.

    What a test finds there may come from any other one: it looks for its own runs.
    """
    from prefect.logging.handlers import APILogHandler  # here: the environment is prepared first

    environment = clean_environment(tmp_path_factory.mktemp("prefect"))
    with running_server(environment) as address:
        yield environment | {"PREFECT_API_URL": address}
        APILogHandler().flush()  # or the lines of the last flow are offered for a minute to a server that is gone


@pytest.fixture(scope="session")
def mnist_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of the real MNIST, empty at first. All processes of this run of the tests fetch into the same one."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "mnist"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """One process runs all files of the shared server, so that it is started once; and any other file as a whole."""

    class ByServer(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "shared server" if file in SHARE_SERVER else file

    return ByServer(config, log)


def pytest_collection() -> None:
    """Each process compiles its share of the test files first, and then finds the others compiled.

    In a fresh clone rewriting their assertions takes as long as all the rest of collecting them.
    """
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        files = sorted(Path(__file__).parent.rglob("test_*.py"), key=lambda file: file.stat().st_size)
        for file in files[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]:
            importlib.import_module(".".join(file.relative_to(Path(__file__).parent.parent).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of the shared server start first, then others with servers, so that the rest fill the time."""

    def rank(item: pytest.Item) -> int:
        file, fixtures = item.nodeid.partition("::")[0], getattr(item, "fixturenames", ())
        assert file in SHARE_SERVER or "prefect_server" not in fixtures, f"name {file} in SHARE_SERVER of {__file__}"
        if file in SHARE_SERVER:
            return 0
        return 1 if item.get_closest_marker("engine") or "bucket" in fixtures else 2

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """What has been imported stays: no collection of garbage looks through all of it again. A tenth of the time."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries count what they find at the end as leaks


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how often each promise was tried. Here, because the workers alone load what lies in a folder below."""
    lines = []
    for report in terminalreporter.getreports("passed"):
        promise = report.nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")
        lines += [f"{promise.replace('_', ' ')}: {what}" for name, what in report.user_properties if name == TRIED]
    if lines:
        terminalreporter.section("promises tried")
        for line in sorted(lines):
            terminalreporter.write_line(line)
