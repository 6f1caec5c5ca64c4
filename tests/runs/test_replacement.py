"""A damaged run is replaced: whatever fails or ends half-way, the run or its replacement is there to go on with."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from mnist_pipeline import load_history, load_run, run_files, tables
from mnist_pipeline.cli import app
from mnist_pipeline.core.retention import Retention
from mnist_pipeline.errors import OutputsError, RunNotFoundError, StoreError, VerdictError
from mnist_pipeline.maintenance.pruning import carry_out, plan_prune
from mnist_pipeline.orchestration import tasks
from mnist_pipeline.orchestration.scheduled import Due
from mnist_pipeline.runs import layout, publishing, replacement
from mnist_pipeline.runs.layout import REPAIRS
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.manifest import Manifest, RunName
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.runs.quarantine import copy_to_quarantine, move_to_quarantine
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.files import record
from mnist_pipeline.store.local import LocalStore
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.views import complete_repairs, update_views
from tests.objectstore import Fault, ObjectStore, Rule, objects
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.published import (
    FILES,
    at,
    flip_bit,
    give_up,
    hashes,
    identity,
    on_disk,
    opened,
    publish_run,
    stage_run,
    staged,
)

WHO, OTHER = identity(), identity("2026-01-30")
MANIFEST = f"runs/{WHO.run_id}/manifest.json"
# What the store does with one of them it does with the others.
ERRORS = ("ENOSPC", "EDQUOT", "EXDEV", "EIO")
Calls = list[Path]


class Ended(BaseException):
    """The process ends here: nothing catches it."""


def verify(outputs: Location, *words: str) -> Result:
    return CliRunner().invoke(app, ["verify", *words, "--outputs", str(outputs)])


def damaged_run(outputs: Path) -> tuple[Run, dict[str, str]]:
    """A run of which a bit is flipped, beside a sound one, and its bytes."""
    publish_run(outputs, OTHER)
    run = publish_run(outputs, WHO, published_at=at(1))
    flip_bit(outputs / "runs" / WHO.run_id / "summary.parquet")
    return run, hashes(run.folder)


def pruned_run(outputs: Path) -> tuple[Run, dict[str, str]]:
    """A run that has given up its predictions, beside one that has not, and its bytes."""
    publish_run(outputs, OTHER)
    run = publish_run(outputs, WHO, published_at=at(1))
    give_up(outputs, WHO.run_id)
    for path in FILES[:3]:
        (outputs / "runs" / WHO.run_id / path).unlink()
    (outputs / "runs" / WHO.run_id / "predictions").rmdir()
    return run, hashes(run.folder)


def as_staged(staging: StagingDirectory, manifest: Manifest) -> Manifest:
    return manifest


def with_other_last_bits(staging: StagingDirectory, manifest: Manifest) -> Manifest:
    """The same digits, of probabilities that differ in their last bits."""
    path = on_disk(staging.outputs.path(staging.files)) / FILES[0]
    table = tables.decode(tables.PREDICTIONS, path.read_bytes(), "x")
    nudged = pa.array([value + 1e-7 for value in table["proba_3"].to_pylist()], pa.float32())
    field = table.schema.field("proba_3")
    data = tables.encode(tables.PREDICTIONS, table.set_column(table.column_names.index("proba_3"), field, nudged))
    path.write_bytes(data)
    return manifest.model_copy(update={"files": (record(FILES[0], 5, data), *manifest.files[1:])})


def replace(outputs: Path, change: Callable[[StagingDirectory, Manifest], Manifest] = as_staged) -> bool:
    with staged(outputs, WHO, published_at=at(2)) as (staging, manifest):
        new = commit(opened(outputs), staging, change(staging, manifest))
    update_views(opened(outputs))
    return new


@contextmanager
def failing(number: int, error: Callable[[Path], BaseException], patch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """The `number`th rename or sync during a replacement fails; the calls that were made."""
    calls: Calls = []

    def meet(path: Path) -> None:
        calls.append(path)
        if len(calls) == number:
            raise error(path)

    rename, fsync, replace_run = Path.rename, os.fsync, replacement.replace_run

    def rename_or_fail(self: Path, target: Path) -> Path:
        meet(self)
        return rename(self, target)

    def fsync_or_fail(handle: int) -> None:
        meet(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def replaced(*how: Any) -> bool:
        with patch.context() as inner:
            inner.setattr(Path, "rename", rename_or_fail)
            inner.setattr(os, "fsync", fsync_or_fail)
            return replace_run(*how)

    with patch.context() as outer:
        outer.setattr(publishing, "replace_run", replaced)
        yield calls


def there(outputs: Path) -> bool:
    """Whether the run is published, or its complete replacement is kept."""
    name = RunName.parse(WHO.run_id)
    assert name is not None
    kept = Run(opened(outputs), name, stored_in=layout.repair_folder(WHO.run_id))
    return (outputs / "runs" / WHO.run_id).is_dir() or (kept.exists() and not kept.problems())


def require_repaired(outputs: Path, before: dict[str, str]) -> None:
    """The run is in its place and sound, the views name it, its old bytes are in quarantine, and nothing waits."""
    run = run_by_id(opened(outputs), WHO.run_id)
    assert run.problems() == []
    assert run.pruned() is None
    assert run.manifest().published_at == at(2)
    assert WHO.run_id in (outputs / "latest.json").read_text()
    assert set(pd.read_parquet(outputs / "runs.parquet")["run_id"]) == {WHO.run_id, OTHER.run_id}
    (quarantined,) = (outputs / "quarantine" / "runs").iterdir()
    assert hashes(quarantined) == before
    assert list((outputs / REPAIRS).glob("*")) == []


def disturbed(
    folder: Path,
    make: Callable[[Path], tuple[Run, dict[str, str]]],
    change: Callable[[StagingDirectory, Manifest], Manifest],
    error: Callable[[Path], BaseException],
    patch: pytest.MonkeyPatch,
) -> int:
    """Replace a run with each step failing in turn, until none is left; how many there were."""
    number, recorded = 0, 0
    while True:
        number += 1
        outputs = folder / str(number)
        _, before = make(outputs)
        ended = None
        with failing(number, error, patch) as calls:
            try:
                replace(outputs, change)
            except (OutputsError, Ended) as raised:
                ended = raised
        if len(calls) < number:
            require_repaired(outputs, before)
            assert recorded > 2  # most steps are after the record
            return number - 1
        assert there(outputs), f"{number}: {calls[-1]}"
        waits = (outputs / REPAIRS / WHO.run_id).is_dir()
        if waits and isinstance(ended, OutputsError):
            assert f"kept, complete, in {outputs / REPAIRS / WHO.run_id}" in str(ended)
        published = hashes(outputs / "runs" / WHO.run_id) != before and not waits
        found = verify(outputs)
        # Before the record the run is damaged as it was, and found so; after it, the next command completes it.
        recorded += waits
        assert found.exit_code == (0 if waits or published or change is not as_staged else 5), found.output
        assert f"{WHO.run_id}: " in found.stdout
        if not waits and not published:
            assert hashes(outputs / "runs" / WHO.run_id) == before
            replace(outputs, change)
        require_repaired(outputs, before)


REPLACED = pytest.mark.parametrize(
    ("make", "change"),
    [
        pytest.param(damaged_run, as_staged, id="damaged"),  # in `make test`: tests/promises/test_store_faults.py
        pytest.param(pruned_run, with_other_last_bits, id="pruned"),
    ],
)


@pytest.mark.torture
@pytest.mark.parametrize("code", ERRORS)
@REPLACED
def test_a_step_that_fails_loses_no_run_and_the_next_command_completes_it(
    make: Any, change: Any, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(errno, code)
    steps = disturbed(tmp_path, make, change, lambda path: OSError(number, os.strerror(number), str(path)), monkeypatch)
    assert steps > 8


@pytest.mark.torture
@REPLACED
def test_a_process_that_ends_at_any_step_loses_no_run_and_the_next_command_completes_it(
    make: Any, change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert disturbed(tmp_path, make, change, lambda path: Ended(str(path)), monkeypatch) > 8


def recorded_run(outputs: Path, patch: pytest.MonkeyPatch, in_quarantine: bool = False) -> dict[str, str]:
    """A damaged run whose replacement is recorded and not in its place; the run itself may have left it already."""
    _, before = damaged_run(outputs)

    move = LocalStore.move

    def ends(store: LocalStore, source: str, target: str, first: str = "") -> bool:
        if target == layout.run_folder(WHO.run_id) and source.startswith(REPAIRS):
            raise Ended
        return move(store, source, target, first)

    def ends_at_once(*how: Any) -> bool:
        raise Ended

    with patch.context() as inner:
        if in_quarantine:
            inner.setattr(LocalStore, "move", ends)
        else:
            inner.setattr(replacement, "_publish_replacement", ends_at_once)
        with pytest.raises(Ended):
            replace(outputs)
    assert (outputs / REPAIRS / WHO.run_id).is_dir()
    assert (outputs / "runs" / WHO.run_id).is_dir() != in_quarantine
    return before


def require_no_more_than_a_verdict(outputs: Path) -> None:
    with pytest.raises(VerdictError, match="expected a verdict, got none"):
        tasks.require_run_dates.fn(Due(load_settings(dataset="toy", outputs=outputs), (date(2026, 1, 31),)))


COMPLETING: dict[str, Callable[[Path], object]] = {
    "load_run": lambda outputs: load_run(WHO.run_id, outputs=outputs),
    "run_files": lambda outputs: run_files(WHO.run_id, outputs=outputs),
    "load_history": lambda outputs: load_history(outputs),
    "require_run_dates": lambda outputs: require_no_more_than_a_verdict(outputs),
    "runs": lambda outputs: CliRunner().invoke(app, ["runs", "--outputs", str(outputs)]),
    "verify": verify,
}


@pytest.mark.parametrize("who", COMPLETING)
def test_whoever_finds_a_recorded_repair_completes_it(
    who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = recorded_run(tmp_path, monkeypatch, in_quarantine=True)
    update_views(opened(tmp_path))  # by another, who does not find the run
    assert WHO.run_id not in (tmp_path / "latest.json").read_text()
    COMPLETING[who](tmp_path)
    require_repaired(tmp_path, before)
    assert f"the repair of run {WHO.run_id}, which was begun earlier, is complete" in caplog.text


def test_a_run_whose_repair_is_incomplete_is_not_found_and_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded_run(tmp_path, monkeypatch, in_quarantine=True)
    asks: tuple[Callable[[], Run], ...] = (
        lambda: run_by_id(opened(tmp_path), WHO.run_id),
        lambda: find_run(opened(tmp_path), WHO.run_id, "toy", "test"),
        lambda: find_run(opened(tmp_path), "2026-01-31", "toy", "test"),
    )
    for ask in asks:
        with pytest.raises(
            RunNotFoundError, match=f"its repair is incomplete: the replacement of {WHO.run_id} is kept"
        ):
            ask()
    with pytest.raises(RunNotFoundError, match=r"what is there: .*; publish it with"):
        find_run(opened(tmp_path), "2026-01-01", "toy", "test")


def test_several_that_complete_a_repair_complete_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for round_ in range(5):
        outputs = tmp_path / str(round_)
        before = recorded_run(outputs, monkeypatch, in_quarantine=round_ % 2 == 0)
        completed: list[str] = []
        together = threading.Barrier(4)

        def write(outputs: Path = outputs, completed: list[str] = completed, both: Any = together) -> None:
            both.wait()
            completed += complete_repairs(opened(outputs))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert completed == [WHO.run_id]
        require_repaired(outputs, before)


def test_a_sound_run_that_is_published_meanwhile_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded_run(tmp_path, monkeypatch, in_quarantine=True)
    run = publish_run(tmp_path, WHO, published_at=at(3))
    before = hashes(run.folder)
    assert complete_repairs(opened(tmp_path)) == []
    assert hashes(run.folder) == before
    assert list((tmp_path / REPAIRS).iterdir()) == []
    assert list((tmp_path / ".staging").iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1], ids=["same", "other"])
def test_a_replacement_that_meets_a_sound_run_is_compared_with_it(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged_run(tmp_path)

    def late(*how: Any) -> None:
        move_to_quarantine(*how)
        monkeypatch.setattr(replacement, "move_to_quarantine", move_to_quarantine)
        with staged(tmp_path, WHO, published_at=at(3), seed=seed) as (staging, manifest):
            assert commit(opened(tmp_path), staging, manifest)

    monkeypatch.setattr(replacement, "move_to_quarantine", late)
    if seed == 0:
        assert not replace(tmp_path)
    else:
        with pytest.raises(OutputsError, match="published with other predictions"):
            replace(tmp_path)
        (kept,) = (tmp_path / ".staging").glob("conflict-*")
        assert {*FILES, "manifest.json"} == set(hashes(kept))
    assert run_by_id(opened(tmp_path), WHO.run_id).manifest().published_at == at(3)
    assert list((tmp_path / REPAIRS).iterdir()) == []


def test_a_replacement_that_was_damaged_meanwhile_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recorded_run(tmp_path, monkeypatch)
    flip_bit(tmp_path / REPAIRS / WHO.run_id / FILES[0])
    assert complete_repairs(opened(tmp_path)) == []
    assert hashes(tmp_path / "runs" / WHO.run_id) == before
    assert verify(tmp_path).exit_code == 5
    assert replace(tmp_path)
    require_repaired(tmp_path, before)


@pytest.mark.parametrize("in_quarantine", [False, True], ids=["damaged run there", "run gone"])
def test_a_repair_that_cannot_be_completed_is_warned_of_and_other_runs_are_read(
    in_quarantine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = recorded_run(tmp_path, monkeypatch, in_quarantine)
    lock = LocalStore.lock

    def read_only(
        store: LocalStore, name: str, wait: bool = True, shared: bool = False
    ) -> AbstractContextManager[bool]:
        if name.endswith(".repair"):
            raise StoreError(f"cannot lock {name}: Read-only file system; check it, then run again")
        return lock(store, name, wait, shared)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "lock", read_only)
        assert len(load_run("2026-01-30", "toy", outputs=tmp_path)) == 12
        warned = [line for line in caplog.messages if "expected to complete its repair" in line]
        assert len(warned) == 1
        for words in (f"run {WHO.run_id}", "Read-only file system", str(tmp_path / REPAIRS), "`mnist-pipeline verify"):
            assert words in warned[0]
        found = verify(tmp_path)
        assert found.exit_code == 5
        assert f"{WHO.run_id}: its repair is unfinished\n" in found.stdout
        assert f"{OTHER.run_id}: verified\n" in found.stdout
        assert "runs damaged: 1 of 2; unfinished repairs: 1, with replacements kept in " in found.stderr
        assert "runs verified" not in found.output
        assert verify(tmp_path, "2026-01-30", "--dataset", "toy").exit_code == 0
        assert verify(tmp_path, WHO.run_id).exit_code == 5
        assert verify(tmp_path, "--split", "train").exit_code == 5  # nothing is there
    assert verify(tmp_path).exit_code == 0
    require_repaired(tmp_path, before)


def test_the_only_run_of_a_folder_is_missed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded_run(tmp_path, monkeypatch, in_quarantine=True)
    (tmp_path / "runs" / OTHER.run_id).rename(tmp_path / "elsewhere")
    monkeypatch.setattr("mnist_pipeline.views.complete_repairs", lambda outputs: [])
    found = verify(tmp_path)
    assert found.exit_code == 5
    assert f"{WHO.run_id}: its repair is unfinished\n" in found.stdout


def test_a_prune_leaves_what_waits_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded_run(tmp_path, monkeypatch, in_quarantine=True)
    kept = hashes(tmp_path / REPAIRS)
    now = datetime(2036, 1, 1, tzinfo=UTC)
    plan = plan_prune(opened(tmp_path), Retention(1, 1), now - now, now)
    assert plan.use_bytes[REPAIRS] > 0
    assert carry_out(opened(tmp_path), plan, now) == []
    assert hashes(tmp_path / REPAIRS) == kept
    assert complete_repairs(opened(tmp_path)) == [WHO.run_id]
    require_repaired(tmp_path, before)


def test_nothing_is_made_where_no_run_was_ever_replaced(tmp_path: Path) -> None:
    assert complete_repairs(opened(tmp_path / "none")) == []
    assert not (tmp_path / "none").exists()


# In an object store


def requests_of(server: ObjectStore, act: Callable[[], object]) -> list[tuple[str, str]]:
    begun = len(server.proxy.seen)
    act()
    return server.proxy.seen[begun:]


def damage_manifest(outputs: Address) -> bytes:
    """Flip a bit of the manifest; how it is then."""
    store = opened(outputs).store
    data = bytearray(store.read(MANIFEST))
    data[len(data) // 2] ^= 1
    store.write(MANIFEST, bytes(data))
    return bytes(data)


def test_in_a_store_a_replacement_is_never_preceded_by_a_gap(server: ObjectStore, bucket: Address) -> None:
    publish_run(bucket, WHO, published_at=at(1))
    damaged = damage_manifest(bucket)
    with staging_directory(opened(bucket), WHO.run_id) as staging:
        manifest = stage_run(staging, WHO, published_at=at(2))
        seen = requests_of(server, lambda: commit(opened(bucket), staging, manifest))
    assert not {method for method, _ in seen} & {"DELETE", "POST"}  # some are deleted by a POST of their names
    assert run_by_id(opened(bucket), WHO.run_id).manifest() == manifest
    (quarantined,) = [key for key in objects(bucket) if key.startswith("quarantine/")]
    assert opened(bucket).store.read(quarantined) == damaged
    assert complete_repairs(opened(bucket)) == []


def replace_in_store(outputs: Address) -> Callable[[int], bool]:
    """Commits a run, published on a day, in the place of a damaged one that is marked as pruned."""
    publish_run(outputs, WHO, published_at=at(1), views=False)
    give_up(outputs, WHO.run_id)
    damage_manifest(outputs)

    def replace_it(day: int) -> bool:
        with staging_directory(opened(outputs), WHO.run_id) as staging:
            return commit(opened(outputs), staging, stage_run(staging, WHO, published_at=at(day)))

    return replace_it


def nth(number: int, fault: Fault) -> tuple[Rule, Callable[[], bool]]:
    """That fault for the `number`th request about a manifest, quarantine, or to delete; whether there was one."""
    met = count(1)
    asked = 0

    def rule(method: str, key: str) -> Fault | None:
        nonlocal asked
        if method != "POST" and f"/runs/{WHO.run_id}" not in key:  # in quarantine it is part of the name too
            return None
        asked = next(met)
        return fault if asked == number else None

    return rule, lambda: asked >= number


@pytest.mark.torture  # on a store in memory: tests/promises/test_store_faults.py
@pytest.mark.parametrize("fault", ["refuse", "lose the answer"])
def test_in_a_store_whatever_request_fails_the_run_is_there(fault: Fault, server: ObjectStore) -> None:
    number, happened = 0, True
    while happened:
        number += 1
        bucket = server.bucket()
        replace_it = replace_in_store(bucket)
        rule, met = nth(number, fault)
        with server.proxy.faults(rule), suppress(OutputsError):
            replace_it(2)
        happened = met()
        assert [run.name.run_id for run in list_runs(opened(bucket))] == [WHO.run_id], number
        replace_it(3)
        run = run_by_id(opened(bucket), WHO.run_id)
        assert run.problems() == [], number
        assert run.pruned() is None, number
    assert number > 8


def test_in_a_store_whoever_is_later_agrees_with_whoever_was_faster(
    bucket: Address, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run(bucket, WHO, published_at=at(1))
    damage_manifest(bucket)

    def late(*how: Any) -> Any:
        monkeypatch.setattr(replacement, "copy_to_quarantine", copy_to_quarantine)
        with staged(bucket, WHO, published_at=at(3)) as (staging, manifest):
            assert commit(opened(bucket), staging, manifest)
        return copy_to_quarantine(*how)

    monkeypatch.setattr(replacement, "copy_to_quarantine", late)
    with staged(bucket, WHO, published_at=at(2)) as (staging, manifest):
        assert not commit(opened(bucket), staging, manifest)
    assert run_by_id(opened(bucket), WHO.run_id).manifest().published_at == at(3)


def test_in_a_store_a_run_that_is_taken_away_meanwhile_is_published_all_the_same(
    bucket: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_run(bucket, WHO, published_at=at(1))
    damage_manifest(bucket)

    def taken_away(*how: Any) -> str:
        opened(bucket).store.delete(MANIFEST)
        return "nowhere"

    monkeypatch.setattr(replacement, "copy_to_quarantine", taken_away)
    with staged(bucket, WHO, published_at=at(2)) as (staging, manifest):
        assert commit(opened(bucket), staging, manifest)
    assert run_by_id(opened(bucket), WHO.run_id).manifest().published_at == at(2)


def test_in_a_store_a_replaced_run_is_never_called_pruned(bucket: Address, server: ObjectStore) -> None:
    replace_it = replace_in_store(bucket)
    give_up(bucket, WHO.run_id)

    def deletions_fail(method: str, key: str) -> Fault | None:
        return "refuse" if method in ("DELETE", "POST") and "delete" in f"{method} {key}".lower() else None

    with server.proxy.faults(deletions_fail), suppress(OutputsError):
        replace_it(2)
    run = run_by_id(opened(bucket), WHO.run_id)
    assert run.pruned() is None or run.problems(), "a sound run that says that it gave its predictions up"
