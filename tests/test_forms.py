"""MNIST's test split in each form gives the same predictions bit for bit, from a disk and from a bucket."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mnist_pipeline import tables
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import read_images, read_labels
from mnist_pipeline.pipeline import inputs
from mnist_pipeline.pipeline.evaluation import evaluate
from mnist_pipeline.runs.lookup import run_by_id
from mnist_pipeline.settings import load_settings
from mnist_pipeline.store.base import Address
from mnist_pipeline.store.opening import open_store
from tests.forms import FORMS, Given, Images, Labels, of_folder, of_idx
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.published import opened

pytestmark = pytest.mark.real_data

COLUMNS = ["label", "prediction", "correct", "confidence", *(f"proba_{digit}" for digit in range(10))]
IN_A_BUCKET = 300  # images, of the folder: a request each


@pytest.fixture(scope="module")
def mnist(mnist_cache: Path) -> tuple[Images, Labels]:
    split = inputs.fetch(load_settings(dataset="mnist", split="test", cache=mnist_cache))
    everything = RowRange(0, split.rows)
    labels = read_labels(split, everything)
    assert labels is not None
    return read_images(split, everything), labels


def predictions(given: Given, outputs: Path) -> pa.Table:
    """The published predictions of a run over images in some form."""
    settings = load_settings(
        outputs=outputs, cache=outputs / "cache", run_date="2026-01-31", **{"dataset": "mine", **given}
    )
    published = evaluate(settings)
    return run_by_id(opened(outputs), published.run_id).read(tables.PREDICTIONS, ["image_key", *COLUMNS])


@pytest.fixture(scope="module")
def of_mnist(mnist: tuple[Images, Labels], tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("idx")
    return predictions(of_idx(folder, *mnist), folder / "outputs").select(COLUMNS)


def uploaded(folder: Path, given: Given, bucket: Address) -> Given:
    """The same files in a bucket."""
    store = open_store(bucket)
    for path in filter(Path.is_file, folder.rglob("*")):
        store.write(path.relative_to(folder).as_posix(), path)
    moved = {name: bucket / value.relative_to(folder) for name, value in given.items() if isinstance(value, Path)}
    return {**given, **moved}


@pytest.mark.parametrize("form", [name for name in FORMS if name != "folder of PNG"])
def test_each_form_gives_the_predictions_of_mnist_from_disk_and_bucket(
    form: str, mnist: tuple[Images, Labels], of_mnist: pa.Table, bucket: Address, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    given = FORMS[form](tmp_path / "images", *mnist)
    there: Any = uploaded(tmp_path / "images", given, bucket)
    for place, source in {"disk": given, "bucket": there}.items():
        found = predictions(source, tmp_path / place)
        assert found["image_key"].null_count == len(found)
        assert found.select(COLUMNS).equals(of_mnist), place


def test_a_folder_of_pictures_gives_those_of_the_same_images_in_its_order(
    mnist: tuple[Images, Labels], bucket: Address, tmp_path: Path
) -> None:
    for place, rows in {"disk": 10_000, "bucket": IN_A_BUCKET}.items():
        images, labels = (values[:rows] for values in mnist)
        (tmp_path / place / "idx").mkdir(parents=True)
        (tmp_path / place / "folder").mkdir()
        order = np.argsort(labels, kind="stable")  # by label, then by number: as the paths are sorted
        expected = predictions(of_idx(tmp_path / place / "idx", images[order], labels[order]), tmp_path / place / "a")
        given = of_folder(tmp_path / place / "folder", images, labels)
        if place == "bucket":
            given = uploaded(tmp_path / place / "folder", given, bucket)
        found = predictions(given, tmp_path / place / "b")
        assert found.select(COLUMNS).equals(expected.select(COLUMNS)), place
        keys = [f"{labels[row]}/{row:07d}.png" for row in order]
        assert found["image_key"].to_pylist() == keys, place
