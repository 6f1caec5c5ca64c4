"""Images selected from published runs: wrong ones, changed ones, with and without what was pruned."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnist_pipeline.errors import DamagedError, LabelError, PrunedError, RunNotFoundError, SettingsError
from mnist_pipeline.pipeline.examples import Selection, Wanted, select, select_changed, with_pixels
from mnist_pipeline.runs.run import Run
from mnist_pipeline.store.files import read_expected
from tests.builders import make_split, random_images
from tests.pipeline.test_reporting import ROWS, frame, night
from tests.published import give_up


def ids(selected: Selection) -> list[int]:
    return [picture.image_id for picture in selected.pictures]


def ranked(rows: pd.DataFrame) -> list[int]:
    found: list[int] = rows.sort_values(["confidence", "image_id"], ascending=[False, True])["image_id"].tolist()
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two nights of different weights over the same images; the second is judged against the first."""
    folder = tmp_path_factory.mktemp("two")
    return night(folder, "2026-01-30"), night(folder, seed=3)


@pytest.mark.parametrize(
    ("wanted", "query"),
    [
        (Wanted(), "image_id >= 0"),
        (Wanted(wrong=True), "~correct"),
        (Wanted(label=4), "label == 4"),
        (Wanted(prediction=8), "prediction == 8"),
        (Wanted(wrong=True, label=4, prediction=8), "label == 4 and prediction == 8"),
        (Wanted(wrong=True, label=8, prediction=8), "label == -1"),
        (Wanted(wrong=True, start=30), "~correct and image_id >= 30"),
    ],
)
def test_images_of_a_run_pass_all_filters_the_most_confident_first(
    wanted: Wanted, query: str, two: tuple[Run, Run]
) -> None:
    expected = ranked(frame(two[0]).query(query))
    whole, some = select(two[0], wanted, ROWS), select(two[0], wanted, 3)
    assert (ids(whole), whole.total) == (expected, len(expected))
    assert (ids(some), some.total) == (expected[:3], len(expected))


def test_changed_images_are_those_of_the_verdict_or_of_the_run_that_is_named(two: tuple[Run, Run]) -> None:
    before, now = two
    old, new = frame(before), frame(now)
    changed = new[new["prediction"] != old["prediction"]]
    by_verdict = select_changed(now, Wanted(), ROWS)
    assert sorted(ids(by_verdict)) == changed["image_id"].tolist()
    assert ids(select_changed(now, Wanted(), ROWS, before)) == ids(by_verdict)
    backwards = select_changed(before, Wanted(), ROWS, now)  # of no verdict
    assert sorted(ids(backwards)) == sorted(ids(by_verdict))
    there = {picture.image_id: picture for picture in backwards.pictures}
    for picture in by_verdict.pictures:
        other = there[picture.image_id]
        assert (picture.before, picture.prediction) == (other.prediction, other.before)
        assert picture.confidence_before == other.confidence
        assert picture.direction == {"lost": "gained", "gained": "lost"}.get(str(other.direction), "still wrong")


def test_filters_of_changed_images_are_about_the_prediction_now(two: tuple[Run, Run]) -> None:
    found = select_changed(two[1], Wanted(wrong=True, prediction=3), ROWS)
    new = frame(two[1])
    changed = new["prediction"] != frame(two[0])["prediction"]
    assert sorted(ids(found)) == new[changed & ~new["correct"] & (new["prediction"] == 3)]["image_id"].tolist()
    assert {picture.direction for picture in found.pictures} <= {"lost", "still wrong"}


def test_only_the_pixels_of_the_selected_images_are_kept(two: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def noted(store: Any, name: str, what: str) -> bytes:
        opened.append(name)
        return read_expected(store, name, what)

    monkeypatch.setattr("mnist_pipeline.datasets.shards.read_expected", noted)
    pictures = with_pixels(two[0], select(two[0], Wanted(wrong=True), 2).pictures)
    for picture in pictures:
        assert picture.pixels is not None
        np.testing.assert_array_equal(picture.pixels, random_images(ROWS)[picture.image_id])
    assert len(opened) == len({picture.image_id // 10 for picture in pictures})  # shards of ten images


def test_without_labels_nothing_is_wrong_but_all_changes_are_found(tmp_path: Path) -> None:
    make_split(tmp_path / "data", ROWS, labelled=False)
    before, now = night(tmp_path, "2026-01-30"), night(tmp_path, seed=3)
    for wanted in (Wanted(wrong=True), Wanted(label=4)):
        with pytest.raises(LabelError, match=f"run {now.name.run_id}: expected labels, got none"):
            select(now, wanted, 1)
        with pytest.raises(LabelError, match="expected labels, got none"):
            select_changed(now, wanted, 1)
    found = select_changed(now, Wanted(), ROWS)
    assert found.total == (frame(before)["prediction"] != frame(now)["prediction"]).sum() > 0
    assert {picture.direction for picture in found.pictures} == {"changed"}


def test_a_run_that_was_compared_with_nothing_needs_another_named(two: tuple[Run, Run]) -> None:
    with pytest.raises(RunNotFoundError, match="got none; name a run with --against"):
        select_changed(two[0], Wanted(), 1)


def test_images_of_other_data_cannot_have_changed(two: tuple[Run, Run], tmp_path: Path) -> None:
    make_split(tmp_path / "other", ROWS, seed=8)
    with pytest.raises(SettingsError, match="expected two over the same images, got others"):
        select_changed(night(tmp_path, data_dir=tmp_path / "other"), Wanted(), 1, two[0])


def test_what_changed_is_known_after_the_predictions_were_pruned(tmp_path: Path) -> None:
    night(tmp_path, "2026-01-30")
    run = night(tmp_path, seed=3)
    before = ids(select_changed(run, Wanted(), ROWS))
    give_up(run.outputs, run.name.run_id)
    assert ids(select_changed(run, Wanted(), ROWS)) == before
    with pytest.raises(PrunedError, match="they were pruned"):
        select(run, Wanted(wrong=True), 1)


def test_images_whose_shards_are_gone_have_no_pixels(tmp_path: Path) -> None:
    run = night(tmp_path)
    run.outputs.store.delete("shards")
    with pytest.raises(DamagedError, match="expected a shard, got no file"):
        with_pixels(run, select(run, Wanted(), 1).pictures)
