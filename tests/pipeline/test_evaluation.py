import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.network import BOOK, Network, forward
from mnist_pipeline.errors import (
    DamagedError,
    DataError,
    LabelError,
    NoDataError,
    NumericalError,
    OutputsError,
    PipelineError,
    SettingsError,
    SourceError,
    WeightsError,
)
from mnist_pipeline.pipeline import evaluation, inputs, planning
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.counting import counted_at
from mnist_pipeline.runs.lookup import list_runs, run_by_id
from mnist_pipeline.runs.run import Run
from mnist_pipeline.runs.staging import staging_directory
from mnist_pipeline.runtime import versions
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.base import Location
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, encode_weights, load_weights, weights_sha256
from tests.builders import (
    images_name,
    labels_name,
    make_split,
    random_images,
    random_labels,
    random_network,
    small_settings,
)
from tests.published import flip_bit, hashes, left_over, on_disk, opened, promote_to, snapshot

PROJECT = Path(__file__).parents[2]
ROWS = 25
PROBABILITIES = [f"proba_{digit}" for digit in range(10)]


def sigmoid(a: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = 1 / (1 + np.exp(-a))
    return result


def book_scores(network: Network, x: NDArray[Any]) -> NDArray[Any]:
    """What the book's predict, chapter 3, hands to softmax, in float64."""
    W1, b1, W2, b2, W3, b3 = (tensor.astype(np.float64) for tensor in network.values())
    result: NDArray[Any] = sigmoid(sigmoid(x @ W1 + b1) @ W2 + b2) @ W3 + b3
    return result


def book_predict(network: Network, x: NDArray[Any]) -> NDArray[Any]:
    """The book's predict, the judge of ours."""
    exponentials = np.exp(book_scores(network, x))
    result: NDArray[Any] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def varied_network(x: NDArray[Any]) -> Network:
    """A random network that finds many different digits among the images `x`."""
    tensors = dict(random_network())
    tensors["W1"] = tensors["W1"] - tensors["W1"].mean(axis=0)
    tensors["W2"], tensors["W3"] = 3 * tensors["W2"], 3 * tensors["W3"]
    tensors["b3"] = tensors["b3"] - book_scores(Network(tensors), x).mean(axis=0).astype(np.float32)
    return Network(tensors)


IMAGES = random_images(ROWS).reshape(ROWS, 784) / 255
NETWORK = varied_network(IMAGES)
EXPECTED = book_predict(NETWORK, IMAGES)


def toy(tmp_path: Path, **changes: Any) -> Settings:
    """Settings for 25 images in shards of 10, and a network of random weights."""
    weights = tmp_path / "random.safetensors"
    weights.write_bytes(encode_weights(NETWORK))
    return small_settings(tmp_path, ROWS, **({"weights": weights} | changes))


def published(settings: Settings) -> Run:
    return find_run(opened(settings.outputs), evaluation.evaluate(settings).run_id, settings.dataset, settings.split)


def predictions(run: Run) -> pd.DataFrame:
    frame: pd.DataFrame = run.read(tables.PREDICTIONS).to_pandas()
    return frame


# What a run comes to


def test_the_digits_are_those_of_the_book(tmp_path: Path) -> None:
    best = np.sort(EXPECTED)
    assert (best[:, -1] - best[:, -2]).min() > 1e-5  # no draws among these images
    assert len(set(EXPECTED.argmax(axis=1))) >= 5
    frame = predictions(published(toy(tmp_path)))
    labels = random_labels(ROWS)
    assert frame["image_id"].tolist() == list(range(ROWS))
    assert frame["label"].tolist() == labels.tolist()
    assert frame["prediction"].tolist() == EXPECTED.argmax(axis=1).tolist()
    assert frame["correct"].tolist() == (EXPECTED.argmax(axis=1) == labels).tolist()
    np.testing.assert_allclose(frame[PROBABILITIES], EXPECTED, atol=2e-6)
    np.testing.assert_array_equal(frame["confidence"], frame[PROBABILITIES].max(axis=1))


@pytest.mark.parametrize(
    ("batch_rows", "shard_rows", "workers", "max_tasks"),
    [
        (1, 10, 2, 32),
        (7, 10, 2, 32),
        (100, 10, 2, 32),
        (1000, 100, 2, 32),
        (4, 1, 5, 32),
        (4, 3, 2, 2),
        (100, 24, 1, 1),
        (7, 25, 3, 1000),
    ],
)
def test_the_digits_do_not_depend_on_batches_shards_workers_or_tasks(
    batch_rows: int, shard_rows: int, workers: int, max_tasks: int, tmp_path: Path
) -> None:
    run = published(toy(tmp_path, batch_rows=batch_rows, shard_rows=shard_rows, workers=workers, max_tasks=max_tasks))
    frame = predictions(run)
    assert frame["image_id"].tolist() == list(range(ROWS))
    assert frame["prediction"].tolist() == EXPECTED.argmax(axis=1).tolist()
    np.testing.assert_allclose(frame[PROBABILITIES], EXPECTED, atol=2e-6)
    assert len(list(on_disk(run.folder / "predictions").iterdir())) == -(-ROWS // shard_rows)


def test_workers_and_tasks_do_not_change_the_identity_of_a_run_nor_its_bytes(tmp_path: Path) -> None:
    found = []
    for workers, max_tasks in ((1, 1), (3, 32)):
        settings = toy(tmp_path, outputs=tmp_path / f"out-{workers}", workers=workers, max_tasks=max_tasks)
        run = published(settings)
        found.append((run.name, {name: at for name, at in hashes(run.folder).items() if name != "manifest.json"}))
    assert found[0] == found[1]


def test_summary_confusion_manifest_and_answer_tell_the_same(tmp_path: Path) -> None:
    settings = toy(tmp_path)
    answer = evaluation.evaluate(settings)
    run = find_run(opened(settings.outputs), "latest", "toy", "test")
    frame = predictions(run)
    summary, confusion = run.read(tables.SUMMARY).to_pandas(), run.read(tables.CONFUSION).to_pandas()
    right = int(frame["correct"].sum())
    assert (answer.totals.images, answer.totals.labelled, answer.totals.correct) == (ROWS, ROWS, right)
    assert answer.totals.accuracy == right / ROWS
    assert summary["images"].tolist() == [int((frame["label"] == digit).sum()) for digit in range(10)]
    assert summary["predicted"].tolist() == [int((frame["prediction"] == digit).sum()) for digit in range(10)]
    assert summary["correct"].tolist() == [score.correct for score in answer.scores]
    assert set(summary["run_id"]) == {answer.run_id}
    assert set(summary["dataset"] + "/" + summary["split"]) == {"toy/test"}
    counted = confusion.set_index(["label", "prediction"])["count"]
    assert len(counted) == 100
    assert counted[counted > 0].to_dict() == frame.groupby(["label", "prediction"]).size().to_dict()
    manifest = run.manifest()
    assert manifest.totals == answer.totals
    assert (manifest.engine, manifest.workers) == ("direct", 2)
    assert list(manifest.timings_seconds) == ["fetch", "shard", "predict", "publish"]
    assert manifest.evaluated_at <= manifest.published_at
    assert manifest.versions == versions()
    assert manifest.identity.weights_sha256 == weights_sha256(NETWORK)
    assert (answer.folder, answer.new) == (run.folder, True)


def test_images_without_labels_get_predictions_and_no_accuracy(tmp_path: Path) -> None:
    make_split(tmp_path / "data", ROWS, labelled=False)
    run = published(toy(tmp_path))
    frame, totals = predictions(run), run.manifest().totals
    assert frame["prediction"].tolist() == EXPECTED.argmax(axis=1).tolist()
    assert frame[["label", "correct"]].isna().all(axis=None)
    assert (totals.images, totals.labelled, totals.correct, totals.accuracy) == (ROWS, 0, 0, None)
    summary, confusion = run.read(tables.SUMMARY).to_pandas(), run.read(tables.CONFUSION).to_pandas()
    assert summary[["accuracy", "accuracy_low", "precision", "f1", "mean_confidence"]].isna().all(axis=None)
    assert summary["predicted"].sum() == ROWS
    unlabelled = confusion[confusion["label"].isna()]
    assert unlabelled["count"].tolist() == summary["predicted"].tolist()
    assert run.manifest().identity.labels_sha256 is None


def test_progress_ends_at_the_last_image_of_each_step(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []
    evaluation.evaluate(toy(tmp_path), lambda *news: reported.append(news))
    for work in ("shards", "predictions"):
        done = [done for what, done, total in reported if what == work and total == ROWS]
        assert done == sorted(done)
        assert done[-1] == ROWS


def test_the_weights_are_kept_under_their_hash_and_replaced_if_damaged(tmp_path: Path) -> None:
    settings = toy(tmp_path)
    evaluation.evaluate(settings)
    kept = settings.outputs / "weights" / f"{weights_sha256(NETWORK)}.safetensors"
    assert on_disk(kept).read_bytes() == encode_weights(NETWORK)
    flip_bit(kept)
    evaluation.evaluate(toy(tmp_path, run_date="2026-02-01"))
    assert on_disk(kept).read_bytes() == encode_weights(NETWORK)
    assert len(list(on_disk(kept.parent).iterdir())) == 1


# Running again


def test_the_same_night_again_publishes_nothing_new(tmp_path: Path) -> None:
    settings = toy(tmp_path)
    first = evaluation.evaluate(settings)
    runs, shards, all_hashes = (
        snapshot(settings.outputs / "runs"),
        snapshot(settings.outputs / "shards"),
        hashes(settings.outputs),
    )
    again = evaluation.evaluate(settings)
    assert (first.new, again.new) == (True, False)
    assert (again.run_id, again.totals, again.scores) == (first.run_id, first.totals, first.scores)
    assert snapshot(settings.outputs / "runs") == runs
    assert snapshot(settings.outputs / "shards") == shards
    assert hashes(settings.outputs) == all_hashes
    assert left_over(settings.outputs) == []


def test_another_night_reuses_the_shards(tmp_path: Path) -> None:
    settings = toy(tmp_path)
    evaluation.evaluate(settings)
    before = snapshot(settings.outputs / "shards")
    assert evaluation.evaluate(toy(tmp_path, run_date="2026-02-01", batch_rows=9)).new
    assert snapshot(settings.outputs / "shards") == before
    assert len(list_runs(opened(settings.outputs))) == 2


@pytest.mark.parametrize("damage", ["bit", "record", "gone", "empty"])
def test_a_damaged_shard_is_built_again_and_no_other(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = toy(tmp_path)
    evaluation.evaluate(settings)
    before = snapshot(settings.outputs / "shards")
    (shard,) = on_disk(settings.outputs).glob("shards/*/images/part-00001.parquet")
    (record,) = on_disk(settings.outputs).glob("shards/*/records/part-00001.parquet.json")
    broken: dict[str, Callable[[], object]] = {
        "bit": lambda: flip_bit(shard),
        "record": lambda: record.write_text("{}"),
        "gone": shard.unlink,
        "empty": lambda: shard.write_bytes(b""),
    }
    broken[damage]()
    with caplog.at_level(logging.WARNING):
        assert evaluation.evaluate(toy(tmp_path, run_date="2026-02-01")).new
    assert ("will be recomputed" in caplog.text) == (damage != "gone")
    after = snapshot(settings.outputs / "shards")
    assert {name: digest for name, (digest, _) in after.items()} == {n: digest for n, (digest, _) in before.items()}
    changed = {name.split("/", 1)[1] for name in after if after[name] != before[name]}
    assert changed == {"images/part-00001.parquet", "records/part-00001.parquet.json"}


def test_a_shard_damaged_after_it_was_built_is_rebuilt_when_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = toy(tmp_path)
    plan = planning.make_plan(settings, inputs.fetch(settings))
    for group in plan.groups:
        evaluation.build_shards(plan, group)
    whole = hashes(plan.shard_set.location)
    flip_bit(plan.shard_set.location / "part-00001.parquet")
    (on_disk(plan.shard_set.location) / "part-00002.parquet").unlink()
    with staging_directory(plan.outputs, plan.run_id) as staging:
        for group in plan.groups:
            evaluation.predict_shards(plan, staging, group)
    assert hashes(plan.shard_set.location) == whole
    assert "part-00001.parquet is damaged and will be recomputed" in caplog.text


class Forward:
    """Counts the images that go through the network, and fails once when asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> None:
        self.images, self.fail_at, self.real = 0, fail_at, forward
        monkeypatch.setattr(evaluation, "forward", self)

    def __call__(self, network: Any, images: NDArray[np.float32], *rest: Any, **named: Any) -> None:
        if self.fail_at is not None and self.images + len(images) > self.fail_at:
            raise NumericalError("planted")
        self.images += len(images)
        self.real(network, images, *rest, **named)


def fail_in_the_second_shard(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        counter = Forward(patch, fail_at=15)
        with pytest.raises(NumericalError, match="shard 2 of 3: planted"):
            evaluation.evaluate(settings)
        assert counter.images == 14  # batches of 4, 4, 2, then 4 of the second shard
    assert list_runs(opened(settings.outputs)) == []
    assert not on_disk(settings.outputs / "history.parquet").exists()


def test_prediction_files_finished_before_a_failure_are_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy(tmp_path, workers=1, max_tasks=1)
    fail_in_the_second_shard(settings, monkeypatch)
    counter = Forward(monkeypatch)
    run = published(settings)
    assert counter.images == 15
    assert predictions(run)["prediction"].tolist() == EXPECTED.argmax(axis=1).tolist()
    undisturbed = published(toy(tmp_path, workers=1, outputs=tmp_path / "undisturbed"))
    assert parquet_hashes(run.folder) == parquet_hashes(undisturbed.folder)
    assert left_over(settings.outputs) == []


def test_prediction_files_of_other_versions_are_recomputed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy(tmp_path, workers=1, max_tasks=1)
    fail_in_the_second_shard(settings, monkeypatch)
    monkeypatch.setattr(evaluation, "versions", lambda: {"numpy": "another"})
    counter = Forward(monkeypatch)
    assert published(settings).manifest().versions == {"numpy": "another"}
    assert counter.images == ROWS


@pytest.mark.parametrize("damaged", ["run/predictions/part-00000.parquet", "records/part-00000.parquet.json"])
def test_damaged_prediction_files_are_recomputed(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy(tmp_path, workers=1, max_tasks=1)
    fail_in_the_second_shard(settings, monkeypatch)
    (staging,) = [folder for folder in on_disk(settings.outputs / ".staging").iterdir() if folder.is_dir()]
    flip_bit(staging / damaged)
    counter = Forward(monkeypatch)
    assert published(settings).problems() == []
    assert counter.images == ROWS


# Failing


def parquet_hashes(folder: Location) -> dict[str, str]:
    return {name: digest for name, digest in hashes(folder).items() if name.endswith(".parquet")}


def network_file(tmp_path: Path, **tensors: NDArray[Any]) -> Path:
    path = tmp_path / "changed.npz"
    arrays: dict[str, Any] = {**NETWORK, **tensors}
    np.savez(path, **arrays)
    return path


def in_the_way(path: Location) -> None:
    path = on_disk(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")


def bad_weights(settings: Settings, tmp_path: Path) -> Settings:
    nan = np.zeros(BOOK.shapes["b2"], np.float32)
    nan[3] = np.nan
    return settings.model_copy(update={"weights": network_file(tmp_path, b2=nan)})


def exploding_weights(settings: Settings, tmp_path: Path) -> Settings:
    huge = np.full(BOOK.shapes["W3"], np.finfo(np.float32).max)
    return settings.model_copy(update={"weights": network_file(tmp_path, W3=huge)})


def no_weights(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"weights": tmp_path / "none.safetensors"})


def too_few_labels(settings: Settings, tmp_path: Path) -> Settings:
    make_split(tmp_path / "other", ROWS - 1)
    (tmp_path / "other" / labels_name()).rename(tmp_path / "data" / labels_name())
    return settings


def no_images(settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README").touch()
    return settings.model_copy(update={"data_dir": tmp_path / "other"})


def no_folder(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"data_dir": tmp_path / "nowhere"})


def no_source(settings: Settings, tmp_path: Path) -> Settings:
    mnist = settings.datasets["mnist"].model_copy(update={"sources": ()})
    return settings.model_copy(update={"dataset": "mnist", "data_dir": None, "datasets": {"mnist": mnist}})


def no_such_split(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"split": "nosuch"})


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (bad_weights, WeightsError, "b2: expected finite values, got 1 NaN or infinite"),
        (exploding_weights, NumericalError, r"shard \d of 3: \d+ of \d+ images: expected finite sums in layer 3"),
        (no_weights, WeightsError, "none.safetensors: expected a weights file, got nothing there"),
        (too_few_labels, LabelError, "expected 25 labels, one for each image of .*, got 24"),
        (no_images, DataError, "expected t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz, got neither"),
        (no_folder, NoDataError, r"no data at .*nowhere \(data_dir\): expected that of 2026-02-01, got nothing"),
        (no_source, SourceError, "data set mnist: expected a source for .*, got none .it has no sources"),
        (no_such_split, SettingsError, "split 'nosuch'.*: expected one of test, train"),
    ],
)
def test_a_run_that_fails_publishes_nothing_and_leaves_earlier_runs_alone(
    spoil: Callable[[Settings, Path], Settings], error: type[PipelineError], message: str, tmp_path: Path
) -> None:
    settings = toy(tmp_path)
    evaluation.evaluate(settings)
    seen = [settings.outputs / name for name in ("runs", "history.parquet", "latest.json")]
    before = [snapshot(path) if on_disk(path).is_dir() else on_disk(path).read_bytes() for path in seen]
    tonight = spoil(toy(tmp_path, run_date="2026-02-01"), tmp_path)
    for _ in range(2):  # and no better the second time
        with pytest.raises(error, match=message):
            evaluation.evaluate(tonight)
    assert [snapshot(path) if on_disk(path).is_dir() else on_disk(path).read_bytes() for path in seen] == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "cannot write"),
        ("weights", "cannot write"),
        (".staging", "cannot (lock|write)"),
        ("shards", "cannot (lock|write)"),
        ("runs", "cannot move"),
    ],
)
def test_a_file_in_the_way_of_the_outputs_is_an_outputs_error_and_nothing_is_visible(
    path: str, message: str, tmp_path: Path
) -> None:
    settings = toy(tmp_path)
    in_the_way(settings.outputs / path)
    with pytest.raises(OutputsError, match=f"{message} .*: .*; (a file is where|check that it exists)"):
        evaluation.evaluate(settings)
    assert list_runs(opened(settings.outputs)) == []
    assert not on_disk(settings.outputs / "latest.json").exists()
    on_disk(settings.outputs / path).unlink()
    assert evaluation.evaluate(settings).new


@pytest.mark.torture  # a short sweep: tests/promises/test_whole_or_not_at_all.py
def test_after_a_full_disk_at_any_step_the_next_run_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = published(toy(tmp_path, workers=1))
    for step in range(1, 100):
        outputs = tmp_path / f"outputs-{step}"
        evaluation.evaluate(toy(tmp_path, workers=1, outputs=outputs, run_date="2026-01-30"))
        earlier = snapshot(outputs / "runs")
        settings = toy(tmp_path, workers=1, outputs=outputs)
        calls = 0

        def failing(call: Callable[..., None], step: int = step) -> Callable[..., None]:
            def counted(*arguments: Any) -> None:
                nonlocal calls
                calls += 1
                if calls == step:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                call(*arguments)

            return counted

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(os.fsync))
            patch.setattr(os, "replace", failing(os.replace))
            try:
                evaluation.evaluate(settings)
                break
            except OutputsError as error:
                assert "No space left on device" in str(error)  # noqa: PT017  the last round does not raise
        assert all(run.problems() == [] for run in list_runs(opened(outputs)))
        run = published(settings)
        assert parquet_hashes(run.folder) == parquet_hashes(undisturbed.folder)
        assert left_over(outputs) == []
        assert {name: now for name, now in snapshot(outputs / "runs").items() if name in earlier} == earlier
    assert 12 < calls < 99  # there were that many steps, and each has been tried


# Runs the pipeline over and over in children of its own, each killed at a later moment than the one before: at its
# n-th sync to disk or rename of a file, which is in every write there is. Then runs once more to the end.
KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from mnist_pipeline.pipeline import evaluation
from mnist_pipeline.runs.lookup import list_runs
from tests.pipeline.test_evaluation import opened, toy

root = Path(sys.argv[1])


def run_child(outputs, kill_at):
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    calls = 0

    def deadly(call):
        def counted(*arguments):
            nonlocal calls
            calls += 1
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*arguments)

        return counted

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    try:
        evaluation.evaluate(toy(root, workers=1, outputs=outputs))
        os._exit(0)
    finally:
        os._exit(1)


for step in range(1, 100):
    outputs = root / f"outputs-{step}"
    killed = run_child(outputs, step)
    visible = [run.problems() for run in list_runs(opened(outputs))]
    print(step, killed, visible, run_child(outputs, None), flush=True)
    if killed == 0:
        break
"""


@pytest.mark.torture  # a short sweep: tests/promises/test_whole_or_not_at_all.py
def test_a_run_killed_at_any_step_is_finished_by_the_next_with_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = published(toy(tmp_path, workers=1))
    driver = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_STEP, tmp_path], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert driver.returncode == 0, driver.stderr
    *killed, last = [line.split(" ") for line in driver.stdout.splitlines()]
    assert len(killed) > 12
    assert {first for _, first, *_ in killed} == {str(-signal.SIGKILL)}
    assert {visible for _, _, visible, _ in killed} == {"[]", "[[]]"}  # no run, or one without a problem
    assert {then for *_, then in [*killed, last]} == {"0"}
    for step, *_ in [*killed, last]:
        outputs = tmp_path / f"outputs-{step}"
        (run,) = list_runs(opened(outputs))
        assert run.problems() == []
        assert parquet_hashes(run.folder) == parquet_hashes(undisturbed.folder)
        assert len(pd.read_parquet(outputs / "history.parquet")) == 10
        # A kill may leave an unfinished file, under a name that begins with a dot and outside of every table.
        assert [name for name in left_over(outputs) if not name.startswith(".")] == []


def test_archived_weights_that_are_not_those_of_the_plan_are_refused(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    plan = planning.make_plan(settings, inputs.fetch(settings))
    evaluation.build_shards(plan, plan.groups[0])
    plan.outputs.store.write(layout.weights(plan.identity.weights_sha256), encode_weights(random_network(1)))
    with (
        staging_directory(opened(plan.outputs), plan.run_id) as staging,
        pytest.raises(DamagedError, match=r"expected the weights its name says, got [0-9a-f]{64}; run again"),
    ):
        evaluation.predict_shards(plan, staging, plan.groups[0])


def test_a_file_changed_between_fetch_and_shards_cannot_poison_the_shards_of_later_nights(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    path = tmp_path / "data" / images_name()
    good = path.read_bytes()
    undisturbed = evaluation.evaluate(settings.model_copy(update={"outputs": tmp_path / "undisturbed"}))

    plan = planning.make_plan(settings, inputs.fetch(settings))
    path.write_bytes(good[:16] + bytes(len(good) - 16))
    with pytest.raises(DataError, match="expected the file that was verified, got one changed since"):
        evaluation.build_shards(plan, plan.groups[0])
    path.write_bytes(good)

    published = evaluation.evaluate(settings)
    assert hashes(published.folder / "predictions") == hashes(undisturbed.folder / "predictions")


def test_more_shards_than_their_names_can_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_SHARDS", 2)
    with pytest.raises(SettingsError, match="shard_rows 10: expected at most 2 shards for 25 images"):
        evaluation.evaluate(small_settings(tmp_path))


# Which runs count


@pytest.mark.parametrize("setting", ["weights", "batch_rows", "shard_rows", "data_dir", "invert"])
def test_a_run_with_a_setting_given_by_hand_does_not_count(setting: str, tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(encode_weights(random_network(5)))
    make_split(tmp_path / "other", ROWS, seed=5)
    folders = {"weights": tmp_path / "other.safetensors", "data_dir": tmp_path / "other"}
    others: dict[str, Any] = {**folders, "batch_rows": 9, "shard_rows": 9, "invert": True}
    settings = toy(tmp_path, by_hand={setting: others[setting]})
    by_hand = evaluation.evaluate(settings)
    assert by_hand.by_hand == (setting,)
    night = evaluation.evaluate(toy(tmp_path))
    assert night.by_hand == ()
    runs = list_runs(opened(settings.outputs))
    counted = {run.name.run_id: counted_at(opened(settings.outputs), run) is not None for run in runs}
    assert counted == {by_hand.run_id: False, night.run_id: True}


def test_settings_given_by_hand_as_they_are_configured_or_that_change_no_run_count(tmp_path: Path) -> None:
    (tmp_path / "same.safetensors").write_bytes(encode_weights(NETWORK))
    make_split(tmp_path / "images", ROWS)
    same = {"weights": tmp_path / "same.safetensors", "batch_rows": 4, "workers": 1, "data_dir": tmp_path / "images"}
    same |= {"invert": True, "pixel_scale": 255}  # of images that are given by hand
    assert evaluation.evaluate(toy(tmp_path, by_hand=same, data_dir=None)).by_hand == ()


def test_the_current_weights_given_by_hand_count_and_those_that_were_current_do_not(tmp_path: Path) -> None:
    old, new = (tmp_path / f"{seed}.safetensors" for seed in (2, 3))
    for path, seed in ((old, 2), (new, 3)):
        path.write_bytes(encode_weights(random_network(seed)))
        promote_to(tmp_path / "outputs", random_network(seed))
    night = evaluation.evaluate(small_settings(tmp_path))
    again = evaluation.evaluate(small_settings(tmp_path, by_hand={"weights": new}))
    assert (again.run_id, again.by_hand) == (night.run_id, ())
    assert evaluation.evaluate(small_settings(tmp_path, by_hand={"weights": old})).by_hand == ("weights",)


def test_a_run_by_hand_counts_from_when_its_night_finds_it(tmp_path: Path) -> None:
    weights, outputs = tmp_path / "2.safetensors", opened(tmp_path / "outputs")
    weights.write_bytes(encode_weights(random_network(2)))
    first = evaluation.evaluate(small_settings(tmp_path, by_hand={"weights": weights}))
    assert counted_at(outputs, run_by_id(outputs, first.run_id)) is None
    promote_to(outputs, random_network(2))
    night = evaluation.evaluate(small_settings(tmp_path))
    assert (night.run_id, night.new) == (first.run_id, False)
    assert counted_at(outputs, run_by_id(outputs, first.run_id)) is not None
    promote_to(outputs, random_network(3))
    assert evaluation.evaluate(small_settings(tmp_path, by_hand={"weights": weights})).by_hand == ()  # it counted then


def test_after_good_weights_are_back_the_run_of_the_date_is_the_one_they_made(tmp_path: Path) -> None:
    outputs = opened(tmp_path / "outputs")

    def night(seed: int) -> str:
        promote_to(outputs, random_network(seed))
        return evaluation.evaluate(small_settings(tmp_path)).run_id

    good, bad = night(2), night(3)
    assert find_run(outputs, "latest", "toy", "test").name.run_id == bad
    assert night(2) == good
    for which in ("latest", "2026-01-31"):
        assert find_run(outputs, which, "toy", "test").name.run_id == good


# Current weights


def test_without_any_promotion_the_shipped_weights_are_current(tmp_path: Path) -> None:
    assert planning.current_weights(opened(tmp_path)) == SHIPPED_WEIGHTS
    run = published(toy(tmp_path, weights=None))
    assert run.manifest().identity.weights_sha256 == weights_sha256(load_weights(SHIPPED_WEIGHTS))


def test_the_weights_promoted_last_are_used_unless_others_are_given(tmp_path: Path) -> None:
    settings = toy(tmp_path, weights=None)
    for network in (random_network(2), random_network(1)):
        promote_to(settings.outputs, network)
    assert published(settings).manifest().identity.weights_sha256 == weights_sha256(random_network(1))
    assert published(toy(tmp_path)).manifest().identity.weights_sha256 == weights_sha256(NETWORK)
    elsewhere = toy(tmp_path, weights=None, outputs=tmp_path / "elsewhere")
    assert planning.current_weights(opened(elsewhere.outputs)) == SHIPPED_WEIGHTS


def test_promoted_weights_that_are_gone_are_named_and_nothing_is_published(tmp_path: Path) -> None:
    settings = toy(tmp_path, weights=None)
    promote_to(settings.outputs, NETWORK)
    on_disk(planning.current_weights(opened(settings.outputs))).unlink()
    name = f"{weights_sha256(NETWORK)}.safetensors"
    with pytest.raises(DamagedError, match=f"{name}: expected the weights that were promoted last, got none; put them"):
        evaluation.evaluate(settings)
    assert list_runs(opened(settings.outputs)) == []
    assert evaluation.evaluate(toy(tmp_path)).new  # those given are another matter


def test_every_byte_and_name_of_a_run_is_on_the_disk_when_it_becomes_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, rename = set(), os.fsync, os.rename
    at_the_rename: list[set[int]] = []

    def note(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        sync(handle)

    def note_rename(source: Path, target: Path) -> None:
        if target.parent.name == "runs":
            at_the_rename.append(set(synced))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", note_rename)
    folder = on_disk(published(toy(tmp_path)).folder)
    files = {path.stat().st_ino for path in folder.rglob("*")} | {folder.stat().st_ino}
    assert len(files) > 8  # prediction files, three small tables, the manifest, two folders
    assert files <= at_the_rename[0]
    assert folder.parent.stat().st_ino in synced
