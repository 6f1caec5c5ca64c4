"""Prints for all commands: text for people, one line or so with --quiet, one JSON document with --json.

Text is lines that no name can forge and no pipe breaks, and tables that fit the terminal. With --json stdout has the
document and nothing else, whoever prints: all other text goes to stderr.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from mnist_pipeline.errors import printable

if TYPE_CHECKING:
    from mnist_pipeline.cli.results.facts import Result

JSON, HELP = "--json", {"--help", "-h"}

for _name in ("COLUMNS", "TERMINAL_WIDTH"):
    if not re.fullmatch("0*[1-9][0-9]*", os.environ.get(_name, "80"), re.ASCII):
        del os.environ[_name]  # 0 where there is no terminal: nothing would be as wide as that


class _Lines(Console):
    """A console that prints lines: what is no printable character is escaped, so that no name can forge a line.

    A line of text is never broken; the terminal does that.
    """

    def print(self, *objects: Any, **how: Any) -> None:
        for each in objects:
            if isinstance(each, Text) and not each.plain.isprintable():
                each.plain = printable(each.plain)
        if all(isinstance(each, str | Text) for each in objects):
            how.setdefault("soft_wrap", True)
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **how)


out = _Lines(highlight=False, markup=False, emoji=False)
err = _Lines(stderr=True, highlight=False, markup=False, emoji=False)


def print_table(make: Callable[[int], RenderableType]) -> None:
    """Print a table that fits the terminal; without a terminal, print unbroken lines.

    Args:
        make: gives the table for a width in characters.
    """
    from mnist_pipeline.report.terminal import UNBROKEN

    if not out.quiet:
        wide = Console(
            file=out.file, width=UNBROKEN, force_terminal=out.is_terminal, highlight=False, markup=False, emoji=False
        )
        wide.print(make(out.width if out.is_terminal else UNBROKEN))


@dataclass
class _Style:
    """How the command in progress prints, and what it has found so far."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    stdout: Any = None  # with --json, while sys.stdout is stderr
    result: "Result | None" = None
    failure: tuple[str, str, int] | None = None
    ended: bool = False


style = _Style()


@contextmanager
def styled(words: Sequence[str]) -> Iterator[None]:
    """Print as the words of a command line ask for while the block runs; at its end, the document if it has not been.

    --json is looked for here, before anything is parsed: a command line that cannot be parsed gets its document too.
    """
    logger = logging.getLogger("mnist_pipeline")
    level, stdout = logger.level, sys.stdout
    vars(style).update(vars(_Style()))
    words = words[: words.index("--")] if "--" in words else words
    if JSON in words and not HELP & {*words}:
        _keep_stdout()
    try:
        yield
    except SystemExit as error:
        if error.code and not style.failure:  # a signal: its handler ends the command wherever it is
            fail("Terminated", "nothing new is visible; the same command continues from the finished work", error.code)
        raise
    except BaseException as error:
        fail(type(error).__name__, f"a bug of ours: {printable(error)}", 1)
        raise
    finally:
        end()
        sys.stdout, out.quiet = stdout, False
        logger.setLevel(level)


def _keep_stdout() -> None:
    """Keep stdout for the document."""
    if not style.json:
        style.json, style.stdout = True, sys.stdout
        sys.stdout, out.quiet = sys.stderr, True


def conclude(result: "Result") -> None:
    """Say what the command has found; it is printed when the command ends, however that is."""
    style.result = result


def fail(kind: str, message: str, exit_code: Any) -> None:
    """Say why the command ends, for its document; the first reason holds."""
    style.failure = style.failure or (kind, message, int(exit_code))


def end() -> None:
    """Print the document of --json, or what --quiet leaves; once."""
    if style.ended or not (style.json or style.quiet):
        return
    style.ended, out.quiet = True, False
    from mnist_pipeline.cli.results.facts import FailureFacts, Result

    failure = style.failure and FailureFacts(
        type=style.failure[0], message=style.failure[1], exit_code=style.failure[2]
    )
    result = style.result.model_copy(update={"error": failure}) if style.result else Result(error=failure)
    if not style.json:
        for line in result.last_words:
            out.print(line)
    elif style.result or failure:
        sys.stdout = style.stdout
        sys.stdout.write(result.document + "\n")


def options() -> list[Any]:
    """The options that every command has, --json first; they say how to print, and no command sees them."""
    only = typer.Typer(add_completion=False)
    hidden: dict[str, Any] = {"expose_value": False, "rich_help_panel": "Output", "is_eager": True}

    def take(option: typer.CallbackParam, asked: bool) -> None:
        if asked:
            setattr(style, str(option.name), True)
        if style.quiet and style.verbose:
            raise typer.BadParameter("expected --quiet or --verbose, got both")
        if style.quiet:
            out.quiet = True
            logging.getLogger("mnist_pipeline").setLevel(logging.ERROR)

    def take_json(asked: bool) -> None:  # -h may be the value of another option: then nobody has asked for help
        if asked:
            _keep_stdout()

    @only.command()
    def _(
        json: Annotated[
            bool,
            typer.Option(
                JSON,
                help="Print one JSON document, for programs; see docs/json.md.",
                callback=take_json,
                **{**hidden, "is_eager": False},  # --help goes first
            ),
        ] = False,
        quiet: Annotated[
            bool,
            typer.Option("--quiet", "-q", help="Print errors and the result in a word.", callback=take, **hidden),
        ] = False,
        verbose: Annotated[
            bool,
            typer.Option("--verbose", "-v", help="Show debug lines and tracebacks.", callback=take, **hidden),
        ] = False,
    ) -> None: ...

    return [each for each in typer.main.get_command(only).params if each.name in ("json", "quiet", "verbose")]
