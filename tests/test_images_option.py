"""Whole runs over images that other tools wrote as Parquet, judged by runs over the same images as IDX files."""

from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from mnist_pipeline import tables
from mnist_pipeline.cli import app
from mnist_pipeline.core.images import AS_GIVEN_VERSION, TRANSFORM_VERSION, as_bytes
from mnist_pipeline.datasets import shards
from mnist_pipeline.datasets.formats import files
from mnist_pipeline.datasets.formats.tabular import parquet
from mnist_pipeline.errors import DataError, ImagesError, LabelError, PipelineError, SettingsError
from mnist_pipeline.orchestration.doctor import run_checks
from mnist_pipeline.orchestration.scheduled import Due
from mnist_pipeline.pipeline import evaluation, inputs, planning
from mnist_pipeline.runs.lookup import list_runs
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings, load_settings
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.weights.files import encode_weights
from tests.builders import random_images, random_labels
from tests.parquet_files import FORMS, as_numbers, column, decoded_rows, write
from tests.pipeline.test_evaluation import NETWORK, toy
from tests.published import flip_bit, identity, left_over, on_disk, opened, publish_run, snapshot

ROWS = 25
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
RUN_DATE = "2026-01-31"


def of_parquet(tmp_path: Path, images: Path, **changes: Any) -> Settings:
    """Settings for the data set "mine" in shards of 10, like those of `toy`."""
    weights = tmp_path / "random.safetensors"
    weights.write_bytes(encode_weights(NETWORK))
    given: dict[str, Any] = {
        "dataset": "mine",
        "images": images,
        "run_date": RUN_DATE,
        "cache": tmp_path / "cache",
        "outputs": tmp_path / "outputs",
        "weights": weights,
        "shard_rows": 10,
        "batch_rows": 4,
        "workers": 2,
    }
    return load_settings(configured=given | changes, **(given | changes))


def published(settings: Settings) -> Run:
    return find_run(opened(settings.outputs), evaluation.evaluate(settings).run_id, settings.dataset, settings.split)


def predictions(run: Run) -> pa.Table:
    return run.read(tables.PREDICTIONS).drop_columns(["run_id", "dataset"])


@pytest.fixture(scope="module")
def of_idx(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The predictions for the same images as IDX files."""
    return predictions(published(toy(tmp_path_factory.mktemp("idx"))))


# The same digits


@settings(max_examples=25)
@given(
    form=st.sampled_from(FORMS),
    numbers=st.sampled_from(["uint8", "float32"]),
    edges=st.sets(st.integers(0, ROWS), max_size=3),
    group_rows=st.integers(1, ROWS + 1),
    at_once=st.integers(1, ROWS + 1),
    labelled=st.booleans(),
)
def test_a_copy_in_parquet_gives_the_digits_of_the_idx_files(
    form: str,
    numbers: str,
    edges: set[int],
    group_rows: int,
    at_once: int,
    labelled: bool,
    of_idx: pa.Table,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("copy")
    stored = as_numbers(IMAGES, numbers)
    for start, stop in pairwise(sorted(edges | {0, ROWS})):
        rows = slice(start, stop)
        labels = LABELS[rows] if labelled else None
        write(folder / "images" / f"{start:02d}.parquet", column(stored[rows], form), labels, row_group_size=group_rows)
    paths = list((folder / "images").iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "DECODED_AT_ONCE", at_once)
        patch.setattr(files, "ENTRY_SPACING", 1)
        run = published(of_parquet(folder, paths[0] if len(paths) == 1 else folder / "images"))
    found = predictions(run)
    of_labels = ["label", "correct"]
    assert found.drop_columns(of_labels).equals(of_idx.drop_columns(of_labels))  # to the last bit
    if labelled:
        assert found.equals(of_idx)
    else:
        assert found["label"].null_count == found["correct"].null_count == ROWS
        assert run.manifest().totals.accuracy is None


def test_a_copy_as_bytes_gives_the_very_shards_of_the_idx_files(tmp_path: Path) -> None:
    copy = write(tmp_path / "a.parquet", column(IMAGES), LABELS)
    found = []
    for each in (toy(tmp_path), of_parquet(tmp_path, copy)):
        evaluation.evaluate(each)
        found.append(
            [path.read_bytes() for path in sorted(on_disk(each.outputs).glob(f"shards/{each.dataset}-*/images/*"))]
        )
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_our_own_shards_can_be_evaluated_like_any_other_folder(tmp_path: Path, of_idx: pa.Table) -> None:
    evaluation.evaluate(toy(tmp_path))
    (folder,) = tmp_path.glob("outputs/shards/*/images")
    assert predictions(published(of_parquet(tmp_path, folder))).equals(of_idx)


# Who a run is


def test_a_run_is_named_after_the_bytes_of_its_files_and_how_its_pixels_are_taken(tmp_path: Path) -> None:
    variants = {
        "bytes": write(tmp_path / "bytes.parquet", column(IMAGES), LABELS),
        "floats": write(tmp_path / "floats.parquet", column(as_numbers(IMAGES, "float32")), LABELS),
        "no labels": write(tmp_path / "bare.parquet", column(IMAGES)),
        "folder": write(tmp_path / "folder" / "bytes.parquet", column(IMAGES), LABELS).parent,
    }
    who = {}
    for name, path in variants.items():
        given = of_parquet(tmp_path, path)
        who[name] = planning.make_plan(given, inputs.open_images(given)).identity
    assert len({identity.run_id for identity in who.values()}) == len(variants)
    versions = {name: identity.transform_version for name, identity in who.items()}
    assert versions == dict.fromkeys(variants, TRANSFORM_VERSION) | {"floats": AS_GIVEN_VERSION}
    assert {name: identity.labels_sha256 for name, identity in who.items()} == {
        name: None if name == "no labels" else identity.images_sha256 for name, identity in who.items()
    }


def test_the_same_night_again_publishes_nothing_new_and_another_night_reuses_the_shards(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES), LABELS)
    assert evaluation.evaluate(of_parquet(tmp_path, path)).new
    before = snapshot(tmp_path / "outputs" / "shards")
    assert not evaluation.evaluate(of_parquet(tmp_path, path)).new
    assert evaluation.evaluate(of_parquet(tmp_path, path, run_date="2026-01-30")).new
    assert snapshot(tmp_path / "outputs" / "shards") == before
    assert left_over(tmp_path / "outputs") == []


@pytest.mark.parametrize("numbers", ["uint8", "float32"])
def test_the_pictures_of_a_run_are_found_by_its_identity(numbers: str, tmp_path: Path) -> None:
    run = published(of_parquet(tmp_path, write(tmp_path / "a.parquet", column(as_numbers(IMAGES, numbers)), LABELS)))
    who = run.manifest().identity
    pictures = shards.read_selected(opened(tmp_path / "outputs").shard_set(who, who.shard_rows), who, range(ROWS))
    np.testing.assert_array_equal(as_bytes(np.stack([pictures[row] for row in range(ROWS)])), IMAGES)


# Sharing out the building


def build_groups(tmp_path: Path, rows: int, group_rows: int, **changes: Any) -> list[list[int]]:
    path = tmp_path / "images.parquet"
    write(path, column(np.zeros((rows, 28, 28), np.uint8)), row_group_size=group_rows)
    given = of_parquet(tmp_path, path, **({"shard_rows": 100, "max_tasks": 6} | changes))
    plan = planning.make_plan(given, inputs.open_images(given))
    assert len(plan.groups) == 6  # the network's work is shared out whatever the files are like
    return [[shard.index for shard in group.shards] for group in plan.build_groups]


def test_one_large_row_group_is_built_by_one_task(tmp_path: Path) -> None:
    assert build_groups(tmp_path, 1200, 1200) == [list(range(12))]


def test_a_task_that_builds_begins_in_a_row_group_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ENTRY_SPACING", 1)
    assert build_groups(tmp_path, 1200, 650) == [list(range(7)), list(range(7, 12))]
    assert build_groups(tmp_path, 1200, 50) == [[2 * k, 2 * k + 1] for k in range(6)]
    assert build_groups(tmp_path, 1200, 1) == [[2 * k, 2 * k + 1] for k in range(6)]


@pytest.mark.parametrize("group_rows", [1, 7, 30, 64, 1000])
def test_a_task_that_builds_decodes_less_than_a_shard_in_vain(
    group_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ENTRY_SPACING", 1)
    monkeypatch.setattr(parquet, "DECODED_AT_ONCE", 1)
    path = write(tmp_path / "a.parquet", column(random_images(200)), row_group_size=group_rows)
    given = of_parquet(tmp_path, path, max_tasks=10)
    plan = planning.make_plan(given, inputs.open_images(given))
    for group in plan.build_groups:
        decoded = decoded_rows(lambda group=group: evaluation.build_shards(plan, group), monkeypatch)  # type: ignore[misc]
        assert group.rows <= decoded < group.rows + given.shard_rows


# Refusals


def with_(images: NDArray[Any], where: tuple[int, ...], value: float) -> NDArray[Any]:
    changed = images.copy()
    changed[where] = value
    return changed


def nan(path: Path) -> None:
    write(path, column(with_(as_numbers(IMAGES, "float32"), (15, 0, 0), np.nan)), LABELS)


def bad_label(path: Path) -> None:
    write(path, column(IMAGES), with_(LABELS, (15,), 10))


def short_list(path: Path) -> None:
    lists = IMAGES.reshape(ROWS, -1).tolist()
    lists[15] = lists[15][:-1]
    write(path, pa.array(lists, pa.list_(pa.uint8())), LABELS)


def torn(path: Path) -> None:
    write(path, column(IMAGES), LABELS, use_dictionary=False, compression="none", write_page_checksum=True)
    flip_bit(path, 18 * 784)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (nan, ImagesError, r"a.parquet: row 15: expected pixels in 0..1, got nan at pixel 0"),
        (bad_label, LabelError, "a.parquet: row 15: expected a label 0-9, got 10"),
        (short_list, ImagesError, "a.parquet: row 15: expected 784 pixels, got a list of 783"),
        (torn, DataError, "a.parquet: expected a whole Parquet file, got "),
    ],
)
def test_images_that_are_refused_publish_nothing_and_fixed_ones_do(
    spoil: Callable[[Path], None], error: type[PipelineError], message: str, tmp_path: Path, of_idx: pa.Table
) -> None:
    path = tmp_path / "a.parquet"
    spoil(path)
    given = of_parquet(tmp_path, path)
    for _ in range(2):  # and no better the second time
        with pytest.raises(error, match=message):
            evaluation.evaluate(given)
        assert list_runs(opened(given.outputs)) == []
        assert {path.name for path in on_disk(given.outputs).glob("shards/*/images/*")} <= {"part-00000.parquet"}
    write(path, column(IMAGES), LABELS)
    assert predictions(published(given)).equals(of_idx)


def test_a_file_changed_between_hashing_and_building_leaves_no_shard_under_its_hash(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES), LABELS)
    given = of_parquet(tmp_path, path)
    plan = planning.make_plan(given, inputs.open_images(given))
    write(path, column(IMAGES[::-1]), LABELS)
    for group in plan.build_groups:
        with pytest.raises(DataError, match="expected the file that was verified, got one changed since"):
            evaluation.build_shards(plan, group)
    assert not list(tmp_path.glob("outputs/shards/*/images/*"))


# The command


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of images in it, and shards of 10."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_PIPELINE_SHARD_ROWS", "10")
    monkeypatch.setenv("MNIST_PIPELINE_CACHE", "cache")
    write(tmp_path / "mine.parquet", column(as_numbers(IMAGES, "float32"), "nested list"), LABELS)
    return tmp_path


MINE = ("--dataset", "mine")


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def run(*words: str) -> Result:
    return command("run", "--direct", "--run-date", RUN_DATE, *words)


def test_a_run_over_parquet_is_shown_reported_verified_and_compared_like_any_other(home: Path) -> None:
    result = run(*MINE, "--images", "mine.parquet")
    assert result.exit_code == 0, result.output
    assert "of 25)" in result.stdout
    (page,) = home.glob("outputs/reports/*-mine-test-*.html")
    assert page.read_text().count("data:image/png") >= 2
    page.unlink()
    for words in (["show"], ["report"], ["compare", "latest", "latest"]):
        done = command(*words, *MINE)
        assert done.exit_code == 0, done.output
    assert page.is_file()
    assert command("verify").exit_code == 0


def test_images_of_parquet_are_drawn(home: Path) -> None:
    result = command("images", *MINE, "--images", "mine.parquet", "--start", "3", "--count", "2")
    assert result.exit_code == 0, result.output
    assert "#3 " in result.stdout
    assert "#4 " in result.stdout
    assert command("images", *MINE, "--images", "mine.parquet", "--wrong", "--save", "grid.png").exit_code == 0
    assert (home / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_weights_can_be_promoted_by_images_of_parquet(home: Path) -> None:
    (home / "random.safetensors").write_bytes(encode_weights(NETWORK))
    run(*MINE, "--images", "mine.parquet")
    result = command("promote", "random.safetensors", "--force", *MINE, "--images", "mine.parquet")
    assert result.exit_code == 0, result.output
    assert "promoted: " in result.stdout


def test_a_folder_set_in_the_environment_is_read_every_night_and_never_trained_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine.parquet").rename(home / "a.parquet")
    monkeypatch.setenv("MNIST_PIPELINE_IMAGES", str(home))
    monkeypatch.setenv("MNIST_PIPELINE_DATASET", "mine")
    assert run().exit_code == 0
    assert command("backfill", "--from", "2026-01-30", "--to", RUN_DATE, "--direct").exit_code == 0
    assert len(list_runs(opened(home / "outputs"))) == 2
    for words in (["fetch"], ["train", "--direct"]):
        result = command(*words)
        assert result.exit_code == 2
        assert "expected none here, where IDX files are read" in result.stderr


def test_the_doctor_says_of_which_missing_nights_the_data_is_there(tmp_path: Path) -> None:
    settings = of_parquet(tmp_path, tmp_path / "{run_date}")
    publish_run(settings.outputs, identity("2026-01-28", dataset="mine"))
    (tmp_path / "2026-01-30").mkdir()
    (tmp_path / "2026-01-30" / "a.parquet").touch()
    (finding,) = run_checks._recent_run_dates(Due(settings, tuple(date(2026, 1, day) for day in (28, 29, 30))))
    there, absent = finding.found.split("; ")[1:]
    assert there == "2026-01-30: no run that counts, and its data is there"
    assert absent == f"2026-01-29: no data at {tmp_path}/2026-01-29 (images)"


def test_the_doctor_asks_for_no_cache_where_images_are_given(tmp_path: Path) -> None:
    (finding,) = run_checks._cache(of_parquet(tmp_path, tmp_path / "mine"))
    assert (finding.healthy, finding.found) == (None, f"none needed: the images come from {tmp_path}/mine")
    with pytest.raises(SettingsError, match="expected a data set of their own, got mnist"):
        list(run_checks._cache(of_parquet(tmp_path, tmp_path / "mine", dataset="mnist")))


REFUSALS = [
    (["--images", "mine.parquet"], 2, "got mnist, whose files the config pins; name it with --dataset NAME"),
    ([*MINE, "--images", "mine.parquet", "--data-dir", "."], 2, "expected no --data-dir beside it, got "),
    ([*MINE, "--images", "nowhere"], 3, "nowhere (images): expected that of 2026-01-31, got nothing there"),
    ([*MINE, "--images", "empty"], 3, "empty (images): expected that of 2026-01-31, got nothing there"),
    ([*MINE, "--images", "text"], 3, "text: expected a whole Parquet file, got "),
    ([*MINE, "--images", "columns.parquet"], 3, "expected one column of images: lists of 784"),
    (
        [*MINE, "--images", "large.parquet"],
        3,
        "row 2: expected pixels in 0..1, got 255.0 at pixel 0; pixels of 0..255 need --pixel-scale 255",
    ),
]


@pytest.mark.parametrize(("words", "exit_code", "message"), REFUSALS, ids=[case[2][:40] for case in REFUSALS])
def test_bad_images_are_one_message_an_exit_code_and_nothing_published(
    home: Path, words: list[str], exit_code: int, message: str
) -> None:
    (home / "empty").mkdir()
    (home / "text").write_text("not Parquet")
    pq.write_table(pa.table({"a": [1]}), home / "columns.parquet")
    write(home / "large.parquet", column(with_(as_numbers(IMAGES, "float32"), (2, 0, 0), 255)))
    result = run(*words)
    assert result.exit_code == exit_code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list_runs(opened(home / "outputs")) == []
