"""What is special to the store on disk: when names and bytes reach it, and renames that fail."""

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.disk import MisplacedError, make_folder, open_regular, write_file
from mnist_pipeline.store.local import LocalStore
from tests.published import hashes, snapshot


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with a folder to publish: files in it, and in a folder below."""
    store = LocalStore(tmp_path)
    for name in ("a.parquet", "predictions/b.parquet", "predictions/deep/c.parquet"):
        store.write(f".staging/attempt/{name}", name.encode(), sync=False)
    return store


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
        found.append(f"sync {opened.pop(handle, 'a file')}")
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


def test_a_folder_and_those_above_it_are_made_and_their_names_last(tmp_path: Path, steps: list[str]) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert [step for step in steps if step.startswith("sync")] == [f"sync {tmp_path / 'a'}", f"sync {tmp_path}"]
    steps.clear()
    make_folder(tmp_path / "a" / "b")
    assert not [step for step in steps if step.startswith("sync")]


@pytest.mark.parametrize("content", ["file", "folder"])
def test_a_name_that_is_taken_changes_nothing(content: str, store: LocalStore, tmp_path: Path) -> None:
    store.write("runs/one/a.parquet" if content == "folder" else "runs/one", b"theirs")
    before = snapshot(tmp_path / "runs")
    if content == "folder":
        assert not store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    else:
        with pytest.raises(StoreError, match=r"cannot move .*: Not a directory"):
            store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    assert snapshot(tmp_path / "runs") == before
    assert store.read(".staging/attempt/a.parquet") == b"a.parquet"


def test_all_that_is_published_reaches_the_disk_before_the_rename_and_its_name_after_it(
    store: LocalStore, tmp_path: Path, steps: list[str]
) -> None:
    # Without the first a power cut left published runs with missing files, without the second it lost whole ones.
    staged, target = tmp_path / ".staging" / "attempt", tmp_path / "runs" / "one"
    inside = {f"sync {path}" for path in (staged, staged / "manifest.json", *staged.rglob("*"))}
    assert store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    renamed = steps.index(f"rename {staged} {target}")
    before = [step for step in steps[:renamed] if step.startswith("sync")]
    assert inside <= set(before)
    assert f"sync {tmp_path}" in before  # `runs` is new
    assert f"sync {target.parent}" in steps[renamed + 1 :]


def test_a_rename_that_reports_an_error_but_happened_is_a_success(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renaming = Path.rename

    def rename_and_fail(self: Path, target: Path) -> Path:
        renaming(self, target)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "rename", rename_and_fail)
    assert store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    assert store.read("runs/one/a.parquet") == b"a.parquet"


def test_a_rename_that_fails_is_an_error_and_leaves_what_was_staged(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    before = hashes(tmp_path)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(
        StoreError, match=r"cannot move .*attempt to .*runs/one: No space left on device; make space there"
    ):
        store.move(".staging/attempt", "runs/one")
    assert hashes(tmp_path) == before


def test_a_deleted_folder_is_out_of_sight_before_its_files_go(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[Path] = []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: gone.append(path))
    store.delete(".staging/attempt/predictions")
    (path,) = gone
    assert path.parent == tmp_path / ".staging"
    assert sorted(entry.name.split("/")[1] for entry in store.list("")) == ["attempt", path.name, path.name]


# What cannot be read

LOOKS: dict[str, Callable[[LocalStore], object]] = {
    "children": lambda store: store.children("runs"),
    "held locks": lambda store: store.held_locks(),
    "publish": lambda store: store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}"),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_folder_that_cannot_be_read_is_an_error_and_not_empty(
    look: Callable[[LocalStore], object], store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(StoreError, match=r"^cannot .*: Permission denied; give this user the permission"):
        look(store)


def test_a_file_that_cannot_be_read_is_an_error_and_not_missing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *_: object) -> int:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "open", fail)
    path = tmp_path / ".staging/attempt/a.parquet"
    with pytest.raises(StoreError, match=f"^cannot read {path}: Input/output error; check the disk and its mount"):
        store.read(".staging/attempt/a.parquet")


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_what_vanishes_while_it_is_listed_is_left_out(gone: str, store: LocalStore, tmp_path: Path) -> None:
    entries = store.list(".staging")
    assert next(entries).name == ".staging/attempt/a.parquet"
    path = tmp_path / ".staging/attempt/predictions"
    if gone == "folder":
        shutil.rmtree(path)
    else:
        (path / "b.parquet").unlink()
    left = [] if gone == "folder" else [".staging/attempt/predictions/deep/c.parquet"]
    assert [entry.name for entry in entries] == left


# Single files


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_and_its_name_reach_the_disk_at_once_if_that_is_asked_for(
    sync: bool, store: LocalStore, tmp_path: Path, steps: list[str]
) -> None:
    store.write("runs/one/a.parquet", b"1", sync=sync)
    synced = [re.sub(r"/\S*/\.a\.parquet\.\S+", "a file", step) for step in steps if step.startswith("sync")]
    above = [f"sync {folder}" for folder in (tmp_path / "runs", tmp_path)]  # new folders
    assert synced == ([*above, "sync a file", f"sync {tmp_path / 'runs/one'}"] if sync else [])


def test_an_update_leaves_files_alone_whose_content_is_the_same(store: LocalStore, tmp_path: Path) -> None:
    store.write("same", b"1")
    store.write("other", b"2")
    before = snapshot(tmp_path)
    store.update(["same", "other"], lambda: {"same": b"1", "other": b"3"})
    after = snapshot(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["other"]


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_a_file_is_replaced_whole_and_no_other_is_left(scratch: str | None, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.json"
    for data in (b"old", b"and new"):
        write_file(path, data, (scratch and tmp_path / scratch) or None)
        assert path.read_bytes() == data
        assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_a_file_whose_replacement_fails_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_file(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert hashes(tmp_path) == {"x.json": hashlib.sha256(b"old").hexdigest()}


# What is no file, and what is a link


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_what_is_no_regular_file_is_none_and_is_not_waited_for(
    make: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make(Path("special"))
    with pytest.raises(FileNotFoundError, match="no such file"):
        LocalStore(tmp_path).read("special")
    with pytest.raises(MisplacedError, match=r"expected a regular file, got a (pipe|socket|device|folder)"):
        open_regular(Path("special"))


def test_a_file_is_written_in_the_place_of_a_pipe_and_moved_beside_one(store: LocalStore, tmp_path: Path) -> None:
    for name in (".staging/attempt/pipe", "history.parquet"):
        os.mkfifo(tmp_path / name)
    (tmp_path / ".staging/attempt/link").symlink_to("/dev/zero")
    store.write("history.parquet", b"1")
    assert store.read("history.parquet") == b"1"
    assert store.move(".staging/attempt", "quarantine/one")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_whatever_bears_the_name_of_a_lock_is_neither_waited_for_nor_followed(
    make: Callable[[Path], object], store: LocalStore, tmp_path: Path
) -> None:
    make(tmp_path / ".staging" / "one.lock")
    assert list(store.held_locks()) == []
    with suppress(StoreError), store.lock("one", wait=False):
        pass
    assert not (tmp_path / ".staging" / "elsewhere").exists()


WRITES: dict[str, Callable[[LocalStore, str], object]] = {
    "write": lambda store, name: store.write(f"{name}/a", b"1"),
    "create": lambda store, name: store.create(f"{name}/a", b"1"),
    "delete": lambda store, name: store.delete(f"{name}/precious"),
    "move from": lambda store, name: store.move(f"{name}/precious", "runs/b"),
    "move to": lambda store, name: store.move(".staging/attempt", f"{name}/b"),
    "scratch": lambda store, name: store.local_folder(f"{name}"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("name", [".repairs", "runs/linked", "verdicts/a/linked"])
def test_nothing_is_created_or_deleted_through_a_link(
    write: Callable[[LocalStore, str], object], name: str, store: LocalStore, tmp_path: Path
) -> None:
    precious = tmp_path / "elsewhere" / "precious"
    write_file(precious, b"1")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"expected {tmp_path / name} to be a folder, got a link; move it away"):
        write(store, name)
    assert list((tmp_path / "elsewhere").iterdir()) == [precious]
    store.delete(name)
    assert not (tmp_path / name).is_symlink()
    assert precious.read_bytes() == b"1"


def test_a_link_at_the_top_is_read_and_published_through_and_never_deleted_through(
    store: LocalStore, tmp_path: Path
) -> None:
    elsewhere = tmp_path.with_name("elsewhere")
    elsewhere.mkdir()
    (tmp_path / "runs").symlink_to(elsewhere)
    assert store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    assert store.read("runs/one/manifest.json") == b"{}"
    assert list(store.children("runs")) == ["one"]
    assert [entry.name for entry in store.list("")] == []
    with pytest.raises(StoreError, match=r"cannot delete .*: expected .*/runs to be a folder, got a link"):
        store.delete("runs/one/manifest.json")


def test_where_staging_is_a_link_nothing_is_done(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / ".staging").rename(tmp_path / "elsewhere")
    (tmp_path / ".staging").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    for act in (
        lambda: store.write("a", b"1"),
        lambda: store.delete(".staging/attempt"),
        lambda: store.update(["a"], lambda: {"a": b"1"}),
        store.held_locks,
    ):
        with pytest.raises(StoreError, match=r"expected .*/\.staging to be a folder, got a link; move it away"):
            act()
    assert snapshot(tmp_path) == before


# A disk that fails


def failing_once(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """The number-th fsync fails, and no other, as the system reports lost pages once."""
    calls, syncing = list[int](), os.fsync

    def sync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == number:
            raise OSError(5, "Input/output error")
        syncing(handle)

    monkeypatch.setattr(os, "fsync", sync)
    return calls


@pytest.mark.parametrize("number", range(1, 8))
def test_of_a_directory_that_fails_to_sync_nothing_is_taken_over(
    number: int, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_once(monkeypatch, number)
    with pytest.raises(StoreError, match="Input/output error"):
        store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    assert [entry.name for entry in store.list("")] == []
    assert not (tmp_path / "runs").exists()


def test_a_published_folder_that_fails_to_sync_on_its_way_to_quarantine_stays(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(".staging/attempt", "runs/one", "manifest.json", b"{}")
    failing_once(monkeypatch, 1)
    with pytest.raises(StoreError, match="Input/output error"):
        store.move("runs/one", "quarantine/one")
    assert store.read("runs/one/a.parquet") == b"a.parquet"


@pytest.mark.parametrize("write", [LocalStore.write, LocalStore.create])
def test_a_file_that_fails_to_sync_gets_no_name_and_is_written_again(
    write: Callable[[LocalStore, str, bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    calls = failing_once(monkeypatch, 1)
    with pytest.raises(StoreError, match="Input/output error"):
        write(store, "one", b"1")
    assert [entry.name for entry in store.list("")] == []
    before = len(calls)
    write(store, "one", b"1")
    assert store.read("one") == b"1"
    assert len(calls) > before


# One of many that cannot be looked through


def test_a_folder_among_others_that_cannot_be_looked_through_is_listed_as_new(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("runs/a/manifest.json", b"1")
    store.write("runs/b/manifest.json", b"2")
    (tmp_path / "runs/c").symlink_to(tmp_path / "runs/c")
    scanning, looking = os.scandir, os.lstat

    def scan(path: str) -> object:
        if str(path).endswith("runs/b"):
            raise PermissionError(13, "Permission denied", path)
        return scanning(path)

    def look(path: str) -> os.stat_result:
        if "runs/b/" in str(path):
            raise PermissionError(13, "Permission denied", path)
        return looking(path)

    monkeypatch.setattr(os, "scandir", scan)
    monkeypatch.setattr(os, "lstat", look)
    listed = {entry.name: entry.version for entry in store.list("runs", tolerant=True)}
    assert listed["runs/b"] == "cannot be read"
    assert "runs/a/manifest.json" in listed
    found = {entry.name: entry.version for entry in store.find("runs/*", ["manifest.json"])}
    assert found["runs/b/manifest.json"] == found["runs/c/manifest.json"] == "cannot be read"
    for folder, tolerant in (("runs/b", True), ("runs", False)):
        with pytest.raises(StoreError, match=r"cannot look through .*: Permission denied"):
            list(store.list(folder, tolerant))


def test_a_lock_that_cannot_be_asked_is_taken_for_held(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(".staging/one.lock", b"")

    def fail(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", fail)
    assert list(store.held_locks()) == ["one"]
