"""Whole nights: faults planted in real images, labels and weights, and what a night does when something goes wrong."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from mnist_pipeline.cli import app
from mnist_pipeline.core import idx
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.network import BOOK, Network, predict
from mnist_pipeline.core.network.training import Recipe, fit
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.errors import RunNotFoundError, VerdictError
from mnist_pipeline.pipeline import evaluation, inputs, nightly
from mnist_pipeline.pipeline.decisions import decide
from mnist_pipeline.pipeline.nightly import DateStatus, consecutive, run_nightly
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import Settings, load_settings, project_file
from mnist_pipeline.verdicts.records import newest_verdict
from mnist_pipeline.weights.files import SHIPPED_WEIGHTS, encode_weights, load_weights
from tests.builders import images_name, labels_name, make_split, random_images, random_network, small_settings
from tests.published import flip_bit, hashes, left_over, on_disk, opened, snapshot

PROJECT = Path(__file__).parents[1]
RUN_DATE = "2026-01-31"


def command(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


# Honest gates: a fault is planted in the real test split, and the gate that is meant for it is seen to fire.


@dataclass
class Faulty:
    """What a night is made from, to be spoilt."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    weights: Network


@dataclass(frozen=True)
class RealNights:
    """Two good nights of the real test split, published as the data set "night"."""

    good: Faulty
    folder: Path

    def run(self, name: str, run_date: str, gates: dict[str, Any], what: Faulty) -> Result:
        """A night as the command has it, with these gates and no others."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / images_name()).write_bytes(idx.encode(what.images))
        (folder / labels_name()).write_bytes(idx.encode(what.labels))
        (folder / "w.safetensors").write_bytes(encode_weights(what.weights))
        lines = [f"{gate} = {json.dumps(bound)}" for gate, bound in gates.items()]
        weights = f"weights = {str(folder / 'w.safetensors')!r}"
        (folder / "gates.toml").write_text("\n".join([weights, "[gates.night]", *lines, ""]))
        where = ["--data-dir", folder, "--outputs", self.folder / "outputs"]
        asked = ["--dataset", "night", "--run-date", run_date, "--config", folder / "gates.toml", "--no-report"]
        return command("run", "--direct", *where, *asked)


def all_gates() -> dict[str, Any]:
    gates: dict[str, Any] = tomllib.loads((project_file("config") / "gates.toml").read_text())["gates"]["mnist"]
    return gates


@pytest.fixture(scope="module")
def nights(mnist_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RealNights:
    folder = tmp_path_factory.mktemp("nights")
    source_images = inputs.fetch(load_settings(dataset="mnist", split="test", cache=mnist_cache))
    rows = RowRange(0, source_images.rows)
    labels = read_labels(source_images, rows)
    assert labels is not None
    good = Faulty(read_images(source_images, rows), labels, load_weights(SHIPPED_WEIGHTS))
    nights = RealNights(good, folder)
    for run_date in ("2026-01-01", "2026-01-02"):
        result = nights.run("good", run_date, all_gates(), good)
        assert result.exit_code == 0, result.output
        assert "verdict: pass" in result.stdout
    return nights


def permuted_labels(what: Faulty) -> None:
    what.labels = np.random.default_rng(0).permutation(what.labels)


def mirrored_images(what: Faulty) -> None:
    what.images = np.ascontiguousarray(what.images[..., ::-1])


def a_digit_missing(what: Faulty) -> None:
    rest = what.labels != 7
    what.images, what.labels = what.images[rest], what.labels[rest]


def cut_short(what: Faulty) -> None:
    what.images, what.labels = what.images[:900], what.labels[:900]


def hardly_trained(what: Faulty) -> None:
    rows = 7_000  # and two passes over them
    what.weights = fit(what.images[:rows], what.labels[:rows], Recipe(epochs=2))


def always_three(what: Faulty) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in BOOK.shapes.items()}
    tensors["b3"][3] = 1
    what.weights = Network(tensors)


def one_pixel(what: Faulty) -> None:
    what.images = what.images.copy()
    what.images[4321, 0, 0] ^= 1


def too_sure(what: Faulty) -> None:
    """The same digits with probabilities of 0 and 1."""
    tensors = dict(what.weights)
    tensors["W3"], tensors["b3"] = 20 * tensors["W3"], 20 * tensors["b3"]
    what.weights = Network(tensors)


def unsure(what: Faulty) -> None:
    """The same digits with probabilities that are nearly equal."""
    tensors = dict(what.weights)
    tensors["W3"], tensors["b3"] = 0.02 * tensors["W3"], 0.02 * tensors["b3"]
    what.weights = Network(tensors)


def blind_to_eight(what: Faulty) -> None:
    tensors = dict(what.weights)
    tensors["b3"] = tensors["b3"].copy()
    tensors["b3"][8] -= 5
    what.weights = Network(tensors)


FAULTS: list[tuple[Callable[[Faulty], None], str]] = [
    (permuted_labels, "min_accuracy"),
    (permuted_labels, "max_loss"),
    (mirrored_images, "min_accuracy"),
    (a_digit_missing, "min_digit_images"),
    (cut_short, "min_images"),
    (hardly_trained, "max_loss"),
    (always_three, "min_digit_accuracy"),
    (always_three, "max_digit_loss"),
    (one_pixel, "same_images"),
    (too_sure, "max_nll"),
    (unsure, "max_brier"),
    (blind_to_eight, "max_digit_loss"),
]


@pytest.mark.real_data
@pytest.mark.parametrize(("plant", "gate"), FAULTS, ids=[f"{plant.__name__}-{gate}" for plant, gate in FAULTS])
def test_a_planted_fault_fails_the_gate_that_is_meant_for_it_and_only_if_that_is_on(
    plant: Callable[[Faulty], None], gate: str, nights: RealNights
) -> None:
    what = Faulty(nights.good.images, nights.good.labels, nights.good.weights)
    plant(what)
    off = nights.run(plant.__name__, "2026-01-03", {}, what)
    assert off.exit_code == 0, off.output
    assert "verdict: none" in off.stdout
    on = nights.run(plant.__name__, "2026-01-03", {gate: all_gates()[gate]}, what)
    assert on.exit_code == 7, on.output
    assert "verdict: fail" in on.stdout
    assert f"  fail  {gate}: " in on.stdout
    assert "  last passed: 2026-01-02-night-test-" in on.stdout
    run_id = on.stdout.split("run ", 1)[1].split()[0]
    assert f"error: run {run_id}: fail: {gate}" in on.stderr
    assert "what was published stays published" in on.stderr


@pytest.mark.real_data
def test_one_changed_pixel_leaves_the_accuracy_as_it_was(nights: RealNights) -> None:
    what = Faulty(nights.good.images, nights.good.labels, nights.good.weights)
    one_pixel(what)
    found = nights.run("one_pixel", "2026-01-03", {"same_images": True}, what).stdout
    good = nights.run("good", "2026-01-02", all_gates(), nights.good).stdout
    lines = [next(line for line in text.splitlines() if line.startswith("accuracy ")) for text in (found, good)]
    assert lines[0] == lines[1]
    assert "verdict: fail (0 of 1 gates passed)" in found
    assert "the images and labels are not those of the last passed run" in found


# What a night does


def test_the_command_and_the_function_do_the_same(tmp_path: Path) -> None:
    gates = {"toy": Gates(min_images=20, min_accuracy=0.99, max_digit_loss=0.5)}
    settings = small_settings(tmp_path, gates=gates, report=True)
    by_function = run_nightly(settings)
    (tmp_path / "gates.toml").write_text(
        "shard_rows = 10\nbatch_rows = 4\n[gates.toy]\nmin_images = 20\nmin_accuracy = 0.99\nmax_digit_loss = 0.5\n"
    )
    words = ["--dataset", "toy", "--data-dir", settings.data_dir, "--outputs", tmp_path / "other", "--workers", 2]
    result = command("run", "--direct", "--run-date", RUN_DATE, *words, "--config", tmp_path / "gates.toml")
    assert (result.exit_code, by_function.accepted) == (7, False)
    assert f"published run {by_function.published.run_id}" in result.stdout
    assert f"verdict: {by_function.verdict.outcome}" in result.stdout
    assert by_function.verdict.line in result.stderr
    told_when = {
        f"{by_function.published.run_id}.json",
        "manifest.json",
        "verdict.json",
        "history.parquet",
        "runs.parquet",
    }  # and the report
    ours, theirs = (
        {name: at for name, at in hashes(folder).items() if Path(name).name not in told_when and ".html" not in name}
        for folder in (settings.outputs, tmp_path / "other")
    )
    assert ours == theirs
    assert {name.split("/")[0] for name in hashes(settings.outputs)} == {
        *(
            "runs",
            "shards",
            "weights",
            "verdicts",
            "counted",
            "reports",
            "history.parquet",
            "runs.parquet",
            "latest.json",
        ),
    }
    verdict = newest_verdict(
        opened(tmp_path / "other"),
        run_by_id(opened(tmp_path / "other"), by_function.published.run_id).manifest().content,
    )
    assert verdict is not None
    assert verdict.document.verdict_id == by_function.verdict.verdict_id


def test_the_same_night_again_changes_no_run_and_no_verdict(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    first = run_nightly(settings)
    kept = [snapshot(settings.outputs / name) for name in ("runs", "verdicts", "shards", "weights")]
    again = run_nightly(settings)
    assert (first.verdict.new, again.verdict.new, again.published.new) == (True, False, False)
    assert [snapshot(settings.outputs / name) for name in ("runs", "verdicts", "shards", "weights")] == kept
    assert left_over(settings.outputs) == []


@pytest.mark.parametrize(("inconclusive", "exit_code"), [("warn", 0), ("fail", 7)])
def test_an_inconclusive_night_ends_as_the_gates_say(inconclusive: str, exit_code: int, tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    words: list[object] = ["--dataset", "toy", "--data-dir", settings.data_dir, "--outputs", settings.outputs]
    words += ["--no-report"]
    pinned = command("run", "--direct", "--run-date", "2026-01-30", *words).stdout.split("published run ")[1].split()[0]
    where = ["--dataset", "toy", "--outputs", settings.outputs]
    assert command("baseline", "set", pinned, *where).exit_code == 0
    on_disk(settings.outputs / "runs" / pinned).rename(tmp_path / "elsewhere")
    (tmp_path / "mine.toml").write_text(f'[gates.toy]\nmax_loss = 0.5\ninconclusive = "{inconclusive}"\n')
    result = command("run", "--direct", "--run-date", RUN_DATE, *words, "--config", tmp_path / "mine.toml")
    assert result.exit_code == exit_code, result.output
    assert "verdict: inconclusive (0 of 2 gates passed)" in result.stdout
    reason = f"the baseline run {pinned} cannot be compared with: it is no longer published"
    assert f"  inconclusive  max_loss: {reason}" in result.stdout
    assert (": inconclusive: max_flips_unchanged (unknown), max_loss" in result.stderr) == bool(exit_code)


# The command, killed when its run has just become visible.
def labelled_by(network: Network, folder: Path, rows: int = 1000) -> None:
    """A split of images whose labels are what a network says of them, but for each 30th."""
    make_split(folder, rows)
    images = random_images(rows)
    labels = predict(network, flatten(normalise(images))).argmax(axis=1).astype(np.uint8)
    labels[::30] = (labels[::30] + 1) % 10
    (folder / labels_name()).write_bytes(idx.encode(labels))


def test_three_nights_without_gates_are_none_then_pass_and_a_much_worse_one_fails(tmp_path: Path) -> None:
    good, bad = random_network(0), random_network(1)
    labelled_by(good, tmp_path / "data")
    outputs, ended = tmp_path / "outputs", []
    (tmp_path / "weights.toml").write_text(f"weights = {str(tmp_path / 'weights.safetensors')!r}\n")
    for day, network in ((28, good), (29, good), (30, bad)):
        (tmp_path / "weights.safetensors").write_bytes(encode_weights(network))
        words = ["--dataset", "toy", "--data-dir", tmp_path / "data", "--config", tmp_path / "weights.toml"]
        ended.append(command("run", "--direct", "--run-date", f"2026-01-{day}", "--outputs", outputs, *words))
    assert [result.exit_code for result in ended] == [0, 0, 7], ended[0].output
    first, second, third = (result.stdout for result in ended)
    assert "verdict: none (nothing was judged)" in first
    assert "verdict: pass (2 of 2 gates passed)" in second
    assert "verdict: fail" in third
    runs = pd.read_parquet(outputs / "runs.parquet")
    assert runs["outcome"].tolist() == ["none", "pass", "fail"]
    assert runs["accuracy"][1] - runs["accuracy"][2] > 0.39
    assert f"  last passed: {runs['run_id'][1]}" in third.splitlines()
    titles = [(outputs / "reports" / f"{run_id}.html").read_text().split("<title>")[1] for run_id in runs["run_id"]]
    assert [title.split(":")[0] for title in titles] == ["None", "Pass", "Fail"]


def require_run_dates(settings: Settings, count: int) -> list[DateStatus]:
    return nightly.require_run_dates(settings, consecutive(settings.run_date, count))


def test_a_night_that_is_due_has_to_be_published_judged_and_good(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, gates={"toy": Gates(min_images=20)})
    with pytest.raises(RunNotFoundError, match=r"got none of 2026-01-31; .*; publish them"):
        require_run_dates(settings, 1)
    good = run_nightly(settings)
    require_run_dates(settings, 1)
    strict = settings.model_copy(update={"gates": {"toy": Gates(min_images=30)}})
    bad = run_nightly(strict.model_copy(update={"batch_rows": 5}))
    with pytest.raises(VerdictError, match=r"^run \S+: fail: min_images \(25, bound 30\); .*; look at each with"):
        require_run_dates(settings, 1)
    with pytest.raises(RunNotFoundError, match=r"got none of 2026-01-29, 2026-01-30; .*; run .* fail: min_images"):
        require_run_dates(settings, 3)
    run_nightly(settings.model_copy(update={"batch_rows": 6}))  # another run of the night, published last
    require_run_dates(settings, 1)
    assert {good.verdict.outcome, bad.verdict.outcome} == {"pass", "fail"}


def test_a_night_that_was_accepted_is_good_and_one_that_was_withdrawn_is_missing(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, gates={"toy": Gates(min_images=30)})
    outputs, night = opened(settings.outputs), run_nightly(settings)
    with pytest.raises(VerdictError, match="fail: min_images"):
        require_run_dates(settings, 1)
    run = run_by_id(outputs, night.published.run_id)
    decide(outputs, run, "accepted", "half a night on purpose")
    again = run_nightly(settings)
    assert (again.accepted, again.line.endswith(": half a night on purpose")) == (True, True)
    (state,) = require_run_dates(settings, 1)
    assert state.line.startswith(night.verdict.line)
    assert state.line.endswith(": half a night on purpose")
    decide(outputs, run, "withdrawn", "wrong camera")
    assert not run_nightly(settings).accepted
    with pytest.raises(
        RunNotFoundError, match=rf"of 2026-01-31; .*; not counted: {run.name.run_id} \(withdrawn\); .*publish them"
    ):
        require_run_dates(settings, 1)


def test_a_night_that_was_never_judged_or_is_damaged_is_not_good(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    published = evaluation.evaluate(settings)
    with pytest.raises(VerdictError, match="expected a verdict, got none; judge it: `mnist-pipeline run --dataset toy"):
        require_run_dates(settings, 1)
    run = run_by_id(opened(settings.outputs), published.run_id)
    decide(opened(settings.outputs), run, "accepted", "looked at by hand")
    assert [state.line.split("; ")[0] for state in require_run_dates(settings, 1)] == [
        f"run {run.name.run_id}: not judged"
    ]
    flip_bit(settings.outputs / "runs" / published.run_id / "manifest.json")
    with pytest.raises(VerdictError, match=r"manifest\.json"):
        require_run_dates(settings, 1)


@pytest.mark.parametrize(("inconclusive", "good"), [("warn", True), ("fail", False)])
def test_an_inconclusive_night_is_as_good_as_its_gates_say(inconclusive: Any, good: bool, tmp_path: Path) -> None:
    gates = Gates(min_accuracy=0.1, inconclusive=inconclusive)
    settings = small_settings(tmp_path, gates={"toy": gates})
    assert run_nightly(settings).verdict.outcome == "inconclusive"
    with nullcontext() if good else pytest.raises(VerdictError, match="inconclusive: min_accuracy"):
        require_run_dates(settings, 1)


KILLED_BEFORE_THE_VERDICT = """
import os, signal
from mnist_pipeline.pipeline import nightly
from mnist_pipeline.cli import app

nightly.judge_published = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
app()
"""


def test_a_night_killed_between_run_and_verdict_is_judged_by_the_same_command_again(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    words = ["run", "--direct", "--run-date", RUN_DATE, "--dataset", "toy", "--data-dir", str(settings.data_dir)]
    words += ["--outputs", str(settings.outputs)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_THE_VERDICT, *words], capture_output=True, env=os.environ, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    (run,) = on_disk(settings.outputs / "runs").iterdir()
    assert not on_disk(settings.outputs / "verdicts").exists()
    before = snapshot(run)
    result = command(*words)
    assert result.exit_code == 0, result.output
    assert f"run {run.name} was published before with the same predictions: nothing new" in result.stdout
    assert "verdict: none" in result.stdout
    assert snapshot(run) == before
    assert pd.read_parquet(settings.outputs / "runs.parquet")["outcome"].tolist() == ["none"]
    assert left_over(settings.outputs) == []


def test_a_night_that_cannot_be_judged_stays_published(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    on_disk(settings.outputs).mkdir()
    on_disk(settings.outputs / "baselines.json").write_text("[]")
    words = ["--dataset", "toy", "--data-dir", settings.data_dir, "--outputs", settings.outputs]
    result = command("run", "--direct", "--run-date", RUN_DATE, *words)
    assert result.exit_code == 5
    assert "baselines.json: expected run_ids by data set, got '[]'; delete it and set them again" in result.stderr
    assert len(list(on_disk(settings.outputs / "runs").iterdir())) == 1
    on_disk(settings.outputs / "baselines.json").unlink()
    assert command("run", "--direct", "--run-date", RUN_DATE, *words).exit_code == 0


def test_a_back_filled_night_is_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_split(tmp_path / "data", 25)
    monkeypatch.setenv("MNIST_PIPELINE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MNIST_PIPELINE_REPORT", "no")
    (tmp_path / "mine.toml").write_text("[gates.toy]\nmin_images = 26\n")
    where = ["--dataset", "toy", "--outputs", tmp_path / "outputs", "--config", tmp_path / "mine.toml"]
    result = command("backfill", "--from", "2026-01-29", "--to", "2026-01-30", "--direct", *where)
    assert result.exit_code == 7, result.output
    assert [line.split(": ")[1] for line in result.stdout.splitlines() if "published run" in line] == ["fail", "fail"]
    assert result.stderr.count("fail: min_images (25, bound 26)") == 2
