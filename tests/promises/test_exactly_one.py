"""Exactly one: however many publish the same night at once, there is one commit, and nothing of the others is left."""

import functools
import json
import random
import shutil
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest

from mnist_pipeline import tables, views
from mnist_pipeline.errors import RunConflictError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import record_counted
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.runs.staging import StagingDirectory
from mnist_pipeline.views import update_views
from tests.processes import run_at_once, start_together
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import hashes, identity, left_over, on_disk, opened, publish_run, staged

PUBLISHERS = 8
PAUSE_SECONDS = 0.03
TONIGHT = "2026-01-31"


def unsafe_commit(outputs: Outputs, staging: StagingDirectory, manifest: Manifest) -> bool:
    """As one would write it in a hurry: looks first, then copies file by file into the final folder."""
    target = on_disk(outputs.path(layout.run_folder(manifest.run_id)))
    if target.exists():
        return False
    time.sleep(0.05)
    shutil.copytree(on_disk(outputs.path(staging.files)), target, dirs_exist_ok=True)
    (target / layout.MANIFEST).write_bytes(manifest.to_bytes())
    return True


def unsafe_views(outputs: Outputs) -> None:
    """Writes the views as they should be at this moment, with nobody kept from doing the same."""
    found, folder = views.current_views(outputs), on_disk(outputs.location)
    (folder / layout.HISTORY).write_bytes(tables.encode(tables.HISTORY, found.history))
    (folder / layout.LATEST).write_text(json.dumps(views._latest(found.runs)))


def slow_views(outputs: Outputs, seconds: float) -> None:
    """As `update_views`, with a pause between what is read and what is written, as a long history makes one."""
    current_views = views.current_views

    def slowly(*how: Any) -> views.Views:
        found = current_views(*how)
        time.sleep(seconds)
        return found

    with mock.patch.object(views, "current_views", slowly):
        views.update_views(outputs)


def publish(outputs: Path, run_date: str, seed: int, how: str) -> str:
    """Publish a run at the same moment as others do. Returns what is said of it.

    Slowly, the older the night the later it begins, and the sooner it has written the views: whoever read first writes
    last, without the rows of all others if nothing keeps it from that.
    """
    age = (date.fromisoformat(TONIGHT) - date.fromisoformat(run_date)).days
    pause = 2 * PAUSE_SECONDS * (PUBLISHERS - age)
    updates: dict[str, Callable[[Outputs], None]] = {
        "safe": update_views,
        "slow": functools.partial(slow_views, seconds=pause),
        "unsafe": unsafe_views,
    }
    # The older the night, the later it is published.
    published_at = datetime(2026, 2, 1, tzinfo=UTC) + (date(2026, 2, 1) - date.fromisoformat(run_date))
    with staged(outputs, identity(run_date), seed=seed, published_at=published_at) as (staging, manifest):
        start_together()
        if how == "slow":
            time.sleep(PAUSE_SECONDS * age)
        try:
            new = (unsafe_commit if how == "unsafe" else commit)(opened(outputs), staging, manifest)
        except Exception as error:
            return f"{type(error).__name__} {error}"
        record_counted(opened(outputs), manifest.run_id, published_at)
        updates[how](opened(outputs))
        return "new" if new else "old"


def race(outputs: Path, nights: list[tuple[str, int]], how: str = "safe") -> list[str]:
    """What each publisher said of its night, all let loose at the same moment."""
    outputs.mkdir(exist_ok=True)
    return run_at_once(publish, [(outputs, day, seed, how) for day, seed in nights])


def guilt(outputs: Path, said: list[str], nights: set[str]) -> list[str]:
    """What does not hold after a race that was to publish these nights."""
    found = [f"said {what}" for what in said if what not in ("new", "old")]
    runs = list_runs(opened(outputs))
    if sorted(str(run.name.run_date) for run in runs) != sorted(nights):
        found.append(f"published {[run.name.run_id for run in runs]}")
    if said.count("new") != len(nights):
        found.append(f"{said.count('new')} commits of {len(nights)} nights")
    found += [problem for run in runs for problem in run.problems()]
    found += [f"left over: {each}" for each in left_over(outputs)]
    rows = pd.read_parquet(outputs / "history.parquet").groupby("run_id", observed=True).size().to_dict()
    if rows != {run.name.run_id: 10 for run in runs}:
        found.append(f"history {rows}")
    latest = json.loads((outputs / "latest.json").read_bytes())
    if latest["toy/test"]["run_date"] != max(nights):
        found.append(f"latest {latest}")
    return found


def test_eight_publishers_of_one_night_make_one_commit_and_all_succeed(tmp_path: Path, tried: Tried) -> None:
    outputs = tmp_path / "outputs"
    said = race(outputs, [(TONIGHT, 0)] * PUBLISHERS)
    assert guilt(outputs, said, {TONIGHT}) == []
    tried(PUBLISHERS, "publishers of the same night at once")


def test_eight_nights_at_once_lose_no_row_of_the_history_and_latest_is_the_newest(tmp_path: Path, tried: Tried) -> None:
    outputs, published = tmp_path / "outputs", [str(date(2025, 12, 1) + timedelta(days=days)) for days in range(20)]
    for night in published:
        publish_run(outputs, identity(night), views=False)
    nights = [str(date.fromisoformat(TONIGHT) - timedelta(days=days)) for days in range(PUBLISHERS)]
    random.Random(0).shuffle(nights)
    said = race(outputs, [(night, 0) for night in nights], "slow")
    assert guilt(outputs, ["new"] * len(published) + said, {*published, *nights}) == []
    tried(len(nights), "publishers of different nights, eight at once")


def test_an_unsafe_publisher_is_found_guilty_by_the_same_oracle(tmp_path: Path) -> None:
    for each in range(10):  # a race is won by luck at times
        outputs = tmp_path / str(each)
        try:
            said = race(outputs, [(TONIGHT, 0)] * PUBLISHERS, "unsafe")
            if guilt(outputs, said, {TONIGHT}):
                return
        except (AssertionError, OSError, ValueError):
            return  # a publisher or a table that broke on what another had half written
    pytest.fail("the unsafe publisher was never caught: the test proves nothing")


def test_the_same_night_with_other_predictions_is_a_conflict_that_names_both(tmp_path: Path) -> None:
    run = publish_run(tmp_path, identity(TONIGHT))
    before = hashes(run.folder)
    with (
        staged(tmp_path, identity(TONIGHT), seed=1),
        pytest.raises(RunConflictError) as refused,
    ):
        publish_twice(tmp_path)
    (kept,) = (tmp_path / ".staging").glob("conflict-*")
    assert str(run.folder) in str(refused.value)
    assert str(kept) in str(refused.value)
    assert hashes(run.folder) == before
    assert run.problems() == []


def publish_twice(outputs: Path) -> None:
    with staged(outputs, identity(TONIGHT), seed=1) as (staging, manifest):
        commit(opened(outputs), staging, manifest)


def test_of_eight_that_disagree_one_is_published_and_the_others_are_told(tmp_path: Path, tried: Tried) -> None:
    outputs = tmp_path / "outputs"
    said = race(outputs, [(TONIGHT, seed) for seed in range(PUBLISHERS)])
    assert said.count("new") == 1
    conflicts = [what for what in said if what.startswith("RunConflictError")]
    assert len(conflicts) == PUBLISHERS - 1
    (run,) = list_runs(opened(outputs))
    assert run.problems() == []
    assert all(run.name.run_id in what and "conflict-" in what for what in conflicts)
    tried(PUBLISHERS, "publishers of different predictions at once")


def test_filling_an_old_night_during_tonights_run_never_moves_latest_back(tmp_path: Path, tried: Tried) -> None:
    outputs = tmp_path / "outputs"
    publish_run(outputs, identity("2026-01-30"))
    old = [str(date(2026, 1, 1) + timedelta(days=days)) for days in range(PUBLISHERS - 1)]
    said = race(outputs, [(TONIGHT, 0), *((night, 0) for night in old)])
    assert said == ["new"] * PUBLISHERS
    assert guilt(outputs, ["new", *said], {TONIGHT, "2026-01-30", *old}) == []
    tried(len(old), "old nights filled during tonight's")


def test_eight_that_meet_a_damaged_run_put_one_in_its_place(tmp_path: Path, tried: Tried) -> None:
    outputs = tmp_path / "outputs"
    run = publish_run(outputs, identity(TONIGHT))
    (on_disk(run.folder) / "summary.parquet").write_bytes(b"damaged")
    said = race(outputs, [(TONIGHT, 0)] * PUBLISHERS)
    assert guilt(outputs, said, {TONIGHT}) == []
    assert len(list((outputs / "quarantine" / "runs").iterdir())) == 1
    tried(PUBLISHERS, "publishers that meet a damaged run at once")


MUTANTS = (
    Mutant(
        "mnist_pipeline/store/local.py",
        "        with self.lock(names[0]):\n",
        "        with self.lock(uuid.uuid4().hex):\n",
        "test_eight_nights_at_once_lose_no_row_of_the_history_and_latest_is_the_newest",
    ),
    Mutant(
        "mnist_pipeline/store/local.py",
        "                if old.exists() and not new.is_dir():\n                    raise\n",
        "                if old.exists():\n                    raise\n",
        "test_eight_publishers_of_one_night_make_one_commit_and_all_succeed",
    ),
    Mutant(
        "mnist_pipeline/views.py",
        "for key in sorted(of_date)}",
        "for key in sorted(of_date, key=of_date.__getitem__)}",
        "test_filling_an_old_night_during_tonights_run_never_moves_latest_back",
    ),
    Mutant(
        "mnist_pipeline/runs/publishing.py",
        "        if not tables.decode(tables.PREDICTIONS, staged, ours.path, columns)"
        ".equals(run.decode(theirs, columns)):\n",
        "        if staged is None:\n",
        "test_of_eight_that_disagree_one_is_published_and_the_others_are_told",
    ),
    Mutant(
        "mnist_pipeline/runs/quarantine.py",
        "        if is_empty(store, folder) or (why := damage()) is None:\n            return\n",
        '        if is_empty(store, folder):\n            return\n        why = "again"\n',
        "test_eight_that_meet_a_damaged_run_put_one_in_its_place",
    ),
)
