"""Commands with --json: their documents, held to the declared shapes."""

import json
from typing import Any

from pydantic import TypeAdapter
from typer.testing import CliRunner, Result

from mnist_pipeline.cli import app
from mnist_pipeline.cli.results.by_command import RESULTS


def command(words: str) -> Result:
    return CliRunner().invoke(app, words.split())


def document(result: Result) -> Any:
    """The only thing on stdout, which has no NaN in it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in a document")

    return json.loads(result.stdout, parse_constant=refuse)


def found(words: str, exit_code: int = 0) -> Any:
    """The document of a command, which has the exit code that it has without --json and the declared shape."""
    result = command(f"{words} --json")
    assert result.exit_code == exit_code, result.output
    given = document(result)
    name = next(name for name in RESULTS if f"{words} ".startswith(f"{name} "))
    shape = TypeAdapter(RESULTS[name])
    assert shape.dump_python(shape.validate_json(result.stdout), mode="json") == given, "a field that is not declared"
    assert (given["error"] is None) == (exit_code == 0)
    if exit_code:
        assert given["error"]["exit_code"] == exit_code
        assert f"error: {given['error']['message']}\n" in result.stderr
    return given
