"""What every test shares."""

import os

import pytest
from hypothesis import settings

from mnist_pipeline.orchestration.environment import prepare_environment
from tests.engine import AUTH

TRIED = "tried"  # what a test of a promise notes: tests/promises/conftest.py

prepare_environment()  # before anything imports Prefect: no telemetry from tests either
os.environ.update(AUTH)

# Two cores, and tests run side by side: how long one example takes says nothing.
# A red test must be somebody's change and never luck: the same examples each time. `make search` draws others.
settings.register_profile("everyday", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("everyday")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that wait for servers start first, so that the others fill the time."""
    items.sort(key=lambda item: item.get_closest_marker("engine") is None)


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
