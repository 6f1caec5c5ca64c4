"""Images in 784 columns of Parquet, one for each pixel. `test_csv.py` has those of CSV."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.images import AS_GIVEN_VERSION, TRANSFORM_VERSION, flatten, normalise
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.formats.choosing import open_images
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.formats.tabular import parquet
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import ImagesError
from tests.builders import random_images, random_labels

ROWS = 23
BYTES = flatten(random_images(ROWS))
LABELS = random_labels(ROWS)
PIXELS = normalise(BYTES)
NAMES = [f"pixel{number}" for number in range(784)]


def columns_of(images: NDArray[Any], names: Sequence[str] = NAMES) -> dict[str, Any]:
    return dict(zip(names, images.T, strict=True))


def opened(path: Path, columns: Mapping[str, Any], **wanted: Any) -> OpenSplit:
    pq.write_table(pa.table(dict(columns)), path, row_group_size=9)
    return open_images("mine", path, Wanted(**wanted))


def read(split: OpenSplit) -> NDArray[np.float32]:
    return np.concatenate([rows.pixels.copy() for rows in split.read(cut(ROWS, 10))])


def refused(message: str, path: Path, columns: Mapping[str, Any]) -> None:
    with pytest.raises(ImagesError, match=re.escape(message)):
        read(opened(path, columns))


ORDERS = {
    "pixel0": NAMES,
    "pixel1": [f"pixel{number}" for number in range(1, 785)],
    "1x1": [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)],
    "0x0": [f"{row}x{column}" for row in range(28) for column in range(28)],
    "x0": [f"x{number}" for number in range(784)],
}


@pytest.mark.parametrize("form", ORDERS)
def test_the_numbers_of_columns_decide_the_order_of_pixels(form: str, tmp_path: Path) -> None:
    columns = {"1": LABELS, "note7": LABELS, **columns_of(BYTES, ORDERS[form]), "label": LABELS}
    shuffled = {name: columns[name] for name in np.random.default_rng(0).permutation([*columns])}
    split = opened(tmp_path / "a.parquet", shuffled)
    np.testing.assert_array_equal(read(split), PIXELS, strict=True)
    assert split.transform_version == TRANSFORM_VERSION
    assert split.labels_sha256 == split.images_sha256


def test_what_pandas_writes_of_an_array_is_read(tmp_path: Path) -> None:
    pd.DataFrame(BYTES).rename(columns=str).to_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(open_images("mine", tmp_path / "a.parquet", Wanted())), PIXELS, strict=True)


MIXED = {
    "integers": ("uint8", "int64", TRANSFORM_VERSION),
    "floats": ("float32", "float64", AS_GIVEN_VERSION),
    "both": ("uint8", "float64", AS_GIVEN_VERSION),
}


@pytest.mark.parametrize("kinds", MIXED)
def test_columns_of_different_types_are_read_as_the_type_that_holds_all(kinds: str, tmp_path: Path) -> None:
    first, other, version = MIXED[kinds]
    bits = BYTES // 128
    columns = columns_of(bits.astype(first)) | {"pixel5": bits[:, 5].astype(other)}
    split = opened(tmp_path / "a.parquet", columns)
    assert split.transform_version == version
    expected = bits.astype(np.float32) if version == AS_GIVEN_VERSION else normalise(bits)
    np.testing.assert_array_equal(read(split), expected, strict=True)


def test_bytes_beside_a_column_of_floats_are_not_taken_for_0_to_1(tmp_path: Path) -> None:
    columns = columns_of(BYTES) | {"pixel5": BYTES[:, 5].astype(float)}
    refused("row 0: expected pixels in 0..1, got", tmp_path / "a.parquet", columns)


def test_a_null_is_named_by_its_row_and_column(tmp_path: Path) -> None:
    columns = columns_of(BYTES) | {"pixel5": pa.array([*range(11), None, *range(11)], pa.uint8())}
    message = f"{tmp_path}/a.parquet: row 11: expected a number in column 'pixel5', got null; fill it in"
    refused(message, tmp_path / "a.parquet", columns)


GAPS = {
    "783": (NAMES[:-1], "got 783 columns of numbers from 'pixel0' to 'pixel782'"),
    "a gap": ([*NAMES[:5], *NAMES[6:], "pixel784"], "got 784 columns of numbers from 'pixel0' to 'pixel784'"),
    "785": ([*NAMES, "pixel784"], "got 785 columns of numbers from 'pixel0' to 'pixel784'"),
    "a number twice": ([*NAMES, "pixel05"], "got 785 columns of numbers from 'pixel0' to 'pixel783'"),
    "a row too long": ([*ORDERS["1x1"][:28], "1x29", *ORDERS["1x1"][29:]], "got 784 columns of numbers from '1x1' to"),
    "from 1x0": ([f"{row}x{column}" for row in range(1, 29) for column in range(28)], "got 784 columns of numbers"),
}


@pytest.mark.parametrize("case", GAPS)
def test_columns_that_are_not_784_in_a_row_are_refused(case: str, tmp_path: Path) -> None:
    names, message = GAPS[case]
    refused(message, tmp_path / "a.parquet", dict.fromkeys(names, LABELS))


def test_half_floats_beside_others_are_refused(tmp_path: Path) -> None:
    columns = columns_of(PIXELS) | {"pixel5": PIXELS[:, 5].astype(np.float16)}
    refused("got 784 columns of numbers from 'pixel0'", tmp_path / "a.parquet", columns)


def test_two_groups_are_chosen_by_name(tmp_path: Path) -> None:
    columns = columns_of(BYTES) | columns_of(255 - BYTES, [f"other{number}" for number in range(784)])
    refused(
        "got 'pixel', 'other'; drop one, or name the one that is meant with --image-column", tmp_path / "a", columns
    )
    split = opened(tmp_path / "a.parquet", columns, image_column="pixel")
    np.testing.assert_array_equal(read(split), PIXELS, strict=True)


def test_a_row_group_too_large_to_stream_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "STREAMED_BYTES", 0)
    monkeypatch.setattr(parquet, "PART_BYTES", 784 * 4)  # four rows at a time
    monkeypatch.setattr(parquet, "COLUMNS_BYTES", 90 * 8 * ROWS)
    names = pa.array([f"name {row}" for row in range(ROWS)]).dictionary_encode()
    columns = {"id": names, **columns_of(BYTES), "label": LABELS}
    split = opened(tmp_path / "a.parquet", columns, id_column="id")
    found = [(rows.pixels.copy(), rows.labels, rows.keys) for rows in split.read([RowRange(2, 11), RowRange(20, 22)])]
    for (pixels, labels, keys), (start, stop) in zip(found, [(2, 11), (20, 22)], strict=True):
        np.testing.assert_array_equal(pixels, PIXELS[start:stop], strict=True)
        np.testing.assert_array_equal(labels, LABELS[start:stop])
        assert keys is not None
        assert keys.to_pylist() == names.to_pylist()[start:stop]
    columns["pixel5"] = pa.array([*range(11), None, *range(11)], pa.uint8())
    refused("row 11: expected a number in column 'pixel5', got null", tmp_path / "b.parquet", columns)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_row_group(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pa.table({name: random.random(60_000) for name in NAMES})  # 376 MB, with as many values in dictionaries
    pq.write_table(table, tmp_path / "a.parquet")
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
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "a.parquet"], capture_output=True, text=True, check=True
    )
    rows, most_bytes, pandas = done.stdout.split()
    assert (int(rows), pandas) == (60_000, "False")
    assert int(most_bytes) < 150_000_000
