"""Small data sets, networks and settings for tests. Everything is made from a seed; nothing is fetched."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import DIGITS, SIDE
from mnist_pipeline.core.network import BOOK, Architecture, Network
from mnist_pipeline.settings import Settings, load_settings

PREFIXES = {"test": "t10k", "train": "train"}


def random_images(rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """`[rows, 28, 28]` uint8, every value from 0 to 255 as likely as another."""
    return np.random.default_rng(seed).integers(0, 256, (rows, SIDE, SIDE), np.uint8)


def random_labels(rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """`[rows]` uint8 in 0..9."""
    return np.random.default_rng([seed, 1]).integers(0, DIGITS, rows, np.uint8)


def images_name(split: str = "test") -> str:
    return f"{PREFIXES[split]}-images-idx3-ubyte"


def labels_name(split: str = "test") -> str:
    return f"{PREFIXES[split]}-labels-idx1-ubyte"


def make_split(folder: Path, rows: int, *, seed: int = 0, labelled: bool = True, split: str = "test") -> None:
    """Write the IDX files of a split of `rows` random images into `folder`, under MNIST's names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / images_name(split)).write_bytes(idx.encode(random_images(rows, seed)))
    if labelled:
        (folder / labels_name(split)).write_bytes(idx.encode(random_labels(rows, seed)))


def random_network(seed: int = 0, architecture: Architecture = BOOK) -> Network:
    """A network of random weights, small enough that no probability is 0 or 1."""
    random = np.random.default_rng(seed)
    tensors = {
        name: random.normal(scale=0.1, size=shape).astype(np.float32) for name, shape in architecture.shapes.items()
    }
    return Network(tensors, architecture.activation)


def small_settings(tmp_path: Path, rows: int = 25, by_hand: Any = None, **changes: Any) -> Settings:
    """Settings for the data set "toy" of `rows` images in shards of 10, all of it under `tmp_path`.

    The data set is made unless its images exist already. No report is written: its plots cost more than the run.
    `changes` are settings that win over these, as if configured; `by_hand` win over those, as if given by hand.
    """
    data_dir = tmp_path / "data"
    if not (data_dir / images_name()).exists():
        make_split(data_dir, rows)
    given: dict[str, Any] = {
        "dataset": "toy",
        "run_date": "2026-01-31",
        "data_dir": data_dir,
        "cache": tmp_path / "cache",
        "outputs": tmp_path / "outputs",
        "shard_rows": 10,
        "batch_rows": 4,
        "workers": 2,
        "report": False,
    }
    given |= changes
    return load_settings(configured=given, **(given | (by_hand or {})))
