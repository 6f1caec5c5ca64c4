"""The command application: its output streams, exit codes and signal handling, and helpers for all commands."""

import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from mnist_pipeline.cli import printing, streams
from mnist_pipeline.cli.printing import err, out, style
from mnist_pipeline.core.progress import Progress, silent
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
# The commands in the order of --help, by panel.
PANELS = {
    "Evaluate": ("run", "backfill"),
    "Look at runs": ("runs", "show", "compare", "images", "report", "open"),
    "Decide": ("accept", "withdraw", "baseline", "promote"),
    "Data and weights": ("fetch", "train"),
    "Operate": ("up", "setup", "credentials", "doctor", "verify", "prune", "reindex"),
}
WITHOUT_JSON = ("up",)  # it does not end
_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # of the click that typer has in it, or beside it
_NO_ARGUMENTS: Any = next(each for each in _USAGE_ERROR.__subclasses__() if each.__name__ == "NoArgsIsHelpError")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:/).*", re.DOTALL)


class _Line(logging.Formatter):
    """Formats an entry of the log as one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is the library's
        record.message = printable(record.message)
        return super().formatMessage(record)


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
        # Prefect logs a traceback for an event that it cannot send any more once the interpreter shuts down.
        logging.getLogger("prefect.events").setLevel(logging.CRITICAL)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


class _Command(TyperGroup):
    """Gives every command the options of its output, and turns every failure into one message and its exit code."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        with_json = printing.options()
        for name, each in [("", self), *_leaves(self)]:
            each.params.extend(with_json[1:] if name in WITHOUT_JSON else with_json)
        for panel, names in PANELS.items():
            for name in names:
                if name in self.commands:
                    self.commands[name].rich_help_panel = panel  # type: ignore[attr-defined]  # typer's own commands

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        ordered = [name for names in PANELS.values() for name in names if name in self.commands]
        return [*ordered, *(name for name in self.commands if name not in ordered)]

    def main(self, args: Sequence[str] | None = None, **how: Any) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else [*args]
        with streams.lasting(), printing.styled(words):
            return super().main(words, **how)

    def make_context(self, *args: Any, **how: Any) -> Any:
        with _usage_errors():
            return super().make_context(*args, **how)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # the context class is typer's own
        stop = _Stop()
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored if a shell script started us with &
            signal.signal(signal.SIGINT, stop)
        try:
            with _usage_errors():
                result = super().invoke(ctx)
            printing.end()
            if ctx.invoked_subcommand not in CHANGING and streams.is_lost():
                raise typer.Exit(MachineError.exit_code)
            return result
        except KeyboardInterrupt:
            message = "nothing new is visible; the same command continues from the finished work"
            err.print(f"interrupted: {message}")
            printing.fail("Interrupted", message, 128 + signal.SIGINT)
            raise typer.Exit(128 + signal.SIGINT) from None
        except Exception as error:
            failure = error if isinstance(error, PipelineError) else of_machine(error)
            if failure is None:
                raise
            if style.verbose:
                sys.stderr.write(masked(traceback.format_exc()))
            err.print(f"error: {failure}", style="red")
            printing.fail(type(failure).__name__, str(failure), failure.exit_code)
            raise typer.Exit(failure.exit_code) from error


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Show no word that cannot be parsed, as there may be a password in an address; in a pipe, print one line."""
    try:
        yield
    except _USAGE_ERROR as error:
        error.message = _ADDRESS.sub(r"\1***", error.message)
        if isinstance(error, _NO_ARGUMENTS):
            raise
        printing.fail("UsageError", error.format_message(), error.exit_code)
        if err.is_terminal:
            raise
        command = error.ctx.command_path if error.ctx else "mnist-pipeline"
        err.print(f"error: {error.format_message().removesuffix('.')}; see `{command} --help`", style="red")
        raise typer.Exit(error.exit_code) from None


def _leaves(group: Any) -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, by name."""
    for name, each in group.commands.items():
        yield from _leaves(each) if hasattr(each, "commands") else [(name, each)]


app = typer.Typer(
    cls=_Command,
    help="Nightly batch inference and evaluation of handwritten digits.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from mnist_pipeline import __version__ as version
        from mnist_pipeline.cli.results.work import VersionResult

        out.print(version)
        printing.conclude(VersionResult(version=version))
        raise typer.Exit


@app.callback()
def _global(
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001  handled by its callback
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    from mnist_pipeline.orchestration.environment import spare_loopback

    spare_loopback()
    if style.json and ctx.invoked_subcommand in WITHOUT_JSON:
        raise typer.BadParameter(f"{ctx.invoked_subcommand}: expected no --json, got it; it has no document", ctx)
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


@contextmanager
def progress_for() -> Iterator[Progress]:
    """Show progress bars on a terminal, with warnings above them; otherwise log plain lines. With --quiet, neither."""
    from mnist_pipeline.report.progress import bars, log_lines, through_console

    logger = logging.getLogger("mnist_pipeline")
    if not style.quiet:
        usual = logging.WARNING if err.is_terminal else logging.INFO
        logger.setLevel(logging.DEBUG if style.verbose else usual)
    handler = through_console(err) if err.is_terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line("%(message)s" if err.is_terminal else "%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if style.quiet:
        yield silent
    elif err.is_terminal:
        with bars(err) as progress:
            yield progress
    else:
        yield log_lines(logger)
