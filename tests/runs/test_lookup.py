import json
import re
import shutil
from pathlib import Path

import pytest

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError, RunNotFoundError
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.manifest import Manifest
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.publishing import commit
from mnist_pipeline.store import files as module_of_files
from mnist_pipeline.store.opening import open_store
from tests.published import FILES, flip_bit, identity, on_disk, opened, publish_run, staged
from tests.stores import FaultyStore

WHO = identity()


# Listing and finding


def test_runs_are_listed_by_date_and_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    assert list_runs(opened(tmp_path)) == []
    dates = ["2026-01-31", "2025-12-01", "2026-01-02"]
    for run_date in dates:
        publish_run(tmp_path, identity(run_date))
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / identity("2026-01-05").run_id).write_text("a file")
    (tmp_path / "runs" / f"{WHO.run_id}.old").mkdir()
    assert [str(run.name.run_date) for run in list_runs(opened(tmp_path))] == sorted(dates)


# Verifying and reading


@pytest.mark.parametrize("path", FILES)
def test_any_flipped_bit_of_any_file_is_found(path: str, tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    size = on_disk(run.folder / path).stat().st_size
    for position in {0, 5, size // 3, size // 2, size - 20, size - 1}:
        flip_bit(run.folder / path, position)
        (problem,) = run.problems()
        assert problem.startswith(f"{run.folder / path}: expected sha256 ")
        flip_bit(run.folder / path, position)
    assert run.problems() == []


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    flip_bit(run.folder / "manifest.json")
    (problem,) = run.problems()
    assert problem.startswith(f"{run.folder / 'manifest.json'}: expected ")


def test_a_missing_manifest_is_found(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    path = on_disk(run.folder) / "manifest.json"
    path.unlink()
    assert run.problems() == [f"{path}: expected a manifest, got no file"]
    path.mkdir()
    assert run.problems() == [f"{path}: expected a manifest, got no file"]


def test_the_manifest_of_another_run_is_found(tmp_path: Path) -> None:
    one, other = publish_run(tmp_path, WHO), publish_run(tmp_path, identity("2026-01-30"))
    shutil.copy(other.folder / "manifest.json", one.folder / "manifest.json")
    with pytest.raises(DamagedError, match=f"expected the manifest of {one.name.run_id}, got {other.name.run_id}'s"):
        one.manifest()


def test_a_renamed_run_is_found(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    on_disk(run.folder).rename(run.folder.with_name(identity("2026-01-30").run_id))
    (problem,) = list_runs(opened(tmp_path))[0].problems()
    assert f"expected the manifest of {identity('2026-01-30').run_id}, got {WHO.run_id}'s" in problem


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    folder = on_disk(run.folder)
    (folder / FILES[0]).unlink()
    (folder / FILES[1]).write_bytes(b"short")
    (folder / "predictions" / "more.parquet").write_bytes(b"")
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("")
    found = [problem.removeprefix(f"{run.folder}/") for problem in run.problems()]
    assert len(found) == 4
    assert re.match(rf"{FILES[0]}: expected \d+ bytes, got no file$", found[0])
    assert re.match(rf"{FILES[1]}: expected \d+ bytes, got 5; the file was altered after it was published", found[1])
    assert found[2:] == ["notes/todo.txt: expected no such file", "predictions/more.parquet: expected no such file"]


def test_tables_are_read_whole_and_in_image_order(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    predictions = run.read(tables.PREDICTIONS)
    assert predictions["image_id"].to_pylist() == list(range(12))
    assert predictions.schema.equals(tables.PREDICTIONS.schema)
    assert run.read(tables.PREDICTIONS, ["prediction"]).column_names == ["prediction"]
    assert run.read(tables.SUMMARY)["digit"].to_pylist() == list(range(10))
    assert run.read(tables.CONFUSION).num_rows == 100


def test_a_damaged_table_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    flip_bit(run.folder / FILES[1])
    with pytest.raises(DamagedError, match=r"part-00001.parquet: expected sha256 .*altered after it was published"):
        run.read(tables.PREDICTIONS)
    assert run.read(tables.SUMMARY).num_rows == 10


def test_the_manifest_lists_every_file_with_its_rows(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    data = (on_disk(run.folder) / "manifest.json").read_bytes()
    document = json.loads(data)
    assert [(file["path"], file["rows"]) for file in document["files"]] == list(
        zip(FILES, [5, 5, 2, 10, 100, 15, 680], strict=True)
    )
    assert Manifest.from_bytes(data, "x") == run.manifest()


def test_a_table_is_read_file_by_file_and_only_a_few_before_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_of_files, "PREFETCHED", 2)
    publish_run(tmp_path, WHO)
    counting = FaultyStore(open_store(tmp_path))
    run = run_by_id(Outputs(counting), WHO.run_id)

    def read() -> set[str]:
        names = {name.removeprefix(f"runs/{WHO.run_id}/") for operation, name in counting.calls if operation == "read"}
        return {name for name in names if name.endswith(".parquet")}

    tables_read = run.read_files(tables.PREDICTIONS, ["image_id"])
    assert read() == set()
    for place, ids in enumerate([range(5), range(5, 10), range(10, 12)]):
        assert next(tables_read)["image_id"].to_pylist() == list(ids)
        assert set(FILES[: place + 1]) <= read() <= set(FILES[: place + 2])
    assert list(tables_read) == []


def test_a_table_that_the_manifest_does_not_list_is_said_to_be_missing(tmp_path: Path) -> None:
    with staged(tmp_path, WHO) as (staging, manifest):  # as a version did that had no such table
        files = tuple(file for file in manifest.files if file.path != "reliability.parquet")
        assert commit(opened(tmp_path), staging, manifest.model_copy(update={"files": files}))
    (run,) = list_runs(opened(tmp_path))
    assert run.problems() == []
    with pytest.raises(DamagedError, match=f"run {WHO.run_id}: expected a reliability table, got none in its manifest"):
        run.read(tables.RELIABILITY)
    with pytest.raises(DamagedError, match="expected a reliability table"):
        list(run.read_files(tables.RELIABILITY))


def test_a_run_is_found_by_exactly_its_id(tmp_path: Path) -> None:
    run = publish_run(tmp_path, WHO)
    assert run_by_id(opened(tmp_path), WHO.run_id) == run
    other = identity("2026-01-30").run_id
    (tmp_path / "runs" / other).write_text("a file")
    for which in (other, "latest", "2026-01-31", "", f"../runs/{WHO.run_id}"):
        with pytest.raises(RunNotFoundError, match=rf"run {which}: expected it in {tmp_path}/runs, got none; was it m"):
            run_by_id(opened(tmp_path), which)
