"""One attempt at a run at a time in its staging directory, and the locks between processes that see to it."""

import fcntl
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from mnist_pipeline.errors import StoreError
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.store.local import LocalStore
from tests.processes import another_process, says
from tests.published import on_disk, opened

RUN_ID = "2026-01-31-toy-test-0123456789ab"

RESERVE_AND_WAIT = """
    from mnist_pipeline.runs.outputs import Outputs
    from mnist_pipeline.runs.staging import staging_directory
    outputs = Outputs.at(Path(sys.argv[1]))
    with staging_directory(outputs, sys.argv[2]) as staging:
        outputs.store.write(f"{staging.files}/work", b"theirs")
        print(staging.name, flush=True)
        sys.stdin.readline()
"""


def let_go(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=60)
    return process.returncode


def inside(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / ".staging").iterdir())


def write_work(staging: StagingDirectory, text: str = "mine") -> None:
    staging.outputs.store.write(f"{staging.files}/work", text.encode())


def work_in(staging: StagingDirectory) -> str:
    return staging.outputs.store.read(f"{staging.files}/work").decode()


class StopError(Exception):
    """What goes wrong in these tests."""


def fail_in_staging(outputs: Path) -> StagingDirectory:
    try:
        with staging_directory(opened(outputs), RUN_ID) as staging:
            write_work(staging)
            raise StopError
    except StopError:
        return staging


def test_a_staging_directory_holds_what_is_published_and_records_and_is_deleted_when_the_block_succeeds(
    tmp_path: Path,
) -> None:
    with staging_directory(opened(tmp_path), RUN_ID) as staging:
        assert staging.folder == f".staging/{RUN_ID}"
        assert staging.files.startswith(f"{staging.folder}/")
        assert staging.checkpoints.folder == f"{staging.files}/predictions"
        assert staging.checkpoints.records == staging.records
        assert not staging.records.startswith(staging.files)  # it is not published
        staging.checkpoints.write("part-00000.parquet", 1, b"1", {})
        assert staging.checkpoints.names() == {"part-00000.parquet"}
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
    assert inside(tmp_path) == []


def test_a_staging_directory_whose_run_was_published_is_deleted_as_well(tmp_path: Path) -> None:
    with staging_directory(opened(tmp_path), RUN_ID) as staging:
        write_work(staging)
        on_disk(staging.outputs.path(staging.files)).rename(tmp_path / "published")
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
    assert inside(tmp_path) == []
    assert (tmp_path / "published" / "work").read_text() == "mine"


def test_a_failure_leaves_the_work_to_the_next_attempt(tmp_path: Path) -> None:
    staging = fail_in_staging(tmp_path)
    assert inside(tmp_path) == [RUN_ID]  # and no lock
    with staging_directory(opened(tmp_path), RUN_ID) as again:
        assert again.folder == staging.folder
        assert work_in(again) == "mine"
    assert inside(tmp_path) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_attempt_at_the_same_time_has_a_directory_of_its_own_that_is_always_deleted(
    fails: bool, tmp_path: Path
) -> None:
    with staging_directory(opened(tmp_path), RUN_ID) as first:
        write_work(first)
        try:
            with (
                staging_directory(opened(tmp_path), RUN_ID) as second,
                staging_directory(opened(tmp_path), RUN_ID) as third,
            ):
                assert len({first.folder, second.folder, third.folder}) == 3
                with pytest.raises(FileNotFoundError):
                    work_in(second)
                write_work(second, "other")
                if fails:
                    raise StopError
        except StopError:
            pass
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
        assert work_in(first) == "mine"


def test_staging_directories_of_different_runs_do_not_meet(tmp_path: Path) -> None:
    other = RUN_ID.replace("31", "30")
    with staging_directory(opened(tmp_path), RUN_ID) as one, staging_directory(opened(tmp_path), other) as two:
        assert [staging.name for staging in (one, two)] == [RUN_ID, other]


def test_a_staging_directory_in_use_by_another_process_is_left_alone(tmp_path: Path) -> None:
    with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with staging_directory(opened(tmp_path), RUN_ID) as mine:
            assert mine.name.startswith(f"{RUN_ID}.")
            with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as third:
                assert says(third) not in (RUN_ID, mine.name)
                assert let_go(third) == 0
        assert work_in(StagingDirectory(opened(tmp_path), RUN_ID)) == "theirs"
        assert let_go(owner) == 0
    assert inside(tmp_path) == []


def test_a_killed_owner_leaves_its_work_and_no_lock_that_holds(tmp_path: Path) -> None:
    with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        owner.send_signal(signal.SIGKILL)
        assert owner.wait(60) == -signal.SIGKILL
    assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
    with staging_directory(opened(tmp_path), RUN_ID) as staging:
        assert staging.name == RUN_ID
        assert work_in(staging) == "theirs"
    assert inside(tmp_path) == []


def test_a_place_where_no_folder_can_be_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(
            StoreError, match=rf"cannot lock .*file/\.staging/{RUN_ID}\.lock: .*a file is where a folder is expected"
        ),
        staging_directory(opened(tmp_path / "file"), RUN_ID),
    ):
        raise AssertionError("not reached")


def test_private_directories_of_killed_attempts_are_deleted_by_the_next_owner(tmp_path: Path) -> None:
    with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as second:
            private = says(second)
            assert private.startswith(f"{RUN_ID}.")
    assert private in inside(tmp_path)
    with staging_directory(opened(tmp_path), RUN_ID) as staging:
        assert staging.name == RUN_ID
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]


def test_private_directories_in_use_are_left_alone(tmp_path: Path) -> None:
    with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with another_process(RESERVE_AND_WAIT, tmp_path, RUN_ID) as second:
            private = says(second)
            let_go(owner)
            with staging_directory(opened(tmp_path), RUN_ID) as staging:
                assert staging.name == RUN_ID
                assert private in inside(tmp_path)
            assert work_in(StagingDirectory(opened(tmp_path), private)) == "theirs"


# Locks between processes


def test_waiting_locks_admit_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    body = """
        from mnist_pipeline.store.local import LocalStore
        count, store = Path(sys.argv[1]) / "count", LocalStore(Path(sys.argv[1]))
        for _ in range(200):
            with store.lock("count"):
                count.write_text(str(int(count.read_text()) + 1))
    """
    with another_process(body, tmp_path) as one, another_process(body, tmp_path) as two:
        assert [let_go(one), let_go(two)] == [0, 0]
    assert (tmp_path / "count").read_text() == "400"
    assert inside(tmp_path) == []


def test_waiting_locks_admit_one_thread_at_a_time(tmp_path: Path) -> None:
    count, store = tmp_path / "count", LocalStore(tmp_path)
    count.write_text("0")

    def work(_: int) -> None:
        with store.lock("x"):
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert count.read_text() == "400"
    assert inside(tmp_path) == []


def test_a_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(StopError), store.lock("x"):
        raise StopError
    with store.lock("x", wait=False) as free:
        assert free
        assert inside(tmp_path) == ["x.lock"]


def test_a_lock_that_several_share_is_free_once_all_have_released_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    body = """
        from mnist_pipeline.store.local import LocalStore
        with LocalStore(Path(sys.argv[1])).lock("x", shared=True, wait=False) as held:
            print(held, flush=True)
            sys.stdin.readline()
    """
    with store.lock("x", shared=True), another_process(body, tmp_path) as other:
        assert says(other) == "True"
        with store.lock("x", wait=False) as alone:
            assert not alone
        assert let_go(other) == 0
        assert inside(tmp_path) == ["x.lock"]
        assert list(store.held_locks()) == ["x"]
        with store.lock("x", wait=False) as alone:
            assert not alone
    assert inside(tmp_path) == []


def test_a_lock_on_a_file_that_its_last_owner_removed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between our opening of the file and our locking of it, the owner ends and removes it, and somebody else
    # makes it anew: both would hold a lock, on two files of one name.
    store, path = LocalStore(tmp_path), tmp_path / ".staging" / "x.lock"
    take = fcntl.flock
    with ExitStack() as somebody:

        def late(handle: int, operation: int) -> None:
            monkeypatch.undo()
            path.unlink()
            assert somebody.enter_context(store.lock("x", wait=False))
            take(handle, operation)

        monkeypatch.setattr(fcntl, "flock", late)
        for _ in range(2):
            with store.lock("x", wait=False) as held:
                assert not held
    with store.lock("x", wait=False) as held:
        assert held


def test_a_lock_on_a_file_that_is_gone_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = LocalStore(tmp_path), tmp_path / ".staging" / "x.lock"
    take = fcntl.flock

    def late(handle: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with store.lock("x"), store.lock("x", wait=False) as second:  # tries again
        assert path.exists()
        assert not second
    assert not path.exists()


def open_below(folder: Path) -> list[str]:
    """The files below a folder that this process has open; those of other tests and of libraries come and go."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since
            found.append(str(handle.readlink()))
    return [name for name in found if name.startswith(f"{folder}/")]


def test_acquiring_and_refusing_locks_leaves_no_file_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("tells open files by /proc")
    with LocalStore(tmp_path).lock("x"):
        assert open_below(tmp_path) != []
    for _ in range(50):
        with (
            staging_directory(opened(tmp_path), RUN_ID),
            staging_directory(opened(tmp_path), RUN_ID),
            LocalStore(tmp_path).lock("x"),
            LocalStore(tmp_path).lock("x", wait=False),
        ):
            pass
    assert open_below(tmp_path) == []
