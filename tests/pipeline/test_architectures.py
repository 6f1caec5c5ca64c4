"""Networks of other architectures than the book's: which one is meant, and that everything names it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.network import Activation, Architecture, Network
from mnist_pipeline.errors import SettingsError, WeightsError
from mnist_pipeline.orchestration.doctor import run_checks
from mnist_pipeline.pipeline.examples import Wanted, pick
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.planning import make_plan, network_of
from mnist_pipeline.pipeline.promotion import promote
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.verdicts.promotions import current_promotion
from mnist_pipeline.weights.files import encode_weights
from tests.builders import random_network, small_settings
from tests.published import opened, promote_to

RELU = random_network(1, Architecture((20,), "relu"))
SIGMOID = Network(dict(RELU), "sigmoid")  # the same numbers, another network


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """`bare` does not say its activation, `relu` and `sigmoid` do."""
    tensors: dict[str, Any] = dict(RELU)
    np.savez(tmp_path / "bare.npz", **tensors)
    for network in (RELU, SIGMOID):
        path = tmp_path / f"{network.architecture.activation}.safetensors"
        path.write_bytes(encode_weights(network))
    return {path.stem: path for path in tmp_path.glob("*.*")}


def test_the_activation_of_weights_that_do_not_say_it_is_a_setting(files: dict[str, Path], tmp_path: Path) -> None:
    for activation, network in (("relu", RELU), ("sigmoid", SIGMOID)):
        assert network_of(small_settings(tmp_path, weights=files["bare"], activation=activation)) == network
    with pytest.raises(WeightsError, match="784-20-10: expected the activation of the hidden layers, got none; say"):
        network_of(small_settings(tmp_path, weights=files["bare"]))
    with pytest.raises(WeightsError, match=r"the file says relu, sigmoid is given \(--activation .*\); leave it out"):
        network_of(small_settings(tmp_path, weights=files["relu"], activation="sigmoid"))


@pytest.mark.parametrize("promoted", [RELU, None])
def test_an_activation_without_weights_is_refused_unless_the_current_ones_have_it(
    promoted: Network | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: tuple[Activation, Activation] = ("sigmoid", "relu")
    if promoted:
        promote_to(tmp_path / "outputs", promoted)
        current = ("relu", "sigmoid")
    right, wrong = (small_settings(tmp_path, activation=activation) for activation in current)
    architecture = network_of(right).architecture
    assert architecture.activation == current[0]
    message = (
        f"activation '{current[1]}': expected none without weights: the current ones are {architecture}; leave it out, "
        "or name a file with --weights"
    )
    for reader in (network_of, lambda settings: pick(settings, Wanted(), 1), run_nightly):
        with pytest.raises(SettingsError, match=message):
            reader(wrong)
    monkeypatch.setenv("MNIST_PIPELINE_ACTIVATION", current[1])
    with pytest.raises(SettingsError, match=f"'{current[1]}', from MNIST_PIPELINE_ACTIVATION: expected none"):
        network_of(small_settings(tmp_path))


@pytest.mark.parametrize(
    ("configured", "given", "by_hand"),
    [
        ({}, {"weights": "bare", "activation": "relu"}, ("weights",)),
        ({}, {"weights": "relu"}, ("weights",)),
        ({"weights": "bare", "activation": "relu"}, {"weights": "relu"}, ()),
        ({"weights": "relu"}, {"weights": "bare", "activation": "relu"}, ()),
        ({"weights": "relu"}, {"activation": "relu"}, ()),
        ({"weights": "bare", "activation": "relu"}, {"activation": "sigmoid"}, ("activation",)),
        (
            {"weights": "bare", "activation": "relu"},
            {"weights": "sigmoid", "activation": "sigmoid"},
            ("weights",),
        ),
        ({"weights": "bare"}, {"activation": "relu"}, ("activation",)),  # without it there was no night
    ],
)
def test_a_run_is_by_hand_exactly_if_its_network_is_another_one(
    configured: dict[str, str], given: dict[str, str], by_hand: tuple[str, ...], files: dict[str, Path], tmp_path: Path
) -> None:
    def named(settings: dict[str, str]) -> dict[str, Any]:
        return {name: files[value] if name == "weights" else value for name, value in settings.items()}

    settings = small_settings(tmp_path, by_hand=named(given), **named(configured))
    plan = make_plan(settings, open_images(settings))
    assert plan.by_hand == by_hand
    assert plan.architecture.startswith("784-20-10 ")


def test_a_promotion_archives_the_activation_so_that_nights_need_none(files: dict[str, Path], tmp_path: Path) -> None:
    settings = small_settings(tmp_path, gates={"toy": Gates(max_loss=1)})
    first = run_nightly(settings)
    candidate = settings.model_copy(update={"activation": "relu"})
    promoted = promote(candidate, files["bare"])
    assert (promoted.judged.published.architecture, promoted.previous_architecture) == (
        "784-20-10 relu",
        "784-50-100-10 sigmoid",
    )
    record = current_promotion(opened(tmp_path / "outputs"))
    assert record is not None
    assert record.architecture == "784-20-10 relu"
    for used in (settings, candidate):
        assert network_of(used) == RELU
    second = run_nightly(settings.on(first.published.identity.run_date))
    assert second.published.by_hand == ()
    named = [run_by_id(opened(tmp_path / "outputs"), each.published.run_id).manifest() for each in (first, second)]
    assert [manifest.architecture for manifest in named] == ["784-50-100-10 sigmoid", "784-20-10 relu"]


def test_the_doctor_names_the_architecture_of_the_next_night(files: dict[str, Path], tmp_path: Path) -> None:
    (found,) = run_checks._weights(small_settings(tmp_path, weights=files["bare"], activation="relu"))
    assert f"configured: {files['bare']}, 784-20-10 relu, sha256 " in found.found
