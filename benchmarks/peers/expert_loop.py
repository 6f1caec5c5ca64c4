"""What an expert writes in thirty lines: two threads over the files, one BLAS thread each, all of a pass in place."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.peers.network import columns_of, load, pixels_of, write_summary

BATCH_ROWS = 1000


def sigmoid(x: NDArray[np.float32]) -> None:
    """Replace x by its sigmoid, by the tanh of NumPy: half the time of exp with AVX-512, a third more without."""
    x *= np.float32(0.5)
    np.tanh(x, out=x)
    x *= np.float32(0.5)
    x += np.float32(0.5)


def main(shards: Path, weights: Path, out: Path) -> None:
    """Classify every file of `shards`, two at a time."""
    network = load(weights)
    (out / "predictions").mkdir(parents=True)

    def classify(path: Path) -> None:
        table = pq.read_table(path, use_threads=False)
        images = pixels_of(table["pixels"])
        z1, z2 = (np.empty((BATCH_ROWS, width), np.float32) for width in (50, 100))
        probabilities = np.empty((len(images), 10), np.float32)
        for start in range(0, len(images), BATCH_ROWS):
            x, y = images[start : start + BATCH_ROWS], probabilities[start : start + BATCH_ROWS]
            np.matmul(x, network["W1"], out=z1[: len(x)])
            z1 += network["b1"]
            sigmoid(z1)
            np.matmul(z1[: len(x)], network["W2"], out=z2[: len(x)])
            z2 += network["b2"]
            sigmoid(z2)
            np.matmul(z2[: len(x)], network["W3"], out=y)
            y += network["b3"]
            y -= y.max(axis=1, keepdims=True)
            np.exp(y, out=y)
            y /= y.sum(axis=1, keepdims=True)
        columns = columns_of(table["image_id"].to_numpy(), table["label"].to_numpy(), probabilities)
        pq.write_table(pa.table(columns), out / "predictions" / path.name)

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(2) as pool:
        list(pool.map(classify, sorted(shards.glob("*.parquet"))))
    write_summary(out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
