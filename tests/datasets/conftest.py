"""Sources for the tests of data sets: sites on this machine, and an address without a server."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_pipeline.datasets.catalogue import WebSource
from mnist_pipeline.datasets.sources import fetching
from tests.mirror import PACKED, Answer, Site, StartSite, web


@pytest.fixture
def scratch_is_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test may leave anything in the folder for temporary files, nor reach a proxy, nor wait between tries."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(fetching, "PAUSES_SECONDS", ())
    yield
    assert not list(scratch.iterdir())


@pytest.fixture
def site() -> Iterator[StartSite]:
    """Starts sites: `site()` serves the toy data set, `site({name: answer})` with that answer, or None for none."""
    started: list[Site] = []

    def start(changes: dict[str, Answer | None] | None = None) -> Site:
        answers = {name: Answer(data) for name, data in PACKED.items()} | (changes or {})
        started.append(Site({name: answer for name, answer in answers.items() if answer}))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def nobody() -> Iterator[WebSource]:
    """A source whose address has no server."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but not listening: connections are refused and nobody else gets it
        yield web(f"http://127.0.0.1:{bound.getsockname()[1]}/")
