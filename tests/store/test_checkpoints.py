import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.errors import OutputsError
from mnist_pipeline.store import checkpoints as module
from mnist_pipeline.store.checkpoints import Piece, Pieces
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord, replace_file
from tests.published import on_disk

NAME = "part-00000.parquet"
DATA = bytes(range(256))
NOTES = {"tally": {"images": 3, "mean": 0.1}, "made_with": {"numpy": "2"}}


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    return Pieces(folder=tmp_path / "run" / "predictions", records=tmp_path / "records")


def record_path(pieces: Pieces) -> Path:
    return on_disk(pieces.records / f"{NAME}.json")


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_a_finished_piece_is_found_as_it_was_finished(pieces: Pieces) -> None:
    finished = pieces.finish(NAME, 3, DATA, NOTES)
    record = FileRecord(f"predictions/{NAME}", 3, len(DATA), hashlib.sha256(DATA).hexdigest())
    assert finished == pieces.find(NAME) == Piece(record, NOTES)


def test_what_was_never_finished_is_not_found_and_not_worth_a_word(
    pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    assert pieces.find(NAME) is None
    pieces.finish("part-00001.parquet", 3, DATA, {})
    assert pieces.find(NAME) is None
    assert not caplog.records


def test_nothing_but_finished_files_lies_in_the_folder_that_others_read(pieces: Pieces) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    assert [path.name for path in pieces.folder.iterdir()] == [NAME]
    assert [path.name for path in pieces.records.iterdir()] == [f"{NAME}.json"]


def test_a_piece_made_again_replaces_the_old_one(pieces: Pieces) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    again = pieces.finish(NAME, 4, DATA[:100], {})
    assert pieces.find(NAME) == again
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
    data: bytes, problem: str, pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    (pieces.folder / NAME).write_bytes(data)
    assert pieces.find(NAME) is None
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{pieces.folder / NAME} is damaged and will be made again: {problem}" in warning.getMessage()
    assert pieces.finish(NAME, 3, DATA, NOTES) == pieces.find(NAME)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b"\xff\xfe", b'{"file": {}}', b'{"file": {"path": "x"}, "notes": {}}', b"{}"],
)
def test_an_unreadable_record_counts_for_none_and_a_warning_says_so(
    content: bytes, pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    record_path(pieces).write_bytes(content)
    assert pieces.find(NAME) is None
    assert f"{pieces.folder / NAME} has an unreadable record and will be made again: " in caplog.text


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
    change: Callable[[dict[str, Any]], object], pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    document = json.loads(record_path(pieces).read_bytes())
    change(document)
    record_path(pieces).write_text(json.dumps(document))
    assert pieces.find(NAME) is None
    assert "has an unreadable record" in caplog.text


@pytest.mark.parametrize("change", [lambda file: file.pop("rows"), lambda file: file.update(owner="x")])
def test_a_record_of_other_fields_counts_for_none_though_its_checksum_holds(
    change: Callable[[dict[str, Any]], object], pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    document = json.loads(record_path(pieces).read_bytes())
    del document["content_sha256"]
    change(document["file"])
    record_path(pieces).write_text(json.dumps({**document, "content_sha256": canonical_sha256(document)}))
    assert pieces.find(NAME) is None
    assert "has an unreadable record" in caplog.text


def test_a_record_of_other_bytes_does_not_vouch_for_these(pieces: Pieces, caplog: pytest.LogCaptureFixture) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    pieces.finish("other", 3, DATA[::-1], NOTES)
    record_path(pieces).write_bytes((pieces.records / "other.json").read_bytes())
    assert pieces.find(NAME) is None
    assert "has an unreadable record and will be made again: it is about predictions/other" in caplog.text


def test_a_file_that_cannot_be_read_is_not_found_and_a_warning_says_so(
    pieces: Pieces, caplog: pytest.LogCaptureFixture
) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    (pieces.folder / NAME).unlink()
    on_disk(pieces.folder / NAME).mkdir()
    assert pieces.find(NAME) is None
    assert f"{pieces.folder / NAME} cannot be read and will be made again: " in caplog.text


# Kills and full disks


@pytest.mark.parametrize("earlier", [False, True])
def test_killed_between_file_and_record_leaves_nothing_to_find(
    earlier: bool, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def replace_then_die(path: Path, data: bytes, scratch: Path | None = None, sync: bool = True) -> None:
        if path.suffix == ".json":
            raise Killed
        replace_file(path, data, scratch, sync)

    if earlier:
        pieces.finish(NAME, 3, DATA[::-1], NOTES)
    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_file", replace_then_die)
        with pytest.raises(Killed):
            pieces.finish(NAME, 3, DATA, NOTES)
    assert (pieces.folder / NAME).read_bytes() == DATA
    assert pieces.find(NAME) is None
    assert pieces.finish(NAME, 3, DATA, NOTES) == pieces.find(NAME)


def test_a_record_without_its_file_is_nothing(pieces: Pieces) -> None:
    pieces.finish(NAME, 3, DATA, NOTES)
    (pieces.folder / NAME).unlink()
    assert pieces.find(NAME) is None


def test_a_folder_that_cannot_be_written_is_said_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_bytes(b"")
    pieces = Pieces(folder=tmp_path / "in the way" / "images", records=tmp_path / "records")
    with pytest.raises(OutputsError, match=f"cannot write .*{NAME}: .*; check that the folder exists, is writable"):
        pieces.finish(NAME, 3, DATA, NOTES)
    pieces = Pieces(folder=tmp_path / "images", records=tmp_path / "records")
    (tmp_path / "images" / NAME / "x").mkdir(parents=True)
    with pytest.raises(OutputsError, match=f"cannot write .*{NAME}: "):
        pieces.finish(NAME, 3, DATA, NOTES)
    assert list((tmp_path / "records").iterdir()) == []
