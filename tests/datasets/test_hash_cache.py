import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets import hash_cache
from mnist_pipeline.datasets.formats.idx import open_split
from mnist_pipeline.datasets.hash_cache import HashCache
from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DataError
from mnist_pipeline.store import local
from tests.builders import images_name, labels_name, make_split, random_images
from tests.parquet_files import column, open_parquet, write
from tests.remembered import plant

CONTENT = b"what a file holds"
TRUE = hashlib.sha256(CONTENT).hexdigest()
# A hash that only the cache can return: the bytes have another one.
CACHED = "f" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The path of the cache file."""
    return tmp_path / "cache" / "verified.json"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of files just written are cached too."""
    monkeypatch.setattr(local, "RACY_NS", 0)


@pytest.mark.usefixtures("settled")
def test_a_hashed_file_is_found_by_the_next_lookup(file: Path, kept: Path) -> None:
    first = HashCache(kept)
    hashed = first.lookup(file)
    assert (hashed, hashed.remembered_in, first.hits) == (verified_file(file), None, 0)
    first.save()
    second = HashCache(kept)
    again = second.lookup(file)
    assert (again, again.version, again.remembered_in, second.hits) == (hashed, hashed.version, kept, 1)
    assert [path.name for path in kept.parent.iterdir()] == ["verified.json"]


@pytest.mark.usefixtures("settled")
def test_lookup_does_not_read_a_cached_file_and_verify_does(file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    assert HashCache(kept).lookup(file).sha256 == CACHED
    assert HashCache(kept).verify(file) == verified_file(file)
    assert HashCache(kept).verify(file).remembered_in is None


@pytest.mark.parametrize("sign", range(5), ids=["size", "mtime", "ctime", "inode", "device"])
def test_a_file_of_which_any_sign_differs_is_hashed(sign: int, file: Path, kept: Path) -> None:
    plant(kept, file, CACHED, differing=sign)
    asked = HashCache(kept)
    assert (asked.lookup(file).sha256, asked.hits) == (TRUE, 0)


def rewrite_within_its_times(file: Path) -> None:
    before = file.stat()
    file.write_bytes(CONTENT)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_a_copy(file: Path) -> None:
    shutil.copy2(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


@pytest.mark.parametrize("change", [rewrite_within_its_times, replace_by_a_copy, lambda file: file.chmod(0o600)])
def test_a_file_that_was_touched_in_any_way_is_hashed(change: Callable[[Path], None], file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    before = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == before:  # the clock of files ticks every few milliseconds
        change(file)
    assert HashCache(kept).lookup(file).sha256 == TRUE


def test_a_file_written_just_before_it_was_hashed_is_not_cached(file: Path, kept: Path) -> None:
    asked = HashCache(kept)
    asked.verify(file)
    asked.save()
    assert not kept.exists()


@pytest.mark.usefixtures("settled")
def test_a_file_from_the_future_is_not_cached(file: Path, kept: Path) -> None:
    ahead = file.stat().st_mtime_ns + 3600 * 10**9
    os.utime(file, ns=(ahead, ahead))
    asked = HashCache(kept)
    asked.verify(file)
    asked.save()
    assert not kept.exists()


@pytest.mark.usefixtures("settled")
def test_a_new_hash_replaces_the_cached_one(file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    asked = HashCache(kept)
    asked.verify(file)
    asked.save()
    assert HashCache(kept).lookup(file).sha256 == TRUE


def test_a_cached_hash_is_dropped_when_the_file_is_hashed_again_too_soon(file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    asked = HashCache(kept)
    asked.verify(file)
    asked.save()
    assert HashCache(kept).lookup(file).sha256 == TRUE


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    file.unlink()
    for ask in (HashCache(kept).lookup, HashCache(kept).verify):
        with pytest.raises(DataError, match="file: expected a readable file, got No such file"):
            ask(file)
        with pytest.raises(DataError, match=f"{tmp_path}: expected a readable file, got a folder; "):
            ask(tmp_path)


# The cache file itself


@pytest.mark.usefixtures("settled")
def test_a_cache_file_with_any_flipped_bit_is_ignored(file: Path, kept: Path) -> None:
    plant(kept, file, CACHED)
    good = kept.read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        kept.write_bytes(bad)
        assert HashCache(kept).lookup(file).sha256 == TRUE, place


def no_hash(kept: Path, file: Path) -> None:
    plant(kept, file, "../../etc")


def another_version(kept: Path, file: Path) -> None:
    plant(kept, file, CACHED, schema_version="1")


def too_large(kept: Path, file: Path) -> None:
    plant(kept, file, CACHED)
    with kept.open("ab") as grown:
        grown.truncate(hash_cache.MAX_BYTES + 1)


def written(data: bytes) -> Callable[[Path, Path], object]:
    return lambda kept, _: kept.write_bytes(data)


FOREIGN: dict[str, Callable[[Path, Path], object]] = {
    "empty": written(b""),
    "no JSON": written(b"<!DOCTYPE html>"),
    "no text": written(b"\xff\xfe\x00"),
    "other JSON": written(b'{"files": {}}\n'),
    "a list": written(b"[]\n"),
    "deep": written(b"[" * 200_000),
    "a long number": written(b"1" * 20_000),
    "no hash": no_hash,
    "another version": another_version,
    "too large": too_large,
    "a pipe": lambda kept, _: os.mkfifo(kept),
    "a device": lambda kept, _: kept.symlink_to("/dev/zero"),
    "a link to itself": lambda kept, _: kept.symlink_to(kept),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_cache_file_is_ignored_and_rewritten(kind: str, file: Path, kept: Path) -> None:
    kept.parent.mkdir()
    FOREIGN[kind](kept, file)
    asked = HashCache(kept)
    assert asked.lookup(file) == verified_file(file)
    asked.save()
    again = HashCache(kept)
    assert (again.lookup(file).sha256, again.hits) == (TRUE, 1)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("in_the_way", ["file", "folder", "name"])
def test_where_it_cannot_be_written_files_are_hashed_every_time(in_the_way: str, file: Path, kept: Path) -> None:
    if in_the_way == "file":
        kept.parent.write_bytes(b"")
    elif in_the_way == "name":
        kept = kept.parent / ("too long" * 100)
    else:
        kept.mkdir(parents=True)
    for _ in range(2):
        asked = HashCache(kept)
        assert (asked.lookup(file).sha256, asked.hits) == (TRUE, 0)
        asked.save()


@pytest.mark.usefixtures("settled")
def test_it_is_not_written_when_nothing_is_new(file: Path, kept: Path) -> None:
    inodes = set()
    for _ in range(2):
        asked = HashCache(kept)
        asked.lookup(file)
        asked.save()
        inodes.add(kept.stat().st_ino)
    assert len(inodes) == 1


@pytest.mark.usefixtures("settled")
def test_it_does_not_grow_without_end(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_cache, "MAX_FILES", 2)
    asked = HashCache(kept)
    for name in "abc":
        (tmp_path / name).write_bytes(CONTENT)
        asked.lookup(tmp_path / name)
    asked.save()
    assert [Path(path).name for path in json.loads(kept.read_bytes())["files"]] == ["b", "c"]


@pytest.mark.usefixtures("settled")
def test_concurrent_writers_each_leave_a_complete_cache_file(tmp_path: Path, kept: Path) -> None:
    def save_hash(number: int) -> int:
        path = tmp_path / str(number)
        path.write_bytes(CONTENT)
        asked = HashCache(kept)
        asked.lookup(path)
        asked.save()
        return len(json.loads(kept.read_bytes())["files"]) and len(hash_cache._read(kept))

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(save_hash, range(64))) >= 1
    assert [path.name for path in kept.parent.iterdir()] == ["verified.json"]


# A file with a cached hash is hashed before it is read


@pytest.fixture(params=["idx", "parquet"])
def read_with_cached_hash(request: pytest.FixtureRequest, tmp_path: Path, kept: Path) -> Callable[[str], object]:
    """Reads all images of a split that was opened with a cache that holds the given hash of its images."""
    images = random_images(5)
    make_split(tmp_path / "data", 5)
    path = tmp_path / "data" / images_name()
    if request.param == "parquet":
        path = write(tmp_path / "a.parquet", column(images))

    def read(sha256: str) -> object:
        plant(kept, path, sha256 or verified_file(path).sha256)
        lookup = HashCache(kept).lookup
        split: OpenSplit
        if request.param == "parquet":
            split = open_parquet("toy", "test", path, lookup)
        else:
            split = open_split("toy", "test", lookup(path), verified_file(tmp_path / "data" / labels_name()))
        (found,) = split.read([RowRange(0, 5)])
        np.testing.assert_array_equal(np.rint(found.pixels * 255), images.reshape(5, 784))
        return found

    return read


def test_a_file_with_its_cached_hash_is_read(read_with_cached_hash: Callable[[str], object], kept: Path) -> None:
    read_with_cached_hash("")
    assert kept.is_file()


@pytest.mark.usefixtures("settled")
def test_a_file_with_another_hash_than_cached_is_rejected_and_the_cache_deleted(
    read_with_cached_hash: Callable[[str], object], kept: Path
) -> None:
    message = f"expected sha256 {CACHED}, as when it was hashed last, got [0-9a-f]* although its size and times are"
    with pytest.raises(DataError, match=f"{message} the same; replace it if it is damaged, and run again to verify it"):
        read_with_cached_hash(CACHED)
    assert not kept.exists()
