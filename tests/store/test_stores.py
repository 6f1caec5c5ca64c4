"""What every store promises, held by each: on disk, in a bucket, and the one in memory that other tests use."""

import os
import pickle
import threading
from pathlib import Path

import pytest

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.base import Address, Store, exists, parse_location
from mnist_pipeline.store.local import LocalStore
from mnist_pipeline.store.objects import READ_BYTES
from mnist_pipeline.store.opening import open_store, read_location, write_location
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.stores import DiedError, FaultyStore, MemoryStore


@pytest.fixture(params=["disk", "bucket", "memory", "memory without renames"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return LocalStore(tmp_path / "outputs")
    if request.param.startswith("memory"):
        return MemoryStore(has_rename=request.param == "memory")
    address: Address = request.getfixturevalue("bucket")
    return open_store(address / "outputs")


def names(store: Store, folder: str = "") -> list[str]:
    return sorted(entry.name for entry in store.list(folder))


def test_what_is_written_is_read_listed_and_replaced(store: Store) -> None:
    store.write("a/b/one", b"1")
    store.write("a/two", b"22", sync=False)
    assert (store.read("a/b/one"), store.read("a/two"), store.read("a/two", limit_bytes=1)) == (b"1", b"22", b"2")
    assert sorted((entry.name, entry.size_bytes) for entry in store.list("a")) == [("a/b/one", 1), ("a/two", 2)]
    assert list(store.children("a")) == ["b", "two"]
    before = {entry.name: entry.version for entry in store.list("a")}
    store.write("a/two", b"33")
    after = {entry.name: entry.version for entry in store.list("a")}
    assert before["a/b/one"] == after["a/b/one"]
    assert before["a/two"] != after["a/two"]
    assert store.read("a/two") == b"33"


def test_an_open_file_is_read_at_any_position(store: Store) -> None:
    content = bytes(range(256)) * (READ_BYTES // 128)  # larger than what a bucket is asked for at once
    store.write("a/large", content)
    with store.open("a/large") as opened:
        stream = opened.stream
        assert opened.size_bytes == len(content)
        assert [opened.version] == [entry.version for entry in store.list("a")]
        assert stream.read(3) == content[:3]
        assert stream.seek(-4, os.SEEK_END) == len(content) - 4
        assert (stream.read(), stream.read()) == (content[-4:], b"")
        stream.seek(100)
        assert stream.read() == content[100:]
    for name in ("a/none", "a"):  # a folder is no file
        with pytest.raises(FileNotFoundError), store.open(name):
            pass


def test_an_open_file_that_is_replaced_is_noticed(store: Store) -> None:
    store.write("a/large", b"1" * 3 * READ_BYTES)
    with store.open("a/large") as opened:
        opened.stream.read(1)
        store.write("a/large", b"2" * 3 * READ_BYTES)
        try:
            rest = opened.stream.read()
        except OSError as error:
            assert "changed or deleted while it was read" in str(error)  # noqa: PT017  only some stores notice it
        else:  # the old content, whole, or a version that tells
            assert set(rest) == {ord("1")} or opened.current_version() != opened.version


def test_a_file_of_this_machine_is_written_as_its_content(store: Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    store.write("a/large", tmp_path / "large")
    assert store.read("a/large") == b"x" * 100_000


def test_what_is_not_there_is_a_file_not_found_error_or_nothing(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("a/one")
    store.write("a/one/deeper", b"1")
    with pytest.raises(FileNotFoundError):
        store.read("a/one")  # a folder is no file
    assert (names(store, "b"), list(store.children("b")), exists(store, "b")) == ([], [], False)
    assert exists(store, "a/one/deeper")
    store.delete("b")


def test_only_the_first_creates_a_file(store: Store) -> None:
    assert store.create("a/one", b"1")
    assert not store.create("a/one", b"2")
    assert store.read("a/one") == b"1"
    # In a bucket nobody can tell whether the same content is that of the first try, whose answer was lost.
    assert store.create("a/one", b"1") is not store.has_rename


def test_files_are_found_by_pattern_whatever_lies_beside_them(store: Store) -> None:
    for name in ("runs/a/manifest.json", "runs/b/manifest.json", "runs/b/deep/manifest.json", "runs/manifest.json",
                 "runs/c/other.json", "runsome/a/manifest.json"):  # fmt: skip
        store.write(name, b"1")
    found = [entry.name for entry in store.find("runs/*", ("manifest.json",))]
    assert found == ["runs/a/manifest.json", "runs/b/manifest.json"]
    assert [entry.name for entry in store.find("runs/*/*", ("manifest.json",))] == ["runs/b/deep/manifest.json"]
    assert list(store.find("none/*", ("manifest.json",))) == []


def test_an_update_is_made_of_what_is_there_and_none_is_lost(store: Store) -> None:
    def add() -> dict[str, bytes]:
        count = int(store.read("count")) if exists(store, "count") else 0
        return {"count": str(count + 1).encode()}

    threads = [threading.Thread(target=store.update, args=(["count"], add)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("count") == b"4"


def test_several_files_are_updated_together_or_not_at_all_if_making_them_fails(store: Store) -> None:
    store.update(["a", "b/c"], lambda: {"a": b"1", "b/c": b"2"})
    store.update(["a", "b/c"], lambda: {"b/c": b"3"})
    assert (store.read("a"), store.read("b/c")) == (b"1", b"3")

    def fail() -> dict[str, bytes]:
        raise ValueError("made of bad rows")

    with pytest.raises(ValueError, match="bad rows"):
        store.update(["a", "b/c"], fail)
    assert (store.read("a"), store.read("b/c"), names(store)) == (b"1", b"3", ["a", "b/c"])
    assert list(store.held_locks()) == []


def test_staged_files_are_published_once_with_their_document(store: Store) -> None:
    staged = "staged" if store.has_rename else "data/run"
    store.write(f"{staged}/predictions/one", b"1", sync=False)
    assert store.publish(staged, "runs/run", "manifest.json", b"{}")
    assert store.read("runs/run/manifest.json") == b"{}"
    files = "runs/run" if store.has_rename else staged
    assert names(store) == sorted([f"{files}/predictions/one", "runs/run/manifest.json"])
    assert store.read(f"{files}/predictions/one") == b"1"
    store.write("staged-again/predictions/one", b"2")
    before = names(store)
    assert not store.publish("staged-again", "runs/run", "manifest.json", b"[]")
    assert store.read("runs/run/manifest.json") == b"{}"
    assert store.read(f"{files}/predictions/one") == b"1"
    assert names(store) == before


def test_a_folder_is_moved_whole_unless_the_target_is_taken(store: Store) -> None:
    store.write("a/one", b"1")
    store.write("a/deep/two", b"2")
    assert store.move("a", "b/c", first="one")
    assert names(store) == ["b/c/deep/two", "b/c/one"]
    assert not store.move("a", "d")
    if not store.has_rename:  # staged where it stays
        assert store.move("b", "b")
        assert names(store) == ["b/c/deep/two", "b/c/one"]
    if store.has_rename:
        store.write("e/one", b"3")
        assert not store.move("e", "b/c")
        assert store.read("b/c/one") == b"1"


def test_files_and_folders_are_deleted(store: Store) -> None:
    for name in ("a/one", "a/deep/two", "ab"):
        store.write(name, b"1")
    store.delete("a")
    assert names(store) == ["ab"]
    store.delete("ab")
    assert names(store) == []


def test_a_lock_excludes_others_but_those_that_share_it(store: Store) -> None:
    if not store.has_rename:
        with store.lock("a", wait=False) as one, store.lock("a", wait=False) as two:
            assert (one, two, list(store.held_locks())) == (True, True, [])
        return
    with store.lock("a") as held, store.lock("a", wait=False) as second, store.lock("b", wait=False) as other:
        assert (held, second, other) == (True, False, True)
        assert sorted(store.held_locks()) == ["a", "b"]
    with (
        store.lock("a", shared=True),
        store.lock("a", shared=True, wait=False) as shared,
        store.lock("a", wait=False) as alone,
    ):
        assert (shared, alone) == (True, False)
    with store.lock("a", wait=False) as free:
        assert free
    with store.lock("shards/toy-test.in-use", shared=True):
        assert list(store.held_locks()) == ["shards-toy-test.in-use"]
    assert list(store.held_locks()) == []
    assert names(store) == []


def test_one_that_waits_for_a_lock_gets_it_when_it_is_released(store: Store) -> None:
    if not store.has_rename:
        pytest.skip("there are no locks")
    order: list[str] = []

    def second() -> None:
        with store.lock("a"):
            order.append("second")

    with store.lock("a"):
        waiting = threading.Thread(target=second)
        waiting.start()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_store_that_cannot_be_written_says_what_and_why(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be")
    store = LocalStore(tmp_path / "outputs")
    with pytest.raises(StoreError, match=r"cannot write .*/outputs/a: .*; a file is where a folder is expected"):
        store.write("a", b"1")
    with pytest.raises(StoreError, match=r"cannot lock .*/outputs/\.staging/a\.lock: "), store.lock("a"):
        pass


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    store.write("a", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=f"cannot write {tmp_path}/a: No space left on device"):
        store.write("a", b"new")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
    assert store.read("a") == b"old"


def test_a_store_may_be_sent_to_another_process(store: Store) -> None:
    if isinstance(store, MemoryStore):
        return
    store.write("a", b"1")
    sent = pickle.loads(pickle.dumps(store))
    assert sent == store
    assert sent.read("a") == b"1"


def test_one_file_is_read_and_written_wherever_it_is(store: Store) -> None:
    if isinstance(store, MemoryStore):
        return
    target = store.location / "weights.safetensors"
    write_location(target, b"123")
    assert read_location(target, 2) == b"12"
    assert names(store) == ["weights.safetensors"]


def test_the_faulty_store_fails_once_or_from_then_on() -> None:
    fails = FaultyStore(MemoryStore(), fails_at=2)
    fails.write("a", b"1")
    with pytest.raises(StoreError, match="planted failure of operation 2"):
        fails.write("b", b"2")
    fails.write("c", b"3")
    assert names(fails.store) == ["a", "c"]
    dies = FaultyStore(MemoryStore(), fails_at=2, dies=True)
    dies.write("a", b"1")
    for _ in range(2):
        with pytest.raises(DiedError):
            dies.write("b", b"2")
    assert names(dies.store) == ["a"]


def test_after_a_power_cut_only_what_was_synced_is_there() -> None:
    store = MemoryStore()
    store.write("a", b"1")
    store.write("b", b"2", sync=False)
    store.write("staged/c", b"3", sync=False)
    store.publish("staged", "runs/run", "manifest.json", b"{}")
    assert names(store.after_power_cut()) == ["a", "runs/run/c", "runs/run/manifest.json"]


def test_addresses_and_paths_open_their_store(tmp_path: Path) -> None:
    address = parse_location("s3://nights/outputs")
    assert isinstance(address, Address)
    assert str(open_store(address).location) == "s3://nights/outputs"
    assert open_store(tmp_path).has_rename
    assert not open_store(address).has_rename


def test_only_a_store_on_disk_has_folders_of_this_machine(store: Store) -> None:
    folder = store.local_folder(".staging/scratch")
    assert (folder is not None) == isinstance(store, LocalStore)
    if folder is not None:
        (folder / "one").write_bytes(b"1")
        assert store.read(".staging/scratch/one") == b"1"
