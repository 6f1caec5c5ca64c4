import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.store import checkpoints as module
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord, replace_file
from tests.published import on_disk

NAME = "part-00000.parquet"
DATA = bytes(range(256))
NOTES = {"tally": {"images": 3, "mean": 0.1}, "made_with": {"numpy": "2"}}


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(folder=tmp_path / "run" / "predictions", records=tmp_path / "records")


def record_path(checkpoints: CheckpointFolder) -> Path:
    return on_disk(checkpoints.records / f"{NAME}.json")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_a_finished_piece_is_found_as_it_was_finished(checkpoints: CheckpointFolder) -> None:
    finished = checkpoints.write(NAME, 3, DATA, NOTES)
    record = FileRecord(f"predictions/{NAME}", 3, len(DATA), hashlib.sha256(DATA).hexdigest())
    assert finished == checkpoints.find(NAME) == Checkpoint(record, NOTES)


def test_what_was_never_finished_is_not_found_and_not_worth_a_word(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.find(NAME) is None
    checkpoints.write("part-00001.parquet", 3, DATA, {})
    assert checkpoints.find(NAME) is None
    assert not caplog.records


def test_nothing_but_finished_files_lies_in_the_folder_that_others_read(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    assert [path.name for path in checkpoints.folder.iterdir()] == [NAME]
    assert [path.name for path in checkpoints.records.iterdir()] == [f"{NAME}.json"]


def test_a_piece_made_again_replaces_the_old_one(checkpoints: CheckpointFolder) -> None:
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
        (DATA + b"\0", "expected 256 bytes, got 257"),
        (b"", "expected 256 bytes, got 0"),
    ],
    ids=["first bit", "last bit", "cut", "longer", "empty"],
)
def test_a_damaged_file_is_not_found_and_a_warning_says_why(
    data: bytes, problem: str, checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (checkpoints.folder / NAME).write_bytes(data)
    assert checkpoints.find(NAME) is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{checkpoints.folder / NAME} is damaged and will be made again: {problem}" in warning.getMessage()
    assert checkpoints.write(NAME, 3, DATA, NOTES) == checkpoints.find(NAME)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b"\xff\xfe", b'{"file": {}}', b'{"file": {"path": "x"}, "notes": {}}', b"{}"],
)
def test_an_unreadable_record_counts_for_none_and_a_warning_says_so(
    content: bytes, checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    record_path(checkpoints).write_bytes(content)
    assert checkpoints.find(NAME) is None
    assert f"{checkpoints.folder / NAME} has an unreadable record and will be made again: " in caplog.text


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
    assert "has an unreadable record" in caplog.text


@pytest.mark.parametrize("change", [lambda file: file.pop("rows"), lambda file: file.update(owner="x")])
def test_a_record_of_other_fields_counts_for_none_though_its_checksum_holds(
    change: Callable[[dict[str, Any]], object], checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    document = json.loads(record_path(checkpoints).read_bytes())
    del document["content_sha256"]
    change(document["file"])
    record_path(checkpoints).write_text(json.dumps({**document, "content_sha256": canonical_sha256(document)}))
    assert checkpoints.find(NAME) is None
    assert "has an unreadable record" in caplog.text


def test_a_record_of_other_bytes_does_not_vouch_for_these(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    checkpoints.write("other", 3, DATA[::-1], NOTES)
    record_path(checkpoints).write_bytes((checkpoints.records / "other.json").read_bytes())
    assert checkpoints.find(NAME) is None
    assert "has an unreadable record and will be made again: it is about predictions/other" in caplog.text


def test_a_file_that_cannot_be_read_is_not_found_and_a_warning_says_so(
    checkpoints: CheckpointFolder, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (checkpoints.folder / NAME).unlink()
    on_disk(checkpoints.folder / NAME).mkdir()
    assert checkpoints.find(NAME) is None
    assert f"{checkpoints.folder / NAME} cannot be read and will be made again: " in caplog.text


# Kills and full disks


@pytest.mark.parametrize("earlier", [False, True])
def test_killed_between_file_and_record_leaves_nothing_to_find(
    earlier: bool, checkpoints: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def replace_then_die(path: Path, data: bytes, scratch: Path | None = None, sync: bool = True) -> None:
        if path.suffix == ".json":
            raise Killed
        replace_file(path, data, scratch, sync)

    if earlier:
        checkpoints.write(NAME, 3, DATA[::-1], NOTES)
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", replace_then_die)
        with pytest.raises(Killed):
            checkpoints.write(NAME, 3, DATA, NOTES)
    assert (checkpoints.folder / NAME).read_bytes() == DATA
    assert checkpoints.find(NAME) is None
    assert checkpoints.write(NAME, 3, DATA, NOTES) == checkpoints.find(NAME)


def test_a_record_without_its_file_is_nothing(checkpoints: CheckpointFolder) -> None:
    checkpoints.write(NAME, 3, DATA, NOTES)
    (checkpoints.folder / NAME).unlink()
    assert checkpoints.find(NAME) is None


def test_a_folder_that_cannot_be_written_is_said_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    checkpoints = CheckpointFolder(folder=tmp_path / "in the way" / "images", records=tmp_path / "records")
    with pytest.raises(OutputsError, match=f"cannot write .*{NAME}: .*; check that the folder exists, is writable"):
        checkpoints.write(NAME, 3, DATA, NOTES)
    checkpoints = CheckpointFolder(folder=tmp_path / "images", records=tmp_path / "records")
    (tmp_path / "images" / NAME / "x").mkdir(parents=True)
    with pytest.raises(OutputsError, match=f"cannot write .*{NAME}: "):
        checkpoints.write(NAME, 3, DATA, NOTES)
    assert list((tmp_path / "records").iterdir()) == []
