"""Writes the benchmark rows: MNIST's training split, repeated, as IDX files and as shards in layouts of Arrow's lists.

All are stored in the folder BENCH_DIR (below the system's temporary folder if unset) and kept for the next time.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline import init_network
from mnist_pipeline.core.idx import encode
from mnist_pipeline.core.images import PIXELS, flatten, normalise
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.settings import load_settings

SHARD_ROWS = 10_000


@dataclass(frozen=True)
class Layout:
    """How the peers' shards store images.

    Attributes:
        name: of the folder.
        schema: image_id, label, and pixels as a list of float32.
        options: of `pyarrow.parquet.write_table`.
    """

    name: str
    schema: pa.Schema
    options: Mapping[str, Any] = field(default_factory=dict)


# What pyarrow writes by itself.
LISTS = Layout("lists", pa.schema({"image_id": pa.int64(), "label": pa.int8(), "pixels": pa.list_(pa.float32())}))
# What it reads fastest: no offsets, no nulls, a fast codec, no dictionary. Other row groups (500 to 10,000 rows) and
# pages (64 KiB to 4 MiB) made no difference.
FIXED_SIZE_LISTS = Layout(
    "fixed-size-lists",
    pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            pa.field("pixels", pa.list_(pa.field("element", pa.float32(), nullable=False), PIXELS), nullable=False),
        ]
    ),
    {"compression": "lz4", "use_dictionary": False},
)


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


def shard_folder(layout: Layout, rows: int) -> Path:
    """A folder of shards of 10,000 images: image_id, label and pixels."""
    folder = bench_folder() / f"{layout.name}-{rows}"
    files = rows // SHARD_ROWS
    if len(list(folder.glob("*.parquet"))) == files:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = train_images()
    pixels = flatten(normalise(images))
    for index in range(files):
        start = index * SHARD_ROWS % len(images)
        table = pa.table(
            {
                "image_id": np.arange(index * SHARD_ROWS, (index + 1) * SHARD_ROWS),
                "label": labels[start : start + SHARD_ROWS].astype(np.int8),
                "pixels": pa.FixedSizeListArray.from_arrays(pixels[start : start + SHARD_ROWS].ravel(), PIXELS),
            }
        )
        pq.write_table(table.cast(layout.schema), folder / f"part-{index:05d}.parquet", **layout.options)
    return folder


def train_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """MNIST's training split: `[60000, 28, 28]` and `[60000]` uint8."""
    source_images = inputs.fetch(load_settings(dataset="mnist", split="train"))
    labels = read_labels(source_images, RowRange(0, source_images.rows))
    assert labels is not None
    return read_images(source_images, RowRange(0, source_images.rows)), labels
