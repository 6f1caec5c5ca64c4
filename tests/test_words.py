"""One word for each idea: no identifier uses a word that the project has left out for the field's own term."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
FOLDERS = ("mnist_pipeline", "flows", "benchmarks", "docs")

# What is written instead, for whoever meets a failure.
LEFT_OUT = {
    "piece": "checkpoint", "pieces": "checkpoints", "place": "location or index", "places": "locations or indices",
    "raw": "source images, source file", "stage": "step, or staging directory", "stages": "steps",
    "claim": "lock", "seal": "checksum", "sealed": "checksummed", "aside": "quarantine",
    "leftover": "orphan", "leftovers": "orphans", "sweep": "collect", "swept": "collected",
    "fate": "prune decision", "fates": "prune decisions", "rewrite": "update", "rewrites": "updates",
    "stretch": "aligned chunk", "stretches": "aligned chunks", "specimen": "example image",
    "specimens": "example images", "refusal": "failure", "refusals": "failures", "heal": "retryable",
    "heals": "retryable", "patience": "timeout", "recognise": "lookup", "recognised": "hits", "tell": "progress",
    "told": "progress", "ill": "check failed", "mend": "repair", "mended": "repaired", "night": "run date",
    "nights": "run dates", "most": "max", "least": "min", "longest": "max",
}  # fmt: skip
# Ordinary words where they do not name a bound.
ONLY_IN_FRONT = {"most", "least", "longest"}
# `nights` is a parameter of the deployed flow `mnist-deadline`; `most_...` in the judgement is a superlative.
PUBLISHED = {"nights", "Nights", "most_confused", "most_correct", "_most_correct_that_fails", "at_most"}


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """Every name that the source defines: functions, classes, arguments, variables, attributes; with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def left_out(name: str) -> set[str]:
    """The left-out words in an identifier."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    return {word for index, word in enumerate(words) if word in LEFT_OUT and not (word in ONLY_IN_FRONT and index)}


def test_no_identifier_uses_a_left_out_word() -> None:
    found = {
        f"{path.relative_to(PROJECT)}:{line}: {name} ({LEFT_OUT[word]})"
        for folder in FOLDERS
        for path in (PROJECT / folder).rglob("*.py")
        for line, name in identifiers(path.read_text())
        for word in left_out(name)
        if name not in PUBLISHED
    }
    assert sorted(found) == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def set_aside(): ...", "set_aside"),
        ("class Stage: ...", "Stage"),
        ("def f(raw, *, heals=True): ...", "heals"),
        ("for piece in (): ...", "piece"),
        ("self.told = 1", "told"),
        ("MOST_BYTES: int = 3", "MOST_BYTES"),
        ("async def f():\n    async with x as nightStages: ...", "nightStages"),
    ],
)
def test_a_left_out_word_is_found_wherever_a_name_is_defined(source: str, name: str) -> None:
    assert name in [found for _, found in identifiers(source) if left_out(found)]


def test_words_that_only_resemble_one_are_fine() -> None:
    names = [
        "nightly",
        "stages_of".replace("stages", "staging"),
        "placeholder",
        "replace",
        "at_most",
        "illustrate",
        "draw",
    ]
    assert [name for name in names if left_out(name)] == []
