import gzip
import logging
import os
import re
from pathlib import Path

import pytest

from mnist_pipeline.datasets.catalogue import IdxFile, WebSource
from mnist_pipeline.datasets.catalogue import unlisted as unlisted_dataset
from mnist_pipeline.datasets.source_files import Opening, SourceFile, verified_file
from mnist_pipeline.datasets.sources import fetching, folder
from mnist_pipeline.errors import ChecksumError, DataError, NoDataError, OutputsError, SourceError
from mnist_pipeline.store.base import Location
from tests.builders import make_split
from tests.mirror import (
    CONTENT,
    FILES,
    HTML,
    IMAGES,
    IMAGES_GZ,
    LABELS,
    OTHER,
    PACKED,
    UNPINNED,
    Answer,
    StartSite,
    fetch,
    in_cache,
    put_in_cache,
    sha256,
    verified_in_cache,
)
from tests.published import on_disk

pytestmark = pytest.mark.usefixtures("scratch_is_left_empty")


def expected_in(folder: Path, ending: str = "") -> dict[str, SourceFile]:
    """The toy data set's files in a folder, as they are when they are verified."""
    return {
        name: SourceFile(folder / f"{name}{ending}", sha256(content), len(content), "")
        for name, content in CONTENT.items()
    }


def test_files_are_fetched_verified_and_kept(site: StartSite, tmp_path: Path) -> None:
    ready = fetch(tmp_path, site().source)
    assert ready == {
        name: SourceFile(tmp_path / "cache" / "toy" / name, sha256(CONTENT[name]), len(CONTENT[name]), "")
        for name in CONTENT
    }
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)


def test_the_second_time_no_source_is_asked(site: StartSite, tmp_path: Path) -> None:
    mirror = site()
    first = fetch(tmp_path, mirror.source)
    assert len(mirror.asked) == 2
    assert fetch(tmp_path, mirror.source) == first
    assert len(mirror.asked) == 2


def test_only_the_files_wanted_and_missing_are_fetched(site: StartSite, tmp_path: Path) -> None:
    mirror = site()
    fetch(tmp_path, mirror.source, files=FILES[1:])
    assert mirror.asked == [f"/{LABELS}.gz"]
    fetch(tmp_path, mirror.source)
    assert mirror.asked == [f"/{LABELS}.gz", f"/{IMAGES}.gz"]


@pytest.mark.parametrize("damage", [CONTENT[LABELS][:-1], CONTENT[LABELS][:-1] + b"\x0b", b""])
def test_a_damaged_file_in_the_cache_is_fetched_again_with_a_warning(
    damage: bytes, site: StartSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_in_cache(tmp_path, IMAGES, CONTENT[IMAGES])
    put_in_cache(tmp_path, LABELS, damage)
    mirror = site()
    fetch(tmp_path, mirror.source)
    assert mirror.asked == [f"/{LABELS}.gz"]
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.getMessage().startswith("cached file cannot be used and will be fetched again: ")
    assert LABELS in warning.getMessage()


# The order of sources


def test_the_first_source_that_answers_serves(site: StartSite, tmp_path: Path) -> None:
    first, second = site(), site()
    fetch(tmp_path, first.source, second.source)
    assert (len(first.asked), len(second.asked)) == (2, 0)


def test_a_source_that_fails_is_asked_once_not_once_per_file(site: StartSite, tmp_path: Path) -> None:
    broken, second = site(dict.fromkeys(PACKED, Answer(status=500))), site()
    fetch(tmp_path, broken.source, second.source)
    assert broken.asked == [f"/{IMAGES}.gz"]
    assert second.asked == [f"/{IMAGES}.gz", f"/{LABELS}.gz"]


def test_what_one_source_lacks_is_fetched_from_the_next(site: StartSite, tmp_path: Path) -> None:
    first, second = site({f"{LABELS}.gz": None}), site()
    fetch(tmp_path, first.source, second.source)
    assert second.asked == [f"/{LABELS}.gz"]
    assert in_cache(tmp_path) == verified_in_cache(IMAGES, LABELS)


def test_a_folder_goes_before_the_cache_and_the_cache_before_the_sources(site: StartSite, tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5, labelled=False)
    put_in_cache(tmp_path, IMAGES, b"not even looked at")
    put_in_cache(tmp_path, LABELS, CONTENT[LABELS])
    mirror = site()
    ready = fetch(tmp_path, mirror.source, data_dir=tmp_path / "mine")
    paths = {name: on_disk(file.location) for name, file in ready.items() if file}
    assert paths == {IMAGES: tmp_path / "mine" / IMAGES, LABELS: tmp_path / "cache" / "toy" / LABELS}
    assert mirror.asked == []


def test_what_the_folder_lacks_is_fetched(site: StartSite, tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5, labelled=False)
    mirror = site()
    fetch(tmp_path, mirror.source, data_dir=tmp_path / "mine")
    assert mirror.asked == [f"/{LABELS}.gz"]


# Remembered hashes


def remembered(location: Location, limit_bytes: int = 0, opening: Opening | None = None) -> SourceFile:
    """The file with a wrong hash, as if it were cached."""
    found = verified_file(location)
    return SourceFile(location, "f" * 64, found.size_bytes, found.version)


def test_a_cached_hash_is_checked_against_the_pinned_one(site: StartSite, tmp_path: Path) -> None:
    put_in_cache(tmp_path, IMAGES, CONTENT[IMAGES])
    put_in_cache(tmp_path, LABELS, CONTENT[LABELS])
    mirror = site()
    ready = fetch(tmp_path, mirror.source, verify=remembered)
    assert mirror.asked == [f"/{IMAGES}.gz", f"/{LABELS}.gz"]
    assert {file.sha256 for file in ready.values() if file} == {file.sha256 for file in FILES}
    make_split(tmp_path / "mine", 5)
    with pytest.raises(ChecksumError, match=f"mine/{IMAGES}: expected sha256 {FILES[0].sha256}, got {'f' * 64}"):
        fetch(tmp_path, data_dir=tmp_path / "mine", verify=remembered)


def test_downloaded_files_are_hashed_whatever_is_cached(site: StartSite, tmp_path: Path) -> None:
    def nothing(location: Location, limit_bytes: int = 0, opening: Opening | None = None) -> SourceFile:
        raise AssertionError(location)

    fetch(tmp_path, site().source, verify=nothing)


# Sources that fail


def test_a_failure_on_the_way_keeps_what_was_verified(site: StartSite, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"expected a source for {LABELS}, got none .*: answered 500"):
        fetch(tmp_path, site({f"{LABELS}.gz": Answer(status=500)}).source)
    assert in_cache(tmp_path) == verified_in_cache(IMAGES)
    mirror = site()
    fetch(tmp_path, mirror.source)
    assert mirror.asked == [f"/{LABELS}.gz"]


def test_every_source_asked_is_listed_in_order(site: StartSite, nobody: WebSource, tmp_path: Path) -> None:
    missing, broken = site(dict.fromkeys(PACKED)), site(dict.fromkeys(PACKED, Answer(status=503)))
    with pytest.raises(SourceError) as caught:
        fetch(tmp_path, missing.source, nobody, broken.source)
    failures = (
        f"http://{missing.place}/: answered 404 for {IMAGES}.gz",
        f"{nobody}: no connection (ConnectionError)",
        f"http://{broken.place}/: answered 503 for {IMAGES}.gz",
    )
    assert f"got none ({'; '.join(failures)}); " in str(caught.value)


def test_a_data_set_without_sources_says_so(tmp_path: Path) -> None:
    message = f"data set toy: expected a source for {IMAGES}, {LABELS}, got none \\(it has no sources\\); give a folder"
    with pytest.raises(SourceError, match=message):
        fetch(tmp_path)


def test_a_cache_that_cannot_be_written_is_said(site: StartSite, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    with pytest.raises(OutputsError, match=r"cannot write the cache .*toy: .*; (a file is where|check that it exists)"):
        fetch(tmp_path, site().source)


# A folder of one's own


def make_packed(folder: Path, changes: dict[str, bytes] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (PACKED | (changes or {})).items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("files", [FILES, UNPINNED])
def test_plain_files_are_used_where_they_lie(files: tuple[IdxFile, ...], tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5)
    ready = fetch(tmp_path, files=files, data_dir=tmp_path / "mine")
    assert ready == {
        name: SourceFile(tmp_path / "mine" / name, sha256(CONTENT[name]), len(CONTENT[name]), "") for name in CONTENT
    }
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("files", [FILES, UNPINNED], ids=["pinned", "unpinned"])
def test_gzipped_files_are_read_where_they_lie_and_are_what_they_hold(
    files: tuple[IdxFile, ...], tmp_path: Path
) -> None:
    make_packed(tmp_path / "mine")
    ready = fetch(tmp_path, files=files, data_dir=tmp_path / "mine")
    assert ready == expected_in(tmp_path / "mine", ".gz")
    assert in_cache(tmp_path) == {}


NEAR = (
    "t10k-labels_idx1-ubyte",
    "t10k-label-idx1-ubyte.gz",
    "T10K-LABELS-IDX1-UBYTE",
    "labels-idx1-ubyte",
    "test_labels.idx",
    f"{LABELS}.GZ",
    f"{LABELS}.idx",
)


@pytest.mark.parametrize("name", NEAR)
def test_a_file_of_nearly_the_right_name_is_not_passed_over(name: str, tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5)
    (tmp_path / "mine" / LABELS).rename(tmp_path / "mine" / name)
    message = f"mine: expected {LABELS} or {LABELS}.gz, got {name!r}; rename the file that is meant, or move away"
    with pytest.raises(DataError, match=re.escape(message)):
        fetch(tmp_path, files=UNPINNED, data_dir=tmp_path / "mine")


def test_images_of_nearly_the_right_name_are_named(tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5)
    (tmp_path / "mine" / IMAGES).rename(tmp_path / "mine" / "t10k-image.idx3-ubyte")
    with pytest.raises(DataError, match=r"got 't10k-image\.idx3-ubyte'; rename"):
        fetch(tmp_path, files=UNPINNED, data_dir=tmp_path / "mine")


def test_files_of_other_splits_and_other_names_are_passed_over(tmp_path: Path) -> None:
    for split in ("test", "train"):
        make_split(tmp_path / "mine", 5, labelled=split == "train", split=split)
    for name in ("README.md", "checksums.txt", ".DS_Store"):
        (tmp_path / "mine" / name).touch()
    unlisted = unlisted_dataset("mine").splits["test"].files
    dataset = unlisted_dataset("mine")
    ready = fetching.fetch_files("mine", dataset, unlisted, tmp_path / "cache", tmp_path / "mine", lambda *_: None)
    assert [name for name, found in ready.items() if found is None] == [LABELS]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5)
    for name in (LABELS, IMAGES):
        path = tmp_path / "mine" / name
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match=f"{name}: expected a regular file, got a pipe; "):
            fetch(tmp_path, files=UNPINNED, data_dir=tmp_path / "mine")
        path.unlink()
        path.symlink_to("nowhere")
        with pytest.raises(DataError, match=f"{name}: expected a readable file, got No such file"):
            fetch(tmp_path, files=UNPINNED, data_dir=tmp_path / "mine")


def test_a_plain_file_goes_before_a_gzipped_one(tmp_path: Path) -> None:
    make_packed(tmp_path / "mine", {f"{IMAGES}.gz": b"not even looked at"})
    (tmp_path / "mine" / IMAGES).write_bytes(CONTENT[IMAGES])
    ready = fetch(tmp_path, data_dir=tmp_path / "mine")
    assert ready[IMAGES] == SourceFile(tmp_path / "mine" / IMAGES, sha256(CONTENT[IMAGES]), len(CONTENT[IMAGES]), "")


@pytest.mark.parametrize(
    ("data", "problem"),
    [(OTHER, f"expected sha256 {FILES[0].sha256}, got {sha256(OTHER)}"), (OTHER[:-1], "expected 3936 bytes, got 3935")],
)
def test_other_bytes_than_are_pinned_are_refused_with_the_way_out(data: bytes, problem: str, tmp_path: Path) -> None:
    hint = "replace the file, or give your own data its own name with --dataset NAME"
    make_split(tmp_path / "plain", 5)
    (tmp_path / "plain" / IMAGES).write_bytes(data)
    with pytest.raises(ChecksumError, match=f"plain/{IMAGES}: {problem}; {hint}"):
        fetch(tmp_path, data_dir=tmp_path / "plain")
    make_packed(tmp_path / "packed", {f"{IMAGES}.gz": gzip.compress(data)})
    with pytest.raises(ChecksumError, match=rf"packed/{IMAGES}\.gz: once decompressed, .*{problem}; {hint}"):
        fetch(tmp_path, data_dir=tmp_path / "packed")
    assert in_cache(tmp_path) == {}


@pytest.mark.parametrize("files", [FILES, UNPINNED], ids=["pinned", "unpinned"])
@pytest.mark.parametrize(
    "data",
    [HTML, IMAGES_GZ[:-9], IMAGES_GZ[:5], IMAGES_GZ[:-8] + bytes(8), IMAGES_GZ[:10] + b"\xff" * 50, IMAGES_GZ + HTML],
    ids=["page", "cut", "cut in the header", "checksum", "deflate", "garbage behind"],
)
def test_a_damaged_gzip_is_refused_and_leaves_nothing(data: bytes, files: tuple[IdxFile, ...], tmp_path: Path) -> None:
    make_packed(tmp_path / "mine", {f"{IMAGES}.gz": data})
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz: expected a whole gzip file, got .*; replace"):
        fetch(tmp_path, files=files, data_dir=tmp_path / "mine")
    assert in_cache(tmp_path) == {}


@pytest.mark.parametrize("files", [FILES, UNPINNED], ids=["pinned", "unpinned"])
def test_a_gzip_bomb_is_cut_off(files: tuple[IdxFile, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "UNPINNED_LIMIT_BYTES", 3936)
    make_packed(tmp_path / "mine", {f"{IMAGES}.gz": gzip.compress(bytes(64 << 20))})
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz: .*expected at most 3936 bytes decompressed, got more"):
        fetch(tmp_path, files=files, data_dir=tmp_path / "mine")
    assert in_cache(tmp_path) == {}


def test_an_unpinned_file_that_the_folder_lacks_is_none(tmp_path: Path) -> None:
    make_split(tmp_path / "mine", 5, labelled=False)
    files = unlisted_dataset("mine").splits["test"].files
    ready = fetch(tmp_path, files=files, data_dir=tmp_path / "mine")
    assert ready[LABELS] is None
    assert ready[IMAGES] == SourceFile(tmp_path / "mine" / IMAGES, sha256(CONTENT[IMAGES]), len(CONTENT[IMAGES]), "")


def test_an_unpinned_file_in_the_cache_is_not_believed(tmp_path: Path) -> None:
    put_in_cache(tmp_path, LABELS, CONTENT[LABELS])
    make_split(tmp_path / "mine", 5, labelled=False)
    assert fetch(tmp_path, files=UNPINNED, data_dir=tmp_path / "mine")[LABELS] is None
    with pytest.raises(SourceError, match=f"expected a source for {IMAGES}, {LABELS}, got none .it has no sources"):
        fetch(tmp_path, files=UNPINNED)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "no", tmp_path / "file"):
        with pytest.raises(
            NoDataError, match=f"--data-dir {place}: expected a folder with IDX files, got nothing there; check the"
        ):
            fetch(tmp_path, data_dir=place)
