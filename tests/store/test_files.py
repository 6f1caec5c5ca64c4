import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.store.files import (
    FileRecord,
    make_folder,
    outputs_errors,
    prefetch,
    publish_folder,
    record,
    record_of,
    replace_file,
)
from tests.published import hashes, snapshot


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """A finished folder with files in it and in a folder below."""
    folder = tmp_path / ".staging" / "work"
    for name in ("a.parquet", "parts/b.parquet", "parts/deep/c.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are synced and made, and the renames, in the order in which they happen."""
    found: list[str] = []
    opened: dict[int, str] = {}
    opening, syncing, renaming, making = os.open, os.fsync, Path.rename, Path.mkdir

    def note_open(path: Path, flags: int, *arguments: int) -> int:
        handle = opening(path, flags, *arguments)
        opened[handle] = str(path)
        return handle

    def note_sync(handle: int) -> None:
        found.append(f"sync {opened.get(handle, '?')}")
        syncing(handle)

    def note_rename(self: Path, target: Path) -> Path:
        found.append(f"rename {self} {target}")
        return renaming(self, target)

    def note_mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        found.append(f"make {self}")
        making(self, mode, parents, exist_ok)

    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(Path, "mkdir", note_mkdir)
    return found


# Publishing a folder


def test_a_published_folder_is_the_staged_one_under_its_final_name(staged: Path, tmp_path: Path) -> None:
    before = hashes(staged)
    assert publish_folder(staged, tmp_path / "outputs" / "runs" / "one")
    assert hashes(tmp_path / "outputs" / "runs" / "one") == before
    assert not staged.exists()


def test_a_name_that_is_taken_changes_nothing(staged: Path, tmp_path: Path) -> None:
    target = tmp_path / "runs" / "one"
    target.mkdir(parents=True)
    (target / "a.parquet").write_text("theirs")
    before = snapshot(tmp_path)
    assert not publish_folder(staged, target)
    assert snapshot(tmp_path) == before


def test_a_file_of_that_name_changes_nothing(staged: Path, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("theirs")
    before = snapshot(tmp_path)
    assert not publish_folder(staged, tmp_path / "one")
    assert snapshot(tmp_path) == before


def test_every_folder_reaches_the_disk_before_the_rename_and_the_name_after_it(
    staged: Path, tmp_path: Path, steps: list[str]
) -> None:
    # Without the first a power cut left published runs with missing files, without the second it lost whole ones.
    target = tmp_path / "outputs" / "runs" / "one"
    assert publish_folder(staged, target)
    place = steps.index(f"rename {staged} {target}")
    inside = [f"sync {folder}" for folder in (staged, staged / "parts", staged / "parts" / "deep")]
    above = [f"sync {folder}" for folder in (tmp_path, tmp_path / "outputs")]
    synced = [step for step in steps[:place] if step.startswith("sync")]
    assert sorted(synced[:3]) == sorted(inside)
    assert sorted(synced[3:]) == sorted(above)
    made = max(place for place, step in enumerate(steps) if step.startswith("make"))
    assert made < steps.index(above[0])
    assert steps[place + 1 :] == [f"sync {target.parent}"]


def test_folders_that_are_there_are_not_synced_again(staged: Path, tmp_path: Path, steps: list[str]) -> None:
    (tmp_path / "runs").mkdir()
    assert publish_folder(staged, tmp_path / "runs" / "one")
    assert f"sync {tmp_path}" not in steps


def test_killed_at_any_step_a_folder_is_there_whole_or_not_at_all(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, syncing = hashes(staged), os.fsync
    target = tmp_path / "outputs" / "runs" / "one"
    for survived in range(100):
        left = [survived]

        def die(handle: int, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            syncing(handle)

        monkeypatch.setattr(os, "fsync", die)
        try:
            assert publish_folder(staged, target)
            break
        except Killed:
            assert target.exists() != staged.exists()
            assert hashes(target if target.exists() else staged) == whole
            if target.exists():
                target.rename(staged)
            shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
    assert survived == 6  # three folders in it, two new ones above it, and the one around it once more


def test_a_rename_that_reports_an_error_but_happened_is_a_success(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def lost_answer(self: Path, target: Path) -> Path:
        rename(self, target)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "rename", lost_answer)
    assert publish_folder(staged, tmp_path / "one")
    assert (tmp_path / "one" / "a.parquet").read_text() == "a.parquet"


def test_a_rename_that_fails_is_said_and_leaves_what_was_staged(
    staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    before = snapshot(staged)
    with pytest.raises(OSError, match="No space left on device"):
        publish_folder(staged, tmp_path / "one")
    assert snapshot(staged) == before
    assert not (tmp_path / "one").exists()


def test_a_folder_and_those_above_it_are_made_and_their_names_last(tmp_path: Path, steps: list[str]) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert [step for step in steps if step.startswith("sync")] == [f"sync {tmp_path / 'a'}", f"sync {tmp_path}"]
    steps.clear()
    make_folder(tmp_path / "a" / "b")
    assert not [step for step in steps if step.startswith("sync")]


# Single files


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_record_of_a_file_on_disk_is_that_of_its_bytes(size: int, tmp_path: Path) -> None:
    data = bytes(range(251)) * (size // 251) + bytes(size % 251)
    (tmp_path / "x.parquet").write_bytes(data)
    found = record_of(tmp_path / "x.parquet", "parts/x.parquet", 7)
    assert found == record("parts/x.parquet", 7, data)
    assert found == FileRecord("parts/x.parquet", 7, size, hashlib.sha256(data).hexdigest())
    assert found.problem_with(data) is None
    assert found.problem_with(data + b"x") == f"expected {size} bytes, got {size + 1}"
    if size:
        problem = found.problem_with(b"\xff" + data[1:])
        assert problem is not None
        assert problem.startswith(f"expected sha256 {found.sha256}, got ")


def test_a_file_has_reached_the_disk_once_it_has_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced, syncing = tmp_path / "x", [], os.fsync
    path.write_bytes(b"data")

    def note(handle: int) -> None:
        synced.append(os.path.samestat(os.fstat(handle), path.stat()))
        syncing(handle)

    monkeypatch.setattr(os, "fsync", note)
    record_of(path, "x", 1)
    assert synced == [True]


def test_a_file_that_is_not_there_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        record_of(tmp_path / "x", "x", 1)


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_a_file_is_replaced_whole_and_no_other_is_left(scratch: str | None, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.json"
    for data in (b"old", b"and new"):
        replace_file(path, data, (scratch and tmp_path / scratch) or None)
        assert path.read_bytes() == data
        assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_file_whose_replacement_fails_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    replace_file(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert hashes(tmp_path) == {"x.json": hashlib.sha256(b"old").hexdigest()}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left", "/x"), r"^working: No space left \(/x\); check that"),
        (OSError("odd"), r"^working: odd \(no file named\); check that the folder exists"),
        (DamagedError("as it is"), "^as it is$"),
    ],
)
def test_an_error_of_the_system_says_what_was_being_done(error: OSError, message: str) -> None:
    with pytest.raises(OutputsError, match=message), outputs_errors("working"):
        raise error


# Several at once


def test_results_come_in_order_and_a_few_are_begun_before_they_are_asked_for() -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number * number

    results = prefetch(square, range(30))
    assert next(results) == 0
    assert set(begun) <= set(range(8))
    assert list(results) == [number * number for number in range(1, 30)]


def test_what_is_given_up_half_way_is_not_waited_for() -> None:
    # As when the garbage collector closes it, in a thread that can wait for no other.
    gate, ended = threading.Event(), list[int]()

    def wait(number: int) -> int:
        if number:
            gate.wait(5)
            ended.append(number)
        return number

    results = prefetch(wait, range(20))
    assert next(results) == 0
    del results
    assert ended == []
    gate.set()
