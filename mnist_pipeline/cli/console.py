"""The command application: its output streams, exit codes and signal handling, and helpers for all commands."""

import importlib.metadata
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from mnist_pipeline.cli import streams
from mnist_pipeline.core.progress import Progress
from mnist_pipeline.errors import (
    MachineError,
    PipelineError,
    RunNotFoundError,
    SettingsError,
    masked,
    of_machine,
    printable,
)

if TYPE_CHECKING:
    from mnist_pipeline.runs.outputs import Outputs
    from mnist_pipeline.settings import Settings

EXIT_CODES = """Exit codes:

0  done

1  a bug of ours

2  a flag, variable or config file is wrong

3  the data or the weights are rejected

4  no source of the data, or no Prefect server, could be reached, or it requires its password

5  the outputs folder or this machine (disk, memory, stdout) cannot be used, or a run is missing or damaged

6  the computation gave NaN or infinity

7  the run is published, but fails its gates

8  doctor: a check failed

130, 143  interrupted, terminated: no partial result is visible"""

CHANGING = ("run", "backfill", "train", "promote", "accept", "withdraw", "setup", "up", "prune", "reindex", "fetch")
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # of the click that typer has in it, or beside it
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/).*", re.DOTALL)

PIPE_WIDTH = 1000  # characters; so that a program that reads a pipe gets unbroken lines

for _name in ("COLUMNS", "TERMINAL_WIDTH"):
    if not re.fullmatch("0*[1-9][0-9]*", os.environ.get(_name, "80"), re.ASCII):
        del os.environ[_name]  # 0 where there is no terminal: nothing would be as wide as that


class _Lines(Console):
    """A console that prints lines: what is no printable character is escaped, so that no name can forge a line."""

    def print(self, *objects: Any, **how: Any) -> None:
        for each in objects:
            if isinstance(each, Text) and not each.plain.isprintable():
                each.plain = printable(each.plain)
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **how)


class _Line(logging.Formatter):
    """Formats an entry of the log as one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is the library's
        record.message = printable(record.message)
        return super().formatMessage(record)


out = _Lines(highlight=False, markup=False)
err = _Lines(stderr=True, highlight=False, markup=False)


class _Stop:
    """Signal handler. The first signal unwinds like an error: staging is removed, servers and workers are stopped.

    The second exits at once, without waiting for running tasks. That is safe: unfinished work is not visible, and a
    lock ends with its process.
    """

    def __init__(self) -> None:
        self._stopping = False

    def __call__(self, number: int, _frame: object) -> None:
        if self._stopping:
            try:
                err.show_cursor()  # progress bars hide it
                if engine := sys.modules.get("mnist_pipeline.orchestration.server"):
                    engine.kill_processes()
            finally:
                os._exit(128 + number)
        self._stopping = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


class _Command(TyperGroup):
    """Turns a PipelineError, or a failure of the machine, into one message and its exit code.

    --debug prints the traceback first.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        with streams.lasting():
            return super().main(*args, **extra)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # the context class is typer's own
        stop = _Stop()
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored if a shell script started us with &
            signal.signal(signal.SIGINT, stop)
        try:
            result = super().invoke(ctx)
            if ctx.invoked_subcommand not in CHANGING and streams.is_lost():
                raise typer.Exit(MachineError.exit_code)
            return result
        except _USAGE_ERROR as error:  # shows the words that cannot be parsed: there may be a password in an address
            error.message = _ADDRESS.sub(r"\1***", error.message)
            raise
        except KeyboardInterrupt:
            err.print("interrupted: nothing new is visible; the same command continues from the finished work")
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            failure = error if isinstance(error, PipelineError) else of_machine(error)
            if failure is None:
                raise
            if ctx.obj:
                sys.stderr.write(masked(traceback.format_exc()))
            err.print(f"error: {failure}", style="red", soft_wrap=True)
            raise typer.Exit(failure.exit_code) from error


app = typer.Typer(
    cls=_Command,
    help="Nightly batch inference and evaluation of handwritten digits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(importlib.metadata.version("mnist-pipeline"))
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug lines.")] = False,
    version: Annotated[  # noqa: ARG001  handled by its callback
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    from mnist_pipeline.orchestration.environment import spare_loopback

    spare_loopback()
    ctx.obj = debug
    try:
        Path.cwd()
    except OSError as error:
        raise SettingsError("working directory: expected one that exists, got a deleted one; change it") from error


def opened(settings: "Settings") -> "Outputs":
    """The outputs folder of the settings."""
    from mnist_pipeline.runs.outputs import Outputs

    return Outputs.at(settings.outputs)


def opened_existing(settings: "Settings") -> "Outputs":
    """The outputs folder of the settings, for commands that change what nights have published and begin nothing new.

    Raises:
        RunNotFoundError: there is nothing in it, or it does not exist.
    """
    from mnist_pipeline.store.base import is_empty

    outputs = opened(settings)
    if is_empty(outputs.store, ""):
        raise RunNotFoundError(
            f"{outputs}: expected the folder of the nights, got nothing there; name it with --outputs, or publish a "
            "night first with `mnist-pipeline run`"
        )
    return outputs


def print_lines(make: Callable[[int], RenderableType]) -> None:
    """Print to the width of the terminal; without a terminal, print unbroken lines."""
    if out.is_terminal:
        out.print(make(out.width))
    else:
        Console(file=out.file, width=PIPE_WIDTH, highlight=False, markup=False).print(make(PIPE_WIDTH))


@contextmanager
def progress_for(debug: bool) -> Iterator[Progress]:
    """Show progress bars on a terminal, with warnings above them; otherwise log plain lines."""
    from mnist_pipeline.report.progress import bars, log_lines, through_console

    logger = logging.getLogger("mnist_pipeline")
    quiet = logging.WARNING if err.is_terminal else logging.INFO
    logger.setLevel(logging.DEBUG if debug else quiet)
    handler = through_console(err) if err.is_terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(message)s" if err.is_terminal else "%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if err.is_terminal:
        with bars(err) as progress:
            yield progress
    else:
        yield log_lines(logger)
