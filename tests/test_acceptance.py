"""The real MNIST through the real fetch: the figures this project stands for."""

import ast
import re
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import pytest

import mnist_pipeline
from mnist_pipeline.pipeline import evaluation, inputs
from mnist_pipeline.pipeline.evaluation import Published
from mnist_pipeline.pipeline.nightly import run_nightly
from mnist_pipeline.pipeline.training import score
from mnist_pipeline.settings import Settings, load_settings
from tests.published import on_disk

pytestmark = pytest.mark.real_data

BOOK_PAGE = Path(__file__).parents[1] / "docs" / "book.md"
RUN_DATE = "2026-01-31"
COLUMNS = [f"proba_{digit}" for digit in range(10)]


def settings(cache: Path, outputs: Path, **changes: Any) -> Settings:
    return load_settings(dataset="mnist", run_date=RUN_DATE, cache=cache, outputs=outputs, **changes)


def predictions(published: Published) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(published.folder / "predictions")
    return table["prediction"].to_numpy(), np.stack([table[name].to_numpy() for name in COLUMNS], axis=1)


def test_the_shipped_weights_reach_98_2_percent_and_the_digits_sum_to_it(mnist_cache: Path, tmp_path: Path) -> None:
    published = evaluation.evaluate(settings(mnist_cache, tmp_path))
    assert (published.totals.images, published.totals.labelled) == (10_000, 10_000)
    assert published.totals.correct >= 9_820
    assert sum(score.correct for score in published.scores) == published.totals.correct
    assert sum(score.images for score in published.scores) == 10_000


def test_the_shipped_weights_keep_every_gate_of_the_config_night_after_night(mnist_cache: Path, tmp_path: Path) -> None:
    first, second = (
        run_nightly(settings(mnist_cache, tmp_path, report=False).model_copy(update={"run_date": date(2026, 1, day)}))
        for day in (30, 31)
    )
    assert [night.verdict.outcome for night in (first, second)] == ["pass", "pass"]
    gates = {result.gate for result in second.verdict.results}
    given = {name for name, bound in asdict(settings(mnist_cache, tmp_path).gates["mnist"]).items() if bound}
    assert gates == given - {"alpha", "inconclusive"} | {"max_flips_unchanged"}
    (reference,) = second.verdict.references
    assert (reference.run_id, reference.changed) == (first.published.run_id, 0)


def test_every_batch_size_shard_plan_and_worker_count_gives_the_same_digits(mnist_cache: Path, tmp_path: Path) -> None:
    plans = [(1, 10_000, 1), (7, 3_333, 2), (100, 10_000, 1), (10_000, 10_000, 1), (2048, 1_024, 2)]
    runs = [
        evaluation.evaluate(
            settings(mnist_cache, tmp_path, batch_rows=batch_rows, shard_rows=shard_rows, workers=workers)
        )
        for batch_rows, shard_rows, workers in plans
    ]
    assert len({published.run_id for published in runs}) == len(plans)
    digits, probabilities = predictions(runs[0])
    for published in runs[1:]:
        other_digits, other_probabilities = predictions(published)
        assert np.array_equal(other_digits, digits)
        assert np.abs(other_probabilities - probabilities).max() <= 2e-6


def test_the_60k_train_split_is_evaluated_too(mnist_cache: Path, tmp_path: Path) -> None:
    published = evaluation.evaluate(settings(mnist_cache, tmp_path, split="train"))
    assert published.totals.labelled == 60_000
    assert published.totals.accuracy is not None
    assert published.totals.accuracy > 0.99
    assert len(list(on_disk(published.folder / "predictions").iterdir())) == 6


def test_the_books_interface_has_its_shapes_dtypes_and_accuracy(
    mnist_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_CACHE", str(mnist_cache))
    (x_train, t_train), (x_test, t_test) = mnist_pipeline.load_mnist()
    assert (x_train.shape, t_train.shape, x_test.shape, t_test.shape) == (
        (60_000, 784),
        (60_000,),
        (10_000, 784),
        (10_000,),
    )
    assert x_test.dtype == np.float32
    assert (x_test.min(), x_test.max()) == (0, 1)
    network = mnist_pipeline.init_network()
    right = sum(
        int((mnist_pipeline.predict(network, x_test[i : i + 100]).argmax(axis=1) == t_test[i : i + 100]).sum())
        for i in range(0, 10_000, 100)
    )
    source_images = inputs.fetch(load_settings(dataset="mnist", split="test"))
    assert right == score(network, source_images).correct
    (_, _), (raw_images, rows) = mnist_pipeline.load_mnist(normalize=False, flatten=False, one_hot_label=True)
    assert raw_images.shape == (10_000, 1, 28, 28)
    assert raw_images.dtype == np.uint8
    assert raw_images.max() == 255
    assert np.array_equal(rows.argmax(axis=1), t_test)
    assert np.array_equal(raw_images.reshape(-1, 784).astype(np.float32) / 255, x_test)


def test_the_page_of_the_book_runs_and_each_comment_is_the_value_of_its_line(
    mnist_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_CACHE", str(mnist_cache))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", BOOK_PAGE.read_text(encoding="utf-8"), re.S):
        lines = block.splitlines()
        for statement in ast.parse(block).body:
            code, _, comment = "\n".join(lines[statement.lineno - 1 : statement.end_lineno]).partition("  # ")
            if comment:
                value = eval(code, names)
                value = value.tolist() if isinstance(value, np.ndarray) else value
                assert value == ast.literal_eval(comment), code
            else:
                exec(code, names)
    plt.close("all")
    assert (tmp_path / "digit.png").exists()
