"""Which columns and files are meant, and files that would decode to far more than they hold."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.tabular import parquet
from mnist_pipeline.errors import DataError, ImagesError, LabelError
from tests.builders import random_images, random_labels
from tests.parquet_files import column, open_parquet, write

ROWS = 6
IMAGES = column(random_images(ROWS))
LABELS = random_labels(ROWS)


def file(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder / "a.parquet"


def refused(error: type[DataError], message: str, path: Path, label_column: str | None = None) -> str:
    with pytest.raises(error, match=re.escape(message)) as caught:
        open_parquet("mine", "test", path, label_column=label_column)
    assert type(caught.value) is error
    assert len(str(caught.value).replace(str(path), "")) < 300
    return str(caught.value)


# Labels

NEAR = (
    "labels",
    "Label",
    "LABEL",
    " label",
    "lable",
    "target",
    "y",
    "class",
    "Digit",
    "image_label",
    "ground_truth",
    "classLabel",
    "yTrue",
    "lbl",
)


@pytest.mark.parametrize("name", NEAR)
def test_a_column_that_may_be_the_labels_is_not_passed_over(name: str, tmp_path: Path) -> None:
    path = file(tmp_path, pixels=IMAGES, **{name: LABELS})
    refused(LabelError, f"{path}: expected the labels in a column 'label', got none, but {name!r}; name the", path)
    labels = open_parquet("mine", "test", path, label_column=name)
    assert labels.labels_sha256 is not None
    (rows,) = labels.read([RowRange(0, ROWS)])
    np.testing.assert_array_equal(rows.labels, LABELS)
    assert open_parquet("mine", "test", path, label_column="none").labels_sha256 is None


@pytest.mark.parametrize("name", ["id", "split", "name", "pixel_count", "table", "yes", "classified_by", "laboratory"])
def test_other_columns_beside_images_without_labels_are_ignored(name: str, tmp_path: Path) -> None:
    assert open_parquet("mine", "test", file(tmp_path, pixels=IMAGES, **{name: LABELS})).labels_sha256 is None


def test_labels_of_another_form_are_not_passed_over(tmp_path: Path) -> None:
    path = file(tmp_path, pixels=IMAGES, labels=[[0.0] * 10] * ROWS)
    refused(LabelError, "got none, but 'labels'; name the column with --label-column", path)


def test_columns_beside_images_without_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = file(tmp_path, pixels=IMAGES, etikett=LABELS)
    for label_column, said in ((None, [f"{path}: no labels; columns that are not read: 'etikett'"]), ("none", [])):
        caplog.clear()
        open_parquet("mine", "test", path, label_column=label_column)
        assert caplog.messages == said


def test_the_exact_name_is_meant_whatever_else_is_there(tmp_path: Path) -> None:
    path = file(tmp_path, pixels=IMAGES, label=LABELS, labels=LABELS[::-1], y=LABELS[::-1])
    split = open_parquet("mine", "test", path)
    assert (split.reader.label_column, split.labels_sha256) == ("label", split.images_sha256)
    assert open_parquet("mine", "test", path, label_column="label") == split


def test_labels_of_another_column_are_other_labels(tmp_path: Path) -> None:
    path = file(tmp_path, pixels=IMAGES, a=LABELS, b=LABELS)
    a, b = (open_parquet("mine", "test", path, label_column=name).labels_sha256 for name in "ab")
    assert len({a, b, None}) == 3


def test_a_label_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = file(tmp_path, pixels=IMAGES, label=LABELS)
    refused(LabelError, "expected the labels in a column 'y', got none, but 'pixels', 'label'; ", path, "y")
    refused(LabelError, "column 'pixels': expected digits 0-9, got 'list<element: uint8>'; ", path, "pixels")


# Images

EXPECTED = "expected lists of 784 numbers or encoded pictures"
PNG = pa.array([{"bytes": b"PNG", "path": None}] * ROWS)
PIXEL_COLUMNS = {f"pixel{number}": LABELS for number in range(784)}
CUBES = pa.array([[[[0]]]] * ROWS)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"images": CUBES, "x": IMAGES}, f"column 'images': {EXPECTED}, got 'list<element: list<"),
        ({"pixels": ["a"] * ROWS, "x": IMAGES}, f"column 'pixels': {EXPECTED}, got 'string'; convert it, or drop it"),
        ({"pixels": [[["x"]]]}, f"column 'pixels': {EXPECTED}, got 'list<element: list<element: "),
        ({"p": pa.array([bytes(783)], pa.binary(783)), "pixels": [1]}, f"column 'pixels': {EXPECTED}, got 'int64'"),
        ({"img": PNG, "embedding": IMAGES}, "one column of images, got 'img', 'embedding'; drop one, or name"),
        ({"img": [b"PNG"] * ROWS, "x": IMAGES}, "one column of images, got 'img', 'x'; drop one, or name"),
        ({"image": PNG, **PIXEL_COLUMNS}, "one column of images, got 'image', 'pixel'; drop one, or name"),
        ({"img": pa.array([b"PNG"] * ROWS).dictionary_encode(), "x": IMAGES}, "got 'img: dictionary<values=bin"),
        ({"img": pa.array([[True]] * ROWS), "x": IMAGES}, "got 'img: list<element: bool>', 'x: list<elem"),
    ],
)
def test_another_column_is_not_taken_in_place_of_one_that_may_be_the_images(
    columns: dict[str, Any], found: str, tmp_path: Path
) -> None:
    refused(ImagesError, found, file(tmp_path, **columns))


def test_a_column_named_pixels_is_meant_whatever_else_is_there(tmp_path: Path) -> None:
    split = open_parquet("mine", "test", file(tmp_path, image=PNG, pixels=IMAGES, tags=[["a"]] * ROWS))
    assert isinstance(split.reader, parquet.ParquetReader)
    assert split.reader.layout.images.columns == ("pixels",)


def test_783_columns_are_a_short_message(tmp_path: Path) -> None:
    path = file(tmp_path, label=LABELS, **{f"pixel{number}": LABELS for number in range(783)})
    refused(ImagesError, "got 783 columns of numbers from 'pixel0' to 'pixel782'; rename, add or drop columns", path)


def test_names_of_columns_are_quoted(tmp_path: Path) -> None:
    path = file(tmp_path, **{"x\n\x1b[2JERROR": [1]})
    refused(ImagesError, r"got 'x\n\x1b[2JERROR: int64'; rename", path)
    path = file(tmp_path, pixels=IMAGES, **{"label\n\x1b[2J": LABELS})
    refused(LabelError, r"got none, but 'label\n\x1b[2J'; name", path)


# Folders


@pytest.mark.parametrize(
    "name",
    ["b.parquet.gz", "b.arrow", "x.npz", "y.csv", "t10k-images", "labels.txt"],
)
def test_other_data_in_a_folder_is_not_left_out(name: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", IMAGES)
    (tmp_path / name).touch()
    refused(DataError, f"{tmp_path}: expected no data but files *.parquet, got {name!r}; they would be", tmp_path)


def test_files_that_are_no_data_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    for name in ("README.md", "_SUCCESS", "._a.parquet", ".b.png", "_delta_log.csv"):
        (tmp_path / name).touch()
    write(tmp_path / "a.parquet", IMAGES)
    assert open_parquet("mine", "test", tmp_path).rows == ROWS


def test_folders_in_a_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.parquet", IMAGES)
    write(tmp_path / "more" / "b.parquet", IMAGES)
    with caplog.at_level(logging.WARNING):
        open_parquet("mine", "test", tmp_path)
    assert caplog.messages == [f"{tmp_path}: only files *.parquet are read, and not 'more'"]


# Files that are not what they should be


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    for path, kind in ((tmp_path, "pipe"), (tmp_path / "a.parquet", "pipe"), (Path("/dev/zero"), "device")):
        refused(DataError, f"expected a regular file, got a {kind}; name a file, or copy it into one", path)


def repeated(path: Path, rows: int, values: int, **how: Any) -> Path:
    """Images of which the first has all values and the others none; alike values take next to no room."""
    offsets = pa.array(np.array([0] + [values] * rows), pa.int64())
    lists = pa.LargeListArray.from_arrays(offsets, pa.array(np.zeros(values, np.uint8)))
    pq.write_table(pa.table({"pixels": lists}), path, **({"compression": "zstd"} | how))
    assert path.stat().st_size < 20_000
    return path


def test_lists_of_many_more_values_than_pixels_are_refused_by_the_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repeated(tmp_path / "bomb.parquet", 3, 4_000_000)
    monkeypatch.setattr(parquet._Opened, "batches", None)  # nothing is decoded
    message = f"{path}: expected 784 values for each of 3 images, got 4,000,002 in all; only images of 28x28"
    refused(ImagesError, message, path)


def test_images_of_a_few_pixels_too_many_are_named_by_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.array([[0] * PIXELS, [0] * (PIXELS + 1)], pa.list_(pa.uint8())))
    with pytest.raises(ImagesError, match="row 1: expected 784 pixels, got a list of 785"):
        list(open_parquet("mine", "test", path).read([RowRange(0, 2)]))


def test_a_dot_in_the_name_of_a_column_hides_no_values(tmp_path: Path) -> None:
    path = repeated(tmp_path / "bomb.parquet", 3, 4_000_000)
    pq.write_table(pq.read_table(path).rename_columns(["a.b"]), path, compression="zstd")
    refused(ImagesError, "expected 784 values for each of 3 images, got 4,000,002 in all", path)


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_file_that_would_decode_to_far_more_than_it_holds_is_refused(
    dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ALWAYS_DECODED_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "MAX_RATIO", 100)
    rows = 4000
    path = repeated(tmp_path / "bomb.parquet", rows, rows * PIXELS, use_dictionary=dictionary)
    message = re.escape(f"{path}: expected at most ") + r"[\d,]+ bytes decoded from [\d,]+, got [\d,]+ by its footer;"
    with pytest.raises(DataError, match=message):
        open_parquet("mine", "test", path)


def test_binary_images_count_as_what_they_decode_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ALWAYS_DECODED_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "MAX_RATIO", 100)
    path = write(tmp_path / "a.parquet", pa.array([bytes(PIXELS)] * 4000, pa.binary(PIXELS)))
    refused(DataError, "got 3,136,000 by its footer", path)


def test_blank_images_up_to_some_ten_thousands_are_read_however_well_they_compress(tmp_path: Path) -> None:
    rows = 20_000
    path = write(tmp_path / "a.parquet", pa.array([bytes(PIXELS)] * rows, pa.binary(PIXELS)), compression="zstd")
    assert open_parquet("mine", "test", path).rows == rows
