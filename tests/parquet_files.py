"""Parquet files of images as other tools write them, for tests."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mnist_pipeline.datasets.formats.choosing import open_images
from mnist_pipeline.datasets.formats.files import FileSplit
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.formats.tabular import parquet
from mnist_pipeline.datasets.source_files import Verify, verified_file

LISTS = ("list", "large_list", "fixed_size_list", "nested list", "nested large_list", "nested fixed_size_list")
FORMS = (*LISTS, "binary")
NUMBERS = ("uint8", "int16", "int64", "float16", "float32", "float64")


def as_numbers(images: NDArray[np.uint8], numbers: str) -> NDArray[Any]:
    """Bytes as the given dtype: floats divided by 255."""
    return images.astype(numbers) if "int" in numbers else (images / 255).astype(numbers)


def column(images: NDArray[Any], form: str = "list") -> pa.Array:
    """`[N, 28, 28]` of any number type as an Arrow column of one of `FORMS`."""
    if form == "binary":
        return pa.array([image.tobytes() for image in images], pa.binary(images[:1].nbytes))
    values: pa.Array = pa.array(images.ravel())
    kind = form.removeprefix("nested ")
    for size in (28, 28) if form.startswith("nested") else (784,):
        if kind == "fixed_size_list":
            values = pa.FixedSizeListArray.from_arrays(values, size)
        else:
            lists = {"list": pa.ListArray, "large_list": pa.LargeListArray}[kind]
            offsets = np.arange(0, len(values) + 1, size).astype(np.int32 if kind == "list" else np.int64)
            values = lists.from_arrays(offsets, values)
    return values


def write(path: Path, pixels: pa.Array, labels: Sequence[Any] | NDArray[Any] | None = None, **how: Any) -> Path:
    """A Parquet file with columns `pixels` and, if there are some, `label`; `how` is for pyarrow."""
    columns = {"pixels": pixels} if labels is None else {"pixels": pixels, "label": pa.array(labels)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **how)
    return path


def decoded_rows(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows Parquet decodes while `work` is done."""
    counted = 0
    real = parquet._Opened._next

    def counting(self: Any, decoded: Any) -> Any:
        nonlocal counted
        batch = real(self, decoded)
        counted += 0 if batch is None else batch.num_rows
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(parquet._Opened, "_next", counting)
        work()
    return counted


def open_parquet(
    dataset: str, split: str, path: Path, verify: Verify = verified_file, label_column: str | None = None
) -> FileSplit:
    """The images of a Parquet file, or of a folder of them."""
    opened = open_images(dataset, path, Wanted(split, label_column=label_column), verify)
    assert isinstance(opened, FileSplit)
    return opened
