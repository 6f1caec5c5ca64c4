"""The network as a NumPy user would write it from the book, and the output tables: shared by all peers."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BATCH_ROWS = 2048


def load(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """The six tensors of an .npz file."""
    with np.load(path) as file:
        return dict(file)


def predict(network: dict[str, NDArray[np.float32]], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities `[B, 10]` float32 of images `[B, 784]` float32 in 0..1."""
    z1 = 1 / (1 + np.exp(-(x @ network["W1"] + network["b1"])))
    z2 = 1 / (1 + np.exp(-(z1 @ network["W2"] + network["b2"])))
    a3 = z2 @ network["W3"] + network["b3"]
    e = np.exp(a3 - a3.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True), np.float32)


def pixels_of(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float32]:
    """A list column as `[N, 784]` float32, without a copy if it is one chunk."""
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False)).reshape(-1, 784)


def classify(network: dict[str, NDArray[np.float32]], table: pa.Table) -> dict[str, NDArray[Any]]:
    """Classify a table of images; the columns of their predictions."""
    probabilities = np.concatenate(
        [
            predict(network, pixels_of(table["pixels"].slice(start, BATCH_ROWS)))
            for start in range(0, table.num_rows, BATCH_ROWS)
        ]
    )
    return columns_of(table["image_id"].to_numpy(), table["label"].to_numpy(), probabilities)


def columns_of(
    image_ids: NDArray[np.int64], labels: NDArray[np.int8], probabilities: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """The columns of the table of predictions."""
    return {
        "image_id": image_ids,
        "label": labels,
        "prediction": probabilities.argmax(axis=1).astype(np.int8),
        **{f"proba_{digit}": probabilities[:, digit] for digit in range(10)},
    }


def write_summary(out: Path) -> None:
    """Images and right predictions of each digit, from the predictions in `out/predictions`."""
    frame = pq.read_table(out / "predictions", columns=["label", "prediction"]).to_pandas()
    frame["correct"] = frame["label"] == frame["prediction"]
    summary = frame.groupby("label")["correct"].agg(images="size", correct="sum").reset_index()
    summary["accuracy"] = summary["correct"] / summary["images"]
    summary.to_parquet(out / "summary.parquet")
