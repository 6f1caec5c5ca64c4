from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.network import predict
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import IdxSplit
from mnist_pipeline.errors import LabelError, WeightsError
from mnist_pipeline.pipeline import examples
from mnist_pipeline.pipeline.examples import Wanted, pick
from mnist_pipeline.report.picture import Picture
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import encode_weights
from tests.builders import make_split, random_images, random_labels, random_network, small_settings
from tests.published import promote_to

ROWS = 25
PROBABILITIES = predict(random_network(), flatten(normalise(random_images(ROWS))))
PREDICTIONS = PROBABILITIES.argmax(axis=1)
WRONG = np.flatnonzero(random_labels(ROWS) != PREDICTIONS).tolist()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(examples, "ROWS_AT_A_TIME", 4)
    (tmp_path / "w.safetensors").write_bytes(encode_weights(random_network()))
    return small_settings(tmp_path, ROWS, weights=tmp_path / "w.safetensors")


def ids(pictures: list[Picture]) -> list[int]:
    return [picture.image_id for picture in pictures]


@pytest.mark.parametrize(
    ("start", "count", "expected"),
    [
        (0, 3, range(3)),
        (2, 5, range(2, 7)),
        (3, 1, [3]),
        (4, 8, range(4, 12)),
        (20, 100, range(20, 25)),
        (24, 1, [24]),
        (25, 1, []),
        (1000, 5, []),
    ],
)
def test_pictures_are_those_from_start_on(start: int, count: int, expected: Any, toy: Settings) -> None:
    assert ids(pick(toy, Wanted(start=start), count)) == list(expected)


def test_a_picture_is_an_image_with_label_prediction_and_confidence(toy: Settings) -> None:
    for picture in pick(toy, Wanted(), ROWS):
        np.testing.assert_array_equal(picture.pixels, random_images(ROWS)[picture.image_id], strict=True)
        assert picture.label == random_labels(ROWS)[picture.image_id]
        assert picture.prediction == PREDICTIONS[picture.image_id]
        assert picture.confidence == pytest.approx(PROBABILITIES[picture.image_id].max(), abs=2e-6)


@pytest.mark.parametrize(("start", "count"), [(0, 2), (0, 100), (7, 5), (WRONG[-1], 3), (WRONG[-1] + 1, 3)])
def test_wrong_pictures_are_those_whose_prediction_is_not_the_label(start: int, count: int, toy: Settings) -> None:
    assert ids(pick(toy, Wanted(wrong=True, start=start), count)) == [row for row in WRONG if row >= start][:count]


def test_without_labels_no_picture_is_wrong(tmp_path: Path, toy: Settings) -> None:
    make_split(tmp_path / "unlabelled", ROWS, labelled=False)
    unlabelled = toy.model_copy(update={"data_dir": tmp_path / "unlabelled"})
    with pytest.raises(LabelError, match="toy/test: expected labels, got none; without them no image has one"):
        pick(unlabelled, Wanted(wrong=True), 5)
    assert [picture.label for picture in pick(unlabelled, Wanted(), 5)] == [None] * 5


def test_no_more_is_read_than_is_needed(toy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = IdxSplit.read_bytes

    def read(split: IdxSplit, ranges: Sequence[RowRange]) -> Any:
        for each in real(split, ranges):
            seen.append(each[0])
            yield each

    monkeypatch.setattr(IdxSplit, "read_bytes", read)
    pick(toy, Wanted(start=2), 5)
    assert [(rows.start, rows.stop) for rows in seen] == [(2, 6), (6, 10)]


def test_weights_that_are_none_are_refused(toy: Settings, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a weights file, got nothing there"):
        pick(toy.model_copy(update={"weights": tmp_path / "none.npz"}), Wanted(), 1)


@pytest.mark.parametrize(
    ("label", "prediction", "confidence", "caption"),
    [
        (4, 6, 0.814, "#247 4 -> 6 (81 %)"),
        (6, 6, 0.814, "#247 6 (81 %)"),
        (None, 6, 1.0, "#247 6 (100 %)"),
        (0, 1, 0.104, "#247 0 -> 1 (10 %)"),
        (0, 0, 0.104, "#247 0 (10 %)"),
        (4, 6, 0.9998, "#247 4 -> 6 (99.98 %)"),
    ],
)
def test_a_caption_tells_label_and_prediction_where_they_differ(
    label: int | None, prediction: int, confidence: float, caption: str
) -> None:
    blank = np.zeros((28, 28), np.uint8)
    assert Picture(247, blank, label, prediction, confidence).caption == caption


@pytest.mark.parametrize(("label", "caption"), [(4, "#247 4: 9 -> 6 (81 %)"), (None, "#247 9 -> 6 (81 %)")])
def test_a_caption_of_a_changed_image_has_both_predictions(label: int | None, caption: str) -> None:
    assert Picture(247, None, label, 6, 0.81, before=9, confidence_before=0.7).caption == caption


@given(st.integers(0, 9), st.integers(0, 9), st.floats(0.1, 1))
def test_a_caption_has_an_arrow_exactly_where_the_prediction_is_wrong(
    label: int, prediction: int, confidence: float
) -> None:
    caption = Picture(0, np.zeros((28, 28), np.uint8), label, prediction, confidence).caption
    assert ("->" in caption) == (label != prediction)


def test_without_weights_given_the_current_ones_are_looked_through(toy: Settings, tmp_path: Path) -> None:
    toy = toy.model_copy(update={"weights": None})
    shipped = [picture.prediction for picture in pick(toy, Wanted(), ROWS)]
    promote_to(toy.outputs, random_network())
    promoted = [picture.prediction for picture in pick(toy, Wanted(), ROWS)]
    assert promoted == PREDICTIONS.tolist() != shipped
