"""Reads the images of a form as the documentation of each library has it; prints images a second as JSON.

Every image becomes float32 of 0..1, in batches of a thousand, and its label.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import gzip
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH_ROWS = 1000
Batches = Iterator[tuple[Any, Any]]  # pixels [B, 784] float32, labels [B]


def pandas_csv(path: Path, header: int | None = 0) -> Batches:
    """`pandas.read_csv` with its default engine, a chunk at a time."""
    import pandas as pd

    for frame in pd.read_csv(path, header=header, chunksize=BATCH_ROWS):
        yield frame.iloc[:, 1:].to_numpy(np.float32) / 255, frame.iloc[:, 0].to_numpy()


def pandas_lists(path: Path) -> Batches:
    """`pandas.read_parquet`, and a list for each image."""
    import pandas as pd

    frame = pd.read_parquet(path)
    for start in range(0, len(frame), BATCH_ROWS):
        some = frame.iloc[start : start + BATCH_ROWS]
        yield np.stack(list(some["pixels"])).astype(np.float32) / 255, some["label"].to_numpy()


def pandas_columns(path: Path) -> Batches:
    """`pandas.read_parquet`, and a column for each pixel."""
    import pandas as pd

    frame = pd.read_parquet(path)
    for start in range(0, len(frame), BATCH_ROWS):
        some = frame.iloc[start : start + BATCH_ROWS]
        yield some.iloc[:, 1:].to_numpy(np.float32) / 255, some["label"].to_numpy()


def datasets_rows(kind: str, column: str, **how: Any) -> Batches:
    """Hugging Face's `load_dataset` with an empty cache, and batches of its rows."""
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        images = load_dataset(kind, split="train", cache_dir=cache, **how)
        for batch in images.with_format("numpy").iter(BATCH_ROWS):
            if column:
                pixels = np.stack(batch[column]).reshape(-1, 784)
            else:
                pixels = np.stack([batch[name] for name in batch if name != "label"], axis=1)
            yield pixels.astype(np.float32) / 255, batch["label"]


def torchvision_folder(folder: Path) -> Batches:
    """Torchvision's ImageFolder, grey, in a DataLoader without workers."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    grey = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    for pixels, labels in DataLoader(datasets.ImageFolder(folder, grey), batch_size=BATCH_ROWS):
        yield pixels.reshape(-1, 784).numpy(), labels.numpy()


def torchvision_mnist(folder: Path) -> Batches:
    """Torchvision's MNIST, which expects the files in its own folder."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        files = Path(root) / "MNIST" / "raw"
        files.mkdir(parents=True)
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            for prefix in ("t10k", "train"):
                (files / f"{prefix}-{name}").symlink_to(folder / f"t10k-{name}")
        images = datasets.MNIST(root, train=False, transform=transforms.ToTensor())
        for pixels, labels in DataLoader(images, batch_size=BATCH_ROWS):
            yield pixels.reshape(-1, 784).numpy(), labels.numpy()


def numpy_idx(images: Path, labels: Path, opening: Callable[[Path, str], Any]) -> Batches:
    """The few lines that everybody writes for IDX."""
    with opening(images, "rb") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with opening(labels, "rb") as file:
        digits = np.frombuffer(file.read(), np.uint8, offset=8)
    for start in range(0, len(pixels), BATCH_ROWS):
        yield pixels[start : start + BATCH_ROWS].astype(np.float32) / 255, digits[start : start + BATCH_ROWS]


def numpy_npz(path: Path) -> Batches:
    """`numpy.load`, as Keras does."""
    with np.load(path) as arrays:
        pixels, labels = arrays["x_test"].reshape(-1, 784), arrays["y_test"]
    for start in range(0, len(pixels), BATCH_ROWS):
        yield pixels[start : start + BATCH_ROWS].astype(np.float32) / 255, labels[start : start + BATCH_ROWS]


def readers(name: str, given: dict[str, str]) -> dict[str, Callable[[], Batches]]:
    """What reads the form, by library."""
    path = Path(given.get("images") or given["data_dir"])
    plain = path / "t10k-images-idx3-ubyte", path / "t10k-labels-idx1-ubyte"
    packed = path / "t10k-images.idx3-ubyte.gz", path / "t10k-labels.idx1-ubyte.gz"
    pandas, hugging_face, torchvision, numpy = "pandas", "Hugging Face datasets", "torchvision", "NumPy"
    return {
        "IDX": {
            torchvision: lambda: torchvision_mnist(path),
            numpy: lambda: numpy_idx(*plain, open),
        },
        "IDX.gz": {numpy: lambda: numpy_idx(*packed, gzip.open)},
        "Parquet, lists": {
            pandas: lambda: pandas_lists(path),
            hugging_face: lambda: datasets_rows("parquet", "pixels", data_files=str(path)),
        },
        "Parquet, 784 columns": {
            pandas: lambda: pandas_columns(path),
            hugging_face: lambda: datasets_rows("parquet", "", data_files=str(path)),
        },
        "Parquet, encoded": {hugging_face: lambda: datasets_rows("parquet", "image", data_files=str(path))},
        "CSV": {
            pandas: lambda: pandas_csv(path),
            hugging_face: lambda: datasets_rows("csv", "", data_files=str(path)),
        },
        "CSV.gz": {pandas: lambda: pandas_csv(path, None)},
        "NPZ": {numpy: lambda: numpy_npz(path)},
        "NPZ, deflated": {numpy: lambda: numpy_npz(path)},
        "folder of PNG": {
            torchvision: lambda: torchvision_folder(path),
            hugging_face: lambda: datasets_rows("imagefolder", "image", data_dir=str(path)),
        },
    }.get(name, {})


def main(name: str, rows: int, given: dict[str, str], rounds: int) -> None:
    """Time each reader of a form."""
    rates = {}
    for library, read in readers(name, given).items():
        seconds = []
        for _ in range(rounds):
            begun = time.perf_counter()
            found = sum(len(pixels) for pixels, _ in read())
            seconds.append(time.perf_counter() - begun)
            assert found == rows, f"{library}: {found} images"
        rates[library] = round(rows / statistics.median(seconds))
    print(json.dumps(rates))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4]))
