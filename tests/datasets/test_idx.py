import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats.idx import IdxSplit, open_split, read_images, read_labels
from mnist_pipeline.datasets.source_files import SourceFile, verified_file
from mnist_pipeline.errors import DataError, IdxFormatError, LabelError
from tests.builders import images_name, labels_name, make_split, random_images, random_labels
from tests.published import on_disk

ROWS = 23
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
EVERYTHING = RowRange(0, ROWS)


def write(path: Path, content: bytes | NDArray[np.uint8]) -> SourceFile:
    path.write_bytes(content if isinstance(content, bytes) else idx.encode(content))
    return verified_file(path)


def opened(
    folder: Path, images: bytes | NDArray[np.uint8] = IMAGES, labels: bytes | NDArray[np.uint8] | None = LABELS
) -> IdxSplit:
    files = write(folder / "images", images), None if labels is None else write(folder / "labels", labels)
    return open_split("toy", "test", *files)


@pytest.fixture(scope="module")
def source_split(tmp_path_factory: pytest.TempPathFactory) -> IdxSplit:
    return opened(tmp_path_factory.mktemp("source_split"))


def test_a_split_is_opened_and_read(source_split: IdxSplit) -> None:
    assert (source_split.dataset, source_split.split, source_split.rows) == ("toy", "test", ROWS)
    images, labels = read_images(source_split, EVERYTHING), read_labels(source_split, EVERYTHING)
    np.testing.assert_array_equal(images, IMAGES, strict=True)
    np.testing.assert_array_equal(labels, LABELS, strict=True)


def test_a_file_is_read_as_its_whole_content_decodes(tmp_path: Path) -> None:
    make_split(tmp_path, 5, seed=3, split="train")
    images, labels = (verified_file(tmp_path / name("train")) for name in (images_name, labels_name))
    source_split = open_split("toy", "train", images, labels)
    whole = idx.decode(on_disk(images.location).read_bytes(), "x", 3)
    np.testing.assert_array_equal(read_images(source_split, RowRange(0, 5)), whole, strict=True)


def test_a_split_without_labels_has_none(tmp_path: Path) -> None:
    source_split = opened(tmp_path, labels=None)
    assert source_split.labels is None
    assert read_labels(source_split, EVERYTHING) is None


@given(st.integers(1, ROWS + 5))
def test_any_cut_reads_the_same_images_and_labels(source_split: IdxSplit, size: int) -> None:
    ranges = cut(ROWS, size)
    images = np.concatenate([read_images(source_split, rows) for rows in ranges])
    labels = np.concatenate([labels for rows in ranges if (labels := read_labels(source_split, rows)) is not None])
    np.testing.assert_array_equal(images, IMAGES, strict=True)
    np.testing.assert_array_equal(labels, LABELS, strict=True)


@given(st.integers(0, ROWS - 1), st.integers(1, ROWS))
def test_any_range_is_that_slice(source_split: IdxSplit, start: int, stop: int) -> None:
    rows = RowRange(min(start, stop - 1), stop)
    np.testing.assert_array_equal(read_images(source_split, rows), IMAGES[rows.start : rows.stop], strict=True)
    np.testing.assert_array_equal(read_labels(source_split, rows), LABELS[rows.start : rows.stop], strict=True)


# Refusals


@pytest.mark.parametrize("size", [0, 15])
def test_a_truncated_header_is_refused(size: int, tmp_path: Path) -> None:
    message = f"{tmp_path / 'images'}: expected an IDX header of 16 bytes, got {size} bytes; the file is truncated"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        opened(tmp_path, images=idx.encode(IMAGES)[:size])


@pytest.mark.parametrize(("change", "kind"), [(-1, "truncated"), (1, "oversized"), (784, "oversized")])
def test_another_size_than_the_header_promises_is_refused(change: int, kind: str, tmp_path: Path) -> None:
    for name, array in {"images": IMAGES, "labels": LABELS}.items():
        data = idx.encode(array)
        other = data[:change] if change < 0 else data + bytes(change)
        message = f"{tmp_path / name}: expected {len(data)} bytes for shape {array.shape}, got {len(other)}; "
        with pytest.raises(IdxFormatError, match=re.escape(message) + f"the file is {kind}"):
            opened(tmp_path, **({"images": IMAGES, "labels": LABELS} | {name: other}))


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html></html>", b"\x1f\x8b\x08" + bytes(40)])
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("images", "labels"):
        with pytest.raises(IdxFormatError, match=f"{name}: expected an IDX file, which starts with bytes 00 00, got "):
            opened(tmp_path, **({"images": IMAGES, "labels": LABELS} | {name: content}))


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    floats = struct.pack(">HBB3I", 0, 0x0D, 3, 1, 28, 28) + np.zeros(784, ">f4").tobytes()
    with pytest.raises(IdxFormatError, match=r"images: expected IDX type 0x08 \(unsigned byte\), got 0x0d"):
        opened(tmp_path, images=floats)


def test_images_and_labels_swapped_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        IdxFormatError, match=r"images: expected 3 dimension\(s\), got 1; are images and labels swapped"
    ):
        opened(tmp_path, images=random_labels(30), labels=IMAGES)
    with pytest.raises(
        IdxFormatError, match=r"labels: expected 1 dimension\(s\), got 3; are images and labels swapped"
    ):
        opened(tmp_path, labels=IMAGES)


@pytest.mark.parametrize("side", [(27, 28), (28, 27), (32, 32), (784, 1)])
def test_images_of_another_size_are_refused(side: tuple[int, int], tmp_path: Path) -> None:
    message = f"images: expected images of 28x28 pixels, got {side[0]}x{side[1]}; only data sets in the format of MNIST"
    with pytest.raises(IdxFormatError, match=message):
        opened(tmp_path, images=np.zeros((2, *side), np.uint8))


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images: expected at least one image, got none; give a data set with images"):
        opened(tmp_path, images=IMAGES[:0], labels=LABELS[:0])


@pytest.mark.parametrize("count", [0, ROWS - 1, ROWS + 1])
def test_another_number_of_labels_than_images_is_refused(count: int, tmp_path: Path) -> None:
    message = f"labels: expected {ROWS} labels, one for each image of {tmp_path / 'images'}, got {count}; are the two"
    with pytest.raises(LabelError, match=re.escape(message)):
        opened(tmp_path, labels=np.resize(LABELS, count))


@pytest.mark.parametrize(("where", "label"), [(0, 10), (ROWS - 1, 255), (7, 10)])
def test_a_label_over_9_is_refused_and_the_first_named(where: int, label: int, tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[where:] = label
    with pytest.raises(
        LabelError, match=f"labels: expected labels 0-9, got {label} for image {where}; correct or drop"
    ):
        opened(tmp_path, labels=labels)


CHANGED = "expected the file that was verified, got one changed since; run again to verify it again"


@pytest.mark.parametrize("lost", [1, 784, 20 * 784])
def test_a_file_cut_short_after_it_was_verified_is_refused(lost: int, tmp_path: Path) -> None:
    source_split = opened(tmp_path)
    assert source_split.labels is not None
    with on_disk(source_split.images.location).open("r+b") as file:
        file.truncate(16 + ROWS * 784 - lost)
    on_disk(source_split.labels.location).write_bytes(on_disk(source_split.labels.location).read_bytes()[:-1])
    with pytest.raises(DataError, match=f"images: {CHANGED}"):
        read_images(source_split, RowRange(22, 23))
    with pytest.raises(DataError, match=f"labels: {CHANGED}"):
        read_labels(source_split, EVERYTHING)


def test_a_file_of_the_same_size_written_after_it_was_verified_is_refused(tmp_path: Path) -> None:
    source_split = opened(tmp_path)
    assert source_split.labels is not None
    for file in (source_split.images, source_split.labels):
        on_disk(file.location).write_bytes(on_disk(file.location).read_bytes())
        os.utime(on_disk(file.location), ns=(0, 1))
    with pytest.raises(DataError, match=f"images: {CHANGED}"):
        read_images(source_split, RowRange(0, 1))
    with pytest.raises(DataError, match=f"labels: {CHANGED}"):
        read_labels(source_split, EVERYTHING)


def test_a_file_that_replaced_a_verified_one_is_rejected(tmp_path: Path) -> None:
    source_split = opened(tmp_path)
    other = tmp_path / "other"
    shutil.copy2(on_disk(source_split.images.location), other)
    other.replace(on_disk(source_split.images.location))
    with pytest.raises(DataError, match=f"images: {CHANGED}"):
        read_images(source_split, RowRange(0, 1))


def test_a_file_that_is_gone_or_cannot_be_read_is_said(tmp_path: Path) -> None:
    source_split = opened(tmp_path)
    on_disk(source_split.images.location).unlink()
    with pytest.raises(DataError, match="images: expected a readable file, got No such file"):
        read_images(source_split, RowRange(0, 1))
    with pytest.raises(DataError, match=f"{tmp_path}: expected a readable file, got a folder; "):
        verified_file(tmp_path)
