from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnist_pipeline import tables
from mnist_pipeline.datasets.image_bins import ImageBins
from mnist_pipeline.runs import summary
from mnist_pipeline.runs.run import Run
from tests.published import identity, publish_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return publish_run(tmp_path_factory.mktemp("outputs"), identity(images=500, shard_rows=120), views=False)


def frames(run: Run) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Predictions, and the three small tables."""
    predictions = pd.read_parquet(run.folder / "predictions")
    summary, confusion, reliability = (
        pd.read_parquet(run.folder / f"{name}.parquet") for name in ("summary", "confusion", "reliability")
    )
    return predictions, summary, confusion, reliability


def test_the_small_tables_are_four_in_this_order(run: Run) -> None:
    made = list(summary.tables_of(identity(), *run.manifest().counted(), ImageBins.empty()))
    assert [table for table, _ in made] == [tables.SUMMARY, tables.CONFUSION, tables.RELIABILITY, tables.INPUTS]
    assert [rows.num_rows for _, rows in made] == [10, 100, 15, 680]
    assert all(rows.schema.equals(table.schema, check_metadata=True) for table, rows in made)


def test_the_summary_is_what_pandas_makes_of_the_predictions(run: Run) -> None:
    predictions, summary, _, _ = frames(run)
    assert summary["run_id"].unique().tolist() == [run.name.run_id]
    assert summary[["dataset", "split"]].drop_duplicates().to_numpy().tolist() == [["toy", "test"]]
    by_digit = predictions.groupby("label")
    assert summary["images"].tolist() == by_digit.size().tolist()
    assert summary["correct"].tolist() == by_digit["correct"].sum().tolist()
    np.testing.assert_allclose(summary["accuracy"], by_digit["correct"].mean().astype(float))
    np.testing.assert_allclose(summary["mean_confidence"], by_digit["confidence"].mean(), rtol=1e-6)


def test_the_confusion_is_what_pandas_makes_of_the_predictions(run: Run) -> None:
    predictions, _, confusion, _ = frames(run)
    counted = predictions.groupby(["label", "prediction"]).size()
    found = confusion.set_index(["label", "prediction"])["count"]
    assert {key: count for key, count in found.items() if count} == counted.to_dict()
    assert found.sum() == 500


def test_the_reliability_is_what_pandas_makes_of_the_predictions(run: Run) -> None:
    predictions, _, _, reliability = frames(run)
    assert reliability["bin"].tolist() == list(range(15))
    assert reliability["run_date"].unique().tolist() == [pd.Timestamp(2026, 1, 31)]
    for _, row in reliability.iterrows():
        inside = predictions[(predictions["confidence"] > row["low"]) & (predictions["confidence"] <= row["high"])]
        assert (row["images"], row["correct"]) == (len(inside), inside["correct"].sum())
        if len(inside):
            assert row["mean_confidence"] == pytest.approx(inside["confidence"].astype(float).mean())
            assert row["accuracy_low"] <= row["accuracy"] == inside["correct"].mean() <= row["accuracy_high"]
        else:
            assert row[["mean_confidence", "accuracy", "accuracy_low", "accuracy_high"]].isna().all()


def test_without_labels_what_cannot_be_known_is_null_and_predictions_are_counted(tmp_path: Path) -> None:
    predictions, summary, confusion, reliability = frames(publish_run(tmp_path, identity(labels_sha256=None)))
    assert summary[["accuracy", "precision", "f1", "mean_confidence"]].isna().all(axis=None)
    assert summary["predicted"].sum() == 12
    unknown = confusion[confusion["label"].isna()].set_index("prediction")["count"]
    assert unknown[unknown > 0].to_dict() == predictions["prediction"].value_counts().to_dict()
    assert confusion[confusion["label"].notna()]["count"].sum() == 0
    assert reliability["images"].sum() == 0
    assert reliability[["mean_confidence", "accuracy", "accuracy_low", "accuracy_high"]].isna().all(axis=None)


def test_the_inputs_are_all_bins_with_their_bounds(run: Run) -> None:
    inputs = pd.read_parquet(run.folder / "inputs.parquet")
    assert inputs["run_id"].unique().tolist() == [run.name.run_id]
    assert inputs.groupby("statistic", sort=False).size().to_dict() == {
        "mean": 256, "largest": 256, "centre_x": 55, "centre_y": 55, "width": 29, "height": 29
    }  # fmt: skip
    filled = inputs[inputs["images"] > 0].set_index("statistic")
    assert filled["images"].unique().tolist() == [500]
    bounds = {name: (row["low"], row["high"]) for name, row in filled.iterrows()}
    assert bounds == {
        "mean": (6 / 255, 7 / 255),  # 20 pixels of 784 are full
        "largest": (1, 1),
        "centre_x": (13.25, 13.75),
        "centre_y": (13.25, 13.75),
        "width": (2, 2),
        "height": (10, 10),
    }
    assert (inputs["low"].min(), inputs["high"].max()) == (-0.25, 28)
    assert inputs.query("statistic in ['mean', 'largest']")["high"].max() == 1
