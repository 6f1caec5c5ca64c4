"""Writes docs/reference.md from the declared commands and settings (`make docs`); a test compares the two."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer

from mnist_pipeline.cli import app
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.settings import ENVIRONMENT_PREFIX, RetentionSettings, Settings, project_defaults
from mnist_pipeline.settings.layers import STRUCTURED

PAGE = Path(__file__).with_name("reference.md")
EVERYWHERE = ("help", "json", "quiet", "verbose")


def render() -> str:
    """The whole page as Markdown."""
    group = typer.main.get_command(app)
    commands: dict[str, Any] = dict(_leaves(group, ()))
    return (
        "\n".join(
            [
                "# Reference: settings and commands",
                "",
                "Written by `make docs` from their declarations.",
                "",
                "## Settings",
                "",
                "Keys of a config file. The variable of a setting is its name in capitals behind its prefix, such as",
                f"`{ENVIRONMENT_PREFIX}BATCH_ROWS`; its flag has dashes, such as `--batch-rows`. A flag wins over the",
                "variable, the variable over the file of `--config`, and that over `config/`.",
                "",
                "| key | default | meaning |",
                "|---|---|---|",
                *_settings(),
                "",
                "`[gates.DATASET]`, explained in [verdicts](verdicts.md):",
                "",
                "| key | default |",
                "|---|---|",
                *(f"| `{each.name}` | {_default(getattr(Gates(), each.name))} |" for each in fields(Gates)),
                "",
                "`[retention]`, explained in [operations](operations.md):",
                "",
                "| key | default |",
                "|---|---|",
                *(
                    f"| `{name}` | {'required' if field.is_required() else _default(field.default)} |"
                    for name, field in RetentionSettings.model_fields.items()
                ),
                "",
                "`[datasets.NAME]` is explained in [data sets](datasets.md).",
                "",
                "## Commands",
                "",
                "Each has `--help`, `--quiet` (`-q`), `--verbose` (`-v`) and, but for `up`, `--json`: [JSON](json.md).",
                *(line for name, command in commands.items() for line in _command(name, command)),
            ]
        )
        + "\n"
    )


def _settings() -> Iterator[str]:
    defaults = project_defaults()
    for name, field in Settings.model_fields.items():
        if name not in STRUCTURED:
            yield f"| `{name}` | {_default(defaults.get(name))} | {_cell(field.description or '')} |"


def _default(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _leaves(command: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _leaves(child, (*names, name))
    if not hasattr(command, "commands"):
        yield " ".join(names), command


def _command(name: str, command: Any) -> Iterator[str]:
    parameters = command.get_params(typer.Context(command))
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option" and each.name not in EVERYWHERE]
    words = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
    needed = [word for each in options if each.required for word in (each.opts[0], each.name.upper())]
    yield from ("", f"### mnist-pipeline {name}", "", f"`{' '.join(['mnist-pipeline', name, *words, *needed])}`", "")
    yield from re.sub(r"[ \t]*\n[ \t]*", "\n", (command.help or "").strip()).split("\n")
    if arguments or options:
        yield from ("", "| | |", "|---|---|")
    for each, word in zip(arguments, words, strict=True):
        yield f"| `{word}` | {_cell(each.help)} |"
    for each in options:
        flags = ", ".join(f"`{flag}`" for flag in (*each.opts, *each.secondary_opts))
        yield f"| {flags} | {_cell(each.help or '')} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
