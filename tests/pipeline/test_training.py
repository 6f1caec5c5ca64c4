import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.network import Architecture, predict
from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.errors import LabelError, NumericalError, OutputsError, SettingsError, WeightsError
from mnist_pipeline.pipeline import training
from mnist_pipeline.pipeline.inputs import fetch
from mnist_pipeline.pipeline.training import fit_weights, score, score_weights, train
from mnist_pipeline.runtime import versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.weights.files import load_weights, weights_sha256
from tests.builders import images_name, make_split, random_images, random_labels, random_network, small_settings
from tests.published import flip_bit, hashes, on_disk

RECIPE = Recipe(epochs=2, batch_rows=8)
TRAIN_ROWS, TEST_ROWS = 30, 25


@pytest.fixture
def toy(tmp_path: Path) -> Settings:
    make_split(tmp_path / "data", TRAIN_ROWS, seed=1, split="train")
    return small_settings(tmp_path, TEST_ROWS)


def test_training_writes_weights_and_their_card_under_the_hash_of_the_weights(toy: Settings) -> None:
    trained = train(toy, RECIPE)
    data = on_disk(trained.path).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert trained.path == toy.outputs / "weights" / f"{digest}.safetensors"
    assert trained.card == toy.outputs / "weights" / f"{digest}.md"
    assert weights_sha256(load_weights(trained.path)) == digest
    assert sorted(hashes(toy.outputs)) == [f"weights/{digest}.md", f"weights/{digest}.safetensors"]


def test_the_same_recipe_trains_the_same_weights_and_another_seed_others(toy: Settings) -> None:
    first, again = train(toy, RECIPE), train(toy, RECIPE)
    assert again.path == first.path
    assert train(toy, Recipe(epochs=2, batch_rows=8, seed=2)).path != first.path


def test_the_tally_is_of_the_test_split_and_of_the_weights_on_disk(toy: Settings) -> None:
    trained = train(toy, RECIPE)
    digits = predict(load_weights(trained.path), flatten(normalise(random_images(TEST_ROWS)))).argmax(axis=1)
    labels = random_labels(TEST_ROWS)
    assert (trained.tally.images, trained.tally.labelled) == (TEST_ROWS, TEST_ROWS)
    assert trained.tally.correct == int((digits == labels).sum())


def test_the_split_of_the_settings_is_ignored(toy: Settings) -> None:
    assert train(toy.model_copy(update={"split": "nosuch"}), RECIPE).tally.images == TEST_ROWS


def test_the_card_tells_how_the_weights_came_to_be(toy: Settings, tmp_path: Path) -> None:
    trained = train(toy, RECIPE, tmp_path / "mine" / "digits.safetensors")
    assert trained.path == tmp_path / "mine" / "digits.safetensors"
    assert trained.card == tmp_path / "mine" / "digits.md"
    card = on_disk(trained.card).read_text()
    facts = dict(re.findall(r"^\| (.+?) \| (.+) \|$", card, re.MULTILINE))
    assert card.startswith("# Model card: digits.safetensors\n")
    assert facts["file"] == "`digits.safetensors`"
    assert facts["sha256"] == f"`{hashlib.sha256(trained.path.read_bytes()).hexdigest()}`"
    assert facts["architecture"] == "784-50-100-10 sigmoid"
    assert facts["parameters"] == "45,360, float32"
    shown = asdict(RECIPE) | {"learning_rate": 0.02}
    for name in shown.keys() - {"hidden", "activation"}:
        assert facts[name.replace("_", " ")] == str(shown[name])
    for name, value in versions().items():
        assert facts[name] == value
    assert facts["accuracy"].startswith(
        f"**{100 * trained.tally.correct / TEST_ROWS:.2f} %** ({trained.tally.correct} of 25)"
    )
    assert "| data set | toy/train, 30 images |" in card
    assert "| data set | toy/test, 25 images |" in card
    source_images = fetch(toy)
    assert source_images.labels is not None
    assert f"| images sha256 | {source_images.images.sha256} |" in card
    assert f"| labels sha256 | {source_images.labels.sha256} |" in card


def test_a_network_of_another_form_is_trained_stored_and_described_as_one(toy: Settings) -> None:
    trained = train(toy, replace(RECIPE, hidden=(20, 9, 8), activation="relu"))
    assert load_weights(trained.path).architecture == trained.architecture == Architecture((20, 9, 8), "relu")
    card = on_disk(trained.card).read_text()
    assert "| architecture | 784-20-9-8-10 relu |" in card
    assert "| learning rate | 0.005 |" in card


def test_progress_is_reported_after_each_epoch(toy: Settings) -> None:
    reported: list[tuple[str, int, int]] = []
    train(toy, RECIPE, progress=lambda *news: reported.append(news))
    assert [(done, total) for _, done, total in reported] == [(1, 2), (2, 2)]
    assert all(re.fullmatch(r"training, loss \d\.\d{4}, accuracy \d+\.\d\d %", what) for what, _, _ in reported)


def test_without_test_labels_the_card_says_that_nothing_was_scored(toy: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / "t10k-labels-idx1-ubyte").unlink()
    trained = train(toy, RECIPE)
    assert (trained.tally.images, trained.tally.labelled) == (TEST_ROWS, 0)
    card = on_disk(trained.card).read_text()
    assert "| accuracy | no labels, not scored |" in card
    assert "| labels sha256 | no labels |" in card


@pytest.mark.parametrize("name", ["digits.npz", "digits.pkl", "digits", "digits.SAFETENSORS"])
def test_a_target_of_another_format_is_refused_before_training(name: str, toy: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{name}: expected a name ending in \.safetensors"):
        train(toy, RECIPE, tmp_path / name, progress=lambda *_: pytest.fail("trained"))
    assert not (tmp_path / name).exists()


def test_a_split_without_labels_is_not_trained_on(toy: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(LabelError, match="toy/train: expected labels to train on, got none; give a labelled data set"):
        train(toy, RECIPE)
    assert not on_disk(toy.outputs).exists()


def test_training_that_diverges_writes_nothing(toy: Settings) -> None:
    with pytest.raises(NumericalError, match="lower the learning_rate"):
        train(toy, Recipe(epochs=2, batch_rows=8, learning_rate=1e38))
    assert not on_disk(toy.outputs).exists()


@pytest.mark.parametrize("in_the_way", ["outputs", "outputs/weights"])
def test_weights_that_cannot_be_written_are_an_outputs_error(in_the_way: str, toy: Settings, tmp_path: Path) -> None:
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_text("in the way")
    with pytest.raises(OutputsError, match=r"cannot write .*weights.*: .*then run again"):
        train(toy, RECIPE)


def test_a_card_that_cannot_be_written_is_an_outputs_error_and_the_weights_stay(toy: Settings, tmp_path: Path) -> None:
    (tmp_path / "digits.md").mkdir()
    (tmp_path / "digits.md" / "in the way").write_text("")
    with pytest.raises(OutputsError, match=r"cannot write .*digits\.md: "):
        train(toy, RECIPE, tmp_path / "digits.safetensors")
    assert load_weights(tmp_path / "digits.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "digits.md", "digits.safetensors"]


def test_the_test_split_is_not_needed_until_the_weights_are_on_disk(toy: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / images_name()).unlink()
    source_images = fetch(toy.model_copy(update={"split": "train"}))
    fitted = fit_weights(source_images, RECIPE, toy.outputs, None, lambda *_: None)
    assert on_disk(fitted.path).is_file()
    make_split(tmp_path / "data", TEST_ROWS)
    assert on_disk(score_weights(fitted, fetch(toy)).card).is_file()


def test_weights_damaged_before_scoring_are_refused(toy: Settings) -> None:
    source_images = fetch(toy.model_copy(update={"split": "train"}))
    fitted = fit_weights(source_images, RECIPE, toy.outputs, None, lambda *_: None)
    flip_bit(fitted.path, 3)
    with pytest.raises(WeightsError, match="expected a safetensors header of at most"):
        score_weights(fitted, fetch(toy))


@pytest.mark.parametrize("rows", [1, 7, 25, 100])
def test_a_score_does_not_depend_on_how_many_images_are_scored_at_a_time(
    rows: int, toy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score(random_network(), fetch(toy))
    monkeypatch.setattr(training, "SCORING_ROWS", rows)
    found = score(random_network(), fetch(toy))
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    np.testing.assert_allclose(found.confidence_sum, expected.confidence_sum, rtol=1e-5)
