"""Writes docs/json.md from the models of the commands' results (`make docs`); a test compares the page with them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist_pipeline import tables
from mnist_pipeline.cli.results.by_command import RESULTS

PAGE = Path(__file__).with_name("json.md")
TABLE_OF = {"DigitScore": tables.SUMMARY, "GateResult": tables.GATES, "ComparisonFacts": tables.COMPARISON}
OF_A_RUN = {"run_id": "the name of the run", "run_date": "UTC date that the run stands for"}
HEAD = """# JSON of the commands

Written by `make docs` from the models in `mnist_pipeline/cli/results/`.

With `--json` a command prints exactly one JSON document on stdout, and everything else on stderr; the exit code is the
same as without it. The option may stand anywhere on the command line: `mnist-pipeline show latest --json`.

- Every document has `error`: null if the command succeeded, or else [why not](#failure). What was found before stands
  beside it: of a run that fails its gates (exit code 7) the whole run, since it is published; of a damaged run (5) what
  `verify` has found. A command that ended before it found anything, by a usage error, a signal or a bug, gives `error`
  alone. Only a second Ctrl-C ends a command without a document.
- Numbers are exact and not rounded for display, shares are 0..1, dates are ISO 8601 and times have their zone, paths
  are strings, what is unknown is null. There is no NaN. The text is ASCII: any other character is escaped.
- No field is ever left out. Later versions may add fields; readers should pass over those that they do not know.

`up` does not end and has no document. `--help` prints help.

`--quiet` (`-q`) prints errors and, of most documents, the one line that a script needs: the run and its outcome, the
file written, the run_ids of `runs`. `--verbose` (`-v`) adds debug lines and the tracebacks of errors, on stderr.
"""


def render() -> str:
    """The whole page as Markdown."""
    parts: dict[str, Any] = {}
    sections = []
    for command, model in RESULTS.items():
        schema = model.model_json_schema(mode="serialization")
        parts |= schema.get("$defs", {})
        sections += [f"## {command}", "", schema["description"], "", *_table(schema, model.__name__), ""]
    sections += ["# Parts", ""]
    for name, schema in sorted(parts.items()):
        about = schema["description"].partition("\n")[0]
        sections += [f"## {_title(name)}", "", about, "", *_table(schema, name), ""]
    return "\n".join([HEAD, *sections]).rstrip() + "\n"


def _table(schema: Mapping[str, Any], name: str) -> Iterator[str]:
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for field, value in schema["properties"].items():
        if field != "error":  # of every document
            yield f"| `{field}` | {_type(value)} | {value.get('description') or _column(name, field)} |"


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        name = _title(value["$ref"].rpartition("/")[2])
        return f"[{name}](#{name.lower().replace(' ', '-')})"
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value:
        return ", ".join(map(repr, value["enum"])).replace("'", '"')
    if value["type"] == "array":
        return f"list of {_type(value['items'])}"
    if value["type"] == "object":
        return f"object of {_type(value['additionalProperties'])}"
    return str({"date": "date", "date-time": "time"}.get(value.get("format", ""), value["type"]))


def _title(name: str) -> str:
    words = "".join(f" {each}" if each.isupper() else each for each in name.removesuffix("Facts"))
    return words.strip().capitalize()


def _column(name: str, field: str) -> str:
    """The description of the table column of that name."""
    if field in OF_A_RUN:
        return OF_A_RUN[field]
    known = [TABLE_OF.get(name, tables.RUNS), tables.COMPARISON]
    return next(column.description for table in known for column in table.columns if column.name == field)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
