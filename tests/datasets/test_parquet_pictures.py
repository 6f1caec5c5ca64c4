"""Encoded pictures in Parquet: as Hugging Face `datasets` writes them, or as plain bytes."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mnist_pipeline.core.images import flatten, normalise
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.choosing import open_images
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.errors import ImagesError
from tests.builders import random_images, random_labels
from tests.pictures import encoded

ROWS = 23
IMAGES = random_images(ROWS)
LABELS = random_labels(ROWS)
PICTURES = [encoded(image) for image in IMAGES]
HUGGING_FACE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": list("0123456789")}}}}


def structs(pictures: Sequence[bytes | None]) -> list[dict[str, Any]]:
    return [{"bytes": picture, "path": f"{row}.png"} for row, picture in enumerate(pictures)]


def write(folder: Path, pictures: pa.Array) -> Path:
    """As Hugging Face's own MNIST: `image` and `label`, and the features in the metadata of the schema."""
    table = pa.table({"image": pictures, "label": pa.array(LABELS[: len(pictures)], pa.int64())})
    metadata = {"huggingface": json.dumps(FEATURES)}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "a.parquet", row_group_size=10)
    return folder / "a.parquet"


def refused(message: str, path: Path) -> None:
    with pytest.raises(ImagesError, match=re.escape(message)):
        [*open_images("mine", path, Wanted()).read([RowRange(0, 2), RowRange(12, ROWS)])]


@pytest.mark.parametrize(
    "pictures",
    [
        pa.array(structs(PICTURES), HUGGING_FACE),
        pa.array(structs(PICTURES), pa.struct({"path": pa.large_string(), "bytes": pa.large_binary()})),
        pa.array(PICTURES, pa.binary()),
        pa.array(PICTURES, pa.large_binary()),
    ],
    ids=lambda pictures: str(pictures.type),
)
def test_pictures_give_the_pixels_and_labels_in_any_part(pictures: pa.Array, tmp_path: Path) -> None:
    split = open_images("mine", write(tmp_path, pictures), Wanted())
    assert split.labels_sha256 == split.images_sha256
    ranges = [RowRange(0, 3), RowRange(3, 4), RowRange(8, 21)]
    for rows, found in zip(ranges, split.read(ranges), strict=True):
        here = slice(rows.start, rows.stop)
        np.testing.assert_array_equal(found.pixels, flatten(normalise(IMAGES[here])), strict=True)
        np.testing.assert_array_equal(found.labels, LABELS[here].astype(np.int8), strict=True)


@pytest.mark.parametrize(
    ("row", "found", "message"),
    [
        (13, None, "row 13: expected an image, got null; fill it in, or drop the row"),
        (14, {"bytes": None, "path": "a.png"}, "row 14: expected the bytes of a picture (its path alone does not hold"),
        (15, {"bytes": PICTURES[0][:-9], "path": None}, "row 15: expected a whole picture, got a damaged one ("),
        (1, {"bytes": b"", "path": None}, "row 1: expected a PNG or JPEG picture, got an empty file; replace it"),
    ],
)
def test_a_row_without_a_whole_picture_is_named(row: int, found: Any, message: str, tmp_path: Path) -> None:
    rows: list[Any] = structs(PICTURES)
    rows[row] = found
    path = write(tmp_path, pa.array(rows, HUGGING_FACE))
    refused(f"{path}: {message}", path)


def test_files_of_large_pictures_are_refused_by_the_footer(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).bytes(20_000)
    path = write(tmp_path, pa.array(structs([photo[row:] for row in range(10)]), HUGGING_FACE))
    with pytest.raises(ImagesError, match=rf"^{path}: expected pictures of 28x28 pixels, got 200,\d+ bytes for 10 of"):
        open_images("mine", path, Wanted())
