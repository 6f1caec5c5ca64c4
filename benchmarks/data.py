"""Writes the benchmark rows: MNIST's training split, repeated, as IDX files and as ordinary list-typed shards.

Both are stored in the folder BENCH_DIR (below the system's temporary folder if unset) and kept for the next time.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline import init_network
from mnist_pipeline.core.idx import encode
from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.settings import load_settings

SHARD_ROWS = 10_000


def bench_folder() -> Path:
    """The folder of the benchmarks' inputs and outputs."""
    return Path(os.environ.get("BENCH_DIR", Path(tempfile.gettempdir()) / "mnist-pipeline-bench"))


def weights_file() -> Path:
    """The shipped weights as .npz, which every peer can read."""
    path = bench_folder() / "weights.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = dict(init_network().items())
    np.savez(path, **tensors)
    return path


def idx_folder(rows: int) -> Path:
    """A folder with the IDX files of a test split of `rows` images, for --data-dir."""
    folder = bench_folder() / f"idx-{rows}"
    if (folder / "t10k-labels-idx1-ubyte").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = train_images()
    with (folder / "t10k-images-idx3-ubyte").open("wb") as file:
        file.write(encode(images[:0])[:4] + np.array([rows, 28, 28], ">i4").tobytes())
        for start in range(0, rows, len(images)):
            file.write(images[: rows - start].tobytes())
    repeated = np.resize(labels, rows)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(encode(repeated))
    return folder


def list_folder(rows: int) -> Path:
    """A folder of ordinary shards: image_id, label, pixels as a list of float32; pyarrow's defaults."""
    folder = bench_folder() / f"lists-{rows}"
    files = rows // SHARD_ROWS
    if len(list(folder.glob("*.parquet"))) == files:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = train_images()
    pixels = flatten(normalise(images))
    for index in range(files):
        start = index * SHARD_ROWS % len(images)
        flat = pixels[start : start + SHARD_ROWS].ravel()
        offsets = np.arange(0, len(flat) + 1, pixels.shape[1], dtype=np.int32)
        table = pa.table(
            {
                "image_id": np.arange(index * SHARD_ROWS, (index + 1) * SHARD_ROWS),
                "label": labels[start : start + SHARD_ROWS].astype(np.int8),
                "pixels": pa.ListArray.from_arrays(offsets, pa.array(flat)),
            }
        )
        pq.write_table(table, folder / f"part-{index:05d}.parquet")
    return folder


def train_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """MNIST's training split: `[60000, 28, 28]` and `[60000]` uint8."""
    source_images = inputs.fetch(load_settings(dataset="mnist", split="train"))
    labels = read_labels(source_images, RowRange(0, source_images.rows))
    assert labels is not None
    return read_images(source_images, RowRange(0, source_images.rows)), labels
