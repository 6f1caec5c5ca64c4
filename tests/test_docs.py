"""Compares the docs with the code: commands parse, Python examples compile, the data dictionary is current."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from docs import dictionary, json_shapes, reference
from mnist_pipeline.cli import EXIT_CODES, app
from mnist_pipeline.errors import PipelineError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[str]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        yield from re.findall(r"`(mnist-pipeline [^`]*)`", text)
        for block in re.findall(r"```sh\n(.*?)```", text, re.S):
            yield from re.findall(r"^(mnist-pipeline .*?)(?:\s+#.*)?$", block, re.M)


def python_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)):
            yield f"{page.name}-{number}", block


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_in_the_docs_parses(command: str) -> None:
    group = typer.main.get_command(app)
    of_all = {flag for option in group.params for flag in option.opts}
    words = [word for word in shlex.split(command)[1:] if not word.startswith("[") and word not in of_all]
    if not words:
        return
    name, *rest = words
    subcommand = group.commands[name]  # type: ignore[attr-defined]
    subcommand.make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize(("name", "code"), [pytest.param(*block, id=block[0]) for block in python_blocks()])
def test_every_python_example_compiles(name: str, code: str) -> None:
    compile(code, name, "exec")


@pytest.mark.parametrize("page", [dictionary, reference, json_shapes])
def test_a_generated_page_matches_its_declarations(page: ModuleType) -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(), "run `make docs`"


def test_every_link_target_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_exit_code_is_documented() -> None:
    def codes(error: type[PipelineError]) -> Iterator[int]:
        yield error.exit_code
        for child in error.__subclasses__():
            yield from codes(child)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for code in set(codes(PipelineError)):
        assert re.search(rf"^\| {code} \|", readme, re.M)
        assert re.search(rf"^{code}  ", EXIT_CODES, re.M)


def test_help_names_every_command_and_the_exit_codes() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in ("run", "train", "fetch", "images", "runs", "show", "verify", "Exit codes"):
        assert name in shown
