"""Under which names the files of a data set are found in a folder."""

import gzip
from pathlib import Path

import pytest

from mnist_pipeline.core import idx
from mnist_pipeline.datasets.catalogue import unlisted
from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.datasets.sources.folder import from_folder
from mnist_pipeline.errors import DataError, NoDataError
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.buckets import open_bucket
from mnist_pipeline.store.opening import write_location
from tests.builders import random_images, random_labels
from tests.mirror import CONTENT, FILES, IMAGES, LABELS
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server

QMNIST = unlisted("qmnist")


def found(folder: Location, split: str = "test") -> list[str | None]:
    """The names of the files of images and of labels."""
    files = QMNIST.splits[split].files
    ready = from_folder(folder, QMNIST, files, verified_file)
    return [None if file is None else file.location.name for file in (ready[each.name] for each in files)]


def put(folder: Location, *names: str) -> None:
    for name in names:
        content = idx.encode(random_labels(5) if "labels" in name else random_images(5))
        write_location(folder / name, gzip.compress(content) if name.endswith(".gz") else content)


SPELLINGS = [
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
    ("t10k-images.idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
    ("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
    ("qmnist-test-images.idx3-ubyte.gz", "qmnist-test-labels.idx2-int.gz"),
    ("qmnist-test-images-idx3-ubyte.gz", "qmnist-test-labels-idx1-ubyte"),
]


@pytest.mark.parametrize("names", SPELLINGS, ids=[" ".join(names) for names in SPELLINGS])
def test_files_are_found_under_each_of_their_names(names: tuple[str, str], tmp_path: Path, bucket: Address) -> None:
    for folder in (tmp_path, bucket):
        put(folder, *names)
        assert found(folder) == [*names]


def test_a_plain_file_goes_before_a_compressed_one_of_any_spelling(tmp_path: Path) -> None:
    put(tmp_path, "t10k-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte", "t10k-labels-idx1-ubyte.gz")
    assert found(tmp_path) == ["t10k-images.idx3-ubyte", "t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_two_spellings_of_one_file_are_refused(ending: str, tmp_path: Path) -> None:
    put(tmp_path, f"t10k-images-idx3-ubyte{ending}", f"qmnist-test-images.idx3-ubyte{ending}")
    message = f"expected one t10k-images-idx3-ubyte, got 't10k-images-idx3-ubyte{ending}', 'qmnist-test-images.idx3-"
    with pytest.raises(DataError, match=message):
        found(tmp_path)


@pytest.mark.parametrize("beside", ["t10k-images.idx3-ubyte", "t10k-images-idx3-ubyte.gz"])
def test_a_folder_of_the_same_name_is_passed_over(beside: str, tmp_path: Path, bucket: Address) -> None:
    for folder in (tmp_path, bucket):
        (tmp_path / "t10k-images-idx3-ubyte").mkdir(exist_ok=True)
        put(folder, beside, "t10k-images-idx3-ubyte/t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
        assert found(folder) == [beside, "t10k-labels-idx1-ubyte"]


def test_a_folder_alone_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "t10k-images-idx3-ubyte").mkdir()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte: expected a readable file, got a folder"):
        found(tmp_path)


def test_a_file_of_another_data_set_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "qmnist-test-images-idx3-ubyte", "emnist-test-labels-idx1-ubyte")
    with pytest.raises(DataError, match=r"expected t10k-labels-idx1-ubyte or .*\.gz, got 'emnist-test-labels-idx1-ub"):
        found(tmp_path)


def test_files_of_the_other_split_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "qmnist-test-images-idx3-ubyte", "qmnist-train-labels-idx2-int", "train-images.idx3-ubyte.gz")
    assert found(tmp_path) == ["qmnist-test-images-idx3-ubyte", None]


def test_a_bucket_without_such_a_folder_is_said(bucket: Address) -> None:
    with pytest.raises(NoDataError, match=f"--data-dir {bucket}: expected a folder with IDX files, got nothing there"):
        found(bucket)


def test_an_object_that_stands_for_the_folder_is_no_file(bucket: Address) -> None:
    open_bucket(bucket.bucket).put(f"{bucket.key}/", b"")  # as consoles of buckets make folders
    put(bucket, IMAGES, LABELS)
    assert found(bucket) == [IMAGES, LABELS]


def test_pinned_files_are_found_in_a_bucket(bucket: Address) -> None:
    write_location(bucket / f"{IMAGES}.gz", gzip.compress(CONTENT[IMAGES]))
    write_location(bucket / LABELS.replace("-idx", ".idx"), CONTENT[LABELS])
    ready = from_folder(bucket, QMNIST, FILES, verified_file)
    assert {name: file and file.sha256 for name, file in ready.items()} == {file.name: file.sha256 for file in FILES}
