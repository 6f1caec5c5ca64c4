"""Measures images per second by batch size, on one core: the gain from batching, and the best default.

Run it with `make bench`. Three columns: the book's loop calling `predict`, our in-place `forward` on images in
memory, and `forward` on images decoded from a Parquet shard, which is what a run does. Each figure is the best of
three passes over the same 10,000 images; compare within one table, not between machines or days.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline import init_network, predict, runtime
from mnist_pipeline.core.images import DIGITS, flatten, normalise
from mnist_pipeline.core.network import Network, Workspace, forward
from mnist_pipeline.core.plan import RowRange, Shard, cut
from mnist_pipeline.datasets import shards
from mnist_pipeline.datasets.formats.idx import IdxSplit, read_images
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.checkpoints import CheckpointFolder

BATCHES = (1, 10, 100, 1000, 1024, 2048, 10_000)
PASSES = 3


def main() -> None:
    """Measure and print the table as Markdown."""
    runtime.one_blas_thread()
    source_images = inputs.fetch(load_settings(dataset="mnist", split="test"))
    network = init_network()
    images = flatten(normalise(read_images(source_images, RowRange(0, source_images.rows))))
    print("| images per batch | `predict`, images/s | x batch 1 | `forward` in place | from a shard |")
    print("|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        shard, checkpoints = _shard(source_images, Path(folder))
        alone = 0.0
        for batch in BATCHES:
            book = _rate(source_images.rows, partial(_book, network, images, batch))
            alone = alone or book
            in_workspace = _rate(source_images.rows, partial(_in_workspace, network, images, batch))
            decoded = _rate(source_images.rows, partial(_from_shard, network, checkpoints, shard, batch))
            print(f"| {batch:,} | {book:,.0f} | {book / alone:.1f} | {in_workspace:,.0f} | {decoded:,.0f} |")


def _rate(rows: int, work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(PASSES):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return rows / min(seconds)


def _book(network: Network, images: NDArray[np.float32], batch: int) -> None:
    for start in range(0, len(images), batch):
        np.argmax(predict(network, images[start : start + batch]), axis=1)


def _in_workspace(network: Network, images: NDArray[np.float32], batch: int) -> None:
    workspace, out = Workspace(network, batch, runtime.kernels()), np.empty((DIGITS, len(images)), np.float32)
    for rows in cut(len(images), batch):
        forward(workspace, images[rows.start : rows.stop], out=out[:, rows.start : rows.stop])


def _from_shard(network: Network, checkpoints: CheckpointFolder, shard: Shard, batch: int) -> None:
    workspace, done = Workspace(network, batch, runtime.kernels()), 0
    out = np.empty((DIGITS, shard.range.rows), np.float32)
    file = shards.open_shard(checkpoints, shard)
    assert file is not None, "it was written a moment ago"
    for pixels in shards.read_batches(file, batch):
        forward(workspace, pixels, out=out[:, done : done + len(pixels)])
        done += len(pixels)


def _shard(source_images: IdxSplit, folder: Path) -> tuple[Shard, CheckpointFolder]:
    shard = Shard(0, 1, RowRange(0, source_images.rows))
    checkpoints = Outputs.at(folder).shard_set(source_images, source_images.rows)
    shards.write_shard(source_images, shard, checkpoints)
    return shard, checkpoints


if __name__ == "__main__":
    main()
