"""Prefect's database before a server is started on it, and a server that ends as it starts."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from mnist_pipeline.errors import EngineError
from mnist_pipeline.orchestration import server
from mnist_pipeline.orchestration.database import require_database


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where the database of the settings in force is."""
    path = tmp_path / "home" / "prefect.db"
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{path}?timeout=1"}):
        yield path


@pytest.fixture
def same_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the other tests keeps its own."""
    monkeypatch.setattr(server, "new_auth_string", lambda: os.environ["PREFECT_API_AUTH_STRING"])


def at_revision(path: Path, revision: str) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE alembic_version (version_num)")
        made.execute("INSERT INTO alembic_version VALUES (?)", [revision])


def refused(reason: str) -> None:
    with pytest.raises(EngineError, match=rf"^Prefect's database .*prefect\.db: expected {reason}.*PREFECT_HOME"):
        require_database()


def test_a_new_database_and_one_of_this_or_an_earlier_prefect_are_used(file: Path) -> None:
    require_database()
    file.unlink()
    file.parent.rmdir()
    at_revision(file, "9725c1cbee35")  # of Prefect's first
    before = file.read_bytes()
    require_database()
    assert file.read_bytes() == before


def test_the_database_of_a_newer_prefect_is_refused(file: Path) -> None:
    at_revision(file, "ffffffffffff")
    refused(r"that of Prefect \d.* or earlier, got revision ffffffffffff of another; install")


def test_what_is_no_database_or_cannot_be_written_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.write_text("a file in the place of the folder")
    refused("to write to it, got File exists")
    file.parent.unlink()
    file.mkdir(parents=True)
    refused("to write to it, got unable to open database file")
    file.rmdir()
    file.write_text("garbage " * 100)
    refused("to write to it, got file is not a database")
    file.unlink()

    def read_only(address: str, **options: object) -> sqlite3.Connection:
        return sqlite3.Connection(address.replace("mode=rwc", "mode=ro"), uri=True, isolation_level=None)

    file.touch()
    monkeypatch.setattr(sqlite3, "connect", read_only)
    refused("to write to it, got attempt to write a readonly database")


def test_a_database_at_work_and_a_database_server_answer_for_themselves(file: Path) -> None:
    at_revision(file, "ffffffffffff")
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        require_database()
    with temporary_settings({PREFECT_SERVER_DATABASE_CONNECTION_URL: "postgresql+asyncpg://nobody@localhost/prefect"}):
        require_database()


@pytest.mark.usefixtures("same_password")
def test_a_temporary_server_that_ends_is_not_waited_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never, killed = Event(), list[bool]()
    monkeypatch.setattr(server, "get_client", lambda **_: never.wait())
    monkeypatch.setattr(server, "kill_processes", lambda: killed.append(True))
    monkeypatch.setattr(server, "_temporary_process", lambda: SimpleNamespace(pid=1, poll=lambda: 1))
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with pytest.raises(EngineError, match="temporary Prefect server: expected it to start, it ended; "):
            server.start_temporary_server()
        pids = iter(range(100))  # others are started in its place, without end
        monkeypatch.setattr(server, "_temporary_process", lambda: SimpleNamespace(pid=next(pids), poll=lambda: 3))
        with pytest.raises(EngineError, match="temporary Prefect server: expected it to start, it ended"):
            server.start_temporary_server()
    assert killed == [True, True]
    never.set()


@pytest.mark.usefixtures("same_password")
def test_a_temporary_server_that_takes_too_long_is_one_line(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_time(**_: object) -> None:
        raise RuntimeError("Timed out while attempting to connect")

    monkeypatch.setattr(server, "get_client", out_of_time)
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(EngineError, match="temporary Prefect server: expected it to start, got Timed out"),
    ):
        server.start_temporary_server()


def test_a_broken_file_of_prefects_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text("garbage = = 1")
    done = subprocess.run(
        [sys.executable, "-m", "mnist_pipeline", "doctor"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "error: settings of Prefect: Failed to load Prefect settings from prefect.toml: invalid TOML" in done.stderr
