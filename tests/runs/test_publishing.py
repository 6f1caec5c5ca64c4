import hashlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError, RunConflictError, StoreError
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.store.files import record
from mnist_pipeline.store.local import LocalStore
from tests.published import (
    FILES,
    at,
    flip_bit,
    hashes,
    identity,
    left_over,
    on_disk,
    opened,
    publish_run,
    snapshot,
    stage_run,
    staged,
)

WHO = identity()


def files_in(staging: StagingDirectory) -> Path:
    """The files that will be published."""
    return on_disk(staging.outputs.path(staging.files))


def test_a_run_becomes_visible_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with staged(tmp_path, WHO) as (staging, manifest):
        assert not (tmp_path / "runs").exists()
        assert commit(opened(tmp_path), staging, manifest)
        assert sorted(hashes(tmp_path / "runs" / WHO.run_id)) == sorted([*FILES, "manifest.json"])
    assert left_over(tmp_path) == []
    run = run_by_id(opened(tmp_path), WHO.run_id)
    assert run.manifest() == manifest
    assert run.problems() == []


def test_the_same_run_again_changes_nothing(tmp_path: Path) -> None:
    publish_run(tmp_path, WHO, published_at=at(1))
    before = snapshot(tmp_path)
    with staged(tmp_path, WHO, published_at=at(2)) as (staging, manifest):
        assert not commit(opened(tmp_path), staging, manifest)
    assert snapshot(tmp_path) == before
    assert left_over(tmp_path) == []


def test_probabilities_may_differ_in_their_last_bits_as_long_as_the_digits_agree(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    before = snapshot(tmp_path)
    with staging_directory(opened(tmp_path), WHO.run_id) as staging:
        manifest = stage_run(staging, WHO)
        path = files_in(staging) / FILES[0]
        table = tables.decode(tables.PREDICTIONS, path.read_bytes(), "x")
        nudged = pa.array([value + 1e-7 for value in table["proba_3"].to_pylist()], pa.float32())
        field = table.schema.field("proba_3")
        data = tables.encode(tables.PREDICTIONS, table.set_column(table.column_names.index("proba_3"), field, nudged))
        path.write_bytes(data)
        files = (record(FILES[0], 5, data), *manifest.files[1:])
        assert files[0] != manifest.files[0]
        assert not commit(opened(tmp_path), staging, manifest.model_copy(update={"files": files}))
    assert snapshot(tmp_path) == before
    assert run.problems() == []


def test_the_same_run_with_other_predictions_is_a_conflict_that_keeps_both(tmp_path: Path) -> None:
    publish_run(tmp_path, WHO, seed=0)
    before = snapshot(tmp_path / "runs")
    for _ in range(2):  # the second time it is kept in the same place
        with staged(tmp_path, WHO, seed=1) as (staging, manifest):
            expected = hashes(files_in(staging))
            published = tmp_path / "runs" / WHO.run_id / FILES[0]
            with pytest.raises(RunConflictError, match="published with other predictions") as caught:
                commit(opened(tmp_path), staging, manifest)
        assert str(published) in str(caught.value)
        (kept,) = (tmp_path / ".staging").glob(f"conflict-{WHO.run_id}-*")
        assert str(kept) in str(caught.value)
        assert hashes(kept) == expected | {"manifest.json": hashlib.sha256(manifest.to_bytes()).hexdigest()}
    assert snapshot(tmp_path / "runs") == before
    assert [run.name.run_id for run in list_runs(opened(tmp_path))] == [WHO.run_id]


@pytest.mark.parametrize("path", [*FILES, "manifest.json"])
def test_a_damaged_run_goes_to_quarantine_and_is_published_anew(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = publish_run(tmp_path, WHO, published_at=at(1))
    sound = hashes(run.folder)
    flip_bit(run.folder / path)
    damaged = hashes(run.folder)
    with staged(tmp_path, WHO, published_at=at(2)) as (staging, manifest):
        assert commit(opened(tmp_path), staging, manifest)
    assert run_by_id(opened(tmp_path), WHO.run_id).manifest() == manifest
    assert hashes(run.folder) | {"manifest.json": ""} == sound | {"manifest.json": ""}
    assert run.problems() == []
    (quarantined,) = (tmp_path / "quarantine" / "runs").iterdir()
    assert quarantined.name.startswith(f"{WHO.run_id}.")
    assert hashes(quarantined) == damaged
    assert f"{run.folder} is moved to quarantine in {quarantined}: {run.folder / path}: expected " in caplog.text
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("path", FILES)
def test_a_run_is_not_published_while_a_planned_file_is_missing(path: str, tmp_path: Path) -> None:
    with staged(tmp_path, WHO) as (staging, manifest):
        (files_in(staging) / path).unlink()
        with pytest.raises(DamagedError, match=f"{path}: expected .* bytes, got no file"):
            commit(opened(tmp_path), staging, manifest)
    assert list_runs(opened(tmp_path)) == []


def test_a_file_that_nobody_planned_does_not_get_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with staged(tmp_path, WHO) as (staging, manifest):
        (files_in(staging) / "predictions" / ".DS_Store").write_text("rubbish")
        assert commit(opened(tmp_path), staging, manifest)
    (run,) = list_runs(opened(tmp_path))
    assert run.problems() == []
    assert ".DS_Store was not planned and is deleted" in caplog.text


def test_a_folder_that_cannot_be_looked_through_is_not_taken_for_unplanned_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanning = os.scandir

    def scan(path: Any) -> Any:
        if str(path).endswith("predictions"):
            raise OSError(5, "Input/output error", path)
        return scanning(path)

    with staged(tmp_path, WHO) as (staging, manifest):
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scan)
            with pytest.raises(StoreError, match=r"cannot look through .*: Input/output"):
                commit(opened(tmp_path), staging, manifest)
        assert commit(opened(tmp_path), staging, manifest)
    run = run_by_id(opened(tmp_path), WHO.run_id)
    assert run.problems() == []
    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(StoreError, match="cannot look through"):
        run.problems()


@pytest.mark.parametrize("path", FILES)
def test_a_run_is_not_published_with_a_staged_file_that_was_altered(path: str, tmp_path: Path) -> None:
    with staged(tmp_path, WHO) as (staging, manifest):
        flip_bit(files_in(staging) / path)
        with pytest.raises(DamagedError, match=f"{files_in(staging) / path}: expected sha256"):
            commit(opened(tmp_path), staging, manifest)
    assert list_runs(opened(tmp_path)) == []


def test_whoever_publishes_first_wins_and_the_other_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other publisher commits after we looked and before we rename.
    with staged(tmp_path, WHO, published_at=at(2)) as (mine, manifest):
        between, move = [], LocalStore.move

        def late(*how: Any) -> bool:
            monkeypatch.undo()
            with staged(tmp_path, WHO, published_at=at(1)) as (other, other_manifest):
                assert other.folder != mine.folder
                between.append(commit(opened(tmp_path), other, other_manifest))
            return move(*how)

        monkeypatch.setattr(LocalStore, "move", late)
        assert not commit(opened(tmp_path), mine, manifest)
    assert between == [True]
    assert run_by_id(opened(tmp_path), WHO.run_id).manifest().published_at == at(1)
    assert left_over(tmp_path) == []


def test_a_rename_that_reports_an_error_but_happened_is_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def lost_answer(self: Path, target: Path) -> Path:
        rename(self, target)
        raise OSError(5, "Input/output error")

    with staged(tmp_path, WHO) as (staging, manifest):
        monkeypatch.setattr(Path, "rename", lost_answer)
        assert commit(opened(tmp_path), staging, manifest)
    assert run_by_id(opened(tmp_path), WHO.run_id).problems() == []


def test_runs_cannot_be_published_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with (
        staged(tmp_path, WHO) as (staging, manifest),
        pytest.raises(StoreError, match=f"cannot move .* to {tmp_path}/runs/{WHO.run_id}: .*then run again"),
    ):
        commit(opened(tmp_path), staging, manifest)
