"""The command itself: its two streams, how errors end it, and what every part of it needs."""

import importlib.metadata
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from typer.core import TyperGroup

from mnist_pipeline.core.progress import Progress
from mnist_pipeline.errors import PipelineError

if TYPE_CHECKING:
    from mnist_pipeline.settings import Settings

EXIT_CODES = """Exit codes:

0  done

1  a bug of ours

2  a flag, variable or config file is wrong

3  the data or the weights are refused

4  no source of the data, or no Prefect server, could be reached, or it wants its password

5  the outputs folder or a run is not as needed

6  the arithmetic gave NaN or infinity

7  the run is published, but does not keep its gates

130, 143  interrupted, terminated: nothing half-done is visible"""

PIPE_WIDTH = 1000  # characters; whoever reads a pipe looks for whole lines

out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


class _Stop:
    """What a signal does. The first is left by as by an error: staging is given up, servers and workers are ended.

    The second waits for nothing, not for the tasks in progress either. Nothing of ours needs it: what is not finished
    is not visible, and a lock ends with its process.
    """

    def __init__(self) -> None:
        self._stopping = False

    def __call__(self, number: int, _frame: object) -> None:
        if self._stopping:
            try:
                err.show_cursor()  # bars hide it
                if engine := sys.modules.get("mnist_pipeline.orchestration.server"):
                    engine.kill_processes()
            finally:
                os._exit(128 + number)
        self._stopping = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)


class _Command(TyperGroup):
    """Turns errors of ours into one message and their exit code; with --debug the traceback comes first."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # the context class is typer's own
        stop = _Stop()
        signal.signal(signal.SIGTERM, stop)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell script started us with &
            signal.signal(signal.SIGINT, stop)
        try:
            return super().invoke(ctx)
        except PipelineError as error:
            if ctx.obj:
                traceback.print_exc()
            err.print(f"error: {error}", style="red", soft_wrap=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt:
            err.print("interrupted: nothing new is visible; the same command goes on from what is finished")
            raise typer.Exit(128 + signal.SIGINT) from None


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
    version: Annotated[  # noqa: ARG001  seen to by its callback
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    from mnist_pipeline.orchestration.environment import spare_loopback

    spare_loopback()
    ctx.obj = debug


def load(config: Path | None, **given: Any) -> "Settings":
    """The settings of this call, all layers read; repairs that were begun in its outputs folder are finished."""
    from mnist_pipeline.settings import load_settings
    from mnist_pipeline.views import complete_repairs

    settings = load_settings(config, **given)
    complete_repairs(settings.outputs)
    return settings


def print_lines(make: Callable[[int], RenderableType]) -> None:
    """Print what is made for the width of the terminal; where there is none, in lines that are never broken."""
    if out.is_terminal:
        out.print(make(out.width))
    else:
        Console(file=out.file, width=PIPE_WIDTH, highlight=False, markup=False).print(make(PIPE_WIDTH))


@contextmanager
def progress_for(debug: bool) -> Iterator[Progress]:
    """On a terminal bars, with warnings above them; in a log plain lines."""
    from mnist_pipeline.report.progress import bars, log_lines, through_console

    logger = logging.getLogger("mnist_pipeline")
    quiet = logging.WARNING if err.is_terminal else logging.INFO
    logger.setLevel(logging.DEBUG if debug else quiet)
    if err.is_terminal:
        logging.basicConfig(level=logging.WARNING, handlers=[through_console(err)], format="%(message)s")
        with bars(err) as progress:
            yield progress
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
        yield log_lines(logger)
