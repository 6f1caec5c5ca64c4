"""Candidates against the current weights, on images whose labels are what one network makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.core import idx
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.network import Network, predict
from mnist_pipeline.errors import DamagedError, SettingsError, WeightsError
from mnist_pipeline.pipeline import evaluation, promotion
from mnist_pipeline.pipeline.judging import EARLIER
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.planning import current_weights
from mnist_pipeline.pipeline.promotion import CURRENT, Promoted, promote
from mnist_pipeline.runs.counting import counted_at
from mnist_pipeline.runs.layout import CANDIDATES
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.promotions import Promotion, current_promotion
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, encode_weights, load_weights, weights_sha256
from tests.builders import labels_name, make_split, random_images, random_network, small_settings
from tests.published import flip_bit, on_disk, opened, snapshot

ROWS = 300
GATES = Gates(max_loss=0.05)
GOOD = random_network()  # right about every image, because the labels are its predictions


def equal(step: int) -> Network:
    """Other weights than `GOOD`, and the same predictions."""
    tensors = dict(GOOD)
    tensors["b3"] = tensors["b3"] + np.float32(step)
    return Network(tensors)


BAD = random_network(1)


@pytest.fixture
def toy(tmp_path: Path) -> Settings:
    make_split(tmp_path / "data", ROWS)
    labels = predict(GOOD, flatten(normalise(random_images(ROWS)))).argmax(axis=1).astype(np.uint8)
    (tmp_path / "data" / labels_name()).write_bytes(idx.encode(labels))
    return small_settings(tmp_path, ROWS, shard_rows=1000, batch_rows=100, gates={"toy": GATES})


def file_of(folder: Location, network: Network) -> Path:
    path = on_disk(folder) / "candidate.safetensors"
    path.write_bytes(encode_weights(network))
    return path


def offer(toy: Settings, network: Network, **how: Any) -> Promoted:
    return promote(toy, file_of(toy.outputs.parent, network), **how)


def used_at_night(toy: Settings, run_date: str = "2026-01-31") -> str:
    night = run_nightly(toy.model_copy(update={"run_date": run_date}))
    return run_by_id(opened(toy.outputs), night.published.run_id).manifest().identity.weights_sha256


def records(toy: Settings) -> list[str]:
    folder = toy.outputs / "promotions"
    return sorted(path.name for path in on_disk(folder).iterdir()) if on_disk(folder).is_dir() else []


@pytest.mark.parametrize("current", [None, GOOD], ids=["better", "equal"])
def test_a_candidate_that_loses_nothing_becomes_current_and_the_next_night_uses_it(
    current: Network | None, toy: Settings
) -> None:
    if current:
        offer(toy, current)
    previous = weights_sha256(load_weights(current_weights(opened(toy.outputs))))
    assert used_at_night(toy, "2026-01-29") == previous
    candidate = equal(1)
    promoted = offer(toy, candidate)
    assert promoted.record is not None
    assert promoted.judged.accepted
    assert (promoted.weights_sha256, promoted.previous_sha256) == (weights_sha256(candidate), previous)
    assert used_at_night(toy, "2026-01-30") == weights_sha256(candidate)
    record = current_promotion(opened(toy.outputs))
    assert record == Promotion.from_bytes(on_disk(promoted.record).read_bytes(), "record")
    assert record is not None
    assert record.weights_sha256 == weights_sha256(candidate)
    assert record.previous_sha256 == previous
    assert (record.outcome, record.forced) == ("pass", False)
    assert record.run_id == promoted.judged.published.run_id
    assert record.verdict_id == promoted.judged.verdict.verdict_id


def test_candidate_and_current_weights_are_compared_image_by_image_and_with_nothing_else(toy: Settings) -> None:
    run_nightly(toy)
    verdict = offer(toy, GOOD).judged.verdict
    (reference,) = verdict.references
    assert (reference.against, reference.same_images, reference.same_weights) == (CURRENT, True, False)
    assert {result.against for result in verdict.results} == {CURRENT}
    before = run_by_id(opened(toy.outputs / CANDIDATES), reference.run_id).manifest()
    assert before.identity.weights_sha256 == weights_sha256(load_weights(SHIPPED_WEIGHTS))


def test_a_worse_candidate_is_rejected_and_nothing_is_recorded(toy: Settings) -> None:
    offer(toy, GOOD)
    rejected = offer(toy, BAD)
    assert rejected.record is None
    assert not rejected.judged.accepted
    assert [(result.gate, result.outcome) for result in rejected.judged.verdict.results] == [("max_loss", "fail")]
    assert records(toy) == ["000001.json"]
    assert used_at_night(toy) == weights_sha256(GOOD)
    assert not on_disk(toy.outputs / "weights" / f"{weights_sha256(BAD)}.safetensors").exists()


def test_an_inconclusive_candidate_is_not_promoted_though_nights_only_warn(toy: Settings) -> None:
    offer(toy, GOOD)
    strict = toy.model_copy(update={"gates": {"toy": replace(GATES, max_loss=0.001)}})
    undecided = offer(strict, equal(1))
    assert undecided.judged.verdict.outcome == "inconclusive"
    assert undecided.record is None
    assert records(toy) == ["000001.json"]


def test_force_promotes_whatever_the_verdict_and_the_record_says_so(toy: Settings) -> None:
    offer(toy, GOOD, force=True)
    record = current_promotion(opened(toy.outputs))
    assert record is not None
    assert not record.forced  # it would have been promoted anyway
    offer(toy, BAD, force=True)
    record = current_promotion(opened(toy.outputs))
    assert record is not None
    assert (record.forced, record.outcome, record.previous_sha256) == (True, "fail", weights_sha256(GOOD))
    assert used_at_night(toy) == weights_sha256(BAD)
    assert records(toy) == ["000001.json", "000002.json"]


def test_after_a_forced_promotion_nights_are_compared_with_the_new_weights(toy: Settings) -> None:
    offer(toy, GOOD)
    first = run_nightly(toy.model_copy(update={"run_date": "2026-01-30"}))
    second = run_nightly(toy.model_copy(update={"run_date": "2026-01-31"}))
    assert (second.verdict.outcome, second.verdict.references[0].run_id) == ("pass", first.published.run_id)
    forced = offer(toy.model_copy(update={"run_date": "2026-02-01"}), BAD, force=True)
    assert forced.accepted is not None
    assert forced.accepted.reason == "promoted by force (fail)"
    own = run_by_id(opened(toy.outputs), forced.accepted.run_id)
    assert own.manifest().identity.weights_sha256 == weights_sha256(BAD)
    assert counted_at(opened(toy.outputs), own) is not None
    for run_date in ("2026-02-02", "2026-02-03"):
        night = run_nightly(toy.model_copy(update={"run_date": run_date}))
        assert (night.verdict.outcome, night.accepted) == ("pass", True)
    assert offer(toy, equal(1), force=True).accepted is None  # it is better, and needs no force


@pytest.mark.parametrize("force", [False, True])
def test_the_current_weights_again_are_nothing_to_do(force: bool, toy: Settings) -> None:
    offer(toy, GOOD)
    again = offer(toy, GOOD, force=force)
    assert again.record is None
    assert again.weights_sha256 == again.previous_sha256 == weights_sha256(GOOD)
    assert records(toy) == ["000001.json"]


@pytest.mark.parametrize("gates", [{}, {"toy": Gates(min_accuracy=0.01)}])
def test_without_a_gate_that_compares_no_candidate_is_promoted_unless_forced(
    gates: dict[str, Gates], toy: Settings
) -> None:
    bare = toy.model_copy(update={"gates": gates})
    with pytest.raises(
        SettingsError, match=r"gates of toy: expected max_loss or max_digit_loss, got neither; .*gates\.toy"
    ):
        offer(bare, BAD)
    assert not on_disk(toy.outputs).exists()
    offer(bare, BAD, force=True)
    record = current_promotion(opened(toy.outputs))
    assert record is not None
    assert record.forced


def test_the_nights_know_nothing_of_a_promotion(toy: Settings) -> None:
    run_nightly(toy.model_copy(update={"report": True}))
    before = {name: at for name, at in snapshot(toy.outputs).items() if not name.startswith(".staging")}
    offer(toy, GOOD)
    after = snapshot(toy.outputs)
    assert {name: after[name] for name in before} == before
    new = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert new == {CANDIDATES, "promotions", "weights"}
    night = run_nightly(toy.model_copy(update={"run_date": "2026-02-01"}))
    assert [reference.against for reference in night.verdict.references] == [EARLIER]  # no gates, other weights


def test_promoted_weights_that_are_gone_stop_the_night(toy: Settings) -> None:
    offer(toy, GOOD)
    on_disk(toy.outputs / "weights" / f"{weights_sha256(GOOD)}.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"safetensors: expected the weights that were promoted last, got none; put"):
        run_nightly(toy)
    assert not on_disk(toy.outputs / "runs").exists()


@pytest.mark.parametrize("candidate", [GOOD, BAD, load_weights(SHIPPED_WEIGHTS)], ids=["lost", "other", "shipped"])
def test_only_force_leads_on_from_promoted_weights_that_are_gone(
    candidate: Network, toy: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    offer(toy, GOOD)
    on_disk(toy.outputs / "weights" / f"{weights_sha256(GOOD)}.safetensors").unlink()
    with pytest.raises(DamagedError, match="expected the weights that were promoted last, got none"):
        offer(toy, candidate)
    assert records(toy) == ["000001.json"]
    offer(toy, candidate, force=True)
    assert (
        "got none; put them back, or promote others with --force; the candidate is compared with the shipped ones"
        in caplog.text
    )
    assert records(toy) == ["000001.json", "000002.json"]
    assert used_at_night(toy) == weights_sha256(candidate)


def test_a_candidate_is_not_compared_with_altered_weights(toy: Settings) -> None:
    offer(toy, GOOD)
    archived = on_disk(toy.outputs / "weights" / f"{weights_sha256(GOOD)}.safetensors")
    archived.write_bytes(encode_weights(BAD))
    with pytest.raises(DamagedError, match="expected the weights its name says, got"):
        offer(toy, equal(1))
    assert records(toy) == ["000001.json"]
    assert offer(toy, equal(1), force=True).previous_sha256 == weights_sha256(load_weights(SHIPPED_WEIGHTS))


def test_a_damaged_record_of_the_promotion_stops_the_night(toy: Settings) -> None:
    record = offer(toy, GOOD).record
    assert record is not None
    flip_bit(record)
    with pytest.raises(DamagedError, match=r"000001\.json: expected a promotion"):
        run_nightly(toy)


def test_a_candidate_that_is_no_network_is_refused_before_anything_is_written(toy: Settings, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors: expected a weights file, got nothing there"):
        promote(toy, tmp_path / "none.safetensors")
    assert not on_disk(toy.outputs).exists()


def test_what_is_promoted_is_what_was_judged_though_the_file_changes_meanwhile(
    toy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(toy.outputs.parent, GOOD)

    def evaluate(*arguments: Any) -> Any:
        path.write_bytes(encode_weights(BAD))
        return evaluation.evaluate(*arguments)

    monkeypatch.setattr(promotion, "evaluate", evaluate)
    promoted = promote(toy, path)
    assert promoted.weights_sha256 == promoted.judged.published.identity.weights_sha256 == weights_sha256(GOOD)
    assert used_at_night(toy) == weights_sha256(GOOD)
