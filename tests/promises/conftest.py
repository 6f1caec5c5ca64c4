"""How often each promise was tried; `tests/conftest.py` tells it at the end of a test run."""

from collections.abc import Callable

import pytest

from tests.conftest import TRIED

Tried = Callable[[int, str], None]


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """Notes what a test has tried, and how often: `tried(400, "system calls refused")`."""

    def note(count: int, what: str) -> None:
        assert count > 0, f"{what}: nothing was tried"
        request.node.user_properties.append((TRIED, f"{count:,} {what}"))

    return note
