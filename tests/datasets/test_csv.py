import gzip
import itertools
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.images import PixelFormat, flatten, normalise
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats.choosing import open_images
from mnist_pipeline.datasets.formats.files import FileSplit
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.formats.tabular import csv
from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.errors import DataError, ImagesError, LabelError
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import open_store
from tests.builders import random_images, random_labels
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server

ROWS = 9
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
PIXELS = flatten(normalise(IMAGES))
KAGGLE = ["label", *(f"pixel{number}" for number in range(784))]
LABELLED = np.column_stack([LABELS, flatten(IMAGES)])


def text_of(rows: Any, names: Sequence[str] | None = None, delimiter: str = ",", end: str = "\n") -> str:
    """Lines of rows, below a line of names if there are some."""
    lines = [*([names] if names else []), *rows]
    return "".join(delimiter.join(map(str, line)) + end for line in lines)


def write(path: Location, text: str | bytes) -> Location:
    data = text if isinstance(text, bytes) else text.encode()
    open_store(path.parent).write(path.name, gzip.compress(data, 1) if path.name.endswith(".gz") else data)
    return path


def opened(path: Location, **wanted: Any) -> FileSplit:
    split = open_images("mine", path, Wanted(**wanted))
    assert isinstance(split, FileSplit)
    return split


def read(split: FileSplit, size: int = 4) -> tuple[NDArray[Any], list[int] | None, list[Any] | None]:
    """All pixels, labels and keys."""
    found = [(rows.pixels.copy(), rows.labels, rows.keys) for rows in split.read(cut(split.rows, size))]
    labels = [int(label) for _, some, _ in found if some is not None for label in some]
    keys = [key for _, _, some in found if some is not None for key in some.to_pylist()]
    return np.concatenate([pixels for pixels, _, _ in found]), labels or None, keys or None


def refused(kind: type[Exception], message: str, path: Location, **wanted: Any) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        read(opened(path, **wanted))
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 400 + len(str(path))


# What is read


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz", "a.tsv"])
def test_kaggles_form_gives_the_pixels_and_labels_of_the_idx_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    split = opened(write(tmp_path / name, text_of(LABELLED, KAGGLE, "\t" if "tsv" in name else ",")))
    pixels, labels, keys = read(pickle.loads(pickle.dumps(split)))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    assert (labels, keys) == (LABELS.tolist(), None)
    assert (split.rows, split.entries, split.labels_sha256) == (ROWS, (0,), split.images_sha256)


def test_a_bucket_gives_them_too(bucket: Address) -> None:
    for name in ("a.csv", "a.csv.gz"):
        pixels, labels, _ = read(opened(write(bucket / name, text_of(LABELLED, KAGGLE))))
        np.testing.assert_array_equal(pixels, PIXELS, strict=True)
        assert labels == LABELS.tolist()


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(flatten(IMAGES))
    for index, names in ((True, True), (False, True), (False, False)):
        frame.to_csv(tmp_path / "a.csv", index=index, header=names)  # the names are 0 to 783
        np.testing.assert_array_equal(read(opened(tmp_path / "a.csv"))[0], PIXELS, strict=True)


FORMS: dict[str, Callable[[str], str]] = {
    "LF": lambda text: text,
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "no last newline": lambda text: text[:-1],
    "empty lines at the end": lambda text: text + "\n\r\n\n",
    "a byte order mark": lambda text: "\ufeff" + text,
    "quoted": lambda text: re.sub(r"[^,\n]+", r'"\g<0>"', text),
    "spaces": lambda text: re.sub(r"\b\d+\b", r" \g<0> ", text),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_lines_is_read(form: str, named: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", FORMS[form](text_of(LABELLED, KAGGLE if named else None)))
    pixels, labels, _ = read(opened(path, label_column=None if named else "0"))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    assert labels == LABELS.tolist()


NAMES = {
    "pixel0": KAGGLE[1:],
    "pixel1": [f"pixel{number}" for number in range(1, 785)],
    "zeros": [f"p{number:03}" for number in range(784)],
    "1x1": [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)],
    "0x0": [f"{row}x{column}" for row in range(28) for column in range(28)],
}


@pytest.mark.parametrize("form", NAMES)
def test_the_numbers_of_columns_decide_the_order_of_pixels(form: str, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(786)
    names = np.array(["label", *NAMES[form], "note"])[order]
    rows = np.column_stack([LABELLED, ["text, 5"] * ROWS])[:, order]
    quoted = [[f'"{field}"' for field in row] for row in rows]
    pixels, labels, _ = read(opened(write(tmp_path / "a.csv", text_of(quoted, list(names)))))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    assert labels == LABELS.tolist()


def test_spaces_may_follow_the_commas(tmp_path: Path) -> None:
    text = text_of(LABELLED[:, ::-1], KAGGLE[::-1]).replace(",", ", ")
    pixels, labels, _ = read(opened(write(tmp_path / "a.csv", text)))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    assert labels == LABELS.tolist()


def test_files_of_a_folder_may_have_their_columns_in_different_orders(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", text_of(LABELLED[:4], KAGGLE))
    write(tmp_path / "b.csv.gz", text_of(LABELLED[4:, ::-1], KAGGLE[::-1]))
    pixels, labels, _ = read(opened(tmp_path))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)
    assert labels == LABELS.tolist()


def test_without_names_the_options_say_by_position_what_is_no_pixel(tmp_path: Path) -> None:
    names = np.arange(ROWS) + 100
    columns = {
        "label first": ({"label_column": "0"}, [LABELS, *flatten(IMAGES).T]),
        "label last": ({"label_column": "784"}, [*flatten(IMAGES).T, LABELS]),
        "both first": ({"id_column": "0", "label_column": "1"}, [names, LABELS, *flatten(IMAGES).T]),
        "either side": ({"id_column": "785", "label_column": "0"}, [LABELS, *flatten(IMAGES).T, names]),
    }
    for wanted, given_columns in columns.values():
        pixels, labels, keys = read(opened(write(tmp_path / "a.csv", text_of(np.array(given_columns).T)), **wanted))
        np.testing.assert_array_equal(pixels, PIXELS, strict=True)
        assert labels == LABELS.tolist()
        assert keys == (list(map(str, names)) if "id_column" in wanted else None)
    assert read(opened(write(tmp_path / "a.csv", text_of(flatten(IMAGES)))))[1] is None


def test_an_empty_label_is_none_and_names_stay_as_they_are_written(tmp_path: Path) -> None:
    labels = ["", *LABELS[1:-1], ""]
    names = ["007", "7", " 7 ", '"a,b"', "", "ä", "1e3", "nan", "NULL"]
    names[4] = "'"
    rows = np.column_stack([labels, flatten(IMAGES), names])
    split = opened(write(tmp_path / "a.csv", text_of(rows, [*KAGGLE, "key"])), id_column="key")
    _, found, keys = read(split)
    assert found == [-1, *LABELS[1:-1], -1]
    assert keys == [name.strip('"') for name in names]
    assert split.keys_from == "key"


def test_floats_are_those_that_parquet_gives(tmp_path: Path) -> None:
    floats = flatten(IMAGES) / 255
    for dtype in ("float32", "float64"):
        pd.DataFrame(floats.astype(dtype), columns=KAGGLE[1:]).to_csv(tmp_path / "a.csv", index=False)
        np.testing.assert_array_equal(read(opened(tmp_path / "a.csv"))[0], PIXELS, strict=True)


def test_pixels_may_be_bits_inverted_or_column_by_column(tmp_path: Path) -> None:
    bits = flatten(IMAGES) // 128
    path = write(tmp_path / "a.csv", text_of(1 - bits.reshape(-1, 28, 28).swapaxes(1, 2).reshape(-1, 784)))
    as_said = opened(path, pixel_format=PixelFormat(scale=1, inverted=True, transposed=True))
    np.testing.assert_array_equal(read(as_said)[0], bits.astype(np.float32), strict=True)


@settings(max_examples=12)
@given(data=st.data(), block_bytes=st.integers(7000, 16384))
def test_any_ranges_of_any_blocks_are_those_rows(
    data: st.DataObject, block_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    form = FORMS[data.draw(st.sampled_from(["LF", "CRLF", "no last newline", "empty lines at the end"]))]
    path = write(tmp_path_factory.mktemp("any") / "a.csv", form(text_of(LABELLED, KAGGLE)))
    marks = sorted(data.draw(st.sets(st.integers(0, ROWS), min_size=2)))
    ranges = [RowRange(*pair) for pair in itertools.pairwise(marks) if data.draw(st.booleans())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv, "BLOCK_BYTES", block_bytes)  # a line has some 2,800, the names 6,960
        split = opened(path)
        found = [(rows.pixels.copy(), rows.labels) for rows in split.read(ranges)]
    assert split.rows == ROWS
    for rows, (pixels, labels) in zip(ranges, found, strict=True):
        np.testing.assert_array_equal(pixels, PIXELS[rows.start : rows.stop], strict=True)
        np.testing.assert_array_equal(labels, LABELS[rows.start : rows.stop])


@settings(max_examples=50)
@given(
    lines=st.lists(st.sampled_from(["a", "b,c", "", "\r"]), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
)
def test_lines_are_counted_up_to_the_last_that_is_not_empty(
    lines: list[str], end: str, ended: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    path.write_bytes((end.join(lines) + (end if ended else "")).encode())
    filled = [number for number, line in enumerate(lines, 1) if line.strip("\r")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mnist_pipeline.datasets.source_files.HASHED_AT_ONCE", 3)
        assert verified_file(path).lines == max(filled, default=0)


# What is refused


def changed(row: int, column: int, field: str) -> list[list[Any]]:
    rows: list[list[Any]] = LABELLED.tolist()
    rows[row][column] = field
    return rows


WRONG = {
    "text": (ImagesError, (3, 5, "abc"), "row 3 (line 5): expected a number in column 'pixel4', got 'abc'"),
    "a float": (ImagesError, (3, 5, "0.5"), "row 3 (line 5): expected an integer as in the first lines in column"),
    "NaN": (ImagesError, (3, 5, "nan"), "row 3 (line 5): expected an integer as in the first lines in column 'pixel4'"),
    "256": (ImagesError, (3, 5, "256"), "row 3: expected pixels in 0..255, got 256 at pixel 4"),
    "70000": (ImagesError, (3, 5, "70000"), "row 3 (line 5): expected pixels in 0..255, one in column 'pixel4', got"),
    "-1": (ImagesError, (3, 5, "-1"), "row 3: expected pixels in 0..255, got -1 at pixel 4"),
    "empty": (ImagesError, (3, 5, ""), "row 3: expected a number in column 'pixel4', got null"),
    "a label too large": (LabelError, (3, 0, "10"), "row 3: expected a label 0-9, got 10"),
    "a label of text": (LabelError, (3, 0, "x"), "row 3 (line 5): expected a label 0-9 in column 'label', or nothing"),
    "half a label": (LabelError, (3, 0, "7.5"), "row 3: expected a label 0-9, got 7.5"),
    "more fields": (DataError, (3, 5, "1,2"), "row 3 (line 5): expected 785 fields, got 786"),
    "an empty line": (DataError, (3, 784, "5\n"), "row 4 (line 6): expected fields, got an empty line"),
    "a line break": (DataError, (3, 5, '"1\n2"'), "row 3 (line 5): expected fields that end in the same line"),
    "an open quote": (DataError, (3, 784, '"1'), "row 3 (line 5): expected fields that end in the same line"),
    "a null character": (DataError, (3, 5, "\0"), "row 3 (line 5): expected UTF-8, got another encoding"),
    "CR alone": (DataError, (3, 784, "5\r1"), "row 3 (line 5): expected lines that end with LF or CRLF"),
    "a control character": (ImagesError, (3, 5, "\x1b[2J" + "x" * 500), r"got '\x1b[2Jxxx"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_or_line_is_named_by_its_row(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "BLOCK_BYTES", 7000)
    kind, (row, column, field), message = WRONG[case]
    text = text_of(changed(row, column, field), KAGGLE)
    refused(kind, f"{tmp_path}/a.csv: " * (message[:3] == "row") + message, write(tmp_path / "a.csv", text))


@pytest.mark.parametrize("field", ["0.5", "nan", "1e30"])
def test_a_float_soon_after_the_first_image_of_bytes_does_not_make_floats_of_all(field: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", text_of(changed(3, 5, field), KAGGLE))
    refused(
        ImagesError, f"row 3 (line 5): expected an integer as in the first lines in column 'pixel4', got '{field}", path
    )


def test_what_is_wrong_in_the_first_lines_does_not_make_integers_of_floats(tmp_path: Path) -> None:
    for column, field in ((0, "seven"), (5, "x"), (5, "0,0")):
        rows: list[list[Any]] = np.column_stack([LABELS.astype(object), flatten(IMAGES) / 255]).tolist()
        rows[3][column] = field
        message = {"seven": "expected a label", "x": "expected a number", "0,0": "expected 785 fields"}[field]
        kind = {"seven": LabelError, "x": ImagesError, "0,0": DataError}[field]
        refused(kind, f"row 3 (line 5): {message}", write(tmp_path / "a.csv", text_of(rows, KAGGLE)))


@pytest.mark.parametrize("field", ["nan", "-inf", "1.5", "1e400"])
def test_floats_out_of_range_are_refused(field: str, tmp_path: Path) -> None:
    rows = (flatten(IMAGES) / 255).tolist()
    rows[3][4] = field
    refused(ImagesError, "row 3: expected pixels in 0..1, got", write(tmp_path / "a.csv", text_of(rows, KAGGLE[1:])))


def test_a_name_in_another_encoding_is_named_by_its_row(tmp_path: Path) -> None:
    rows = np.column_stack([flatten(IMAGES), [*"abcä", *"efghi"]])
    path = write(tmp_path / "a.csv", text_of(rows, [*KAGGLE[1:], "id"]).encode("latin-1"))
    refused(DataError, "row 3 (line 5): expected UTF-8, got another encoding", path, id_column="id")
    assert len(read(opened(path))[0]) == ROWS  # columns that are not read may hold anything


HEADS: dict[str, tuple[type[Exception], bytes, str]] = {
    "an empty file": (DataError, b"", "expected a line for each image, got an empty file"),
    "empty lines": (DataError, b"\n\r\n", "expected a line for each image, got an empty file"),
    "an empty line first": (DataError, b"\n1,2\n", "line 1: expected fields, got an empty line"),
    "names alone": (DataError, text_of([], KAGGLE).encode(), "expected at least one image, got none"),
    "semicolons": (DataError, text_of(LABELLED, KAGGLE, ";").encode(), "expected fields separated by ',', got ';'"),
    "tabs": (DataError, text_of(LABELLED, KAGGLE, "\t").encode(), r"expected fields separated by ',', got '\t'"),
    "UTF-16": (DataError, text_of(LABELLED, KAGGLE).encode("utf-16"), "line 1: expected UTF-8, got another encoding"),
    "CR alone": (DataError, text_of(LABELLED, KAGGLE, end="\r").encode(), "line 1: expected lines that end with LF"),
    "an open quote": (DataError, b'"label,1\n', "line 1: expected fields that end in the same line"),
    "text in the first row": (DataError, text_of(changed(0, 5, "x")).encode(), "nothing but numbers, got"),
    "a name twice": (DataError, text_of(LABELLED, [*KAGGLE[:-1], "pixel5"]).encode(), "each once, or nothing but"),
    "no pixels": (ImagesError, b"label,file\n1,a.png\n", "expected one column of images"),
    "783 pixels": (ImagesError, text_of(LABELLED[:, :-1], KAGGLE[:-1]).encode(), "got 783 columns of numbers from"),
    "a gap": (ImagesError, text_of(LABELLED, [*KAGGLE[:-1], "pixel784"]).encode(), "from 'pixel0' to 'pixel784'"),
    "785 numbers": (ImagesError, text_of(LABELLED).encode(), "--label-column 0 or --label-column 784"),
    "one line": (DataError, b"1," * (1 << 20), "line 1: expected lines of at most 1,048,576 bytes"),
    "a long line": (DataError, text_of(LABELLED, KAGGLE).encode() + b"1" * (3 << 20), "row 9: expected lines of at"),
    "another label": (LabelError, text_of(LABELLED, ["class", *KAGGLE[1:]]).encode(), "got none, but 'class'"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_file_that_cannot_be_taken_is_refused_with_a_reason(case: str, tmp_path: Path) -> None:
    kind, data, message = HEADS[case]
    refused(kind, message, write(tmp_path / "a.csv", data))


@pytest.mark.parametrize("wanted", [{"label_column": "5"}, {"label_column": "label"}, {"id_column": "0"}])
def test_a_position_that_cannot_be_meant_is_refused(wanted: dict[str, str], tmp_path: Path) -> None:
    rows = LABELLED if "label_column" in wanted else flatten(IMAGES)
    path = write(tmp_path / "a.csv", text_of(rows))
    refused(
        ImagesError,
        f"expected 784 pixels in a row beside columns {[*wanted.values()]}"[:-1].replace("[", ""),
        path,
        **wanted,
    )


def test_one_column_is_not_labels_and_names_at_once(tmp_path: Path) -> None:
    message = "expected labels and the images' own names in two columns, got "
    refused(DataError, message + "'label'", write(tmp_path / "a.csv", text_of(LABELLED, KAGGLE)), id_column="label")
    path = write(tmp_path / "b.csv", text_of(LABELLED))
    refused(DataError, message + "'0'", path, id_column="0", label_column="0")


def test_two_groups_of_columns_are_chosen_by_name(tmp_path: Path) -> None:
    rows = np.column_stack([flatten(IMAGES), 255 - flatten(IMAGES)])
    path = write(tmp_path / "a.csv", text_of(rows, [*KAGGLE[1:], *(f"other{number}" for number in range(784))]))
    refused(ImagesError, "got 'pixel', 'other'; drop one, or name the one that is meant with --image-column", path)
    np.testing.assert_array_equal(read(opened(path, image_column="pixel"))[0], PIXELS, strict=True)
    assert opened(path, image_column="pixel").images_sha256 != opened(path, image_column="other").images_sha256


def test_a_truncated_gz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(text_of(LABELLED, KAGGLE).encode())[:-100])
    refused(DataError, "expected a whole gzip file", path)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv, "BLOCK_BYTES", 7000)
    path = tmp_path / name
    split = opened(write(path, text_of(LABELLED, KAGGLE)))
    rows = split.read(cut(ROWS, 1))
    next(rows)
    with path.open("r+b") as file:
        file.seek(-20_000 if name == "a.csv" else -1000, os.SEEK_END)
        file.write(b"x" * 900)
    with pytest.raises(DataError, match="got one changed since"):
        list(rows)
