"""The same images in each form that is read, as other tools write it: for tests and benchmarks."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import flatten
from tests.builders import images_name, labels_name

Images = NDArray[np.uint8]  # [N, 28, 28]
Labels = NDArray[np.uint8]  # [N]
Given = dict[str, Any]  # the settings that name the images
Write = Callable[[Path, Images, Labels], Given]


def of_idx(folder: Path, images: Images, labels: Labels) -> Given:
    """MNIST's own form."""
    (folder / images_name()).write_bytes(idx.encode(images))
    (folder / labels_name()).write_bytes(idx.encode(labels))
    return {"data_dir": folder}


def of_idx_gz(folder: Path, images: Images, labels: Labels) -> Given:
    """As the mirrors serve it, with dots in the names as archives have them."""
    for name, values in ((images_name(), images), (labels_name(), labels)):
        content = gzip.compress(idx.encode(values), 1, mtime=0)
        (folder / f"{name.replace('-idx', '.idx')}.gz").write_bytes(content)
    return {"data_dir": folder}


def of_qmnist(folder: Path, images: Images, labels: Labels) -> Given:
    """QMNIST's files: labels of int32, the digit first of eight numbers."""
    rows = np.zeros((len(labels), 8), ">i4")
    rows[:, 0], rows[:, 1:] = labels, np.arange(7) - 1
    header = bytes([0, 0, 0x0C, 2]) + np.array(rows.shape, ">u4").tobytes()
    (folder / "qmnist-test-images-idx3-ubyte").write_bytes(idx.encode(images))
    (folder / "qmnist-test-labels-idx2-int").write_bytes(header + rows.tobytes())
    return {"data_dir": folder, "dataset": "qmnist"}


def of_lists(folder: Path, images: Images, labels: Labels) -> Given:
    """Parquet with a list of 784 numbers in each row."""
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 784)
    return _parquet(folder, {"pixels": pixels, "label": labels})


def of_columns(folder: Path, images: Images, labels: Labels) -> Given:
    """Parquet with 784 columns."""
    return _parquet(folder, {"label": labels.astype(np.int64), **_columns(images)})


def of_encoded(folder: Path, images: Images, labels: Labels) -> Given:
    """Parquet as Hugging Face keeps images: PNG in a struct."""
    pictures = pa.array([{"bytes": _png(image), "path": f"{row}.png"} for row, image in enumerate(images)])
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return _parquet(folder, {"image": pictures, "label": labels.astype(np.int64)}, metadata)


def of_csv(folder: Path, images: Images, labels: Labels) -> Given:
    """CSV as on Kaggle."""
    pa_csv.write_csv(pa.table({"label": labels, **_columns(images)}), folder / "images.csv")
    return {"images": folder / "images.csv"}


def of_csv_gz(folder: Path, images: Images, labels: Labels) -> Given:
    """The same compressed, and without a header."""
    options = pa_csv.WriteOptions(include_header=False)
    sink = io.BytesIO()
    pa_csv.write_csv(pa.table({"label": labels, **_columns(images)}), sink, options)
    (folder / "images.csv.gz").write_bytes(gzip.compress(sink.getvalue(), 1, mtime=0))
    return {"images": folder / "images.csv.gz", "label_column": "0"}


def of_npz(folder: Path, images: Images, labels: Labels) -> Given:
    """NumPy's archive, stored."""
    np.savez(folder / "images.npz", x_test=images, y_test=labels, x_train=images[:1], y_train=labels[:1])
    return {"images": folder / "images.npz"}


def of_npz_deflated(folder: Path, images: Images, labels: Labels) -> Given:
    """The same compressed, as Keras ships MNIST."""
    np.savez_compressed(folder / "mnist.npz", x_test=images, y_test=labels, x_train=images[:1], y_train=labels[:1])
    return {"images": folder / "mnist.npz"}


def of_folder(folder: Path, images: Images, labels: Labels) -> Given:
    """A folder of PNG files below the folders of their labels: another order of the images."""
    for digit in np.unique(labels):
        (folder / str(digit)).mkdir(exist_ok=True)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label) / f"{row:07d}.png").write_bytes(_png(image))
    return {"images": folder}


FORMS: dict[str, Write] = {
    "IDX": of_idx,
    "IDX.gz": of_idx_gz,
    "QMNIST": of_qmnist,
    "Parquet, lists": of_lists,
    "Parquet, 784 columns": of_columns,
    "Parquet, encoded": of_encoded,
    "CSV": of_csv,
    "CSV.gz": of_csv_gz,
    "NPZ": of_npz,
    "NPZ, deflated": of_npz_deflated,
    "folder of PNG": of_folder,
}


def _parquet(folder: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Given:
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "images.parquet", row_group_size=10_000)
    return {"images": folder / "images.parquet"}


def _columns(images: Images) -> dict[str, NDArray[np.uint8]]:
    flat = flatten(images)
    return {f"pixel{number}": flat[:, number] for number in range(flat.shape[1])}


def _png(image: Images) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    return sink.getvalue()
