"""What a command prints where it cannot be printed."""

import errno
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from mnist_pipeline.cli import console, streams
from mnist_pipeline.cli.console import _Command, _Line
from mnist_pipeline.cli.printing import _Lines, out


def run(script: str, words: str) -> "subprocess.CompletedProcess[str]":
    """A shell line in which $M is the command."""
    code = f"{sys.executable} -m mnist_pipeline {words}"
    return subprocess.run(["bash", "-c", script.replace("$M", code)], capture_output=True, text=True)


class Stream(io.TextIOWrapper):
    """A stream that fails with an errno whenever it is flushed."""

    number = errno.ENOSPC

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def flush(self) -> None:
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        super().flush()


def program(monkeypatch: pytest.MonkeyPatch, exit_code: int = 0) -> typer.Typer:
    """A command line of two commands, of which `show` does no more than print."""
    app = typer.Typer(cls=_Command)
    monkeypatch.setattr(console, "CHANGING", ("run",))

    @app.command()
    def show() -> None:
        out.print("a result")

    @app.command("run")
    def publish() -> None:
        out.print("published")
        raise typer.Exit(exit_code)

    return app


def ended(app: typer.Typer, word: str, stdout: Stream, monkeypatch: pytest.MonkeyPatch) -> tuple[object, str]:
    """The exit code of a command whose output is that stream, and what it said on stderr."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit) as caught:
        app([word])
    return caught.value.code or 0, stderr.getvalue()


def test_a_full_stdout_does_not_change_how_a_run_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    for exit_code in (0, 7):
        code, said = ended(program(monkeypatch, exit_code), "run", Stream(), monkeypatch)
        assert code == exit_code
        assert said == (
            "warning: stdout: [Errno 28] No space left on device; not all is printed; "
            "the exit code is that of the work\n"
        )


def test_a_command_that_only_prints_fails_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = ended(program(monkeypatch), "show", Stream(), monkeypatch)
    assert code == 5
    assert said.startswith("warning: stdout: ")


def test_a_reader_that_went_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Stream()
    stdout.number = errno.EPIPE
    for word in ("show", "run"):
        assert ended(program(monkeypatch), word, stdout, monkeypatch) == (0, "")


def test_closed_full_and_broken_streams_end_a_real_command_with_its_own_code() -> None:
    for redirected in (">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "| true"):
        done = run(f"set -o pipefail; $M {redirected}", "--version")
        assert (done.returncode, done.stderr) == (0, ""), redirected


def test_closed_streams_are_open_for_what_a_command_starts() -> None:
    child = "import os, sys; sys.exit(sum(os.fstat(number).st_size for number in range(3)))"
    code = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    lasting = f"from mnist_pipeline.cli import streams\nwith streams.lasting():\n    {code}"
    done = subprocess.run(["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", lasting])
    assert done.returncode == 0


def test_a_terminal_of_no_columns_is_none() -> None:
    assert "Usage: " in run("COLUMNS=0 TERMINAL_WIDTH=x $M", "--help").stdout


def test_what_an_encoding_lacks_is_escaped_and_a_picture_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Stream(encoding="ascii")
    stdout.number = 0
    monkeypatch.setattr(sys, "stdout", stdout)
    with streams.lasting():
        print("▄█▀ Zürich \udcff")  # noqa: T201
    assert stdout.buffer.getvalue() == b'o#" Z\\xfcrich \\udcff\n'  # type: ignore[attr-defined]


def test_a_deleted_working_directory_is_said_at_once(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    done = run(f"cd {here}; rmdir {here}; PYTHONPATH={Path(__file__).parents[1]} $M", "runs")
    assert done.returncode == 2
    assert done.stderr == "error: working directory: expected one that exists, got a deleted one; change it\n"


def test_a_failure_of_the_machine_is_one_line_and_a_bug_of_ours_a_traceback() -> None:
    app = typer.Typer(cls=_Command, pretty_exceptions_enable=False)

    @app.command()
    def read() -> None:
        Path("/dev/null/below").read_bytes()

    @app.command()
    def bug() -> None:
        raise KeyError("ours")

    failed = CliRunner().invoke(app, ["read"])
    assert failed.exit_code == 5
    assert failed.stderr == (
        "error: '/dev/null/below': Not a directory; a file is where a folder is expected: move it away, or name "
        "another folder, then run again\n"
    )
    assert isinstance(CliRunner().invoke(app, ["bug"]).exception, KeyError)


@pytest.mark.parametrize("kind", [str, Text])
def test_no_name_forges_a_line_of_the_terminal(kind: type) -> None:
    written = io.StringIO()
    _Lines(file=written, highlight=False, markup=False, width=200).print(kind("runs\n\x1b[2Jerror: forged"))
    assert written.getvalue() == "runs\\n\\x1b[2Jerror: forged\n"


def test_no_name_forges_a_line_of_the_log() -> None:
    entry = logging.LogRecord("x", logging.INFO, "", 0, "%s read", ("runs\n\x1b[2Jforged",), None)
    assert _Line("%(levelname)s %(message)s").format(entry) == "INFO runs\\n\\x1b[2Jforged read"
