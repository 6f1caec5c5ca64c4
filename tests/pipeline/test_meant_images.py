"""Whole runs over images that cannot be meant as they are, or whose meaning is said."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core import idx
from mnist_pipeline.core.network import Network
from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.errors import ImagesError, LabelError, PipelineError, SettingsError
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.pipeline.evaluation import Published
from mnist_pipeline.pipeline.judging import judge_published
from mnist_pipeline.pipeline.training import train
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Address
from mnist_pipeline.weights.files import encode_weights
from tests.builders import images_name, labels_name, random_labels, random_network, small_settings
from tests.datasets.test_image_bins import drawn
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.parquet_files import column, write
from tests.published import on_disk, opened

ROWS = 25
IMAGES = drawn(ROWS).reshape(-1, 28, 28)
BITS = (IMAGES > 0).astype(np.uint8)


def as_idx(tmp_path: Path, images: NDArray[np.uint8], **changes: Any) -> Settings:
    folder = tmp_path / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / images_name()).write_bytes(idx.encode(images))
    (folder / labels_name()).write_bytes(idx.encode(random_labels(ROWS)))
    return small_settings(tmp_path, ROWS, **({"weights": weights(tmp_path)} | changes))


def as_parquet(tmp_path: Path, images: NDArray[Any], **changes: Any) -> Settings:
    path = write(tmp_path / "a.parquet", column(images), random_labels(ROWS))
    settings = as_idx(tmp_path, IMAGES, **changes)
    return settings.model_copy(update={"data_dir": None, "images": path} | changes)


def weights(tmp_path: Path) -> Path:
    path = tmp_path / "random.safetensors"
    path.write_bytes(encode_weights(random_network()))
    return path


def probabilities(settings: Settings, published: Published) -> list[Any]:
    found = run_by_id(opened(settings.outputs), published.run_id).read(tables.PREDICTIONS)
    return [found[name].to_pylist() for name in found.column_names if name.startswith("proba_")]


FORMS = [as_idx, as_parquet]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (BITS, "expected full ink somewhere, got at most 1 of 255 in 25 images; integers of 0 and 1 need"),
        (255 - IMAGES, "expected white ink on black paper, got a mean pixel of 0.8"),
        (np.zeros_like(IMAGES), "expected ink, got 25 images that are blank"),
    ],
)
def test_images_that_cannot_be_meant_are_refused_before_anything_is_predicted(
    images: NDArray[np.uint8], message: str, form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = form(tmp_path, images)
    monkeypatch.setattr(evaluation, "predict_shards", None)
    named = f"toy/test ({settings.images or settings.data_dir}): "
    for _ in range(2):  # with new shards, and with those that are there
        with pytest.raises(ImagesError, match=re.escape(named + message)):
            evaluation.evaluate(settings)
    assert list_runs(opened(settings.outputs)) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("images", "plain", "said"),
    [
        (BITS, BITS * np.uint8(255), {"pixel_scale": 1}),
        (255 - IMAGES, IMAGES, {"invert": True}),
        (1 - BITS, BITS * np.uint8(255), {"pixel_scale": 1, "invert": True}),
    ],
)
def test_what_is_said_of_the_images_gives_the_bits_of_plain_ones_and_is_another_run(
    images: NDArray[np.uint8], plain: NDArray[np.uint8], said: dict[str, Any], form: Any, tmp_path: Path
) -> None:
    settings, usual = form(tmp_path, images, **said), as_idx(tmp_path / "plain", plain)
    (run, expected) = (evaluation.evaluate(each) for each in (settings, usual))
    assert probabilities(settings, run) == probabilities(usual, expected)
    assert run.identity.transform_version != expected.identity.transform_version


def test_outputs_in_a_bucket_refuse_doubt_and_agree_as_those_on_a_disk(bucket: Address, tmp_path: Path) -> None:
    for wrong in (BITS, 255 - IMAGES):
        settings = as_idx(tmp_path, wrong, outputs=bucket)
        for _ in range(2):  # with new shards, and with those that are there
            with pytest.raises(ImagesError):
                evaluation.evaluate(settings)
    with pytest.raises(LabelError, match="in a column 'y'"):
        evaluation.evaluate(as_parquet(tmp_path, IMAGES, outputs=bucket, label_column="y"))
    assert list_runs(opened(bucket)) == []
    doubtful = evaluation.evaluate(as_idx(tmp_path, np.minimum(IMAGES, 200), outputs=bucket))
    assert len(run_by_id(opened(bucket), doubtful.run_id).manifest().doubts) == 1
    settings = as_idx(tmp_path, 1 - BITS, outputs=bucket, pixel_scale=1, invert=True)
    usual = as_idx(tmp_path / "plain", BITS * np.uint8(255))
    found = [probabilities(each, evaluation.evaluate(each)) for each in (settings, usual)]
    assert found[0] == found[1]


def test_floats_of_255_are_read_with_their_scale(tmp_path: Path) -> None:
    settings = as_parquet(tmp_path, IMAGES.astype(np.float64), pixel_scale=255)
    usual = as_idx(tmp_path / "plain", IMAGES)
    found = [probabilities(each, evaluation.evaluate(each)) for each in (settings, usual)]
    assert found[0] == found[1]


def test_white_paper_that_is_meant_is_published(tmp_path: Path) -> None:
    published = evaluation.evaluate(as_idx(tmp_path, 255 - IMAGES, invert=False))
    assert (
        published.identity.transform_version == evaluation.evaluate(as_idx(tmp_path, IMAGES)).identity.transform_version
    )


def test_doubts_are_warned_of_and_in_manifest_and_verdict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = as_idx(tmp_path, np.minimum(IMAGES, 200))
    published = evaluation.evaluate(settings)
    doubt = "doubtful images: no pixel above 200 of 255: is their range another?"
    assert f"toy/test: {doubt}" in caplog.messages
    assert run_by_id(opened(settings.outputs), published.run_id).manifest().doubts == (doubt,)
    assert doubt in judge_published(settings, published).verdict.notes


# As earlier versions wrote it, as the first that counted did, and as none.
@pytest.mark.parametrize("notes", [{}, {"bins": {"mean": {"30": 10}, "largest": {"255": 10}}}, {"bins": 1}])
def test_shards_whose_records_lack_bins_are_built_again(notes: dict[str, Any], tmp_path: Path) -> None:
    settings = as_idx(tmp_path, IMAGES)
    evaluation.evaluate(settings)
    records = sorted(on_disk(settings.outputs).glob("shards/*/records/*.json"))
    shard_set = opened(settings.outputs).shards_in(records[0].parent.parent.name)
    before = [shard_set.record(record.stem) for record in records]
    for record, checkpoint in zip(records, before, strict=True):  # as an earlier version wrote it
        assert checkpoint is not None
        shard_set.write(record.stem, checkpoint.file.rows, shard_set.read(checkpoint) or b"", notes=notes)
    settings = settings.model_copy(update={"run_date": settings.run_date + timedelta(days=1)})
    assert evaluation.evaluate(settings).new
    assert [shard_set.record(record.stem) for record in records] == before
    assert json.loads(records[0].read_text())["notes"]["bins"]["largest"] == {"255": 10}


def test_training_refuses_images_that_cannot_be_meant(tmp_path: Path) -> None:
    settings = as_idx(tmp_path, IMAGES)
    for name in (images_name, labels_name):
        (tmp_path / "data" / name("train")).write_bytes((tmp_path / "data" / name()).read_bytes())
    train(settings, Recipe(epochs=1))
    (tmp_path / "data" / images_name("train")).write_bytes(idx.encode(BITS))
    with pytest.raises(ImagesError, match="toy/train: expected full ink somewhere, got at most 1 of 255"):
        train(settings, Recipe(epochs=1))
    (tmp_path / "data" / images_name()).write_bytes(idx.encode(BITS))
    train(settings.model_copy(update={"pixel_scale": 1}), Recipe(epochs=1))


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"label_column": "y"}, SettingsError, "label_column 'y': expected images beside it, got none"),
        ({"pixel_scale": 1}, ImagesError, ": expected pixels in 0..1, got 255 at pixel 0; pixels of 0..255"),
        ({"invert": True}, ImagesError, "got a mean pixel of 0.88 in 25 images; leave --invert out"),
    ],
)
def test_what_is_said_wrongly_is_refused(
    said: dict[str, Any], error: type[PipelineError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        evaluation.evaluate(as_idx(tmp_path, IMAGES, **said))


def test_the_label_column_is_part_of_the_run(tmp_path: Path) -> None:
    settings = as_parquet(tmp_path, IMAGES)
    unlabelled = evaluation.evaluate(settings.model_copy(update={"label_column": "none"}))
    assert (unlabelled.totals.labelled, evaluation.evaluate(settings).totals.labelled) == (0, ROWS)
    with pytest.raises(LabelError, match="expected the labels in a column 'y', got none, but 'pixels', 'label'"):
        evaluation.evaluate(settings.model_copy(update={"label_column": "y"}))


# Chance


@pytest.mark.parametrize("right", [True, False])
def test_an_accuracy_that_may_be_chance_is_said_in_the_first_line(right: bool, tmp_path: Path) -> None:
    settings = as_idx(tmp_path, IMAGES)
    zeros = random_network()
    biased = Network({name: zeros[name] * np.float32(0) for name in zeros})  # predicts 0 everywhere
    path = tmp_path / "zeros.safetensors"
    path.write_bytes(encode_weights(biased))
    if right:
        (tmp_path / "data" / labels_name()).write_bytes(idx.encode(np.zeros(ROWS, np.uint8)))
    judged = judge_published(settings, evaluation.evaluate(settings.model_copy(update={"weights": path})))
    assert ("perhaps no better than chance, 10 %" in judged.line) is not right
