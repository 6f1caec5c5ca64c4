import io
import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.core.plan import Shard, plan_shards
from mnist_pipeline.core.tally import Tally
from mnist_pipeline.datasets.shards import ShardLabels
from mnist_pipeline.runs import predictions
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.store.opening import open_store
from tests.published import MADE_WITH, flip_bit, identity, on_disk

WHO = identity()
FIRST, SECOND, LAST = plan_shards(12, 5)


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return folder_in(tmp_path)


def folder_in(location: Path) -> CheckpointFolder:
    return CheckpointFolder(open_store(location), "predictions", "records")


def path_of(checkpoints: CheckpointFolder, shard: Shard = FIRST) -> Path:
    return on_disk(checkpoints.location) / shard.file_name


def record_of(checkpoints: CheckpointFolder, shard: Shard = FIRST) -> Path:
    return on_disk(checkpoints.store.location) / "records" / f"{shard.file_name}.json"


def probabilities(rows: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).dirichlet(np.ones(10), rows).T.astype(np.float32)


def write(
    checkpoints: CheckpointFolder,
    shard: Shard,
    values: NDArray[np.float32] | None = None,
    unlabelled: Sequence[int] = (),
) -> Checkpoint:
    ids = np.arange(shard.range.start, shard.range.stop, dtype=np.int64)
    images = ShardLabels(ids, np.where(np.isin(ids, unlabelled), NO_LABEL, ids % 10).astype(np.int8))
    values = probabilities(shard.range.rows) if values is None else values
    return predictions.write_predictions(checkpoints, shard, WHO, images, values, MADE_WITH)


def read(checkpoints: CheckpointFolder, shard: Shard) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(path_of(checkpoints, shard).read_bytes()))


def test_a_prediction_file_holds_a_row_for_each_image_with_its_ten_probabilities(checkpoints: CheckpointFolder) -> None:
    values = probabilities(5)
    write(checkpoints, SECOND, values)
    frame = read(checkpoints, SECOND)
    assert list(frame.columns) == tables.PREDICTIONS.schema.names
    assert frame["run_id"].unique().tolist() == [WHO.run_id]
    assert frame["run_date"].unique().tolist() == [datetime(2026, 1, 31)]
    assert frame["image_id"].tolist() == frame["label"].tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_array_equal(frame[[f"proba_{digit}" for digit in range(10)]].to_numpy().T, values, strict=True)
    np.testing.assert_array_equal(frame["prediction"], values.argmax(axis=0))
    np.testing.assert_array_equal(frame["confidence"], values.max(axis=0))
    assert frame["correct"].tolist() == (values.argmax(axis=0) == np.arange(5, 10)).tolist()


def test_among_equal_probabilities_the_lowest_digit_is_the_prediction(checkpoints: CheckpointFolder) -> None:
    values = np.zeros((10, 2), np.float32)
    values[[7, 3], 0] = values[[9, 8], 1] = 0.5
    write(checkpoints, LAST, values)
    assert read(checkpoints, LAST)["prediction"].tolist() == [3, 8]


def test_without_labels_label_and_correct_are_null_and_predictions_are_counted(checkpoints: CheckpointFolder) -> None:
    checkpoint = write(checkpoints, FIRST, unlabelled=range(5))
    frame = read(checkpoints, FIRST)
    assert frame[["label", "correct"]].isna().all(axis=None)
    assert {name: str(frame[name].dtype) for name in ("label", "correct")} == {"label": "Int8", "correct": "boolean"}
    tally, _ = predictions.counted_of([checkpoint])
    assert (tally.images, tally.labelled) == (5, 0)


def test_where_single_images_have_no_label_the_others_are_scored(checkpoints: CheckpointFolder) -> None:
    checkpoint = write(checkpoints, SECOND, unlabelled=[5, 8])
    frame = read(checkpoints, SECOND)
    assert frame["label"].isna().tolist() == frame["correct"].isna().tolist() == [True, False, False, True, False]
    known = frame.dropna(subset="label")
    assert known["label"].tolist() == [6, 7, 9]
    assert known["correct"].tolist() == (known["prediction"] == known["label"]).tolist()
    tally, calibration = predictions.counted_of([checkpoint])
    assert (tally.images, tally.labelled, calibration.images) == (5, 3, 3)


def test_the_checkpoint_record_of_a_prediction_file_tells_what_the_file_is(checkpoints: CheckpointFolder) -> None:
    checkpoint = write(checkpoints, LAST)
    data = path_of(checkpoints, LAST).read_bytes()
    assert (checkpoint.file.path, checkpoint.file.rows, checkpoint.file.size_bytes) == (
        "predictions/part-00002.parquet",
        2,
        len(data),
    )
    assert checkpoint.file.problem_with(data) is None


def test_the_tally_of_a_prediction_file_is_that_of_its_rows_and_tallies_add_up(checkpoints: CheckpointFolder) -> None:
    made = [write(checkpoints, shard) for shard in (FIRST, SECOND, LAST)]
    whole = pd.concat([read(checkpoints, shard) for shard in (FIRST, SECOND, LAST)])
    expected = Tally.count(*(whole[name].to_numpy() for name in ("label", "prediction", "confidence")))
    total, _ = predictions.counted_of(made)
    np.testing.assert_array_equal(total.confusion, expected.confusion)
    np.testing.assert_allclose(total.confidence_sum, expected.confidence_sum, rtol=1e-12)


def test_complete_prediction_files_bring_their_tally_back_to_the_last_bit(checkpoints: CheckpointFolder) -> None:
    made = write(checkpoints, FIRST)
    found = predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH)
    assert found == made
    assert found is not None
    for now, before in zip(predictions.counted_of([found]), predictions.counted_of([made]), strict=True):
        assert now.to_json() == before.to_json()


def test_a_prediction_file_that_is_not_there_is_not_reused(checkpoints: CheckpointFolder) -> None:
    write(checkpoints, FIRST)
    assert predictions.reusable_predictions(checkpoints, SECOND, MADE_WITH) is None


@pytest.mark.parametrize("versions", [{}, {"numpy": "1"}, {**MADE_WITH, "pyarrow": "0"}])
def test_a_prediction_file_made_by_other_versions_is_not_reused(
    checkpoints: CheckpointFolder, versions: dict[str, str]
) -> None:
    write(checkpoints, FIRST)
    assert predictions.reusable_predictions(checkpoints, FIRST, versions) is None


@pytest.mark.parametrize("position", range(0, 4000, 200))
def test_a_prediction_file_with_a_flipped_bit_is_recomputed(
    checkpoints: CheckpointFolder, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    write(checkpoints, FIRST)
    flip_bit(path_of(checkpoints), position)
    with caplog.at_level(logging.WARNING):
        assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None
    assert "part-00000.parquet is damaged and will be recomputed: expected sha256" in caplog.text


def test_no_flipped_bit_of_a_record_brings_back_another_tally(checkpoints: CheckpointFolder) -> None:
    made = write(checkpoints, FIRST)
    record = record_of(checkpoints)
    whole = record.read_bytes()
    for position in range(len(whole)):
        flip_bit(record, position)
        # Between two values one kind of space is as good as another.
        assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) in (None, made)
        record.write_bytes(whole)


def test_a_record_with_another_tally_is_not_believed(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    write(checkpoints, FIRST)
    record = record_of(checkpoints)
    text = record.read_text()
    assert text.count("1") > 1
    record.write_text(text.replace('"confidence_sum":[0', '"confidence_sum":[1', 1))
    assert record.read_text() != text
    with caplog.at_level(logging.WARNING):
        assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None
    assert "part-00000.parquet has a damaged checkpoint record and will be recomputed" in caplog.text


@pytest.mark.parametrize("lost", ["predictions/part-00000.parquet", "records/part-00000.parquet.json"])
def test_a_file_without_its_record_and_a_record_without_its_file_are_nothing(
    checkpoints: CheckpointFolder, lost: str
) -> None:
    write(checkpoints, FIRST)
    (on_disk(checkpoints.store.location) / lost).unlink()
    assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None


def test_a_folder_in_the_place_of_a_prediction_file_is_none(checkpoints: CheckpointFolder) -> None:
    write(checkpoints, FIRST)
    path_of(checkpoints).unlink()
    path_of(checkpoints).mkdir()
    assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None


def test_the_same_predictions_give_the_same_bytes(checkpoints: CheckpointFolder, tmp_path: Path) -> None:
    assert write(checkpoints, FIRST) == write(folder_in(tmp_path / "other"), FIRST)


def test_the_calibration_of_a_prediction_file_is_that_of_its_labelled_rows(checkpoints: CheckpointFolder) -> None:
    values = probabilities(5)
    _, calibration = predictions.counted_of([write(checkpoints, FIRST, values)])
    of_label = values[np.arange(5), np.arange(5)].astype(np.float64)
    assert float(calibration.nll_sum) == pytest.approx(-np.log(of_label).sum())
    assert float(calibration.bin_confidence_sum.sum()) == pytest.approx(values.max(axis=0).sum())
    _, unlabelled = predictions.counted_of([write(checkpoints, SECOND, unlabelled=range(5, 10))])
    assert unlabelled.images == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda notes: notes.pop("tally"),
        lambda notes: notes.pop("calibration"),
        lambda notes: notes.pop("made_with"),
        lambda notes: notes["tally"].pop("confusion"),
        lambda notes: notes["calibration"].update(colour=[1]),
        lambda notes: notes["tally"].update(confusion=[[1]]),
        lambda notes: notes["tally"].update(confusion="many"),
        lambda notes: notes.update(tally=[1, 2]),
        lambda notes: notes.update(tally=None),
        lambda notes: notes.update(calibration=3),
    ],
)
def test_a_prediction_file_with_notes_of_another_form_is_recomputed(
    checkpoints: CheckpointFolder, change: Callable[[Any], object]
) -> None:
    made = write(checkpoints, FIRST)
    notes = json.loads(json.dumps(made.notes))
    change(notes)
    data = path_of(checkpoints).read_bytes()
    checkpoints.write(FIRST.file_name, 5, data, notes)
    assert checkpoints.find(FIRST.file_name) is not None  # it is whole, and its record vouches for it
    assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None
    assert write(checkpoints, FIRST) == predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) == made


@pytest.mark.parametrize("notes", [[], ["made_with"], "made_with", None, 3])
def test_a_prediction_file_whose_notes_are_no_notes_is_recomputed(checkpoints: CheckpointFolder, notes: Any) -> None:
    write(checkpoints, FIRST)
    checkpoints.write(FIRST.file_name, 5, path_of(checkpoints).read_bytes(), notes)
    assert predictions.reusable_predictions(checkpoints, FIRST, MADE_WITH) is None
