from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_pipeline.core.images import NO_LABEL
from mnist_pipeline.datasets import later_labels
from mnist_pipeline.datasets.later_labels import find_labels, read_labels
from mnist_pipeline.errors import DataError, LabelError

KEYS = [f"2026/img-{number}.png" for number in range(12)]
LABELS = [3, 1, None, 9, 0, 0, None, 7, 8, 2, 5, 4]
EXPECTED = [NO_LABEL if label is None else label for label in LABELS]


def each_key() -> Iterator[pa.StringArray]:
    for start in range(0, 12, 5):
        yield pa.array(KEYS[start : start + 5], pa.string())


def read(path: Path, keys_from: str | None = None) -> list[int]:
    found: list[int] = read_labels(find_labels(path), 12, keys_from, each_key).tolist()
    return found


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def by_position(shuffled: bool = False) -> pd.DataFrame:
    frame = pd.DataFrame({"image_id": range(12), "note": "x", "label": pd.array(LABELS, "Int64")})
    return frame.sample(frac=1, random_state=0) if shuffled else frame


def by_key(column: str = "image_key") -> pd.DataFrame:
    return (
        by_position(shuffled=True)
        .assign(image_id=lambda frame: [KEYS[row] for row in frame["image_id"]])
        .rename(columns={"image_id": column})
    )


@pytest.mark.parametrize("read_rows", [1, 5, 500])
@pytest.mark.parametrize("form", ["csv", "parquet", "floats", "text", "few"])
@pytest.mark.parametrize("keys_from", [None, "name"])
def test_labels_are_those_of_the_images_that_are_named(
    form: str, keys_from: str | None, read_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later_labels, "READ_ROWS", read_rows)
    monkeypatch.setattr(later_labels, "BLOCK_BYTES", 20 * read_rows)
    frame, path = by_key("name") if keys_from else by_position(shuffled=True), tmp_path / "labels"
    if form == "floats":
        frame["label"] = frame["label"].astype("float64")
    if form == "text":
        frame["label"] = frame["label"].astype("string").astype("category")
    if form == "few":
        frame = frame.dropna()
    if form in ("csv", "floats", "few"):
        frame.to_csv(path, index=False)
        assert read(path, keys_from) == EXPECTED
    if form != "csv":
        frame.to_parquet(path)
        assert read(path, keys_from) == EXPECTED


def test_a_column_image_key_names_the_images_whatever_their_keys_come_from(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    by_key().assign(image_id=0).to_csv(path, index=False)
    assert read(path, "path") == EXPECTED


def test_a_newline_in_a_column_that_is_not_read_does_no_harm(tmp_path: Path) -> None:
    assert read(csv(tmp_path, 'image_id,note,label\n0,"a\n1,2",3\n2,"b",4\n'))[:3] == [3, NO_LABEL, 4]


REJECTED = [
    ("", r"got an empty file; write it again"),
    ("image_id,label\n", r"got no rows"),
    ("image_id,label\n3,\n", r"expected the label of one image at least, got none; run without it"),
    ("image,label\n1,2\n", r"expected one column 'image_id' and one 'label', got 'image', 'label'; rename"),
    ("image_id,digit\n1,2\n", r"expected one column 'image_id' and one 'label', got 'image_id', 'digit'"),
    ("image_id,label,label\n1,2,2\n", r"and one 'label', got 'image_id', 'label', 'label'"),
    ("image_id,image_id,label\n1,2,2\n", r"expected one column 'image_id'"),
    ("image_key,label\n1,2\n", r"got 'image_key', 'label'; the images have no keys, so name them by position"),
    ("image_id,label\n1,2\n12,3\n", r"row 1: expected a position from 0 to 11, got 12; are these the labels of other"),
    ("image_id,label\n1,2\n-1,3\n", r"row 1: expected the position of an image, got '-1'; correct it"),
    ("image_id,label\n1,2\n,3\n", r"row 1: expected the name of an image, got nothing; correct it"),
    ("image_id,label\n1,2\n2,3\n1,2\n", r"row 2: expected each image once, got '1', as in row 0; keep one of the two"),
    ("image_id,label\n1,2\n2,10\n", r"row 1: expected a label 0-9, or nothing, got '10'; correct it"),
    ("image_id,label\n1,2\n2,seven\n", r"row 1: expected a label 0-9, or nothing, got 'seven'; correct it"),
    ("image_id,label\n1,2\n2,0.5\n", r"row 1: expected a label 0-9, or nothing, got '0.5'; correct it"),
    (
        "image_id,label\n1,2\n2,3,4\n",
        r"CSV in UTF-8 .* row 1: Expected 2 columns, got 3: 2,3,4; correct it",
    ),
    ("image_id,label\n1,2\n2\n", r"row 1: Expected 2 columns, got 1: 2; correct it"),
    ('image_id,label\n1,2\n"2\n",3\n', r"row 1: expected the name of an image in one line, got '2\\n'"),
    ('image_id,label\n1,2\n"2,3\n', r"expected Parquet, or CSV in UTF-8 with a header, got"),
    (b"PAR1" + bytes(100), r"expected Parquet, or CSV in UTF-8 with a header, got"),
]


@pytest.mark.parametrize(("text", "message"), REJECTED)
def test_files_that_are_no_labels_are_refused_by_name_and_row(text: str | bytes, message: str, tmp_path: Path) -> None:
    path = csv(tmp_path, text)
    with pytest.raises(LabelError, match=rf"^{path}: .*{message}") as caught:
        read(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("read_rows", [1, 5, 500])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nother,2\n", r"row 0: expected the key of one of the 12 images, got 'other'; are these"),
        (f"name,label\n{KEYS[11]},2\n{KEYS[0]},1\nother,2\n", r"row 2: expected the key of one of the 12 images"),
        (f"name,label\n{KEYS[9]},2\n{KEYS[0]},1\n{KEYS[9]},2\n", r"row 2: expected each image once, got .*9.png', as"),
        (f"name,image_key,label\n{KEYS[9]},{KEYS[9]},2\n", r"expected one column 'name' or 'image_key' and one"),
        ("image_id,label\n0,2\n", r"expected one column 'name' or 'image_key' and one 'label', got 'image_id'"),
        ('name,label\n"",2\n', r"row 0: expected the name of an image, got nothing; correct it"),
    ],
)  # fmt: skip
def test_labels_of_unknown_keys_or_of_one_image_twice_are_refused(
    text: str, message: str, read_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(later_labels, "BLOCK_BYTES", 30 * read_rows)
    with pytest.raises(LabelError, match=message):
        read(csv(tmp_path, text), "name")


@pytest.mark.parametrize("column", ["image_id", "label"])
@pytest.mark.parametrize("values", [[[1], [2]], [{"a": 1}, {"a": 2}], [True, False]])
def test_columns_of_neither_numbers_nor_text_are_refused(column: str, values: list[Any], tmp_path: Path) -> None:
    columns = {"image_id": [0, 1], "label": [2, 3]} | {column: values}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    with pytest.raises(LabelError, match=rf"labels.parquet: .*(column '{column}'|row 0): expected"):
        read(tmp_path / "labels.parquet")


def test_labels_that_change_after_they_were_found_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "image_id,label\n1,2\n")
    file = find_labels(path)
    csv(tmp_path, "image_id,label\n1,3\n2,4\n")
    with pytest.raises(DataError, match=f"{path}: expected the file that was verified, got one changed"):
        read_labels(file, 12, None, each_key)


def test_labels_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{tmp_path}/none.csv: expected a readable file, got No such file"):
        find_labels(tmp_path / "none.csv")
    with pytest.raises(DataError, match=rf"^{tmp_path}: expected a readable file, got a folder"):
        find_labels(tmp_path)


def test_labels_are_identified_by_their_bytes(tmp_path: Path) -> None:
    one, two = (find_labels(csv(tmp_path, f"image_id,label\n1,{label}\n")).sha256 for label in (2, 3))
    assert one != two
    np.testing.assert_equal(find_labels(csv(tmp_path, "image_id,label\n1,3\n")).sha256, two)
