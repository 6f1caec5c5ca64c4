import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.store.documents import MAX_DOCUMENT_BYTES, ChecksummedDocument, canonical_sha256
from mnist_pipeline.store.files import FileRecord


class Note(ChecksummedDocument):
    """A document of every kind of value that ours hold."""

    kind: ClassVar[str] = "a note"
    checksum_field: ClassVar[str] = "note_sha256"

    text: str
    day: date
    written_at: datetime
    share: float
    count: int | None
    true: bool
    values: Mapping[str, Any]
    files: tuple[FileRecord, ...]


NOTE = Note(
    schema_version="1",
    text='a "quoted" \u00fc\u2713 line\nand another',
    day=date(2026, 1, 31),
    written_at=datetime(2026, 2, 1, 2, 30, 0, 123456, UTC),
    share=0.9352941176470588,
    count=None,
    true=True,
    values={"b": [1, 2.5, None], "a": {"3": 0.1}, "": -(2**70)},
    files=(FileRecord("part.parquet", 12, 4096, "5" * 64),),
)
WRITTEN = NOTE.to_bytes()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def rewritten(data: bytes, checksum_field: str, **changes: Any) -> bytes:
    """A document with other content and a checksum that fits it; None takes a field out."""
    document = json.loads(data) | changes
    del document[checksum_field]
    document = {name: value for name, value in document.items() if name not in changes or value is not None}
    return (json.dumps({**document, checksum_field: canonical_sha256(document)}, indent=2) + "\n").encode()


def test_a_document_comes_back_as_it_was_written() -> None:
    assert Note.from_bytes(WRITTEN, "x") == NOTE


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.dictionaries(st.text(), json_values, max_size=4))
def test_any_values_come_back_to_the_last_bit(text: str, share: float, values: dict[str, Any]) -> None:
    note = NOTE.model_copy(update={"text": text, "share": share, "values": values})
    assert Note.from_bytes(note.to_bytes(), "x") == note
    assert Note.from_bytes(note.to_bytes(), "x").to_bytes() == note.to_bytes()


def test_a_document_is_json_that_a_person_can_read_and_check() -> None:
    document = json.loads(WRITTEN)
    assert WRITTEN.decode("ascii").splitlines()[1] == '  "schema_version": "1",'
    assert WRITTEN.endswith(b'"\n}\n')
    assert document["written_at"] == "2026-02-01T02:30:00.123456Z"
    assert list(document)[-1] == "note_sha256"
    assert document.pop("note_sha256") == canonical_sha256(document)


@given(st.integers(0, len(WRITTEN) - 1), st.integers(0, 255))
@example(WRITTEN.index(b"9352941176470588") + 1, ord("e"))  # a number becomes infinite
@example(len(WRITTEN) - 1, ord(" "))
@settings(max_examples=400)
def test_a_document_with_one_byte_changed_is_refused(position: int, value: int) -> None:
    changed = bytearray(WRITTEN)
    changed[position] = value
    if changed != WRITTEN:
        with pytest.raises(DamagedError, match=r"^x: expected a note"):
            Note.from_bytes(bytes(changed), "x")


def test_a_document_with_any_one_bit_flipped_is_refused() -> None:
    for position in range(len(WRITTEN)):
        for bit in range(8):
            changed = bytearray(WRITTEN)
            changed[position] ^= 1 << bit
            with pytest.raises(DamagedError, match=r"^x: expected a note"):
                Note.from_bytes(bytes(changed), "x")


def test_a_document_without_one_of_its_bytes_or_with_one_more_is_refused() -> None:
    for position in range(len(WRITTEN)):
        for changed in (WRITTEN[:position] + WRITTEN[position + 1 :], WRITTEN[:position] + b" " + WRITTEN[position:]):
            with pytest.raises(DamagedError, match=r"^x: expected a note"):
                Note.from_bytes(changed, "x")


@pytest.mark.parametrize("keep", [0, 1, len(WRITTEN) // 2, len(WRITTEN) - 2, len(WRITTEN) - 1])
def test_a_document_cut_short_is_refused(keep: int) -> None:
    with pytest.raises(DamagedError, match=r"^x: expected a note"):
        Note.from_bytes(WRITTEN[:keep], "x")


DAMAGED = r"^x: expected a note, got a damaged file \("
ALTERED = r"^x: expected a note as it was written, got altered bytes$"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        *((data, DAMAGED) for data in (b"", b"\xff", b"{}x", b"[" * 100_000, b"9" * 5000, WRITTEN + WRITTEN)),
        # JSON, and of the form that is written, but no such document
        *((data, DAMAGED) for data in (b"null\n", b"[]\n", b'"text"\n', b"7\n", b"{}\n", b'{\n  "x": NaN\n}\n')),
        (b'{\n  "note_sha256": 1\n}\n', ALTERED),
        (json.dumps({"schema_version": "1", "note_sha256": "0" * 64}, indent=2).encode() + b"\n", ALTERED),
        (WRITTEN.replace(b'  "text"', b'  "count": 1,\n  "text"'), ALTERED),  # a name twice: the last would count
    ],
)
def test_what_is_no_such_document_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DamagedError, match=message):
        Note.from_bytes(data, "x")


def test_the_same_content_spaced_otherwise_is_refused() -> None:
    assert Note.from_bytes(rewritten(WRITTEN, "note_sha256"), "x") == NOTE
    for spaced in (json.dumps(json.loads(WRITTEN)).encode(), WRITTEN + b"\n", WRITTEN.decode().encode("utf-16")):
        with pytest.raises(DamagedError, match=ALTERED):
            Note.from_bytes(spaced, "x")


def test_a_document_of_another_kind_is_refused() -> None:
    class Letter(Note):
        kind: ClassVar[str] = "a letter"
        checksum_field: ClassVar[str] = "letter_sha256"

    with pytest.raises(DamagedError, match=r"^x: expected a letter, got a damaged file \('letter_sha256'\)"):
        Letter.from_bytes(WRITTEN, "x")


def test_a_field_that_a_later_version_added_is_passed_over() -> None:
    assert Note.from_bytes(rewritten(WRITTEN, "note_sha256", colour="blue"), "x") == NOTE


def test_a_document_of_an_earlier_version_reads_though_later_ones_have_more_fields() -> None:
    class Later(Note):
        colour: str = "none"

    assert Later.from_bytes(WRITTEN, "x").colour == "none"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"text": None}, "'text'"),
        (
            {"text": None, "day": "never", "files": [{"path": "x"}]},
            "'text', 'day', 'files.0.rows', 'files.0.size_bytes'",
        ),
        ({"schema_version": None}, "'schema_version'"),
    ],
)
def test_fields_missing_or_wrong_are_another_versions_document_and_all_are_named(
    changes: dict[str, Any], named: str
) -> None:
    version = "1" if "schema_version" not in changes else "None"
    message = (
        rf"^x: expected a note that this version can read, got one of schema version '{version}' in which these fields "
        rf"are missing or differ: {named}.*; read it with the version of mnist-pipeline that it names$"
    )
    with pytest.raises(DamagedError, match=message):
        Note.from_bytes(rewritten(WRITTEN, "note_sha256", **changes), "x")


def test_a_number_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        NOTE.model_copy(update={"values": {"x": float("nan")}}).to_bytes()


HOSTILE = {
    "nested deeply": b"[" * 100_000,
    "an object nested deeply": b'{"a":' * 100_000,
    "a number of 5,000 digits": b"1" * 5000,
    "a number beyond all": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "no UTF-8": b"\xff",
    "another type": b"[3]",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_whatever_a_document_holds_it_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError, match=r"^x: expected a note"):
        Note.from_bytes(data, "x")


def test_a_document_that_is_too_large_is_not_parsed() -> None:
    with pytest.raises(DamagedError, match="expected at most 33,554,432 bytes, got more"):
        Note.from_bytes(b" " * (MAX_DOCUMENT_BYTES + 1), "x")
