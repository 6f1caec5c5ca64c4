import hashlib
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.images import PixelFormat, flatten, normalise
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.choosing import open_images
from mnist_pipeline.datasets.formats.interface import Wanted
from mnist_pipeline.datasets.formats.pictures import listing as picture_listing
from mnist_pipeline.datasets.formats.pictures.folder import PictureFolder
from mnist_pipeline.datasets.hash_cache import HashCache
from mnist_pipeline.datasets.source_files import Verify, verified_file
from mnist_pipeline.errors import DataError, ImagesError, LabelError, PipelineError, SettingsError, UnavailableError
from mnist_pipeline.store.base import Address, Location
from mnist_pipeline.store.opening import open_store
from tests.builders import random_images
from tests.objectstore import ObjectStore, always
from tests.objectstore import bucket as bucket
from tests.objectstore import server as server
from tests.pictures import encoded

# By code points: capitals, digits, a subfolder before a longer name, letters beyond ASCII.
PATHS = ["0/B.png", "0/a.png", "0/a/z.png", "0/aa.png", "1/é.png", "7/1.png", "7/10.png", "7/2.png", "9/x.PNG"]
LABELS = [0, 0, 0, 0, 1, 7, 7, 7, 9]
IMAGES = random_images(len(PATHS))
PIXELS = flatten(normalise(IMAGES))
LONG_AGO = 1_700_000_000


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    location: Location = request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "mine"
    put(location)
    return location


def put(location: Location, paths: list[str] = PATHS) -> None:
    """Write one image for each path, none of them just now if it is on a disk."""
    for path, image in zip(paths, IMAGES, strict=False):
        open_store(location).write(path, encoded(image), sync=False)
        if isinstance(location, Path):
            os.utime(location / path, (LONG_AGO, LONG_AGO))


def opened(location: Location, verify: Verify = verified_file, **wanted: Any) -> PictureFolder:
    split = open_images("mine", location, Wanted(**wanted), verify)
    assert isinstance(split, PictureFolder)
    return split


def pixels_of(split: PictureFolder) -> NDArray[np.float32]:
    return np.concatenate([rows.pixels.copy() for rows in split.read([RowRange(0, split.rows)])])


def refused(error: type[PipelineError], message: str, work: Callable[[], object]) -> None:
    with pytest.raises(error, match=re.escape(message)) as caught:
        work()
    assert type(caught.value) is error
    assert len(str(caught.value).splitlines()) == 1


# What is read


def test_a_folder_gives_pixels_labels_and_paths_in_order_in_any_part(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_listing, "READ_AT_ONCE", 2)
    split = pickle.loads(pickle.dumps(opened(folder)))
    assert (split.rows, split.keys_from, split.labels_sha256 is None) == (len(PATHS), "path", False)
    assert [split.decoded_from(row) for row in range(split.rows)] == [*range(split.rows)]
    ranges = [RowRange(0, 1), RowRange(1, 6), RowRange(7, 9)]
    for rows, found in zip(ranges, split.read(ranges), strict=True):
        here = slice(rows.start, rows.stop)
        np.testing.assert_array_equal(found.pixels, PIXELS[here], strict=True)
        np.testing.assert_array_equal(found.labels, np.array(LABELS[here], np.int8), strict=True)
        assert found.keys is not None
        assert found.keys.to_pylist() == PATHS[here]
    assert [*split.read([])] == []


def test_its_hash_is_that_of_what_sha256sum_prints(folder: Location) -> None:
    lines = [
        f"{hashlib.sha256(encoded(image)).hexdigest()}  {path}\n" for path, image in zip(PATHS, IMAGES, strict=True)
    ]
    assert opened(folder).images_sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_pictures_without_subfolders_have_no_labels(tmp_path: Path) -> None:
    put(tmp_path, ["b.png", "a.jpeg"])
    split = opened(tmp_path)
    (found,) = split.read([RowRange(0, 2)])
    assert (split.labels_sha256, found.labels) == (None, None)
    assert found.keys is not None
    assert found.keys.to_pylist() == ["a.jpeg", "b.png"]


def test_subfolders_may_be_named_as_torchvisions_classes(tmp_path: Path) -> None:
    put(tmp_path, ["0 - zero/a.png", "7 - seven/b.png", "7/c.png"])
    (rows,) = opened(tmp_path).read([RowRange(0, 3)])
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 7, 7]


def test_without_labels_subfolders_may_have_any_name(tmp_path: Path) -> None:
    put(tmp_path, ["2026/01/a.png", "b.png", "3/c.png"])
    split = opened(tmp_path, label_column="none")
    assert (split.rows, split.labels_sha256) == (3, None)


@pytest.mark.parametrize("pixel_format", [PixelFormat(inverted=True), PixelFormat(transposed=True)])
def test_pixels_are_read_as_the_settings_say(pixel_format: PixelFormat, tmp_path: Path) -> None:
    put(tmp_path)
    split = opened(tmp_path, pixel_format=pixel_format)
    expected = 255 - IMAGES if pixel_format.inverted else IMAGES.swapaxes(1, 2)
    np.testing.assert_array_equal(pixels_of(split), flatten(normalise(expected)))
    assert split.transform_version == pixel_format.transform_version(np.dtype(np.uint8))


def test_what_is_hidden_or_empty_is_passed_over_and_other_files_are_named(
    folder: Location, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(folder)
    for name in (".cache/a.png", "__MACOSX/0/a.png", "0/.a.png", "0/_a.png"):
        store.write(name, b"no picture")
    store.write("5", b"") if isinstance(folder, Address) else (folder / "5").mkdir()
    with caplog.at_level(logging.WARNING):
        assert opened(folder).rows == len(PATHS)
    assert caplog.messages == []
    store.write("0/notes.txt", b"some")
    assert opened(folder).rows == len(PATHS)
    assert caplog.messages == [f"{folder}: only files *.png and *.jpg are read, and not '0/notes.txt'"]


# What is refused when it is opened


NO_DATA_BUT = "expected no data but files *.png and *.jpg, got"
FOLDERS = {
    "other subfolders": (
        ["0/a.png", "cat/b.png", "10/c.png"],
        LabelError,
        "got '10', 'cat'; rename them, or say --label-column none",
    ),
    "some outside": (
        ["0/a.png", "b.png"],
        LabelError,
        "or none, got 'b.png' outside; move it, or say --label",
    ),
    "other data": (
        ["0/a.png", "labels.csv"],
        DataError,
        "expected images of one form, got 'labels.csv', '0'; move away what is not meant, or name it",
    ),
    "other pictures": (["0/a.png", "0/b.gif"], DataError, f"{NO_DATA_BUT} '0/b.gif'"),
    "no picture": (["0/a.txt"], DataError, "expected pictures *.png or *.jpg, got none; check the path"),
    "a control character": (["0/a\n.png"], DataError, r"without control characters, got '0/a\n.png'; rename the file"),
    "no UTF-8": (["0/a\udcff.png"], DataError, r"without control characters, got '0/a\udcff.png'; rename the file"),
    "a long name": (["/".join(["0", *["a" * 200] * 6, "b.png"])], DataError, "in UTF-8 of at most 1024 bytes"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_other_folders_are_refused(case: str, tmp_path: Path) -> None:
    paths, error, message = FOLDERS[case]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(encoded(IMAGES[0]))
    refused(error, f"{tmp_path}: expected ", lambda: opened(tmp_path))
    refused(error, message, lambda: opened(tmp_path))


@pytest.mark.parametrize("option", ["image", "label", "id"])
def test_a_column_of_a_folder_is_refused(option: str, tmp_path: Path) -> None:
    put(tmp_path)
    message = f"--{option}-column 'x': expected none, as {tmp_path} is a folder of pictures"
    wanted: dict[str, Any] = {f"{option}_column": "x"}
    refused(SettingsError, message, lambda: opened(tmp_path, **wanted))


def test_a_single_picture_is_refused(folder: Location) -> None:
    one = folder / PATHS[0]
    refused(DataError, f"--images {one}: expected a folder of pictures, got one picture", lambda: opened(one))


def test_more_files_than_a_process_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path)
    monkeypatch.setattr(picture_listing, "MAX_FILES", 8)
    refused(DataError, f"{tmp_path}: expected a folder of at most 8 files, got more; ", lambda: opened(tmp_path))


def test_links_and_pipes_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "mine")
    put(tmp_path / "other", ["a.png"])
    link = tmp_path / "mine" / "3"
    link.symlink_to(tmp_path / "other")
    refused(
        DataError,
        f"{tmp_path / 'mine'}: expected folders, got links to folders, '3'",
        lambda: opened(tmp_path / "mine"),
    )
    link.unlink()
    link = tmp_path / "mine" / "0" / "link.png"
    link.symlink_to(tmp_path / "other" / "a.png")
    refused(
        DataError, f"{link}: expected the file that was listed, got another: it has", lambda: opened(tmp_path / "mine")
    )
    link.unlink()
    os.mkfifo(link)
    refused(DataError, f"{link}: expected a regular file, got a pipe", lambda: opened(tmp_path / "mine"))


def test_each_picture_is_asked_for_once_to_be_hashed_and_once_to_be_decoded(
    bucket: Address, server: ObjectStore
) -> None:
    put(bucket)
    start = len(server.proxy.seen)
    pixels_of(opened(bucket))
    asked = [(method, key) for method, key in server.proxy.seen[start:] if key.lower().endswith(".png")]
    assert {method for method, _ in asked} == {"GET"}
    assert len(asked) == 2 * len(PATHS)  # to be hashed, and to be decoded


def test_a_bucket_that_stops_answering_is_unavailable(bucket: Address, server: ObjectStore) -> None:
    put(bucket)
    with server.proxy.faults(always(lambda method, key: key.endswith("7/10.png"), "refuse")):
        refused(
            UnavailableError, f"{bucket / '7/10.png'}: expected the object store to do as asked", lambda: opened(bucket)
        )


# What changes


def test_pictures_that_are_not_as_they_should_be_are_named(tmp_path: Path) -> None:
    put(tmp_path)
    path = tmp_path / PATHS[3]
    path.write_bytes(encoded(np.zeros((28, 29), np.uint8)))
    refused(ImagesError, f"{path}: expected 28x28 pixels, got 29x28", lambda: pixels_of(opened(tmp_path)))
    path.write_bytes(encoded(IMAGES[3]))
    message = f"{tmp_path / PATHS[0]}: expected pixels in 0..1, got "
    refused(ImagesError, message, lambda: pixels_of(opened(tmp_path, pixel_format=PixelFormat(scale=1))))


CHANGES: dict[str, Callable[[Location], None]] = {
    "added": lambda folder: open_store(folder).write("0/new.png", encoded(IMAGES[0])),
    "deleted": lambda folder: open_store(folder).delete(PATHS[2]),
    "changed": lambda folder: open_store(folder).write(PATHS[2], encoded(IMAGES[0])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_has_changed_since_is_refused(change: str, folder: Location) -> None:
    split = opened(folder)
    CHANGES[change](folder)
    message = f"{folder}: expected the pictures that were verified, got others since; run again"
    refused(DataError, message, lambda: pixels_of(split))


@pytest.mark.parametrize("change", ["deleted", "changed"])
def test_a_file_that_changes_once_a_process_has_listed_it_is_refused(change: str, folder: Location) -> None:
    split = opened(folder)
    pixels_of(split)
    CHANGES[change](folder)
    refused(DataError, f"{folder / PATHS[2]}: expected ", lambda: pixels_of(split))


def test_a_folder_that_changes_while_it_is_hashed_is_refused(folder: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    real = picture_listing.each

    def meanwhile(*given: Any) -> Iterator[Any]:
        yield from real(*given)
        CHANGES["added"](folder)

    monkeypatch.setattr(picture_listing, "each", meanwhile)
    refused(DataError, f"{folder}: expected the file that was verified, got one changed", lambda: opened(folder))


# The cached hash


def cached(location: Location, path: Path) -> tuple[PictureFolder, int]:
    """The folder, opened with a hash cache, and whether its hash came from there."""
    cache = HashCache(path)
    split = opened(location, cache.lookup)
    cache.save()
    return split, cache.hits


def test_an_unchanged_folder_is_not_read_again(
    folder: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_listing, "RACY", picture_listing.RACY * 0)
    first, hits = cached(folder, tmp_path / "hashes")
    assert hits == 0
    with monkeypatch.context() as patch:
        patch.setattr(picture_listing.Listing, "read", None)
        again, hits = cached(folder, tmp_path / "hashes")
    assert (again, hits) == (first, 1)
    CHANGES["changed"](folder)
    changed, hits = cached(folder, tmp_path / "hashes")
    assert hits == 0
    assert changed.images_sha256 != first.images_sha256


def test_the_hash_of_pictures_written_just_now_is_not_cached(tmp_path: Path) -> None:
    put(tmp_path / "mine")
    CHANGES["changed"](tmp_path / "mine")
    assert [cached(tmp_path / "mine", tmp_path / "hashes")[1] for _ in range(2)] == [0, 0]


def test_pictures_are_hashed_before_they_are_used_if_their_hash_was_cached(tmp_path: Path) -> None:
    put(tmp_path / "mine")
    cached(tmp_path / "mine", tmp_path / "hashes")
    path = tmp_path / "mine" / PATHS[4]
    data = path.read_bytes()
    with path.open("r+b") as file:  # as a disk does it: size, time and inode stay
        file.seek(-20, os.SEEK_END)
        file.write(bytes([data[-20] ^ 1]))
    os.utime(path, (LONG_AGO, LONG_AGO))
    split, hits = cached(tmp_path / "mine", tmp_path / "hashes")
    assert hits == 1
    refused(DataError, f"{tmp_path / 'mine'}: expected sha256 {split.images_sha256}", lambda: pixels_of(split))
    assert not (tmp_path / "hashes").exists()
