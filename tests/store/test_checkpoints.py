import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.errors import DamagedError, OutputsError, StoreError
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord, read_checked
from mnist_pipeline.store.local import LocalStore
from tests.published import on_disk
from tests.stores import DiedError, FaultyStore, MemoryStore

NAME = "part-00000.parquet"
DATA = bytes(range(256))
NOTES = {"tally": {"images": 3, "mean": 0.1}, "made_with": {"numpy": "2"}}


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(LocalStore(tmp_path), "run/predictions", "records")


def record_path(checkpoints: CheckpointFolder) -> Path:
    return on_disk(checkpoints.store.location) / checkpoints.records / f"{NAME}.json"


def folder_of(checkpoints: CheckpointFolder) -> Path:
    return on_disk(checkpoints.location)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_a_checkpoint_is_found_as_it_was_written(checkpoints: CheckpointFolder) -> None:
    finished = checkpoints.write(NAME, 3, DATA, NOTES)
    record = FileRecord(f"predictions/{NAME}", 3, len(DATA), hashlib.sha256(DATA).hexdigest())
    assert finished == checkpoints.find(NAME) == Checkpoint(record, NOTES)


def test_what_was_never_written_is_not_found_and_not_logged(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.find(NAME) is None
    checkpoints.write("part-00001.parquet", 3, DATA, {})
    assert checkpoints.find(NAME) is None
    assert not caplog.records


def test_nothing_but_complete_files_is_in_the_folder_that_others_read(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    assert [path.name for path in folder_of(checkpoints).iterdir()] == [NAME]
    assert [path.name for path in record_path(checkpoints).parent.iterdir()] == [f"{NAME}.json"]


def test_a_checkpoint_written_again_replaces_the_old_one(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    again = checkpoints.write(NAME, 4, DATA[:100], {})
    assert checkpoints.find(NAME) == again
    assert again.file.size_bytes == 100


# Damage


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (flipped(DATA, 0), "expected sha256 "),
        (flipped(DATA, 255), "expected sha256 "),
        (DATA[:-1], "expected 256 bytes, got 255"),
        (DATA + b"\0", "expected 256 bytes, got more"),
        (b"", "expected 256 bytes, got 0"),
    ],
    ids=["first bit", "last bit", "cut", "longer", "empty"],
)
def test_a_damaged_file_is_not_found_and_a_warning_says_why(
    data: bytes, problem: str, checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (folder_of(checkpoints) / NAME).write_bytes(data)
    assert checkpoints.find(NAME) is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{folder_of(checkpoints) / NAME} is damaged and will be recomputed: {problem}" in warning.getMessage()
    assert checkpoints.write(NAME, 3, DATA, NOTES) == checkpoints.find(NAME)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"1" * 5000,
        b'{"file": NaN}',
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"file": {}}',
        b'{"file": {"path": "x"}, "notes": {}}',
        b"{}",
    ],
)
def test_an_unreadable_record_counts_for_none_and_a_warning_says_so(
    content: bytes, checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    record_path(checkpoints).write_bytes(content)
    assert checkpoints.find(NAME) is None
    assert f"{folder_of(checkpoints) / NAME} has a damaged checkpoint record and will be recomputed: " in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("content_sha256"),
        lambda document: document.pop("notes"),
        lambda document: document["file"].update(rows=4),
        lambda document: document["file"].update(path="predictions/other"),
        lambda document: document["notes"]["tally"].update(images=4),
        lambda document: document["notes"]["tally"].update(mean=0.10000000000000002),
    ],
)
def test_a_record_with_any_change_counts_for_none(
    change: Callable[[dict[str, Any]], object], checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    document = json.loads(record_path(checkpoints).read_bytes())
    change(document)
    record_path(checkpoints).write_text(json.dumps(document))
    assert checkpoints.find(NAME) is None
    assert "has a damaged checkpoint record" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.pop("rows"),
        lambda file: file.update(owner="x"),
        lambda file: file.update(rows=-1),
        lambda file: file.update(size_bytes=10**30),
        lambda file: file.update(path=f"../../{NAME}"),
    ],
)
def test_a_record_of_other_fields_counts_for_none_though_its_checksum_holds(
    change: Callable[[dict[str, Any]], object], checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    document = json.loads(record_path(checkpoints).read_bytes())
    del document["content_sha256"]
    change(document["file"])
    record_path(checkpoints).write_text(json.dumps({**document, "content_sha256": canonical_sha256(document)}))
    assert checkpoints.find(NAME) is None
    assert "has a damaged checkpoint record" in caplog.text


def test_a_record_of_other_bytes_does_not_vouch_for_these(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    checkpoints.write("other", 3, DATA[::-1], NOTES)
    record_path(checkpoints).write_bytes(record_path(checkpoints).with_name("other.json").read_bytes())
    assert checkpoints.find(NAME) is None
    assert "has a damaged checkpoint record and will be recomputed: it is about predictions/other" in caplog.text


def test_a_folder_in_the_place_of_a_file_is_no_file(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (folder_of(checkpoints) / NAME).unlink()
    (folder_of(checkpoints) / NAME).mkdir()
    assert checkpoints.find(NAME) is None


def test_what_cannot_be_read_is_not_taken_for_damage() -> None:
    store = MemoryStore()
    CheckpointFolder(store, "predictions", "records").write(NAME, 3, DATA, NOTES)
    for operation in (1, 2):
        broken = CheckpointFolder(FaultyStore(store, fails_at=operation), "predictions", "records")
        with pytest.raises(StoreError, match="planted failure"):
            broken.find(NAME)


def test_names_are_those_of_files_with_a_record_whatever_their_bytes(checkpoints: CheckpointFolder) -> None:
    assert checkpoints.names() == set()
    for name in ("a", "b", "c"):
        checkpoints.write(name, 3, DATA, NOTES)
    (folder_of(checkpoints) / "a").write_bytes(b"")
    (folder_of(checkpoints) / "b").unlink()
    (folder_of(checkpoints) / "d").write_bytes(DATA)
    assert checkpoints.names() == {"a", "c"}


def test_with_content_names_other_bytes_have_another_name() -> None:
    checkpoints = CheckpointFolder(MemoryStore(), "predictions", "records", content_names=True)
    one, two = checkpoints.write(NAME, 3, DATA, NOTES), checkpoints.write(NAME, 3, DATA[::-1], NOTES)
    assert one.file.path != two.file.path
    assert checkpoints.find(NAME) == two
    assert {checkpoints.read(one), checkpoints.read(two)} == {DATA, DATA[::-1]}


# Kills and full disks


@pytest.mark.parametrize("earlier", [False, True])
def test_ended_between_file_and_record_there_is_nothing_to_find(earlier: bool) -> None:
    store = MemoryStore()
    checkpoints = CheckpointFolder(store, "predictions", "records")
    if earlier:
        checkpoints.write(NAME, 3, DATA[::-1], NOTES)
    with pytest.raises(DiedError):
        replace(checkpoints, store=FaultyStore(store, fails_at=2, dies=True)).write(NAME, 3, DATA, NOTES)
    assert store.read(f"predictions/{NAME}") == DATA
    assert checkpoints.find(NAME) is None
    assert checkpoints.write(NAME, 3, DATA, NOTES) == checkpoints.find(NAME)


def test_a_record_without_its_file_is_nothing(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (folder_of(checkpoints) / NAME).unlink()
    assert checkpoints.find(NAME) is None


def test_a_folder_that_cannot_be_written_is_an_error_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "images" / NAME / "x").mkdir(parents=True)
    checkpoints = CheckpointFolder(LocalStore(tmp_path), "images", "records")
    with pytest.raises(OutputsError, match=f"cannot write .*{NAME}: .*; a folder is where a file is expected"):
        checkpoints.write(NAME, 3, DATA, NOTES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_grew_is_not_read_whole(checkpoints: CheckpointFolder) -> None:
    written = checkpoints.write(NAME, 3, DATA, NOTES)
    with (folder_of(checkpoints) / NAME).open("ab") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    assert checkpoints.find(NAME) is None
    with pytest.raises(DamagedError, match="expected 256 bytes, got more"):
        read_checked(checkpoints.store, "run", written.file)
