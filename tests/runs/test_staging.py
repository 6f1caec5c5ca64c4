import fcntl
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.store import locks
from mnist_pipeline.store.locks import lock
from tests.processes import another_process, says
from tests.published import on_disk

RUN_ID = "2026-01-31-toy-test-0123456789ab"
PROJECT = Path(__file__).parents[2]

CLAIM_AND_WAIT = """
    from mnist_pipeline.runs.staging import staging_directory
    with staging_directory(Path(sys.argv[1]), sys.argv[2]) as stage:
        (stage.run / "work").write_text("theirs")
        print(stage.folder.name, flush=True)
        sys.stdin.readline()
"""


def let_go(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=60)
    return process.returncode


def inside(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / ".staging").iterdir())


def write_work(stage: StagingDirectory, text: str = "mine") -> None:
    on_disk(stage.run / "work").write_text(text)


class StopError(Exception):
    """What goes wrong in these tests."""


def fail_in_stage(outputs: Path) -> StagingDirectory:
    try:
        with staging_directory(outputs, RUN_ID) as stage:
            write_work(stage)
            raise StopError
    except StopError:
        return stage


def test_a_stage_has_room_for_parts_and_their_records_and_goes_when_the_block_succeeds(tmp_path: Path) -> None:
    with staging_directory(tmp_path, RUN_ID) as stage:
        assert stage.folder == tmp_path / ".staging" / RUN_ID
        assert stage.checkpoints.folder == stage.run / "predictions"
        assert stage.checkpoints.folder.is_dir()
        assert stage.checkpoints.records.is_dir()
        assert not stage.checkpoints.records.is_relative_to(stage.run)  # it is not published
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
    assert inside(tmp_path) == []


def test_a_stage_whose_run_was_published_goes_as_well(tmp_path: Path) -> None:
    with staging_directory(tmp_path, RUN_ID) as stage:
        on_disk(stage.run).rename(tmp_path / "published")
    assert inside(tmp_path) == []
    assert (tmp_path / "published").is_dir()


def test_a_failure_leaves_the_work_to_the_next_attempt(tmp_path: Path) -> None:
    stage = fail_in_stage(tmp_path)
    assert inside(tmp_path) == [RUN_ID]  # and no lock
    with staging_directory(tmp_path, RUN_ID) as again:
        assert again.folder == stage.folder
        assert on_disk(again.run / "work").read_text() == "mine"
    assert inside(tmp_path) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_attempt_at_the_same_time_has_a_folder_of_its_own_that_always_goes(
    fails: bool, tmp_path: Path
) -> None:
    with staging_directory(tmp_path, RUN_ID) as first:
        write_work(first)
        try:
            with staging_directory(tmp_path, RUN_ID) as second, staging_directory(tmp_path, RUN_ID) as third:
                assert len({first.folder, second.folder, third.folder}) == 3
                assert not (second.run / "work").exists()
                write_work(second, "other")
                if fails:
                    raise StopError
        except StopError:
            pass
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
        assert on_disk(first.run / "work").read_text() == "mine"


def test_stages_of_different_runs_do_not_meet(tmp_path: Path) -> None:
    other = RUN_ID.replace("31", "30")
    with staging_directory(tmp_path, RUN_ID) as one, staging_directory(tmp_path, other) as two:
        assert [stage.folder.name for stage in (one, two)] == [RUN_ID, other]


def test_a_stage_in_use_by_another_process_is_left_alone(tmp_path: Path) -> None:
    with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with staging_directory(tmp_path, RUN_ID) as mine:
            assert mine.folder.name.startswith(f"{RUN_ID}.")
            with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as third:
                assert says(third) not in (RUN_ID, mine.folder.name)
                assert let_go(third) == 0
        assert (tmp_path / ".staging" / RUN_ID / "run" / "work").read_text() == "theirs"
        assert let_go(owner) == 0
    assert inside(tmp_path) == []


def test_a_killed_owner_leaves_its_work_and_no_lock_that_holds(tmp_path: Path) -> None:
    with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        owner.send_signal(signal.SIGKILL)
        assert owner.wait(60) == -signal.SIGKILL
    assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]
    with staging_directory(tmp_path, RUN_ID) as stage:
        assert stage.folder.name == RUN_ID
        assert on_disk(stage.run / "work").read_text() == "theirs"
    assert inside(tmp_path) == []


def test_a_place_where_no_folder_can_be_is_an_outputs_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputsError, match=r"cannot prepare .*file/\.staging: .*check that the folder exists"),
        staging_directory(tmp_path / "file", RUN_ID),
    ):
        raise AssertionError("not reached")


# Waiting locks


def test_waiting_locks_let_one_process_in_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    body = """
        from mnist_pipeline.store.locks import lock
        count = Path(sys.argv[1]) / "count"
        for _ in range(200):
            with lock(Path(sys.argv[1]) / "locks" / "count.lock"):
                count.write_text(str(int(count.read_text()) + 1))
    """
    with another_process(body, tmp_path) as one, another_process(body, tmp_path) as two:
        assert [let_go(one), let_go(two)] == [0, 0]
    assert (tmp_path / "count").read_text() == "400"
    assert list((tmp_path / "locks").iterdir()) == []


def test_waiting_locks_let_one_thread_in_at_a_time(tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")

    def work(_: int) -> None:
        with lock(tmp_path / "x.lock"):
            count.write_text(str(int(count.read_text()) + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert count.read_text() == "400"
    assert list(tmp_path.iterdir()) == [count]


def test_a_lock_is_free_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(StopError), lock(tmp_path / "x.lock"):
        raise StopError
    with lock(tmp_path / "x.lock"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.lock"]


def test_a_lock_on_a_file_that_its_last_owner_removed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between our opening of the file and our locking of it, the owner ends and removes it, and somebody else
    # makes it anew: both would hold a lock, on two files of one name.
    path = tmp_path / "x.lock"
    somebody: list[int | None] = []
    take = fcntl.flock

    def late(handle: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        somebody.append(locks.try_lock(path))
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert locks.try_lock(path) is None
    assert somebody[0] is not None
    assert locks.try_lock(path) is None
    os.close(somebody[0])
    assert locks.try_lock(path) is not None


def test_a_lock_on_a_file_that_is_gone_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.lock"
    take = fcntl.flock

    def late(handle: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        take(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock(path):  # tries again
        assert locks.try_lock(path) is None
    assert not path.exists()


def test_taking_and_refusing_locks_leaves_no_file_open(tmp_path: Path) -> None:
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("tells open files by /proc")
    before = len(list(handles.iterdir()))
    for _ in range(50):
        with staging_directory(tmp_path, RUN_ID), staging_directory(tmp_path, RUN_ID), lock(tmp_path / "x.lock"):
            pass
    assert len(list(handles.iterdir())) == before


def test_private_folders_of_killed_attempts_are_swept_up_by_the_next_owner(tmp_path: Path) -> None:
    with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as second:
            private = says(second)
            assert private.startswith(f"{RUN_ID}.")
    assert private in inside(tmp_path)
    with staging_directory(tmp_path, RUN_ID) as stage:
        assert stage.folder.name == RUN_ID
        assert inside(tmp_path) == [RUN_ID, f"{RUN_ID}.lock"]


def test_private_folders_in_use_are_left_alone(tmp_path: Path) -> None:
    with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as owner:
        assert says(owner) == RUN_ID
        with another_process(CLAIM_AND_WAIT, tmp_path, RUN_ID) as second:
            private = says(second)
            let_go(owner)
            with staging_directory(tmp_path, RUN_ID) as stage:
                assert stage.folder.name == RUN_ID
                assert private in inside(tmp_path)
            assert (tmp_path / ".staging" / private / "run" / "work").read_text() == "theirs"
