import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.images import flatten, normalise, one_hot
from mnist_pipeline.core.network import BOOK, Architecture, Network, predict
from mnist_pipeline.core.network.training import EpochReport, Recipe, backward, fit
from mnist_pipeline.errors import ImagesError, LabelError, NumericalError, SettingsError

QUICK = Recipe(epochs=2, batch_rows=32)


def striped(rows: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Learnable images that survive a shift: noise, and a bright bar of 4 x 10 whose position encodes the digit."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, rows, dtype=np.uint8)
    images = rng.integers(0, 60, (rows, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 1 + 5 * (int(label) // 2), 2 + 14 * (int(label) % 2)
        image[top : top + 4, left : left + 10] += 150
    return images, labels


def random_problem(
    architecture: Architecture = BOOK,
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(5)
    tensors = {name: rng.normal(0, 0.3, shape) for name, shape in architecture.shapes.items()}
    return tensors, rng.random((7, 784)), one_hot(rng.integers(0, 10, 7, dtype=np.uint8))


ARCHITECTURES = [
    BOOK,
    Architecture((), None),
    Architecture((50, 100), "relu"),
    Architecture((12,), "relu"),
    Architecture((9, 14, 6), "sigmoid"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_loss_is_the_mean_of_minus_log_of_the_probability_of_the_label(architecture: Architecture) -> None:
    tensors, images, targets = random_problem(architecture)
    network = Network({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, architecture.activation)
    probabilities = predict(network, images)
    step = backward(tensors, architecture.activation, images, targets)
    assert step.loss == pytest.approx(-np.log(probabilities[targets == 1]).mean(), rel=1e-5)
    assert step.correct == (probabilities.argmax(axis=1) == targets.argmax(axis=1)).sum()


@pytest.mark.parametrize(
    ("architecture", "name"),
    [(architecture, name) for architecture in ARCHITECTURES for name in architecture.shapes],
    ids=str,
)
def test_gradients_agree_with_finite_differences(architecture: Architecture, name: str) -> None:
    tensors, images, targets = random_problem(architecture)
    gradient = backward(tensors, architecture.activation, images, targets).gradients[name]
    assert gradient.shape == architecture.shapes[name]
    some = np.random.default_rng(6).choice(gradient.size, min(gradient.size, 40), replace=False)
    half_step = 1e-5
    for index in some:
        losses = []
        for sign in (1, -1):
            moved = tensors[name].copy()
            moved.flat[index] += sign * half_step
            losses.append(backward({**tensors, name: moved}, architecture.activation, images, targets).loss)
        slope = (losses[0] - losses[1]) / (2 * half_step)
        assert gradient.flat[index] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_gradients_stay_finite_where_the_probability_of_the_label_underflows() -> None:
    tensors, images, targets = random_problem()
    wrong = {**tensors, "b3": np.where(targets[0] == 1, -2000.0, 0.0)}
    step = backward(wrong, "sigmoid", images[:1], targets[:1])
    assert 1900 < step.loss < 2100
    assert all(np.isfinite(gradient).all() for gradient in step.gradients.values())


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=12, batch_rows=32, learning_rate=0.01),
        Recipe(epochs=12, batch_rows=32, hidden=(20,), activation="relu"),
        Recipe(epochs=12, batch_rows=32, hidden=()),
    ],
    ids=lambda recipe: str(recipe.architecture),
)
def test_a_small_problem_is_learnt_and_the_loss_falls(recipe: Recipe) -> None:
    images, labels = striped(1500, seed=1)
    reports: list[EpochReport] = []
    network = fit(images, labels, recipe, reports.append)
    assert network.architecture == recipe.architecture
    losses = [report.loss for report in reports]
    assert losses[0] < math.log(10)  # what ten equal probabilities cost
    assert losses[-1] < losses[0] / 5
    assert reports[-1].accuracy > 0.9
    unseen_images, unseen_labels = striped(500, seed=2)
    guesses = predict(network, flatten(normalise(unseen_images))).argmax(axis=1)
    assert (guesses == unseen_labels).mean() > 0.9


@pytest.mark.parametrize("architecture", [BOOK, Architecture((20, 9, 8), "relu")], ids=str)
def test_one_batch_of_everything_steps_as_the_papers_say(architecture: Architecture) -> None:
    # A naive Adam with decoupled decay and a cosine, tensor by tensor in float64, judges three steps.
    images, labels = striped(60, seed=3)
    recipe = replace(
        QUICK, epochs=3, batch_rows=60, weight_decay=2.0, shift_pixels=0, seed=4, hidden=architecture.hidden
    )
    recipe = replace(recipe, learning_rate=0.01, activation=architecture.activation or "sigmoid")
    tensors: dict[str, NDArray[Any]] = dict(fit(images, labels, replace(recipe, learning_rate=1e-30)).items())
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    m, v = ({name: np.zeros(shape) for name, shape in architecture.shapes.items()} for _ in range(2))
    for t in (1, 2, 3):
        rate = 0.01 * (1 + math.cos(math.pi * (t - 1) / 3)) / 2
        gradients = backward(tensors, architecture.activation, flatten(images) / 255, one_hot(labels)).gradients
        for name, g in gradients.items():
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            decay = 2.0 * tensors[name] if name.startswith("W") else 0
            adam = (m[name] / (1 - 0.9**t)) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            tensors[name] = tensors[name] - rate * (adam + decay)
    trained = fit(images, labels, recipe)
    for name, tensor in tensors.items():
        # Adam divides a gradient by its own size: where that is near 0, float32 may step the other way.
        far = np.abs(trained[name] - tensor) > 1e-4
        assert far.mean() < 0.01, f"{name}: {far.sum()} of {far.size} values differ"


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    images, labels = striped(200, seed=1)
    first, again = (fit(images, labels, QUICK) for _ in range(2))
    other = fit(images, labels, replace(QUICK, seed=QUICK.seed + 1))
    for name in BOOK.shapes:
        assert first[name].tobytes() == again[name].tobytes()
        assert first[name].tobytes() != other[name].tobytes()


def test_shifts_move_images_by_at_most_shift_pixels_and_bring_in_blank_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)
    seen: set[bytes] = set()

    def record(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.update(picture.tobytes() for picture in pixels)
        return normalise(pixels)

    monkeypatch.setattr("mnist_pipeline.core.network.training.normalise", record)
    fit(np.repeat(image[None], 300, axis=0), np.zeros(300, np.uint8), replace(QUICK, shift_pixels=1))
    padded = np.pad(image, 1)
    nine = {padded[down : down + 28, across : across + 28].tobytes() for down in range(3) for across in range(3)}
    assert seen == nine


def test_arguments_are_left_as_they_were() -> None:
    images, labels = striped(100, seed=1)
    images_before, labels_before = images.copy(), labels.copy()
    images.flags.writeable = labels.flags.writeable = False  # as idx.decode hands them out
    fit(images, labels, QUICK)
    assert (images == images_before).all()
    assert (labels == labels_before).all()


def test_each_epoch_is_reported_once_over_all_images_the_short_last_batch_included() -> None:
    # With a vanishing learning rate and no shifts, every epoch must report the first weights' own figures.
    images, labels = striped(75, seed=1)
    reports: list[EpochReport] = []
    recipe = Recipe(epochs=3, batch_rows=32, learning_rate=1e-30, shift_pixels=0)
    network = fit(images, labels, recipe, reports.append)
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    whole = backward(network, "sigmoid", flatten(normalise(images)), one_hot(labels))
    for report in reports:
        assert report.loss == pytest.approx(whole.loss, rel=1e-5)
        assert report.accuracy == whole.correct / 75


def test_a_single_image_can_be_fitted() -> None:
    images, labels = striped(1, seed=1)
    assert isinstance(fit(images, labels, QUICK), Network)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((5, 784), np.uint8),
        np.zeros((5, 28, 27), np.uint8),
        np.zeros((5, 28, 28), np.float32),
        np.zeros((0, 28, 28), np.uint8),
    ],
    ids=["flat", "narrow", "float32", "none"],
)
def test_images_of_another_shape_or_dtype_are_refused(images: NDArray[Any]) -> None:
    with pytest.raises(ImagesError, match=r"training images: expected \(N, 28, 28\) uint8 with N >= 1, got \("):
        fit(images, np.zeros(len(images), np.uint8), QUICK)


@pytest.mark.parametrize(
    "labels",
    [np.zeros(4, np.uint8), np.zeros((5, 1), np.uint8), np.zeros(5, np.int64)],
    ids=["too few", "column", "int64"],
)
def test_labels_of_another_shape_or_dtype_are_refused(labels: NDArray[Any]) -> None:
    with pytest.raises(LabelError, match=r"training labels: expected \(5,\) uint8, one per image, got \("):
        fit(np.zeros((5, 28, 28), np.uint8), labels, QUICK)


def test_labels_above_nine_are_refused() -> None:
    with pytest.raises(LabelError, match=r"expected digits 0-9, got 10"):
        fit(np.zeros((2, 28, 28), np.uint8), np.array([3, 10], np.uint8), QUICK)


@pytest.mark.parametrize(
    ("batch_rows", "learning_rate", "loss"),
    [(32, 1e38, "nan"), (32, 1e300, "nan"), (100, 1e300, r"2\.\d+")],
    ids=["loss", "loss at once", "weights alone, after the one step of an epoch"],
)
def test_training_that_diverges_stops_and_says_so(batch_rows: int, learning_rate: float, loss: str) -> None:
    images, labels = striped(100, seed=1)
    reports: list[EpochReport] = []
    recipe = Recipe(epochs=2, batch_rows=batch_rows, learning_rate=learning_rate)
    with pytest.raises(NumericalError, match=rf"epoch 1 of 2: expected a finite .* got a loss of {loss}; lower"):
        fit(images, labels, recipe, reports.append)
    assert reports == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "expected epochs >= 1; got"),
        ({"batch_rows": 0}, "expected batch_rows >= 1; got"),
        ({"shift_pixels": -1}, "expected shift_pixels >= 0; got"),
        ({"seed": -1}, "expected seed >= 0; got"),
        ({"learning_rate": 0.0}, "expected learning_rate > 0 and finite; got"),
        ({"learning_rate": math.nan}, "expected learning_rate > 0 and finite; got"),
        ({"activation": "tanh"}, "expected activation sigmoid or relu; got"),
        ({"hidden": (50, 0)}, "hidden layers '50,0': expected 0 to 7 widths, each of 1 or more; choose others"),
        ({"hidden": (5,) * 8}, "hidden layers '5,5,5,5,5,5,5,5': expected 0 to 7 widths, each of 1 or more"),
        ({"hidden": (5032,)}, "hidden layers '5032': expected at most 4,000,000 parameters, got 4,000,450; choose"),
        ({"weight_decay": -0.1}, "expected weight_decay >= 0 and finite; got"),
        ({"epochs": 0, "weight_decay": math.inf}, "expected epochs >= 1, weight_decay >= 0 and finite; got"),
    ],
)
def test_a_recipe_out_of_range_is_refused_with_all_that_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(QUICK, **change)
