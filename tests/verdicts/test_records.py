import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import duckdb
import pandas as pd
import polars as pl
import pytest

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError, OutputsError
from mnist_pipeline.runs.layout import VERDICTS
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.tables import parquet
from mnist_pipeline.verdicts.records import (
    StagedVerdict,
    VerdictDocument,
    commit_verdict,
    find_verdict,
    newest_verdict,
    staged_verdict,
    verdict_id,
)
from tests.processes import run_at_once, start_together
from tests.published import (
    flip_bit,
    flip_rows,
    hashes,
    identity,
    on_disk,
    opened,
    publish_verdict,
    snapshot,
    verdict_document,
)

PROJECT = Path(__file__).parents[2]
RUN_ID = identity().run_id
CONTENT = RunContent(RUN_ID, "0" * 64)
NAME = "0123456789ab"
GATES = {"alpha": 0.001, "min_images": None, "digit_accuracy": {3: 0.9}}


def at(day: int) -> datetime:
    return datetime(2026, 2, day, tzinfo=UTC)


def folder_of(outputs: Path, name: str = NAME) -> Path:
    return outputs / VERDICTS / RUN_ID / name


def left(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / ".staging").iterdir())


# Its name


def content(run_id: str, sha256: str | None = "1") -> RunContent:
    return RunContent(run_id, sha256)


def test_the_name_of_a_verdict_stays_what_it_was() -> None:
    # Golden: published verdicts carry it. Made by: the first 12 digits of the sha256 of
    # json.dumps({"gates": ..., "references": ..., "run": ...}, sort_keys=True, separators=(",", ":")).
    assert verdict_id(content("run"), {"baseline": content("other", None)}, GATES) == "a125b3cf2c56"


def test_the_name_of_a_verdict_changes_with_the_run_the_references_and_the_gates() -> None:
    run, a, b = content("run"), content("a"), content("b")
    names = [
        verdict_id(run, {"baseline": a, "last passed": b}, GATES),
        verdict_id(content("other"), {"baseline": a, "last passed": b}, GATES),
        verdict_id(content("run", "2"), {"baseline": a, "last passed": b}, GATES),
        verdict_id(run, {"baseline": b, "last passed": a}, GATES),
        verdict_id(run, {"baseline": a}, GATES),
        verdict_id(run, {"baseline": content("a", None)}, GATES),
        verdict_id(run, {}, GATES),
        verdict_id(run, {}, GATES | {"alpha": 0.002}),
        verdict_id(run, {}, GATES | {"digit_accuracy": {}}),
        verdict_id(run, {}, GATES | {"min_images": 0}),
    ]
    assert len(set(names)) == len(names)
    assert verdict_id(run, {"last passed": b, "baseline": a}, dict(reversed(GATES.items()))) == names[0]


def test_a_verdict_on_a_run_that_was_made_again_otherwise_is_none_on_it_as_it_is_now(tmp_path: Path) -> None:
    publish_verdict(tmp_path, RUN_ID, NAME)
    assert newest_verdict(opened(tmp_path), CONTENT) is not None
    assert newest_verdict(opened(tmp_path), content(RUN_ID, "2" * 64)) is None


# Publishing and finding


def test_a_verdict_becomes_visible_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert find_verdict(opened(tmp_path), RUN_ID, NAME) is None
    assert newest_verdict(opened(tmp_path), CONTENT) is None
    rows = flip_rows(RUN_ID, NAME, 0, 7)
    with staged_verdict(opened(tmp_path), RUN_ID, NAME) as staged:
        with staged.writer(tables.FLIPS) as writer:
            writer.append(rows)
        staged.add(tables.GATES, tables.GATES.schema.empty_table())
        document = verdict_document(staged, RUN_ID, NAME)
        assert not (tmp_path / VERDICTS).exists()
        published = commit_verdict(opened(tmp_path), staged, document)
    assert sorted(hashes(tmp_path / VERDICTS)) == [
        f"{RUN_ID}/{NAME}/{name}" for name in ("flips.parquet", "gates.parquet", "verdict.json")
    ]
    assert left(tmp_path) == []
    assert published.document == document
    assert [(file.path, file.rows) for file in document.files] == [("flips.parquet", 7), ("gates.parquet", 0)]
    for found in (find_verdict(opened(tmp_path), RUN_ID, NAME), newest_verdict(opened(tmp_path), CONTENT)):
        assert found == published
        assert found is not None
        assert found.read(tables.FLIPS).equals(rows)
        assert found.read(tables.GATES).num_rows == 0


def test_the_same_verdict_again_leaves_the_first_untouched_and_returns_it(tmp_path: Path) -> None:
    first = publish_verdict(tmp_path, RUN_ID, NAME, judged_at=at(2))
    before = snapshot(tmp_path)
    rows = flip_rows(RUN_ID, NAME, 0, 3)
    second = publish_verdict(tmp_path, RUN_ID, NAME, flips=[rows], outcome="fail", judged_at=at(3))
    assert second == first
    assert second.document.judged_at == at(2)
    assert snapshot(tmp_path) == before


def test_the_same_verdict_again_does_not_hide_that_the_first_is_damaged(tmp_path: Path) -> None:
    first = publish_verdict(tmp_path, RUN_ID, NAME)
    flip_bit(first.folder / "verdict.json")
    before = snapshot(tmp_path)
    with pytest.raises(DamagedError, match=rf"{first.folder}/verdict.json: expected a verdict"):
        publish_verdict(tmp_path, RUN_ID, NAME)
    assert snapshot(tmp_path) == before
    assert left(tmp_path) == []


def test_the_newest_verdict_is_the_one_judged_last(tmp_path: Path) -> None:
    for name, day in (("b" * 12, 2), ("a" * 12, 4), ("c" * 12, 3)):
        publish_verdict(tmp_path, RUN_ID, name, judged_at=at(day))
    publish_verdict(tmp_path, identity("2026-01-30").run_id, "d" * 12, judged_at=at(9))
    found = newest_verdict(opened(tmp_path), CONTENT)
    assert found is not None
    assert found.document.verdict_id == "a" * 12


def test_a_document_with_all_it_can_hold_comes_back(tmp_path: Path) -> None:
    with staged_verdict(opened(tmp_path), RUN_ID, NAME) as staged:
        reference = {
            "against": "baseline",
            "run_id": "other",
            "sha256": "5" * 64,
            "problem": None,
            "same_images": True,
            "same_labels": False,
            "same_weights": False,
            "changed": 3,
        }
        unknown = reference | {"sha256": None, "problem": "it is no longer published", "changed": None}
        document = VerdictDocument.model_validate(
            verdict_document(staged, RUN_ID, NAME, outcome="inconclusive").model_dump()
            | {"references": [reference, unknown]}
        )
        published = commit_verdict(opened(tmp_path), staged, document)
    assert published.document == document
    assert json.loads(on_disk(published.folder / "verdict.json").read_bytes())["references"] == [reference, unknown]


# Damage


def test_any_flipped_bit_of_the_document_is_damage(tmp_path: Path) -> None:
    path = on_disk(publish_verdict(tmp_path, RUN_ID, NAME).folder / "verdict.json")
    for position in range(0, path.stat().st_size, 7):
        flip_bit(path, position)
        with pytest.raises(DamagedError, match=rf"^{path}: expected a verdict"):
            find_verdict(opened(tmp_path), RUN_ID, NAME)
        flip_bit(path, position)
    assert find_verdict(opened(tmp_path), RUN_ID, NAME) is not None


def missing(folder: Path) -> None:
    (folder / "verdict.json").unlink()


def not_a_file(folder: Path) -> None:
    (folder / "verdict.json").unlink()
    (folder / "verdict.json").mkdir()


def another_run(folder: Path) -> None:
    other = publish_verdict(folder.parents[2], identity("2026-01-30").run_id, folder.name)
    shutil.copy(other.folder / "verdict.json", folder / "verdict.json")


def cut_short(folder: Path) -> None:
    (folder / "verdict.json").write_bytes((folder / "verdict.json").read_bytes()[:-2])


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (missing, "expected verdict.json, got none$"),
    (not_a_file, "expected verdict.json, got none$"),
    (another_run, f"expected the verdict of that name, got {identity('2026-01-30').run_id}/{NAME}"),
    (cut_short, r"expected a verdict, got a damaged file \("),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_verdict_without_its_document_is_damage(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    damage(on_disk(publish_verdict(tmp_path, RUN_ID, NAME).folder))
    with pytest.raises(DamagedError, match=rf"^{folder_of(tmp_path)}(/verdict.json)?: {message}"):
        find_verdict(opened(tmp_path), RUN_ID, NAME)


def test_a_renamed_verdict_is_damage(tmp_path: Path) -> None:
    on_disk(publish_verdict(tmp_path, RUN_ID, NAME).folder).rename(folder_of(tmp_path, "f" * 12))
    with pytest.raises(DamagedError, match=f"f{{12}}: expected the verdict of that name, got {RUN_ID}/{NAME}"):
        find_verdict(opened(tmp_path), RUN_ID, "f" * 12)


@pytest.mark.parametrize("damage", [damage for damage, _ in DAMAGES])
def test_the_newest_verdict_passes_damaged_ones_over_with_a_warning(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = publish_verdict(tmp_path, RUN_ID, "a" * 12, judged_at=at(2))
    damaged = publish_verdict(tmp_path, RUN_ID, NAME, judged_at=at(3))
    damage(on_disk(damaged.folder))
    assert newest_verdict(opened(tmp_path), CONTENT) == sound
    (warning,) = caplog.records
    assert warning.getMessage().startswith(f"left out: {damaged.folder}")
    shutil.rmtree(sound.folder)
    assert newest_verdict(opened(tmp_path), CONTENT) is None


def test_a_stray_file_beside_verdicts_is_no_verdict_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = publish_verdict(tmp_path, RUN_ID, NAME)
    on_disk(sound.folder.parent / ".DS_Store").write_text("rubbish")
    assert find_verdict(opened(tmp_path), RUN_ID, ".DS_Store") is None
    assert newest_verdict(opened(tmp_path), CONTENT) == sound
    assert not caplog.records


def test_a_file_in_the_place_of_a_verdict_stays_and_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with pytest.raises(OutputsError, match=rf"^cannot move .* to {folder}: .*; a file is where a folder is expected"):
        publish_verdict(tmp_path, RUN_ID, NAME)
    assert folder.read_text() == "in the way"
    assert left(tmp_path) == []


@pytest.mark.parametrize("table", [tables.FLIPS, tables.GATES, tables.COMPARISON], ids=lambda table: table.name)
def test_a_damaged_table_of_a_verdict_is_refused(table: tables.Table, tmp_path: Path) -> None:
    verdict = publish_verdict(tmp_path, RUN_ID, NAME)
    path = verdict.folder / f"{table.name}.parquet"
    flip_bit(path)
    with pytest.raises(DamagedError, match=rf"^{path}: expected sha256 .*; the file was altered after it was publish"):
        verdict.read(table)
    on_disk(path).unlink()
    with pytest.raises(DamagedError, match=rf"^{path}: expected \d+ bytes, got no file"):
        verdict.read(table)


def test_a_table_that_a_verdict_does_not_have_is_said_to_be_missing(tmp_path: Path) -> None:
    verdict = publish_verdict(tmp_path, RUN_ID, NAME)
    with pytest.raises(DamagedError, match=rf"^{verdict.folder}: expected a summary table, got none in its document"):
        verdict.read(tables.SUMMARY)


# Attempts that end badly


class StopError(Exception):
    """What goes wrong in these tests."""


def fail_in_writer(staged: StagedVerdict) -> None:
    with staged.writer(tables.FLIPS) as writer:
        writer.append(flip_rows(RUN_ID, NAME, 0, 5))
        raise StopError


def fail_after_tables(staged: StagedVerdict) -> None:
    staged.add(tables.GATES, tables.GATES.schema.empty_table())
    staged.add(tables.SUMMARY, tables.SUMMARY.schema.empty_table())
    raise StopError


@pytest.mark.parametrize("fail", [fail_in_writer, fail_after_tables])
def test_a_failed_attempt_leaves_nothing_and_the_next_one_works(
    fail: Callable[[StagedVerdict], None], tmp_path: Path
) -> None:
    with pytest.raises(StopError), staged_verdict(opened(tmp_path), RUN_ID, NAME) as staged:
        fail(staged)
    assert not (tmp_path / VERDICTS).exists()
    assert left(tmp_path) == []
    assert newest_verdict(opened(tmp_path), CONTENT) is None
    verdict = publish_verdict(tmp_path, RUN_ID, NAME)
    assert sorted(hashes(verdict.folder)) == ["comparison.parquet", "flips.parquet", "gates.parquet", "verdict.json"]
    assert verdict.read(tables.FLIPS).num_rows == 0


def test_a_table_whose_writing_failed_has_no_record(tmp_path: Path) -> None:
    with staged_verdict(opened(tmp_path), RUN_ID, NAME) as staged:
        with pytest.raises(StopError):
            fail_in_writer(staged)
        assert staged.files == []


def test_what_a_killed_attempt_left_does_not_get_into_the_next_verdict(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pathlib import Path
        from mnist_pipeline import tables
        from mnist_pipeline.verdicts.records import staged_verdict
        from tests.published import flip_rows, opened
        outputs, run_id, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        with staged_verdict(opened(outputs), run_id, name) as staged:
            staged.add(tables.SUMMARY, tables.SUMMARY.schema.empty_table())
            with staged.writer(tables.FLIPS) as writer:
                writer.append(flip_rows(run_id, name, 0, 5))
                os.kill(os.getpid(), 9)
    """
    scratch = {"TMPDIR": str(tmp_path)}  # a killed writer leaves its temporary folder
    words = [sys.executable, "-c", code, str(tmp_path), RUN_ID, NAME]
    killed = subprocess.run(words, cwd=PROJECT, env=os.environ | scratch, timeout=60)
    assert killed.returncode == -9
    (work,) = (tmp_path / ".staging").glob("*/run")
    assert [path.name for path in work.iterdir()] == ["summary.parquet"]
    assert find_verdict(opened(tmp_path), RUN_ID, NAME) is None
    verdict = publish_verdict(tmp_path, RUN_ID, NAME)
    assert sorted(hashes(verdict.folder)) == ["comparison.parquet", "flips.parquet", "gates.parquet", "verdict.json"]
    assert verdict.read(tables.FLIPS).num_rows == 0
    assert left(tmp_path) == []


def test_outputs_that_cannot_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / VERDICTS).write_text("in the way")
    with pytest.raises(OutputsError, match=r"^cannot move .*; a file is where a folder is expected"):
        publish_verdict(tmp_path, RUN_ID, NAME)
    assert left(tmp_path) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputsError, match=r"^cannot lock .*file/\.staging/.*: "),
        staged_verdict(opened(tmp_path / "file"), RUN_ID, NAME),
    ):
        raise AssertionError("not reached")


# At the same time


def test_a_second_attempt_at_the_same_time_has_a_folder_of_its_own_and_the_first_verdict_stands(
    tmp_path: Path,
) -> None:
    with staged_verdict(opened(tmp_path), RUN_ID, NAME) as one, staged_verdict(opened(tmp_path), RUN_ID, NAME) as two:
        assert one.staging.folder != two.staging.folder
        two.add(tables.GATES, tables.GATES.schema.empty_table())
        first = commit_verdict(opened(tmp_path), two, verdict_document(two, RUN_ID, NAME, outcome="fail"))
        before = snapshot(tmp_path / VERDICTS)
        assert commit_verdict(opened(tmp_path), one, verdict_document(one, RUN_ID, NAME, outcome="pass")) == first
        assert snapshot(tmp_path / VERDICTS) == before
    assert first.document.outcome == "fail"
    assert left(tmp_path) == []


def test_threads_that_judge_the_same_at_once_agree_on_one_verdict(tmp_path: Path) -> None:
    together = Barrier(6)

    def judge(day: int) -> tuple[datetime, int]:
        together.wait(60)
        verdict = publish_verdict(tmp_path, RUN_ID, NAME, flips=[flip_rows(RUN_ID, NAME, 0, day)], judged_at=at(day))
        return verdict.document.judged_at, verdict.read(tables.FLIPS).num_rows

    with ThreadPoolExecutor(6) as pool:
        (only,) = set(pool.map(judge, range(1, 7)))
    assert only[0] == at(only[1])  # its tables are its own
    assert left(tmp_path) == []


def judge_with_others(outputs: Path, day: int) -> tuple[int, int]:
    rows = [flip_rows(RUN_ID, NAME, 0, day)]
    start_together()
    verdict = publish_verdict(outputs, RUN_ID, NAME, flips=rows, judged_at=at(day))
    return verdict.document.judged_at.day, verdict.read(tables.FLIPS).num_rows


def test_processes_that_judge_the_same_at_once_agree_on_one_verdict(tmp_path: Path) -> None:
    ((day, rows),) = set(run_at_once(judge_with_others, [(tmp_path, day) for day in range(1, 5)]))
    assert day == rows
    assert left(tmp_path) == []
    assert list((tmp_path / VERDICTS / RUN_ID).iterdir()) == [folder_of(tmp_path)]


# Tables of any size

AT_ONCE = 100  # rows that are written at once


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [1], [AT_ONCE + 1], [40, 0, 70, 3, 99]],
    ids=["none appended", "empty", "one", "more than one writing", "several"],
)
def test_flips_of_any_number_read_back_right_by_every_reader(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "WRITTEN_AT_ONCE", AT_ONCE)
    edges = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
    checkpoints = [flip_rows(RUN_ID, NAME, first, rows) for first, rows in zip(edges, sizes, strict=False)]
    verdict = publish_verdict(tmp_path, RUN_ID, NAME, flips=checkpoints)
    path = verdict.folder / "flips.parquet"
    (file,) = [file for file in verdict.document.files if file.path == "flips.parquet"]
    assert file.rows == edges[-1]
    whole = verdict.read(tables.FLIPS)
    assert whole.schema.equals(tables.FLIPS.schema, check_metadata=True)
    frame = pd.read_parquet(path)
    expected = flip_rows(RUN_ID, NAME, 0, edges[-1]).drop_columns("reference_run_id").to_pandas()
    pd.testing.assert_frame_equal(
        frame.drop(columns="reference_run_id"), expected, check_dtype=False, check_categorical=False
    )
    assert [str(frame[name].dtype) for name in ("label", "now", "direction")] == ["Int8", "int8", "category"]
    references = [f"reference-{first}" for first, rows in zip(edges, sizes, strict=False) for _ in range(rows)]
    assert frame["reference_run_id"].tolist() == whole["reference_run_id"].to_pylist() == references
    lazy = pl.read_parquet(on_disk(path))
    assert lazy["image_id"].to_list() == list(range(edges[-1]))
    assert lazy["reference_run_id"].to_list() == references
    assert lazy["direction"].to_list() == frame["direction"].tolist()
    query = "select count(*), count(distinct image_id), count(*) filter (direction = 'lost'), sum(now) from '{}'"
    counted = duckdb.connect().sql(query.format(path)).fetchall()
    assert counted == [
        (edges[-1], edges[-1], -(-edges[-1] // 3), None if frame.empty else int(frame["now"].astype("int64").sum()))
    ]
