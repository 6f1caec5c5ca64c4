"""How often each promise was tried, told at the end of a test run."""

from collections.abc import Callable

import pytest

TRIED = "tried"

Tried = Callable[[int, str], None]


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """Notes what a test has tried, and how often: `tried(400, "system calls refused")`."""

    def note(count: int, what: str) -> None:
        assert count > 0, f"{what}: nothing was tried"
        request.node.user_properties.append((TRIED, f"{count:,} {what}"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = []
    for report in terminalreporter.getreports("passed"):
        promise = report.nodeid.partition("::")[0].rpartition("/")[2].removeprefix("test_").removesuffix(".py")
        lines += [f"{promise.replace('_', ' ')}: {what}" for name, what in report.user_properties if name == TRIED]
    if lines:
        terminalreporter.section("promises tried")
        for line in sorted(lines):
            terminalreporter.write_line(line)
