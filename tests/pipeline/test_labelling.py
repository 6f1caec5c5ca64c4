"""Keys of images, and labels that come later, in whole runs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from mnist_pipeline import load_history, load_run, tables
from mnist_pipeline.errors import DamagedError, DataError, LabelError
from mnist_pipeline.pipeline import evaluation, examples, inputs, labelling
from mnist_pipeline.pipeline.evaluation import Published, Timings, evaluate_plan
from mnist_pipeline.pipeline.examples import Wanted
from mnist_pipeline.pipeline.planning import make_plan
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import Settings
from mnist_pipeline.views import current_views
from tests.builders import make_split, random_labels, random_network, small_settings
from tests.keyed import keyed_split
from tests.published import flip_bit, opened, snapshot

ROWS = 25
KEYS = [f"img-{number:03}.png" for number in range(ROWS)]


def unlabelled(tmp_path: Path) -> Settings:
    """25 images without labels, in three shards."""
    make_split(tmp_path / "data", ROWS, labelled=False)
    return small_settings(tmp_path)


def later(settings: Settings, name: str = "labels.csv", **columns: Any) -> Settings:
    """The same with labels of 20 images that came later."""
    path = Path(str(settings.outputs)).parent / name
    frame = pd.DataFrame({"image_id": range(20), "label": random_labels(ROWS)[:20]} | columns)
    frame.to_csv(path, index=False)
    return settings.model_copy(update={"labels": path})


def predictions(settings: Settings, published: Published) -> pd.DataFrame:
    run = run_by_id(opened(settings.outputs), published.run_id)
    frame: pd.DataFrame = run.read(tables.PREDICTIONS).to_pandas()
    return frame


def test_a_night_whose_labels_come_later_is_another_run_from_the_same_shards_and_counts(tmp_path: Path) -> None:
    settings = unlabelled(tmp_path)
    first = evaluation.evaluate(settings)
    shards, run = snapshot(tmp_path / "outputs" / "shards"), snapshot(Path(str(first.folder)))
    second = evaluation.evaluate(later(settings))
    assert (second.new, second.by_hand, second.run_id == first.run_id) == (True, (), False)
    assert (second.totals.images, second.totals.labelled) == (25, 20)
    assert snapshot(Path(str(first.folder))) == run
    after = snapshot(tmp_path / "outputs" / "shards")
    assert {name: after[name] for name in shards} == shards
    assert [name for name in after if name not in shards and "/labels" not in str(name)] == []
    old, new = predictions(settings, first), predictions(settings, second)
    others = ["run_id", "label", "correct"]
    pd.testing.assert_frame_equal(old.drop(columns=others), new.drop(columns=others))
    assert new["label"].tolist()[:20] == random_labels(ROWS)[:20].tolist()
    assert new["label"].isna().tolist() == new["correct"].isna().tolist() == [False] * 20 + [True] * 5
    rows = {row["run_id"]: row for row in current_views(opened(settings.outputs)).runs.to_pylist()}
    assert [rows[each.run_id]["is_of_date"] for each in (first, second)] == [False, True]
    assert len({row["shard_set"] for row in rows.values()}) == 1
    assert json.loads((tmp_path / "outputs" / "latest.json").read_bytes())["toy/test"]["run_id"] == second.run_id
    assert set(load_run("latest", "toy", outputs=str(settings.outputs))["run_id"]) == {second.run_id}
    history = load_history(outputs=str(settings.outputs))
    assert history[history["is_of_date"]]["images"].sum() == 20
    again = evaluation.evaluate(later(settings))
    assert (again.run_id, again.new) == (second.run_id, False)
    assert evaluation.evaluate(later(settings, label=[3] * 20)).run_id not in (first.run_id, second.run_id)


def test_keys_are_in_the_predictions_and_in_what_changed(tmp_path: Path) -> None:
    settings, split = unlabelled(tmp_path), keyed_split(tmp_path / "keyed", KEYS)
    one = evaluate_plan(make_plan(settings, split), Timings())
    assert predictions(settings, one)["image_key"].tolist() == KEYS
    named = later(settings, image_key=KEYS[5:], image_id=0)
    two = evaluate_plan(make_plan(named, split), Timings())
    assert predictions(settings, two)["label"].tolist()[5:] == random_labels(ROWS)[:20].tolist()
    network = random_network(seed=1)
    three = evaluate_plan(make_plan(named, split, network), Timings())
    before, now = (run_by_id(opened(settings.outputs), each.run_id) for each in (one, three))
    flips = pa.concat_tables(examples._flips(now, before))
    assert flips["image_key"].to_pylist() == [KEYS[image_id] for image_id in flips["image_id"].to_pylist()] != []
    chosen = [*examples.select(now, Wanted(), 3).pictures, *examples.select_changed(now, Wanted(), 3, before).pictures]
    assert [picture.image_key for picture in chosen] == [KEYS[picture.image_id] for picture in chosen]


def test_keys_that_repeat_are_found_in_reused_shards_too_and_nothing_is_predicted(tmp_path: Path) -> None:
    settings, split = unlabelled(tmp_path), keyed_split(tmp_path / "keyed", [*KEYS[:24], KEYS[3]])
    for _ in range(2):
        with pytest.raises(DataError, match=r"toy/test: .* got 'img-003.png' for images 3 and 24; name"):
            evaluate_plan(make_plan(settings, split), Timings())
    assert not list((tmp_path / "outputs").rglob("predictions/*"))


def test_a_shard_that_is_damaged_when_its_keys_are_read_is_built_again(tmp_path: Path) -> None:
    settings, split = unlabelled(tmp_path), keyed_split(tmp_path / "keyed", KEYS)
    plan = make_plan(settings, split)
    evaluate_plan(plan, Timings())
    (tmp_path / "outputs" / plan.shard_set.folder / "part-00001.parquet").write_bytes(b"damaged")
    named = later(settings, image_key=KEYS[5:], image_id=0)
    assert evaluate_plan(make_plan(named, split), Timings()).totals.labelled == 20


def test_labels_beside_images_that_have_labels_are_refused(tmp_path: Path) -> None:
    settings = later(small_settings(tmp_path))
    with pytest.raises(LabelError, match=r"--labels .*labels.csv: expected images without labels, got some"):
        evaluation.evaluate(settings)


def test_joined_labels_that_were_damaged_before_they_are_read_stop_the_run(tmp_path: Path) -> None:
    settings = later(unlabelled(tmp_path))
    plan = make_plan(settings, inputs.open_images(settings))
    joined = labelling.labelled(plan)
    assert joined.labels is not None
    flip_bit(tmp_path / "outputs" / joined.labels.path)
    with pytest.raises(DamagedError, match=r"expected sha256 .*; run again to join the labels again"):
        labelling.labels_of(joined, joined.groups[0].shards[0])
    assert labelling.labels_of(plan, joined.groups[0].shards[0]) is None
