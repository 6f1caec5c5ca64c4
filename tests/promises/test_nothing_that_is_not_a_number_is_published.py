"""NaN or infinity anywhere fails the night and publishes nothing; and what is published are numbers that add up."""

import json
import warnings
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from mnist_pipeline import predict, tables
from mnist_pipeline.cli import app
from mnist_pipeline.core import idx
from mnist_pipeline.core.gates import Gates
from mnist_pipeline.core.network import BOOK, Network
from mnist_pipeline.core.plan import plan_shards
from mnist_pipeline.datasets import shards
from mnist_pipeline.errors import NumericalError
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.runs.run import Run
from mnist_pipeline.settings import Settings
from mnist_pipeline.verdicts.finding import find_run
from mnist_pipeline.weights.files import encode_weights
from tests.attacks.networks import WRITERS
from tests.builders import (
    images_name,
    labels_name,
    make_split,
    random_images,
    random_labels,
    random_network,
    small_settings,
)
from tests.parquet_files import LISTS, column, write
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant
from tests.published import on_disk, opened, snapshot

ROWS = 25  # in shards of 10 and batches of 4
MIDDLE = 15  # an image in the middle batch of the middle shard
NOT_NUMBERS = (np.nan, np.inf, -np.inf)
MAX_BOUND = float(np.finfo(np.float32).max)
NOT_VISIBLE = {"shards", "weights", ".staging"}  # what a failed night may leave: the next one takes it over
NETWORK = random_network()
IMAGES = random_images(ROWS)
BOUND = 1e-6  # of float32 sums of ten probabilities


@pytest.fixture
def toy(tmp_path: Path) -> Settings:
    """Settings under which a night has been published already."""
    (tmp_path / "good.safetensors").write_bytes(encode_weights(NETWORK))
    found = small_settings(tmp_path, ROWS, weights=tmp_path / "good.safetensors")
    run_nightly(found.model_copy(update={"run_date": date(2026, 1, 30)}))
    return found


def visible(settings: Settings) -> dict[str, tuple[str, int]]:
    return {name: of for name, of in snapshot(settings.outputs).items() if name.partition("/")[0] not in NOT_VISIBLE}


def command(settings: Settings, *words: object) -> Result:
    where: list[object] = ["--dataset", settings.dataset, "--outputs", settings.outputs, "--cache", settings.cache]
    where += [] if "--images" in words else ["--data-dir", settings.data_dir]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return CliRunner().invoke(app, [str(word) for word in (*words, *where)])


def run(settings: Settings, *words: object) -> Result:
    sizes = ["--shard-rows", settings.shard_rows, "--batch-rows", settings.batch_rows, "--workers", 2]
    return command(settings, "run", "--direct", "--no-report", "--run-date", "2026-01-31", *sizes, *words)


def fails(settings: Settings, exit_code: int, message: str, *words: object) -> None:
    """Run a night: it fails, with every visible file as it was."""
    before = visible(settings)
    result = run(settings, *words)
    assert (result.exit_code, message in result.stderr) == (exit_code, True), f"{words}: {result.output}"
    assert "Traceback" not in result.output
    assert visible(settings) == before


def with_value(array: NDArray[Any], place: int, value: float) -> NDArray[Any]:
    changed = np.array(array)
    changed.flat[place] = value
    return changed


# Weights that are no numbers


def test_one_value_that_is_no_number_in_any_tensor_of_any_format_fails_the_night(
    toy: Settings, tmp_path: Path, tried: Tried
) -> None:
    cases = [(suffix, name) for suffix in WRITERS for name in BOOK.shapes]
    for number, (suffix, name) in enumerate(cases):
        value = NOT_NUMBERS[(number + number // 6) % 3]  # each with each tensor in one of the formats
        path = tmp_path / f"bad{suffix}"
        bad = with_value(NETWORK[name], 7919 * number % NETWORK[name].size, value)
        path.write_bytes(WRITERS[suffix](dict(NETWORK) | {name: bad}))
        fails(toy, 3, f"{name}: expected finite values, got 1 NaN or infinite", "--weights", path)
    tried(len(cases), "weights with one NaN or infinity")
    assert run(toy, "--weights", toy.weights).exit_code == 0


# Numbers that overflow on the way


def overflowing() -> Iterator[tuple[str, dict[str, NDArray[np.float32]]]]:
    """Where the sums leave float32, and finite weights with which they do."""
    most = {name: np.full(shape, MAX_BOUND, np.float32) for name, shape in BOOK.shapes.items()}
    signs = {
        name: tensor * np.where(np.arange(tensor.size) % 3, 1, -1).reshape(tensor.shape)
        for name, tensor in most.items()
    }
    for layer in (1, 2, 3):
        where = f"expected finite sums in layer {layer}"
        yield where, {f"W{layer}": most[f"W{layer}"]}
        yield where, {f"W{layer}": -most[f"W{layer}"]}
        yield where, {f"W{layer}": signs[f"W{layer}"].astype(np.float32)}
        # A single unit of the layer, and only once its bias has come.
        one = np.zeros(BOOK.shapes[f"W{layer}"], np.float32)
        one[:, 3] = MAX_BOUND / len(one) / 2
        bias = with_value(most[f"b{layer}"] * 0, 3, MAX_BOUND)
        yield where, {f"W{layer}": one, f"b{layer}": bias}
        yield where, {f"W{layer}": -one, f"b{layer}": -bias}
    yield "expected finite sums in layer 1", most


def test_finite_weights_whose_sums_are_infinite_fail_the_night(toy: Settings, tmp_path: Path, tried: Tried) -> None:
    cases = list(overflowing())
    for where, tensors in cases:
        # Images of nearly one everywhere and hidden layers of ones, so that every weight counts.
        (tmp_path / "data" / images_name()).write_bytes(idx.encode(np.full((ROWS, 28, 28), 255, np.uint8)))
        saturated = {"b1": np.full(50, 1e9, np.float32), "b2": np.full(100, 1e9, np.float32)}
        path = tmp_path / "huge.safetensors"
        path.write_bytes(encode_weights(dict(NETWORK) | saturated | tensors))
        fails(toy, 6, where, "--no-invert", "--weights", path)
    tried(len(cases), "networks that overflow")


def test_an_overflow_in_one_image_of_the_middle_batch_of_the_middle_shard_fails_the_night(
    toy: Settings, tmp_path: Path
) -> None:
    images = np.zeros((ROWS, 28, 28), np.uint8)
    images[:, 0, 0] = 255  # blank ones are refused
    images[MIDDLE, 9, 9:11] = 255
    (tmp_path / "data" / images_name()).write_bytes(idx.encode(images))
    tensors = dict(NETWORK) | {"W1": NETWORK["W1"].copy()}
    tensors["W1"][9 * 28 + 9 : 9 * 28 + 11] = MAX_BOUND  # either pixel alone is finite
    path = tmp_path / "one.safetensors"
    path.write_bytes(encode_weights(tensors))
    fails(toy, 6, "shard 2 of 3: 1 of 4 images: expected finite sums in layer 1", "--weights", path)
    images[MIDDLE, 9, 10] = 0
    (tmp_path / "data" / images_name()).write_bytes(idx.encode(images))
    assert run(toy, "--weights", path).exit_code == 0


def test_weights_that_overflow_are_not_promoted(toy: Settings, tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(encode_weights(dict(NETWORK) | {"W2": np.full(BOOK.shapes["W2"], MAX_BOUND, np.float32)}))
    before = visible(toy)
    result = command(toy, "promote", path, "--force")
    assert result.exit_code == 6, result.output
    assert "expected finite sums in layer 2" in result.stderr
    after = visible(toy)
    tonight = {name: after.pop(name) for name in list(after) if name.startswith("candidates/")}
    assert after == before
    tried_out = {name.split("/")[2] for name in tonight if name.startswith("candidates/runs/")}
    assert len(tried_out) == 1  # the current weights alone, which the others were to be held to


# Images that are no numbers


def test_pixels_that_are_no_numbers_or_not_scaled_fail_the_night(toy: Settings, tmp_path: Path, tried: Tried) -> None:
    forms = (*LISTS, "binary")
    above = {"float16": 1.001, "float32": 1.0000001, "float64": 1.0000000000000002}
    count = 0
    for dtype, one in above.items():
        for value in (*NOT_NUMBERS, one, 255.0, -1e-7, 1e4 if dtype == "float16" else 3e38):
            form = forms[count % (len(forms) if dtype == "float32" else len(LISTS))]
            scaled = (IMAGES / 255).astype(dtype)
            spoilt = with_value(scaled, MIDDLE * 784 + 37 * count % 784, value)
            assert spoilt.tobytes() != scaled.tobytes()
            path = write(tmp_path / "bad.parquet", column(spoilt, form), row_group_size=4)
            mine = toy.model_copy(update={"dataset": "mine"})
            fails(mine, 3, f"row {MIDDLE}: expected pixels in 0..1, got ", "--images", path)
            count += 1
    tried(count, "Parquet files with one pixel that is no share")


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_shard_whose_record_vouches_for_a_pixel_that_is_no_number_fails_the_night(
    value: float, toy: Settings
) -> None:
    source_images = inputs.open_images(toy)
    checkpoints = opened(toy.outputs).shard_set(source_images, toy.shard_rows)
    shard = plan_shards(source_images.rows, toy.shard_rows)[1]
    path = on_disk(checkpoints.location) / shard.file_name
    file, record = shards.open_shard(checkpoints, shard), checkpoints.record(shard.file_name)
    assert file is not None
    assert record is not None
    (batch,) = shards.read_batches(file, shard.range.rows)
    image = MIDDLE - shard.range.start
    pixels = with_value(batch, image * 784 + 400, value).astype("<f4")
    content = pq.read_table(path)
    column_of_pixels = pa.FixedSizeBinaryArray.from_buffers(pa.binary(3136), len(pixels), [None, pa.py_buffer(pixels)])
    forged = tables.build(
        tables.IMAGES,
        {
            **{name: content[name].combine_chunks() for name in ("image_id", "image_key", "label")},
            "pixels": column_of_pixels,
        },
    )
    checkpoints.write(shard.file_name, shard.range.rows, tables.encode(tables.IMAGES, forged), notes=record.notes)
    assert checkpoints.find(shard.file_name) is not None
    for _ in range(2):
        fails(toy, 6, "shard 2 of 3: 1 of 4 images: expected finite sums in layer 1", "--weights", toy.weights)
    path.unlink()  # a shard that is gone is built anew
    assert run(toy, "--weights", toy.weights).exit_code == 0


# What is published instead


def numbers_add_up(run: Run) -> None:
    """The tables of a run tell the same, and every float of it is a number."""
    predictions = run.read(tables.PREDICTIONS)
    summary, confusion = run.read(tables.SUMMARY), run.read(tables.CONFUSION)
    totals = run.manifest().totals
    assert predictions.num_rows == totals.images == run.manifest().identity.images
    assert predictions["image_id"].to_pylist() == list(range(totals.images))
    assert pc.sum(confusion["count"]).as_py() == totals.images
    assert pc.sum(summary["predicted"]).as_py() == totals.images
    assert pc.sum(summary["images"]).as_py() == totals.labelled
    assert pc.sum(summary["correct"]).as_py() == totals.correct
    assert (pc.sum(predictions["correct"]).as_py() or 0) == totals.correct
    diagonal = confusion.filter(pc.equal(confusion["label"], confusion["prediction"]))
    assert (pc.sum(diagonal["count"]).as_py() or 0) == totals.correct
    probabilities = np.stack([predictions[f"proba_{digit}"].to_numpy() for digit in range(10)], axis=1)
    assert probabilities.dtype == np.float32
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max() < BOUND
    assert predictions["confidence"].to_pylist() == probabilities.max(axis=1).tolist()
    first_of_the_best = [row.tolist().index(max(row.tolist())) for row in probabilities]
    assert predictions["prediction"].to_pylist() == first_of_the_best


def only_numbers(outputs: Path) -> int:
    """How many tables and documents there are; in none of them is anything that is no number."""
    found = [path for path in outputs.rglob("*") if path.suffix in (".parquet", ".json")]
    for path in found:
        if path.suffix == ".json":
            json.loads(path.read_bytes(), parse_constant=pytest.fail)
            continue
        table = pq.read_table(path)
        for field in table.schema:
            if pa.types.is_floating(field.type):
                values = table[field.name].drop_null().to_numpy()
                assert np.isfinite(values).all(), f"{path}: {field.name}"
    return len(found)


def published(settings: Settings) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judged = run_nightly(settings)
    return find_run(opened(settings.outputs), judged.published.run_id, settings.dataset, settings.split)


def network_of(seed: int, gain: float) -> Network:
    random = np.random.default_rng(seed)
    return Network({name: (gain * random.normal(size=shape)).astype(np.float32) for name, shape in BOOK.shapes.items()})


def tied(best: set[int], level: float) -> Network:
    """All digits of `best` are equally probable, whatever the image."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in BOOK.shapes.items()}
    return Network(zeros | {"b3": np.array([level if digit in best else 0 for digit in range(10)], np.float32)})


gains = st.sampled_from([1e-40, 1e-3, 0.1, 1.0, 1e3, 1e10, 1e30])
networks = st.one_of(
    st.builds(network_of, st.integers(0, 2**32 - 1), gains),
    st.builds(tied, st.sets(st.integers(0, 9)), st.sampled_from([1e-7, 1.0, 1e30])),
)


class Drawn(TypedDict):
    """What a night is made from: the network, how many images, and one label for all; -1 is any, None is none."""

    network: Network
    rows: int
    label: int | None


nights: st.SearchStrategy[Drawn] = st.fixed_dictionaries(
    {"network": networks, "rows": st.sampled_from([1, 9, 21]), "label": st.none() | st.integers(-1, 9)}
)  # type: ignore[assignment]  # the keys are those of the type


def publish_and_add_up(drawn: Drawn, folder: Path) -> None:
    label = drawn["label"]
    make_split(folder / "data", drawn["rows"], labelled=label is not None)
    if label is not None and label >= 0:  # nine digits without an image
        (folder / "data" / labels_name()).write_bytes(idx.encode(np.full(drawn["rows"], label, np.uint8)))
    (folder / "w.safetensors").write_bytes(encode_weights(drawn["network"]))
    gates = {"toy": Gates(max_loss=0.5, max_digit_loss=0.5, min_accuracy=0.0, max_nll=1e3, max_brier=2.0)}
    how = {"weights": folder / "w.safetensors", "gates": gates}
    for night in ("2026-01-30", "2026-01-31"):  # the second is compared with the first
        run = published(small_settings(folder, drawn["rows"], run_date=night, **how))
        numbers_add_up(run)
    assert only_numbers(folder / "outputs") >= 10


@settings(max_examples=6)
@given(nights)
def test_whatever_is_published_adds_up_and_is_all_numbers(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn
) -> None:
    publish_and_add_up(drawn, tmp_path_factory.mktemp("night"))


@pytest.mark.torture
@settings(max_examples=150)
@given(nights)
def test_whatever_is_published_on_very_many_nights_adds_up_and_is_all_numbers(
    tmp_path_factory: pytest.TempPathFactory, drawn: Drawn
) -> None:
    publish_and_add_up(drawn, tmp_path_factory.mktemp("night"))


def test_ties_huge_logits_and_no_images_of_a_digit_add_up(
    tmp_path_factory: pytest.TempPathFactory, tried: Tried
) -> None:
    extremes: list[Drawn] = [
        {"network": tied({3, 7}, 1.0), "rows": 21, "label": -1},
        {"network": tied(set(), 1.0), "rows": 9, "label": 4},
        {"network": network_of(0, 1e30), "rows": 21, "label": -1},
        {"network": network_of(1, 1e30), "rows": 1, "label": None},
    ]
    for drawn in extremes:
        publish_and_add_up(drawn, tmp_path_factory.mktemp("night"))
    tried(2 * len(extremes), "published nights of which everything adds up")


@pytest.mark.parametrize(("gain", "numbers"), [(1e30, "uint8"), (1e10, "float32")])
def test_huge_logits_are_published_as_probabilities_without_a_warning(
    gain: float, numbers: str, toy: Settings, tmp_path: Path
) -> None:
    stored: NDArray[Any] = IMAGES if numbers == "uint8" else (IMAGES / 255).astype(np.float32)
    path = write(tmp_path / "mine.parquet", column(stored), random_labels(ROWS))
    (tmp_path / "huge.safetensors").write_bytes(encode_weights(network_of(0, gain)))
    mine = toy.model_copy(update={"dataset": "mine", "images": path, "data_dir": None})
    numbers_add_up(published(mine.model_copy(update={"weights": tmp_path / "huge.safetensors"})))
    only_numbers(tmp_path / "outputs")


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    gain=st.sampled_from([1.0, 1e3, 1e10, 1e30, 1e36, MAX_BOUND / 8]),
    brightest=st.sampled_from([1.0, 255.0, 1e30, MAX_BOUND]),
    rows=st.integers(1, 5),
)
def test_any_finite_network_and_images_give_probabilities_or_a_refusal_and_no_warning(
    seed: int, gain: float, brightest: float, rows: int
) -> None:
    images = np.random.default_rng(seed).random((rows, 784), np.float32) * np.float32(brightest)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "x: expected pixels in")  # that of any pixels above 1
        try:
            probabilities = predict(network_within(seed, gain), images)
        except NumericalError:
            assert gain * brightest > 1e30  # nothing that could overflow is refused below
            return
    assert np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max() < BOUND


def network_within(seed: int, most: float) -> Mapping[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return Network(
        {name: (most * random.uniform(-1, 1, shape)).astype(np.float32) for name, shape in BOOK.shapes.items()}
    )


def test_unscaled_images_and_huge_logits_give_probabilities_without_a_warning() -> None:
    images = IMAGES.reshape(ROWS, 784).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "x: expected pixels in")
        for gain in (1.0, 1e10, 1e30):
            probabilities = predict(network_of(0, gain), images)
            assert np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max() < BOUND


TENSORS = "mnist_pipeline/core/network/tensors.py"
FORWARD = "mnist_pipeline/core/network/forward.py"
ACTIVATIONS = "mnist_pipeline/core/network/activations.py"
CHECKED = "_require_finite(sums, number)"
ADDS_UP = "test_ties_huge_logits_and_no_images_of_a_digit_add_up"
OVERFLOWS = "test_finite_weights_whose_sums_are_infinite_fail_the_night"
MUTANTS = (
    Mutant(
        TENSORS,
        "elif not np.isfinite(tensor).all():",
        "elif np.isinf(tensor).any():",
        "test_one_value_that_is_no_number_in_any_tensor_of_any_format_fails_the_night",
    ),
    *(
        Mutant(FORWARD, old, new, test)
        for old, new, test in [
            (
                CHECKED,
                f"number == 1 or {CHECKED}",
                "test_a_shard_whose_record_vouches_for_a_pixel_that_is_no_number_fails_the_night",
            ),
            (
                CHECKED,
                f"number == 1 or {CHECKED}",
                "test_an_overflow_in_one_image_of_the_middle_batch_of_the_middle_shard_fails_the_night",
            ),
            (CHECKED, f"number == 2 or {CHECKED}", OVERFLOWS),
            (CHECKED, f"number == 2 or {CHECKED}", "test_weights_that_overflow_are_not_promoted"),
            ("_require_finite(out.T, len(workspace.hidden) + 1)", "pass", OVERFLOWS),
        ]
    ),
    Mutant(FORWARD, 'np.errstate(over="ignore", invalid="ignore", under="ignore")', "np.errstate()", OVERFLOWS),
    Mutant(ACTIVATIONS, "x -= x.max(axis=axis, keepdims=True)", "x -= 0", ADDS_UP),
    Mutant(FORWARD, "probabilities.argmax(axis=0)", "9 - probabilities[::-1].argmax(axis=0)", ADDS_UP),
    Mutant(
        "mnist_pipeline/core/images.py",
        "images.min() >= 0 and images.max() <= top",
        "not (images.min() < 0 or images.max() > top)",
        "test_pixels_that_are_no_numbers_or_not_scaled_fail_the_night",
    ),
    Mutant(
        "mnist_pipeline/core/calibration.py",
        "np.maximum(of_label.astype(np.float64), SMALLEST_PROBABILITY)",
        "of_label.astype(np.float64)",
        ADDS_UP,
    ),
    Mutant("mnist_pipeline/core/tally.py", "lines * DIGITS + predictions", "predictions", ADDS_UP),
)
