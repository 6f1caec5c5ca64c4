"""The forms in which IDX files come: compressed, in a bucket, with QMNIST's labels, stored column by column."""

import gzip
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import PixelFormat, flatten, normalise
from mnist_pipeline.core.network.training import Recipe
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats.idx import IdxSplit, open_split, read_images, read_labels
from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.errors import DataError, IdxFormatError, LabelError
from mnist_pipeline.pipeline.training import train
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import write_location
from tests.builders import make_split, random_images, random_labels, small_settings
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server

ROWS = 23
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
PIXELS = flatten(normalise(IMAGES))


def qmnist_labels(labels: NDArray[Any] = LABELS, columns: int = 8) -> bytes:
    """Labels as QMNIST has them: int32, the digit first, then where it comes from."""
    table = np.random.default_rng(0).integers(-(2**31), 2**31, (len(labels), columns)).astype(">i4")
    table[:, 0] = labels
    return struct.pack(">HBB2I", 0, 0x0C, 2, *table.shape) + table.tobytes()


def opened(
    folder: Location,
    ending: str = "",
    images: bytes = idx.encode(IMAGES),
    labels: bytes = idx.encode(LABELS),
    **how: Any,
) -> IdxSplit:
    for name, content in {"images": images, "labels": labels}.items():
        write_location(folder / f"{name}{ending}", gzip.compress(content) if ending else content)
    verified = [verified_file(folder / f"{name}{ending}") for name in ("images", "labels")]
    return open_split("toy", "test", verified[0], verified[1], **how)


def require_same(split: IdxSplit, size: int = 10) -> None:
    """The split holds the images and labels of this file."""
    ranges = cut(ROWS, size)
    for rows, found in zip(ranges, split.read(ranges), strict=True):
        part = slice(rows.start, rows.stop)
        np.testing.assert_array_equal(found.pixels, PIXELS[part], strict=True)
        np.testing.assert_array_equal(found.labels, LABELS[part].astype(np.int8), strict=True)


@pytest.mark.parametrize("labels", [idx.encode(LABELS), qmnist_labels()], ids=["bytes", "qmnist"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_form_gives_the_same_on_disk_and_in_a_bucket(
    ending: str, labels: bytes, tmp_path: Path, bucket: Address
) -> None:
    for folder in (tmp_path, bucket):
        split = pickle.loads(pickle.dumps(opened(folder, ending, labels=labels)))
        for size in (1, 10, ROWS):
            require_same(split, size)
        assert split.decoded_from(20) == (0 if ending else 20)
        np.testing.assert_array_equal(read_images(split, RowRange(3, 9)), IMAGES[3:9], strict=True)
        np.testing.assert_array_equal(read_labels(split, RowRange(3, 9)), LABELS[3:9], strict=True)


def test_what_a_compressed_file_holds_identifies_it(tmp_path: Path) -> None:
    plain, packed = opened(tmp_path), opened(tmp_path, ".gz")
    assert (plain.images_sha256, plain.labels_sha256) == (packed.images_sha256, packed.labels_sha256)


def test_images_stored_column_by_column_are_turned(tmp_path: Path) -> None:
    columns = idx.encode(np.ascontiguousarray(IMAGES.swapaxes(1, 2)))
    split = opened(tmp_path, ".gz", images=columns, pixel_format=PixelFormat(transposed=True))
    require_same(split)
    assert split.transform_version.endswith(" transposed")


@pytest.mark.parametrize(("change", "kind"), [(-1, "truncated"), (1, "oversized"), (784, "oversized")])
def test_a_compressed_file_that_holds_more_or_less_than_its_header_says_is_refused(
    change: int, kind: str, tmp_path: Path
) -> None:
    content = idx.encode(IMAGES)
    other = content[:change] if change < 0 else content + bytes(change)
    message = f"images.gz: expected {len(content)} bytes for shape {IMAGES.shape}, got {len(other)}; the file is {kind}"
    with pytest.raises(IdxFormatError, match=re.escape(message)):
        opened(tmp_path, ".gz", images=other)


LABEL_FILES: list[tuple[bytes, type[Exception], str]] = [
    (
        qmnist_labels(columns=7),
        IdxFormatError,
        "expected 8 numbers for each label of int32, as in QMNIST, got 7; store",
    ),
    (qmnist_labels()[:-4], IdxFormatError, "expected 748 bytes for shape (23, 8), got 744; the file is truncated"),
    (qmnist_labels(LABELS[1:]), LabelError, "expected 23 labels, one for each image of "),
    (qmnist_labels(np.where(np.arange(ROWS) == 7, -1, LABELS.astype(int))), LabelError, "expected labels 0-9, got -1 "),
    (
        qmnist_labels(np.where(np.arange(ROWS) == 9, 256, LABELS.astype(int))),
        LabelError,
        "expected labels 0-9, got 256 for image 9",
    ),
    (
        qmnist_labels()[:8],
        IdxFormatError,
        "labels: expected IDX type 0x08 (unsigned byte), got 0x0c; only uint8 data s",
    ),
]


@pytest.mark.parametrize(("content", "error", "message"), LABEL_FILES, ids=range(len(LABEL_FILES)))
def test_labels_of_int32_that_are_not_those_of_qmnist_are_refused(
    content: bytes, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        opened(tmp_path, labels=content)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, bucket: Address) -> None:
    for folder in (tmp_path, bucket):
        split = opened(folder, ".gz")
        write_location(folder / "images.gz", gzip.compress(idx.encode(IMAGES[::-1])))
        with pytest.raises(DataError, match=r"images.gz: expected the file that was verified, got one changed since"):
            list(split.read(cut(ROWS, 10)))


def test_a_network_is_trained_from_compressed_files_as_from_plain_ones(tmp_path: Path) -> None:
    networks = []
    for ending in ("", ".gz"):
        data = tmp_path / f"data{ending}"
        for split in ("train", "test"):
            make_split(data, 50, split=split)
        for path in list(data.iterdir()) if ending else ():
            (data / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        settings = small_settings(tmp_path, data_dir=data)
        network = tmp_path / f"network{ending}.safetensors"
        train(settings, Recipe(epochs=1), network)
        networks.append(network.read_bytes())
    assert networks[0] == networks[1]
