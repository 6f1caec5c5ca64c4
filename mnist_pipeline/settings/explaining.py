"""What is wrong with settings, in the words of this project: which setting, from which layer, expected, got."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields

from pydantic import ValidationError

from mnist_pipeline.core.gates import Gates
from mnist_pipeline.datasets.catalogue import KEYS
from mnist_pipeline.errors import MAX_PATH, nearest, printable
from mnist_pipeline.settings.layers import Layer, comma_from, source_of
from mnist_pipeline.settings.model import Settings
from mnist_pipeline.store.base import is_remote

_TABLE = re.compile(r"a (valid )?dictionary or (an )?instance of \w+")  # the words of a library for a table


def explain(error: ValidationError, layers: Sequence[Layer]) -> str:
    """All that is wrong with the values of the layers, in a line."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":  # follows from another problem
            continue
        where = ".".join("an address" if is_remote(part) else printable(part)[:MAX_PATH] for part in problem["loc"])
        source = source_of(layers, problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            *outer, key = problem["loc"]
            near = nearest(str(key), _keys_below(outer))
            there = f" of {source}" if source else ""
            lines.append(f"{where}: no such setting{near}; take it out{there} or correct its name")
        elif problem["type"] == "missing":
            lines.append(f"{where}: expected a value, got none{comma_from(source)}")
        else:
            expected = "expected" if problem["type"] == "literal_error" else "expected a value"
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be", expected)
            message = message.replace("expected a value a ", "expected a ")
            message = _TABLE.sub("a table", message)
            # What an address holds may be a password.
            shown = not isinstance(problem["input"], dict | list) and not is_remote(problem["input"])
            got = f", got {problem['input']!r:.{MAX_PATH}}" if shown else ""
            lines.append(f"{where}: {message}{got}{comma_from(source)}")
    return "settings refused: " + "; ".join(lines)


def _keys_below(outer: Sequence[int | str]) -> Iterable[str]:
    if not outer:
        return Settings.model_fields
    return [field.name for field in fields(Gates)] if outer[0] == "gates" else KEYS
