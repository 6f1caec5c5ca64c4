import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.images import AS_GIVEN_VERSION, TRANSFORM_VERSION, flatten, normalise
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats import files
from mnist_pipeline.datasets.formats.files import FileSplit
from mnist_pipeline.datasets.formats.tabular import parquet
from mnist_pipeline.errors import DataError, ImagesError, LabelError, NoDataError
from mnist_pipeline.store.documents import canonical_sha256
from tests.builders import random_images, random_labels
from tests.parquet_files import FORMS, LISTS, NUMBERS, as_numbers, column, decoded_rows, open_parquet, write

ROWS = 23
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
PIXELS = flatten(normalise(IMAGES))


def opened(path: Path) -> FileSplit:
    return open_parquet("mine", "test", path)


def read(split: FileSplit) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """All pixels and labels."""
    pixels, labels = [], []
    for rows in split.read(cut(split.rows, 10)):
        pixels.append(rows.pixels.copy())  # the next overwrites them
        labels += [] if rows.labels is None else [rows.labels]
    return np.concatenate(pixels), np.concatenate(labels) if labels else None


def refused(error: type[Exception], message: str, path: Path) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        read(opened(path))
    assert type(caught.value) is error


# What is read


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("form", LISTS)
def test_lists_of_any_kind_and_number_give_the_pixels_of_the_idx_file(form: str, numbers: str, tmp_path: Path) -> None:
    split = opened(write(tmp_path / "a.parquet", column(as_numbers(IMAGES, numbers), form), LABELS))
    pixels, labels = read(split)
    expected = PIXELS.astype(np.float16).astype(np.float32) if numbers == "float16" else PIXELS
    np.testing.assert_array_equal(pixels, expected, strict=True)
    np.testing.assert_array_equal(labels, LABELS.astype(np.int8), strict=True)
    assert split.transform_version == (TRANSFORM_VERSION if "int" in numbers else AS_GIVEN_VERSION)


@pytest.mark.parametrize("numbers", ["uint8", "float32"])
def test_fixed_size_binary_gives_them_too(numbers: str, tmp_path: Path) -> None:
    pixels, _ = read(opened(write(tmp_path / "a.parquet", column(as_numbers(IMAGES, numbers), "binary"))))
    np.testing.assert_array_equal(pixels, PIXELS, strict=True)


def test_floats_are_taken_as_they_are_to_the_last_bit(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((ROWS, 28, 28), np.float32)
    floats[0, 0, :3] = 0, 1, np.finfo(np.float32).smallest_subnormal
    pixels, _ = read(opened(write(tmp_path / "a.parquet", column(floats))))
    np.testing.assert_array_equal(pixels, flatten(floats), strict=True)


def test_what_pandas_and_polars_write_is_read(tmp_path: Path) -> None:
    flat = flatten(IMAGES)
    pd.DataFrame({"label": LABELS, "image": flat.tolist()}).to_parquet(tmp_path / "lists.parquet")
    pd.DataFrame({"label": LABELS, "image": list(flat)}).to_parquet(tmp_path / "arrays.parquet")
    pl.DataFrame({"image": flat, "label": LABELS}).write_parquet(tmp_path / "flat.parquet")
    pl.DataFrame({"image": IMAGES, "label": LABELS}).write_parquet(tmp_path / "nested.parquet")
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 4
    for path in paths:
        pixels, labels = read(opened(path))
        np.testing.assert_array_equal(pixels, PIXELS, strict=True)
        np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_of_any_integer_type_are_read(dtype: str, tmp_path: Path) -> None:
    split = opened(write(tmp_path / "a.parquet", column(IMAGES), LABELS.astype(dtype)))
    np.testing.assert_array_equal(read(split)[1], LABELS.astype(np.int8), strict=True)
    assert split.labels_sha256 == split.images_sha256


def test_without_a_column_of_labels_there_are_none(tmp_path: Path) -> None:
    split = opened(write(tmp_path / "a.parquet", column(IMAGES)))
    assert read(split)[1] is None
    assert split.labels_sha256 is None


COLUMNS = [
    (["pixels"], "pixels"),
    (["image", "other"], "image"),
    (["images", "other"], "images"),
    (["image", "pixels", "images"], "pixels"),
    (["other"], "other"),
]


@pytest.mark.parametrize(("names", "chosen"), COLUMNS, ids=[chosen for _, chosen in COLUMNS])
def test_the_column_of_images_is_the_named_one_or_the_only_one(names: list[str], chosen: str, tmp_path: Path) -> None:
    blank = column(np.zeros_like(IMAGES))
    columns = {name: column(IMAGES) if name == chosen else blank for name in names}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": np.arange(ROWS), **columns, "note": ["x"] * ROWS}), path)
    np.testing.assert_array_equal(read(opened(path))[0], PIXELS)


def test_a_single_file_may_have_any_name(tmp_path: Path) -> None:
    for name in ("images", ".images.parquet", "_images.pq"):
        np.testing.assert_array_equal(read(opened(write(tmp_path / name, column(IMAGES))))[0], PIXELS)


def test_a_folder_is_read_in_the_order_of_its_names_but_for_hidden_ones(tmp_path: Path) -> None:
    for name, rows in {"b": (4, 4), "c": (4, ROWS), "a": (0, 4)}.items():
        part = slice(*rows)
        write(tmp_path / f"{name}.parquet", column(IMAGES[part], "list" if name != "a" else "large_list"), LABELS[part])
    for name in (".a.parquet", "_b.parquet", "c.parquet.tmp", "README"):
        (tmp_path / name).write_text("not Parquet")
    split = opened(tmp_path)
    assert [(file.source_file.location.name, file.start, file.stop) for file in split.files] == [
        ("a.parquet", 0, 4),
        ("b.parquet", 4, 4),  # a file may hold no images, if another does
        ("c.parquet", 4, ROWS),
    ]
    pixels, labels = read(split)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(labels, LABELS)


@settings(max_examples=60)
@given(data=st.data(), form=st.sampled_from(FORMS), numbers=st.sampled_from(["uint8", "float32"]))
def test_any_ranges_of_any_files_and_row_groups_are_those_slices(
    data: st.DataObject, form: str, numbers: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    edges = sorted({0, ROWS, *data.draw(st.lists(st.integers(0, ROWS), max_size=4))})
    stored = as_numbers(IMAGES, numbers)
    for start, stop in pairwise(edges):
        part = slice(start, stop)
        groups = data.draw(st.integers(1, ROWS + 2))
        write(folder / f"{start:02d}.parquet", column(stored[part], form), LABELS[part], row_group_size=groups)
    marks = sorted(data.draw(st.sets(st.integers(0, ROWS), min_size=2)))
    ranges = [RowRange(*pair) for pair in pairwise(marks) if data.draw(st.booleans())]
    at_once = data.draw(st.integers(1, ROWS + 2))
    split = opened(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "DECODED_AT_ONCE", at_once)
        found = [(rows.pixels.copy(), rows.labels) for rows in split.read(ranges)]
    assert len(found) == len(ranges)
    for rows, (pixels, labels) in zip(ranges, found, strict=True):
        np.testing.assert_array_equal(pixels, PIXELS[rows.start : rows.stop], strict=True)
        np.testing.assert_array_equal(labels, LABELS[rows.start : rows.stop])


# How much is decoded, and from where


def decoded(split: FileSplit, ranges: Sequence[RowRange], monkeypatch: pytest.MonkeyPatch) -> int:
    return decoded_rows(lambda: list(split.read(ranges)), monkeypatch)


def test_only_the_row_groups_that_hold_wanted_rows_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = opened(write(tmp_path / "a.parquet", column(IMAGES), row_group_size=5))
    assert decoded(split, [RowRange(0, 5)], monkeypatch) == 5
    assert decoded(split, [RowRange(7, 8)], monkeypatch) == 5
    assert decoded(split, [RowRange(1, 2), RowRange(21, 22)], monkeypatch) == 8
    assert decoded(split, [RowRange(0, ROWS)], monkeypatch) == ROWS


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_row_group_is_decoded_once_however_many_ranges_lie_in_it(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = opened(write(tmp_path / "a.parquet", column(IMAGES), row_group_size=12))
    assert decoded(split, cut(ROWS, size), monkeypatch) == ROWS
    assert decoded(split, cut(ROWS, size)[::2], monkeypatch) == ROWS


def test_decoding_begins_at_row_groups_and_of_small_ones_not_every_start_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ENTRY_SPACING", 4)
    for name, groups in {"a": 5, "b": 1, "c": 100}.items():
        write(tmp_path / f"{name}.parquet", column(IMAGES), row_group_size=groups)
    split = opened(tmp_path)
    of_b = [ROWS + row for row in range(0, ROWS, 4)]
    assert split.entries == (0, 5, 10, 15, 20, *of_b, 2 * ROWS)
    assert [split.decoded_from(row) for row in (0, 4, 5, 22, 23, 26, 27, 45, 46, 68)] == [
        *(0, 0, 5, 20, 23, 23, 27, 43, 46, 46),
    ]


def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    rows = 40_000  # 125 MB as floats
    random = np.random.default_rng(0).random((1000, 784), np.float32)
    values = pa.array(np.tile(random, (rows // 1000, 1)).ravel())
    table = pa.table({"pixels": pa.FixedSizeListArray.from_arrays(values, 784)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, use_dictionary=False, compression="none")
    script = """if True:
        import sys, tracemalloc
        from pathlib import Path
        import pyarrow as pa
        from mnist_pipeline.core.plan import cut
        from mnist_pipeline.datasets.formats.choosing import open_images
        from mnist_pipeline.datasets.formats.interface import Wanted
        tracemalloc.start()
        split = open_images("mine", Path(sys.argv[1]), Wanted())
        read = sum(len(block.pixels) for block in split.read(cut(split.rows, 1000)))
        most = tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory()  # Python's and Arrow's
        print(read, most, "pandas" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    read_rows, most_bytes, pandas = done.stdout.split()
    assert int(read_rows) == rows
    assert int(most_bytes) < 40_000_000
    assert pandas == "False"


# Who the images are


def test_one_file_is_known_by_its_sha256_and_a_folder_by_those_of_all_its_files(tmp_path: Path) -> None:
    one = opened(write(tmp_path / "one" / "a.parquet", column(IMAGES)))
    assert one.images_sha256 == one.files[0].source_file.sha256
    folder = opened(tmp_path / "one")
    expected = canonical_sha256([{"name": "a.parquet", "sha256": one.images_sha256}])
    assert folder.images_sha256 == expected
    write(tmp_path / "one" / "b.parquet", column(IMAGES))
    two = opened(tmp_path / "one").images_sha256
    (tmp_path / "one" / "b.parquet").rename(tmp_path / "one" / "c.parquet")
    renamed = opened(tmp_path / "one").images_sha256
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    assert opened(tmp_path / "elsewhere").images_sha256 == renamed
    assert len({one.images_sha256, folder.images_sha256, two, renamed}) == 4


def test_an_opened_split_can_be_pickled_and_stays_small(tmp_path: Path) -> None:
    images = np.zeros((20_000, 28, 28), np.uint8)
    split = opened(write(tmp_path / "a.parquet", column(images, "fixed_size_list"), row_group_size=10))
    data = pickle.dumps(split)
    assert pickle.loads(data) == split
    assert len(data) < 2000


# Refusals


def with_(images: NDArray[Any], where: tuple[int, ...], value: float) -> NDArray[Any]:
    changed = images.copy()
    changed[where] = value
    return changed


FLOATS = as_numbers(IMAGES, "float32")
OUT_OF_RANGE = [
    (np.nan, "expected pixels in 0..1, got nan at pixel 59; correct the image, or leave it out"),
    (np.inf, "expected pixels in 0..1, got inf at pixel 59; correct"),
    (-np.inf, "expected pixels in 0..1, got -inf at pixel 59; correct"),
    (-0.25, "expected pixels in 0..1, got -0.25 at pixel 59; pixels of -1..1: store (x + 1) / 2"),
    (1.5, "expected pixels in 0..1, got 1.5 at pixel 59; correct the image, or leave it out; pixels of another"),
    (255, "expected pixels in 0..1, got 255.0 at pixel 59; pixels of 0..255 need --pixel-scale 255"),
    (256, "expected pixels in 0..1, got 256.0 at pixel 59; correct"),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("value", "message"), OUT_OF_RANGE, ids=[str(case[0]) for case in OUT_OF_RANGE])
def test_a_float_out_of_range_is_refused_with_file_and_row(
    value: float, message: str, dtype: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.parquet", column(FLOATS.astype(dtype)))
    images = with_(FLOATS.astype(dtype), (17, 2, 3), value)
    path = write(tmp_path / "b.parquet", column(images), row_group_size=4)
    refused(ImagesError, f"{path}: row 17: {message}", tmp_path)


@pytest.mark.parametrize(("value", "advice"), [(-1, "standardised or signed"), (256, "correct the image")])
def test_an_integer_out_of_range_is_refused(value: int, advice: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(with_(IMAGES.astype(np.int32), (5, 0, 0), value)))
    refused(ImagesError, f"{path}: row 5: expected pixels in 0..255, got {value} at pixel 0; {advice}", path)


def listed(images: NDArray[Any], row: int, value: Any, type: pa.DataType) -> pa.Array:  # noqa: A002  Arrow's word
    """A column of lists in which that of one row is another."""
    rows = images.tolist()
    rows[row] = value
    return pa.array(rows, type)


FLAT, NESTED = pa.list_(pa.uint8()), pa.list_(pa.list_(pa.uint8()))
SQUARE = IMAGES[9].tolist()
MISSHAPEN: list[tuple[pa.DataType, Any, str]] = [
    (FLAT, [1] * 783, "expected 784 pixels, got a list of 783; only images of 28x28 pixels are read"),
    (FLAT, [], "expected 784 pixels, got a list of 0"),
    (FLAT, None, "expected an image, got null; fill it in, or drop the row"),
    (FLAT, [1] * 783 + [None], "expected 784 pixels, got null; fill it in"),
    (NESTED, SQUARE[:27], "expected 28 rows of 28 pixels, got a list of 27"),
    (NESTED, [*SQUARE[:27], SQUARE[0][:27]], "expected 28 rows of 28 pixels, got a list of 27"),
    (NESTED, [*SQUARE[:27], SQUARE[0] + [0]], "expected 28 rows of 28 pixels, got a list of 29"),
    (NESTED, [*SQUARE[:27], None], "expected 784 pixels, got null"),
    (NESTED, [*SQUARE[:27], [None, *SQUARE[0][1:]]], "expected 784 pixels, got null"),
]


@pytest.mark.parametrize(("form", "value", "message"), MISSHAPEN, ids=[case[2][:50] for case in MISSHAPEN])
def test_an_image_of_another_size_or_with_gaps_is_refused_with_file_and_row(
    form: pa.DataType, value: Any, message: str, tmp_path: Path
) -> None:
    images = flatten(IMAGES) if form == FLAT else IMAGES
    for groups in (100, 4):
        path = write(tmp_path / "a.parquet", listed(images, 9, value, form), row_group_size=groups)
        refused(ImagesError, f"{path}: row 9: {message}", path)


def test_two_images_whose_lengths_make_up_for_each_other_are_refused(tmp_path: Path) -> None:
    rows = [*flatten(IMAGES).tolist()[:2], [0] * 783, [0] * 785]
    path = write(tmp_path / "a.parquet", pa.array(rows, FLAT))
    refused(ImagesError, f"{path}: row 2: expected 784 pixels, got a list of 783", path)


@pytest.mark.parametrize("sides", [(27, 28), (28, 27), (32, 32)])
def test_fixed_size_lists_of_another_size_are_refused(sides: tuple[int, int], tmp_path: Path) -> None:
    values = pa.array(np.zeros(2 * sides[0] * sides[1], np.uint8))
    lists = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(values, sides[1]), sides[0])
    path = write(tmp_path / "a.parquet", lists)
    refused(ImagesError, f"{path}: row 0: expected 28 rows of 28 pixels, got a list of ", path)


def test_a_null_among_binary_images_is_refused(tmp_path: Path) -> None:
    images = [image.tobytes() for image in IMAGES]
    path = write(tmp_path / "a.parquet", pa.array([*images[:6], None, *images[6:]], pa.binary(784)))
    refused(ImagesError, f"{path}: row 6: expected an image, got null", path)


@pytest.mark.parametrize(("label", "got"), [(10, "10"), (-1, "-1"), (300, "300")])
def test_a_label_that_is_no_digit_is_refused_with_file_and_row(label: int | None, got: str, tmp_path: Path) -> None:
    labels = [*LABELS.tolist()[:7], label, *LABELS.tolist()[8:]]
    path = write(tmp_path / "a.parquet", column(IMAGES), labels, row_group_size=5)
    refused(LabelError, f"{path}: row 7: expected a label 0-9, got {got}; ", path)


@pytest.mark.parametrize("labels", [LABELS > 5, [b"5"] * ROWS, [None] * ROWS])
def test_labels_that_are_neither_numbers_nor_texts_are_refused(labels: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES), labels)
    refused(LabelError, f"{path}: column 'label': expected digits 0-9, got '{pa.array(labels).type}'; store", path)


NO_IMAGES: list[tuple[dict[str, Any], str]] = [
    ({"path": ["a.png"], "label": [1]}, "'path: string', 'label: int64'"),
    ({"a": column(IMAGES[:1]), "b": column(IMAGES[:1])}, "'a', 'b'"),
    ({f"p{n}": [0.0] for n in range(3)}, "'p0: double', 'p1: double', 'p2: double'"),
]


@pytest.mark.parametrize(("columns", "found"), NO_IMAGES, ids=[case[1] for case in NO_IMAGES])
def test_without_one_column_of_images_the_columns_are_listed(
    columns: dict[str, Any], found: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    refused(ImagesError, f"{path}: expected one column of images", path)
    refused(ImagesError, f"got {found}; ", path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    images, labels, path = column(IMAGES), pa.array(LABELS), tmp_path / "a.parquet"
    pq.write_table(pa.table([images, images], ["pixels", "pixels"]), path)
    refused(ImagesError, "expected one column of images, got 'pixels', 'pixels'; drop one", path)
    pq.write_table(pa.table([images, labels, labels], ["pixels", "label", "label"]), path)
    refused(LabelError, "column 'label': expected digits 0-9, got 2 columns of that name; ", path)


def test_the_only_column_of_lists_may_have_any_name(tmp_path: Path) -> None:
    for name in ("a.b", "Bilder", "list", ""):
        pq.write_table(pa.table({"x": [0] * ROWS, name: column(IMAGES)}), tmp_path / "a.parquet")
        np.testing.assert_array_equal(read(opened(tmp_path / "a.parquet"))[0], PIXELS)


OTHERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: write(path, column(FLOATS), LABELS), "'pixels' of float32 and 'label' of uint8"),
    (lambda path: write(path, column(IMAGES)), "'pixels' of uint8 and no labels"),
    (lambda path: write(path, column(IMAGES), LABELS.astype(int)), "'pixels' of uint8 and 'label' of int64"),
    (
        lambda path: pq.write_table(pa.table({"image": column(IMAGES), "label": pa.array(LABELS)}), path),
        "'image' of uint8 and 'label' of uint8",
    ),
]


@pytest.mark.parametrize(("other", "found"), OTHERS, ids=[case[1] for case in OTHERS])
def test_files_of_a_folder_that_are_not_alike_are_refused(
    other: Callable[[Path], object], found: str, tmp_path: Path
) -> None:
    first, second = write(tmp_path / "a.parquet", column(IMAGES), LABELS), tmp_path / "b.parquet"
    other(second)
    message = (
        f"{second}: expected 'pixels' of uint8 and 'label' of uint8, as in {first}, got {found}; write all files of"
    )
    refused(DataError, message, tmp_path)


def test_no_images_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES[:0]), LABELS[:0])
    for place in (path, tmp_path):
        refused(DataError, f"{place}: expected at least one image, got none; give a data set with images", place)


def test_a_folder_without_parquet_files_and_a_path_to_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    refused(DataError, f"{tmp_path}: expected files *.parquet", tmp_path)
    refused(DataError, "got 'README.md'; give a folder that holds them", tmp_path)
    nowhere = tmp_path / "nowhere"
    message = f"--images {nowhere}: expected a file of images or a folder of them, got nothing there; check the path"
    refused(NoDataError, message, nowhere)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", column(IMAGES))
    (tmp_path / "b.parquet").mkdir()
    refused(DataError, f"{tmp_path / 'b.parquet'}: expected a readable file, got a folder; ", tmp_path)
    (tmp_path / "b.parquet").rmdir()
    (tmp_path / "b.parquet").symlink_to("gone")
    refused(DataError, f"{tmp_path / 'b.parquet'}: expected a readable file, got No such file", tmp_path)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "a byte short": lambda data: data[:-1],
    "no end": lambda data: data[:-8],
    "HTML": lambda data: b"<!DOCTYPE html>" + b" " * 100,
    "no pixels": lambda data: data[:4] + bytes(5000) + data[5004:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_named(damage: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", column(IMAGES))
    path = write(tmp_path / "b.parquet", column(IMAGES))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    refused(DataError, f"{path}: expected a whole Parquet file, got ", tmp_path)


@pytest.mark.parametrize(("found", "rows"), [("file", -23), ("row group", 23), ("both", -23)])
def test_numbers_of_rows_that_cannot_be_are_refused(found: str, rows: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # Parquet's footer is Thrift's compact protocol: 0x16 starts a number of 64 bits, 2n stands for n, 2n - 1 for -n.
    # https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
    count, negative = bytes([0x16, 2 * ROWS]), bytes([0x16, 2 * ROWS - 1])
    places = [place for place in range(footer, len(data)) if data[place : place + 2] == count]
    assert len(places) == 2  # of the file, and of its only row group
    for place in {"file": places[:1], "row group": places[1:], "both": places}[found]:
        data = data[:place] + negative + data[place + 2 :]
    path.write_bytes(data)
    refused(DataError, f"{path}: expected row groups of {rows} rows in all, got ", path)


@pytest.mark.parametrize("position", range(4, 16_000, 999))
def test_a_flipped_bit_in_a_file_with_checksums_is_rejected(position: int, tmp_path: Path) -> None:
    how: dict[str, Any] = {"write_page_checksum": True, "use_dictionary": False, "compression": "none"}
    path = write(tmp_path / "a.parquet", column(IMAGES), **how)
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    refused(DataError, f"{path}: expected a whole Parquet file, got ", path)


CHANGED = "expected the file that was verified, got one changed since; run again to verify it again"


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def replace_by_another(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".other"))
    path.with_suffix(".other").replace(path)


@pytest.mark.parametrize("change", [truncate, replace_by_another, lambda path: os.utime(path, ns=(0, 1))])
def test_a_file_changed_after_it_was_verified_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES))
    split = opened(path)
    change(path)
    with pytest.raises(DataError, match=re.escape(f"{path}: {CHANGED}")):
        read(split)


def test_a_file_changed_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "DECODED_AT_ONCE", 4)
    path = write(tmp_path / "a.parquet", column(IMAGES))
    rows = opened(path).read(cut(ROWS, 4))
    next(rows)
    os.utime(path, ns=(0, 1))
    with pytest.raises(DataError, match=re.escape(f"{path}: {CHANGED}")):
        next(rows)


def test_a_file_that_is_gone_since_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", column(IMAGES))
    split = opened(path)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: expected a readable file, got No such file")):
        read(split)
