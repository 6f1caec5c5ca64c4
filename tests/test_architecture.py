"""Reads the imports of every file and fails on one that does not go down. Nothing is imported to find out."""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = "mnist_pipeline"

# Rooms from the top down; a room imports from lower levels and from itself. `__init__` is the package's own file.
LEVELS = (
    {"__main__"},
    {"cli"},
    {"flows"},
    {"orchestration"},
    {"__init__"},
    {"api"},
    {"pipeline"},
    {"maintenance", "runtime", "settings"},
    {"index"},
    {"views"},
    {"verdicts"},
    {"runs"},
    {"datasets", "weights"},
    {"tables"},
    {"report"},
    {"core", "store"},
    {"errors"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

ROOMS_WITH_PREFECT = {"orchestration", "flows"}
# Whoever imports the package, or its innermost rooms, should not wait for these.
SLOW = {"matplotlib", "pandas", "prefect", "pyarrow", "requests", "scipy"}
ROOMS_WITHOUT_SLOW_START = {"__init__", "core", "errors"}
TYPE_CHECKING = {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
MAX_MODULES, MAX_MODULES_AT_THE_ROOT = 14, 7  # of a folder of the package, its __init__.py apart
NAMES_THAT_SAY_NOTHING = {"common", "helper", "helpers", "misc", "util", "utils"}


@dataclass(frozen=True)
class Import:
    """One imported module, or one name imported from a module, and where."""

    line: int
    name: str  # dotted and absolute
    at_start: bool  # runs when the file is imported: not in a function, not under TYPE_CHECKING


def violations(root: Path) -> list[str]:
    """What breaks the rules in the Python files of `mnist_pipeline/` and `flows/` under `root`."""
    files = [path.relative_to(root) for folder in (PACKAGE, "flows") for path in sorted((root / folder).rglob("*.py"))]
    return [f"{file}{problem}" for file in files for problem in _problems(file, (root / file).read_bytes())]


def _problems(file: Path, source: bytes) -> Iterator[str]:
    module = file.with_suffix("").parts
    for part in module:
        if part.strip("_") in NAMES_THAT_SAY_NOTHING:
            yield f": {part} says nothing about what is in it"
    room = module[0] if module[0] == "flows" else module[1]
    if room not in LEVEL_OF:
        yield f": {room} is on no level; give it one in {Path(__file__).name}"
        return
    for found in _imports(ast.parse(source), package=module[:-1], at_start=True):
        yield from (f":{found.line}: {problem}" for problem in _judge(room, found))


def _judge(room: str, found: Import) -> Iterator[str]:
    top = found.name.partition(".")[0]
    if top in (PACKAGE, "flows"):
        target = _room_of_import(found.name)
        if target != room and LEVEL_OF[target] <= LEVEL_OF[room]:
            yield f"{room} imports {found.name}, which is not below it"
        return
    if top == "prefect" and room not in ROOMS_WITH_PREFECT and (room != "cli" or found.at_start):
        yield f"{room} imports {found.name}, which belongs to orchestration and flows"
    if top in SLOW and room in ROOMS_WITHOUT_SLOW_START and found.at_start:
        yield f"{room} imports {found.name} at its start; import it where it is needed"
    if room == "core" and top not in sys.stdlib_module_names | {"numpy", "scipy"}:
        yield f"core imports {found.name}; it is NumPy and the standard library only"
    if room == "errors" and top not in sys.stdlib_module_names:
        yield f"errors imports {found.name}; it is the standard library only"


def _room_of_import(name: str) -> str:
    """The room of an import from us; what is no room is a name that `mnist_pipeline/__init__.py` defines."""
    first, _, rest = name.partition(".")
    room = first if first == "flows" else rest.partition(".")[0]
    return room if room in LEVEL_OF else "__init__"


def _imports(node: ast.AST, package: tuple[str, ...], at_start: bool) -> Iterator[Import]:
    """Every import in `node` and below it, of a file that lies in `package`."""
    if isinstance(node, ast.Import):
        yield from (Import(node.lineno, alias.name, at_start) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) + 1 - node.level] if node.level else ()
        source = [*above, *filter(None, [node.module])]
        yield from (Import(node.lineno, ".".join([*source, alias.name]), at_start) for alias in node.names)
    for field, value in ast.iter_fields(node):
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and field == "body" and ast.unparse(node.test) in TYPE_CHECKING
        )
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _imports(child, package, at_start and not deferred)


def test_imports_go_down_only() -> None:
    assert (PROJECT / PACKAGE / "errors.py").exists(), "nothing was read"
    assert violations(PROJECT) == []


def circles(root: Path) -> list[str]:
    """Modules of the package that import each other, at whatever time, each with the one that leads back to it."""
    files = {file.with_suffix("").parts: file for file in (path.relative_to(root) for path in root.rglob("*.py"))}
    graph = {
        module: {target for each in _imports(ast.parse((root / file).read_bytes()), module[:-1], at_start=True)
                 for target in _modules_of(each.name, files) if target != module}
        for module, file in files.items()
    }  # fmt: skip
    reached = {module: _reachable(graph, module) for module in graph}
    return [f"{'.'.join(module)} <-> {'.'.join(other)}" for module in graph for other in graph[module]
            if module in reached[other]]  # fmt: skip


def _modules_of(name: str, files: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    parts = tuple(name.split("."))
    return {found for found in (parts, parts[:-1]) if found in files}


def _reachable(graph: Mapping[tuple[str, ...], set[tuple[str, ...]]], start: tuple[str, ...]) -> set[tuple[str, ...]]:
    found, waiting = set[tuple[str, ...]](), [start]
    while waiting:
        for each in graph[waiting.pop()] - found:
            found.add(each)
            waiting.append(each)
    return found


def test_no_modules_import_each_other(tmp_path: Path) -> None:
    package = tmp_path / PACKAGE
    shutil.copytree(PROJECT / PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert circles(tmp_path) == []
    (package / "errors.py").write_text("def late():\n    from mnist_pipeline.core import idx")
    assert "mnist_pipeline.core.idx <-> mnist_pipeline.errors" in circles(tmp_path)


def test_no_folder_is_crowded() -> None:
    folders = Counter(path.parent for path in (PROJECT / PACKAGE).rglob("*.py") if path.name != "__init__.py")
    assert {folder.name: count for folder, count in folders.items() if count > MAX_MODULES} == {}
    assert folders[PROJECT / PACKAGE] <= MAX_MODULES_AT_THE_ROOT


def test_importing_the_package_is_quick() -> None:
    slow = sorted(SLOW | {"pydantic"})
    script = f"import sys, {PACKAGE}; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# A small house in which everything is where it belongs; each test below puts one thing out of place.
SOUND = {
    "mnist_pipeline/__init__.py": """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import pandas
            from mnist_pipeline.api import load_run
        def __getattr__(name):
            from mnist_pipeline import api, settings
        """,
    "mnist_pipeline/errors.py": "import builtins",
    "mnist_pipeline/core/__init__.py": "from . import idx",
    "mnist_pipeline/core/idx.py": """
        import numpy as np
        from mnist_pipeline.errors import IdxFormatError
        def test():
            from scipy import stats
        """,
    "mnist_pipeline/datasets/shards.py": "import pyarrow.parquet as pq\nfrom ..core import idx",
    "mnist_pipeline/report/page.py": "import matplotlib\nfrom mnist_pipeline import core",
    "mnist_pipeline/settings.py": "import pydantic\nfrom mnist_pipeline.datasets.shards import write",
    "mnist_pipeline/pipeline/evaluation.py": "from mnist_pipeline import datasets, report, settings",
    "mnist_pipeline/api/runs.py": "from ..settings import Settings\nfrom .. import pipeline",
    "mnist_pipeline/views.py": "import mnist_pipeline.runs, mnist_pipeline.tables",
    "mnist_pipeline/orchestration/tasks.py": "from prefect import task\nfrom mnist_pipeline import api, pipeline",
    "flows/evaluate.py": """
        import prefect
        from mnist_pipeline import settings
        from mnist_pipeline.orchestration import tasks
        """,
    "mnist_pipeline/cli.py": """
        import typer
        from mnist_pipeline import settings
        def run():
            import prefect
            from flows import evaluate
        """,
}


def build(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(source).strip() + "\n")
    return root


def test_a_sound_house_has_no_violations(tmp_path: Path) -> None:
    assert violations(build(tmp_path, SOUND)) == []


def test_rooms_that_do_not_exist_yet_are_no_violation(tmp_path: Path) -> None:
    assert violations(tmp_path) == []
    assert violations(build(tmp_path, {"mnist_pipeline/core/idx.py": "from mnist_pipeline import errors"})) == []


UPWARD = [
    # One step up, between each pair of neighbours, and from the bottom to the top.
    ("mnist_pipeline/errors.py", "from mnist_pipeline.core import idx"),
    ("mnist_pipeline/core/idx.py", "from mnist_pipeline.datasets.shards import write"),
    ("mnist_pipeline/datasets/shards.py", "import mnist_pipeline.settings"),
    ("mnist_pipeline/settings.py", "import mnist_pipeline.pipeline.evaluation"),
    ("mnist_pipeline/pipeline/evaluation.py", "from mnist_pipeline.orchestration import tasks"),
    ("mnist_pipeline/pipeline/evaluation.py", "from mnist_pipeline import api"),
    ("mnist_pipeline/api/runs.py", "from mnist_pipeline import load_run"),
    ("mnist_pipeline/__init__.py", "from mnist_pipeline.orchestration import tasks"),
    ("mnist_pipeline/orchestration/tasks.py", "from flows import evaluate"),
    ("flows/evaluate.py", "from mnist_pipeline.cli import main"),
    ("mnist_pipeline/errors.py", "import mnist_pipeline.cli"),
    # Neighbours on one level.
    ("mnist_pipeline/datasets/shards.py", "from mnist_pipeline.weights import files"),
    ("mnist_pipeline/report/page.py", "from mnist_pipeline.datasets import shards"),
    ("mnist_pipeline/settings.py", "from mnist_pipeline import runtime"),
    # Every way to write it.
    ("mnist_pipeline/core/idx.py", "from mnist_pipeline import pipeline"),
    ("mnist_pipeline/core/idx.py", "from mnist_pipeline import errors, pipeline as p"),
    ("mnist_pipeline/core/idx.py", "import mnist_pipeline"),
    ("mnist_pipeline/core/idx.py", "from mnist_pipeline import *"),
    ("mnist_pipeline/core/idx.py", "from .. import pipeline"),
    ("mnist_pipeline/core/idx.py", "from ..datasets import shards"),
    ("mnist_pipeline/core/__init__.py", "from ..datasets.shards import write"),
    ("mnist_pipeline/core/deep/er.py", "from ...pipeline.evaluation import evaluate"),
    ("mnist_pipeline/core/idx.py", "from mnist_pipeline.flows import evaluate"),
    ("mnist_pipeline/core/idx.py", "def late():\n    from mnist_pipeline import pipeline"),
    ("mnist_pipeline/core/idx.py", "class A:\n    async def late(self):\n        import mnist_pipeline.pipeline"),
    ("mnist_pipeline/core/idx.py", "try:\n    pass\nexcept ValueError:\n    import mnist_pipeline.pipeline"),
    ("mnist_pipeline/core/idx.py", "if TYPE_CHECKING:\n    from mnist_pipeline.runs import Run"),
]


@pytest.mark.parametrize(("file", "source"), UPWARD)
def test_an_upward_import_is_found(tmp_path: Path, file: str, source: str) -> None:
    (found,) = violations(build(tmp_path, SOUND | {file: source}))
    assert found.startswith(f"{file}:{1 + source.count(chr(10))}: ")
    assert found.endswith(", which is not below it")


MISPLACED = [
    ("mnist_pipeline/datasets/shards.py", "import prefect", "which belongs to orchestration and flows"),
    (
        "mnist_pipeline/pipeline/evaluation.py",
        "def f():\n    from prefect import flow",
        "which belongs to orchestration and flows",
    ),
    ("mnist_pipeline/api/runs.py", "from prefect.states import State", "which belongs to orchestration and flows"),
    ("mnist_pipeline/cli.py", "import prefect", "which belongs to orchestration and flows"),
    ("mnist_pipeline/core/idx.py", "def f():\n    import pyarrow", "core imports pyarrow; it is NumPy and"),
    ("mnist_pipeline/core/idx.py", "from safetensors.numpy import load", "core imports safetensors.numpy.load;"),
    ("mnist_pipeline/core/idx.py", "from scipy import stats", "core imports scipy.stats at its start"),
    ("mnist_pipeline/core/idx.py", "class A:\n    import scipy", "core imports scipy at its start"),
    ("mnist_pipeline/core/idx.py", "if not TYPE_CHECKING:\n    import scipy", "core imports scipy at its start"),
    ("mnist_pipeline/core/idx.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import scipy", "scipy at its start"),
    ("mnist_pipeline/errors.py", "import numpy", "errors imports numpy; it is the standard library only"),
    ("mnist_pipeline/__init__.py", "import pandas as pd", "__init__ imports pandas at its start"),
    (
        "mnist_pipeline/__init__.py",
        "try:\n    import matplotlib\nfinally:\n    pass",
        "imports matplotlib at its start",
    ),
    ("mnist_pipeline/store/utils.py", "", "utils says nothing about what is in it"),
    ("mnist_pipeline/core/_helpers.py", "", "_helpers says nothing about what is in it"),
    ("flows/common/dates.py", "", "common says nothing about what is in it"),
    ("mnist_pipeline/attic/old.py", "", "attic is on no level; give it one in test_architecture.py"),
]


@pytest.mark.parametrize(("file", "source", "message"), MISPLACED)
def test_a_misplaced_import_or_file_is_found(tmp_path: Path, file: str, source: str, message: str) -> None:
    found = violations(build(tmp_path, SOUND | {file: source}))
    assert [message in line and line.startswith(file) for line in found[:1]] == [True], found


@pytest.mark.parametrize("name", sorted(SLOW))
@pytest.mark.parametrize(
    "file", ["mnist_pipeline/__init__.py", "mnist_pipeline/core/idx.py", "mnist_pipeline/errors.py"]
)
def test_a_slow_import_at_the_door_is_found(tmp_path: Path, file: str, name: str) -> None:
    found = violations(build(tmp_path, SOUND | {file: f"import {name}"}))
    assert any(f"imports {name} at its start" in line for line in found), found
