"""Breaks the code, in a copy of it, and sees a promise's test go red: only a test that can fail holds a promise.

`python -m tests.promises.mutants [WORD ...]` tries all mutants, or those of the promises that are named by a word.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).parents[2]
PROMISES = Path(__file__).parent
COPIED = ("mnist_pipeline", "flows", "config", "tests", "docs", "pyproject.toml", "prefect.yaml", "prefect.toml")
SIDE_BY_SIDE = 2
# The line that gives a file its name.
NAMED = "            os.replace(unfinished, path)  # noqa: PTH105  of texts: paths would be a tenth of a small file\n"
TEST_FAILED = 1  # pytest's exit code: any other says that it could not test


@dataclass(frozen=True)
class Mutant:
    """A change of the code that breaks a promise.

    Attributes:
        path: of the file, from the top of the project.
        old: what stands there, exactly once.
        new: what breaks it.
        test: of the promise; fails with the change. It may be a slow one.
    """

    path: str
    old: str
    new: str
    test: str


def promises() -> list[str]:
    """The modules of the promises' tests."""
    return sorted(f"tests.promises.{path.stem}" for path in PROMISES.glob("test_*.py"))


def mutants(words: Sequence[str] = ()) -> Iterator[tuple[str, Mutant]]:
    """The module of each promise, or of those that are named by a word, with each of its mutants."""
    for promise in promises():
        if words and not any(word in promise for word in words):
            continue
        for mutant in importlib.import_module(promise).MUTANTS:
            yield promise, mutant


def turns_red(promise: str, mutant: Mutant) -> bool:
    """Whether the mutant's test fails once the code is changed."""
    with TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (PROJECT / name).is_dir():
                shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(PROJECT / name, copy)
        source = (copy / mutant.path).read_text()
        assert source.count(mutant.old) == 1, f"{mutant.path}: expected {mutant.old!r} once"
        (copy / mutant.path).write_text(source.replace(mutant.old, mutant.new))
        file = f"{promise.replace('.', '/')}.py"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"{file}::{mutant.test}"],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},  # before the project that is installed here
            capture_output=True,
            check=False,
        )
    return done.returncode == TEST_FAILED


def main(words: list[str]) -> int:
    """Try mutants side by side; 1 if a test did not see its own."""
    chosen = list(mutants(words))
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = pool.map(lambda each: turns_red(*each), chosen)
        missed = 0
        for (promise, mutant), red in zip(chosen, results, strict=True):
            missed += not red
            print(f"{'red ' if red else 'GREEN'} {promise.rpartition('.')[2]}::{mutant.test}")  # noqa: T201
            print(f"      {mutant.path}: {mutant.old!r} -> {mutant.new!r}", flush=True)  # noqa: T201
    print(f"mutants: {len(chosen)}, not seen: {missed}")  # noqa: T201
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
