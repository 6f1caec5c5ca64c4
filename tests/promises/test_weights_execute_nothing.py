"""Weights execute nothing: a file gives a network or an error, whatever its bytes, and does nothing else."""

import ast
import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mnist_pipeline import init_network
from mnist_pipeline.cli import app
from mnist_pipeline.core.network import BOOK
from mnist_pipeline.errors import WeightsError
from mnist_pipeline.weights.files import decode_weights
from tests.attacks import archives, pickles
from tests.attacks.gallery import EITHER, altered, attacks, hostile
from tests.attacks.networks import SUBJECTS, VALID, Attack
from tests.builders import small_settings
from tests.processes import PROJECT
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import left_over, snapshot

SECONDS = 300  # timeout of a child that hangs without using the processor


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A file that exists only if the code of an attack has run."""
    return tmp_path / "executed"


def under_guard(attempts: Iterable[Attack], folder: Path) -> int:
    """Load the files in a process that is ended by memory, processor time or any event beyond the reading of a file.

    Returns:
        How many there were. Each was refused as its attack says, or gave a network if that is expected.
    """
    (folder / "good").mkdir(parents=True)
    for number, (suffix, data) in enumerate(SUBJECTS):
        (folder / "good" / f"{number}{suffix}").write_bytes(data)
    given = {}
    # The larger ones last: what the process keeps of their memory would leave less for others.
    for number, attack in enumerate(sorted(attempts, key=lambda each: len(each.data))):
        path = folder / f"{number:05}{attack.suffix}"
        path.write_bytes(attack.data)
        given[path.name] = attack
    before = snapshot(folder)
    child = subprocess.run(
        [sys.executable, "-m", "tests.guarded", str(folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    told = {line["file"]: line for line in map(json.loads, child.stdout.splitlines())}
    wrong = []
    for name, attack in given.items():
        line = told.get(name)
        if line is None:
            wrong.append(f"{attack.name}: the process ended with {child.returncode}: {child.stderr[-500:]}")
            break
        loaded = line["outcome"] == "network" and attack.refusal == EITHER
        if line["did"] or not (loaded or refused(line["outcome"], str(folder / name), attack)):
            wrong.append(f"{attack.name}: expected {attack.refusal!r}, got {line['outcome']:.300} {line['did']}")
    assert wrong == [], "\n".join(wrong)
    assert snapshot(folder) == before
    return len(given)


def refused(said: str, path: str, attack: Attack) -> bool:
    """Whether it was refused as its attack says, not for want of memory, and with advice for this very format."""
    message = said.removeprefix(f"{path}: ")
    return (
        said != message
        and message.startswith(("expected ", "weights are not a dense network: "))
        and re.search(attack.refusal, message, re.DOTALL) is not None
        and "MemoryError" not in message
        and "; " in message
        and ("pickle" not in message or attack.suffix == ".pkl")
        and len(message) < 2000
    )


def test_every_attack_is_refused_for_what_it_is_and_does_nothing(tmp_path: Path, sentinel: Path, tried: Tried) -> None:
    assert under_guard(VALID_ATTEMPTS, tmp_path / "good") == len(VALID)  # the guard lets good files pass
    tried(under_guard(attacks(sentinel), tmp_path / "weights"), "crafted weights files")
    assert not sentinel.exists()


# A good file can be anything that random changes of good files come to.
VALID_ATTEMPTS = [Attack(f"good {suffix}", suffix, data, EITHER) for suffix, data in VALID.items()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kind", pickles.HOSTILE)
def test_an_attack_is_as_hostile_as_it_looks(kind: str, sentinel: Path) -> None:
    with contextlib.suppress(Exception):
        pickle.loads(pickles.HOSTILE[kind](sentinel))
    assert sentinel.exists()


def test_an_archive_of_objects_is_as_hostile_as_it_looks(sentinel: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(archives.of_objects(sentinel))
    with np.load(path, allow_pickle=True) as unsafe:
        assert unsafe["b3"] is not None
    assert sentinel.exists()


def test_changed_files_give_a_network_or_an_error_under_guard_too(tmp_path: Path, tried: Tried) -> None:
    tried(under_guard(altered(range(25)), tmp_path / "weights"), "randomly changed weights files under guard")


@pytest.mark.torture
def test_very_many_changed_files_give_a_network_or_an_error_under_guard_too(tmp_path: Path, tried: Tried) -> None:
    count = 0
    for start in range(100, 800, 100):
        count += under_guard(altered(range(start, start + 100)), tmp_path / "weights")
        shutil.rmtree(tmp_path / "weights")  # 130 MB
    tried(count, "randomly changed weights files under guard")


positions = st.one_of(st.integers(0, 900), st.integers(-900, -1), st.integers(0, 200_000))
# Where, what is put there, and how many bytes it takes the place of: 0 inserts, and nothing put there cuts.
checkpoints = st.one_of(
    st.integers(0, 255).map(lambda value: bytes([value])),
    st.just(b""),
    st.binary(max_size=20),
    st.builds(lambda subject, at: subject[1][at : at + 100], st.sampled_from(SUBJECTS), st.integers(0, 900)),
)
edits = st.lists(
    st.tuples(positions, checkpoints, st.sampled_from([0, 1, 1, 1, 2, 9, 100, 2**20])), min_size=1, max_size=4
)


def give_a_network_or_an_error(subject: tuple[str, bytes], edits: list[tuple[int, bytes, int]]) -> None:
    suffix, data = subject
    changed = bytearray(data)
    for position, piece, width in edits:
        at = position % max(len(changed), 1)
        changed[at : at + width] = piece
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from pickletools, on its way to refuse
        try:
            network = decode_weights(bytes(changed), suffix, "x")
        except WeightsError as error:
            message = str(error)
        else:
            assert {name: network[name].shape for name in network} == BOOK.shapes
            assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in network.values())
            return
    assert message.startswith(("x: expected ", "x: weights are not a dense network: "))
    assert len(message) < 2000


@settings(max_examples=500)
@given(st.sampled_from(SUBJECTS), edits)
def test_changed_bytes_give_a_network_or_an_error_and_nothing_else(
    subject: tuple[str, bytes], edits: list[tuple[int, bytes, int]]
) -> None:
    give_a_network_or_an_error(subject, edits)


@pytest.mark.torture
@settings(max_examples=20_000)
@given(st.sampled_from(SUBJECTS), edits)
def test_bytes_changed_in_very_many_ways_give_a_network_or_an_error_and_nothing_else(
    subject: tuple[str, bytes], edits: list[tuple[int, bytes, int]]
) -> None:
    give_a_network_or_an_error(subject, edits)


@settings(max_examples=100)
@given(st.sampled_from(SUBJECTS), positions)
def test_a_file_cut_short_is_refused(subject: tuple[str, bytes], length: int) -> None:
    suffix, data = subject
    with pytest.raises(WeightsError, match="x: expected "):
        decode_weights(data[: length % len(data)], suffix, "x")


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=100)
@given(st.sampled_from(sorted(VALID)), st.binary(max_size=300))
def test_any_bytes_are_refused(suffix: str, data: bytes) -> None:
    for start in (b"", b"\x80\x04"):
        with pytest.raises(WeightsError, match="x: expected "):
            decode_weights(start + data, suffix, "x")


# What a person meets

DOORS = {
    "run": ["run", "--direct", "--run-date", "2026-02-01", "--no-report", "--weights"],
    "promote": ["promote", "--force"],
}


@pytest.mark.parametrize("door", DOORS)
def test_a_command_that_is_given_an_attack_refuses_it_and_publishes_nothing(
    door: str, tmp_path: Path, sentinel: Path, tried: Tried
) -> None:
    toy = small_settings(tmp_path)
    where = ["--dataset", "toy", "--data-dir", str(toy.data_dir), "--outputs", str(toy.outputs)]
    earlier = CliRunner().invoke(app, ["run", "--direct", "--run-date", "2026-01-31", "--no-report", *where])
    assert earlier.exit_code == 0, earlier.output
    before = snapshot(toy.outputs)
    attempts = [attack for attack in hostile(sentinel) if attack.suffix == ".pkl" or "protocol 4" in attack.name]
    for attack in attempts:
        path = tmp_path / f"evil{attack.suffix}"
        path.write_bytes(attack.data)
        result = CliRunner().invoke(app, [*DOORS[door], str(path), *where])
        assert (result.exit_code, sentinel.exists()) == (3, False), f"{attack.name}: {result.output}"
        assert f"error: {path}: expected " in result.stderr, attack.name
        assert "Traceback" not in result.output
    assert snapshot(toy.outputs) == before
    assert left_over(toy.outputs) == []
    tried(len(attempts), f"attacks on `mnist-pipeline {door}`")


def test_the_command_in_a_process_of_its_own_says_one_line_and_ends_with_3(tmp_path: Path, sentinel: Path) -> None:
    toy = small_settings(tmp_path)
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickles.HOSTILE["os.system as a value, protocol 4"](sentinel))
    words = ["run", "--weights", path, "--direct", "--dataset", "toy", "--data-dir", toy.data_dir]
    words += ["--outputs", toy.outputs, "--cache", toy.cache]
    done = subprocess.run(
        [sys.executable, "-m", "mnist_pipeline", *map(str, words)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 3
    assert f"error: {path}: expected " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not sentinel.exists()
    assert not (tmp_path / "outputs" / "runs").exists()


def test_the_books_api_rejects_every_attack(tmp_path: Path, sentinel: Path) -> None:
    for attack in hostile(sentinel):
        path = tmp_path / f"evil{attack.suffix}"
        path.write_bytes(attack.data)
        with pytest.raises(WeightsError):
            init_network(path)
    assert not sentinel.exists()


# No second reader

READERS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch", "runpy", "copyreg"}
PINNED = "mnist_pipeline/datasets/sources/packages.py"  # unpickles one file of the data set, whose sha256 is pinned


def test_no_module_can_unpickle_but_that_of_a_pinned_file() -> None:
    found = {
        path.relative_to(PROJECT).as_posix()
        for folder in ("mnist_pipeline", "flows")
        for path in (PROJECT / folder).rglob("*.py")
        if names_in(ast.parse(path.read_text())) & (READERS | {"allow_pickle"})
    }
    assert found == {PINNED}


def names_in(tree: ast.AST) -> set[str]:
    """Modules that are imported, and keywords that are given."""
    found: set[Any] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.keyword):
            found.add(node.arg)
    return found


WEIGHTS, PICKLES = "mnist_pipeline/weights/files.py", "mnist_pipeline/weights/pickles.py"
FORMATS, ARRAYS = "mnist_pipeline/weights/formats.py", "mnist_pipeline/weights/arrays.py"
EVERY_ATTACK = "test_every_attack_is_refused_for_what_it_is_and_does_nothing"
MUTANTS = (
    Mutant(WEIGHTS, "arrays = read_arrays(data)", 'arrays = __import__("pickle").loads(data)', EVERY_ATTACK),
    Mutant(
        WEIGHTS,
        "arrays = read_arrays(data)",
        'arrays = __import__("pickle").loads(data)',
        "test_a_command_that_is_given_an_attack_refuses_it_and_publishes_nothing",
    ),
    Mutant(  # the file is imported from before it is refused
        PICKLES,
        "stack.append(_symbol(*argument.split(",
        "__import__(argument.split()[0]); stack.append(_symbol(*argument.split(",
        EVERY_ATTACK,
    ),
    Mutant(
        WEIGHTS,
        "    except WeightsError as error:\n        raise WeightsError(f",
        '    except WeightsError as error:\n        np.load(__import__("io").BytesIO(data), allow_pickle=True)["b3"]\n'
        "        raise WeightsError(f",
        EVERY_ATTACK,
    ),
    Mutant(FORMATS, "content = stream.read(size_bytes)", "content = stream.read()", EVERY_ATTACK),
    Mutant(FORMATS, "if member.file_size != size_bytes:", "if False:", EVERY_ATTACK),
    Mutant(FORMATS, "if size_bytes > MAX_HEADER_BYTES or ", "if ", EVERY_ATTACK),
    Mutant(FORMATS, ' or data[-END_BYTES - LOCATOR_BYTES :].startswith(b"PK\\x06\\x07")', "", EVERY_ATTACK),
    Mutant(WEIGHTS, "        check(arrays, suffix.lower(), name)\n", "", EVERY_ATTACK),
    Mutant(PICKLES, "if self.encodable_bytes < 0:", "if False:", EVERY_ATTACK),
    Mutant(PICKLES, "if rest := stream.read():", "if False and (rest := stream.read()):", EVERY_ATTACK),
    Mutant(FORMATS, ", object_pairs_hook=_unique)", ")", EVERY_ATTACK),
    Mutant(
        "mnist_pipeline/core/network/architecture.py",
        "return len(shape) == len(wanted) and all(",
        "return len(shape) == len(wanted) or all(",
        EVERY_ATTACK,
    ),
    Mutant(WEIGHTS, "MAX_FILE_BYTES = 8 *", "MAX_FILE_BYTES = 64 *", EVERY_ATTACK),
    Mutant(
        "mnist_pipeline/weights/arrays.py",
        '{type(error).__name__}: {str(error)[:200]!r}"',
        '{error!r:.200}"',
        EVERY_ATTACK,
    ),
    Mutant(
        WEIGHTS,
        "    except Exception as error:  # hostile",
        "    except ValueError as error:  # hostile",
        "test_changed_bytes_give_a_network_or_an_error_and_nothing_else",
    ),
)
