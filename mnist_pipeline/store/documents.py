"""JSON documents that carry the sha256 of their own content: whatever byte is altered, it is noticed on reading.

Whatever else a document holds is bounded by the types of its fields, so that its readers need not look again: a
checksum keeps bytes as they were written, and says nothing of who wrote them. Reads and writes no files.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from mnist_pipeline.errors import DamagedError, listed, shown

D = TypeVar("D", bound="ChecksummedDocument")

MAX_DOCUMENT_BYTES = 32 << 20  # the manifest of 100,000 shards, which is as many as there may be, has 25 MB
MAX_COUNT = 10**15  # of images, rows or bytes: sums of some of them fit into int64
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)


def canonical_json(document: Any) -> bytes:
    """Keys sorted, no spaces, ASCII only, no NaN: RFC 8785's idea, for documents of strings, integers and null."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def canonical_sha256(document: Any) -> str:
    """Sha256 in hex of the canonical JSON of `document`."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


def parse_json(data: bytes) -> Any:
    """Parse a document that anybody may have written.

    Raises:
        ValueError: it is too large, nested too deeply, or not JSON.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"expected at most {MAX_DOCUMENT_BYTES:,} bytes, got more")
    try:
        document = json.loads(data)
    except RecursionError:
        raise ValueError("expected a few levels, got many") from None
    json.dumps(document, ensure_ascii=False).encode()  # half a character is JSON, and no text that can be written
    return document


def _moment(value: datetime) -> datetime:
    if not _FIRST <= value < _LAST:
        raise ValueError(f"expected a time from {_FIRST.year} to {_LAST.year}")
    return value.astimezone(UTC)


# Types of the fields of documents.
Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ChecksummedDocument(BaseModel):
    """A document that is written once and never changes.

    A field that a later version adds is passed over here; one that is added needs a default for the documents before.
    """

    # NaN would be written as null, and a document with it might never be read again: it is refused instead.
    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True, ser_json_inf_nan="constants")

    kind: ClassVar[str]  # what it is, for messages
    checksum_field: ClassVar[str]  # name of the field that holds the sha256

    schema_version: str

    def to_bytes(self) -> bytes:
        """The document as a JSON file."""
        content = self.model_dump(mode="json")
        return _render({**content, self.checksum_field: _checksum(content)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read a document back.

        Raises:
            DamagedError: not such a document, or any byte of it is not as written.
        """
        try:
            document: Self = _parsed(cls, data)
        except DamagedError as error:
            raise DamagedError(f"{name}: {error}") from error
        return document


@functools.lru_cache(maxsize=4)  # the manifest of very many files takes a second, and each step of a night reads it
def _parsed(kind: type[D], data: bytes) -> D:
    try:
        document = parse_json(data)
        unaltered = _render(document) == data
        unaltered &= document.pop(kind.checksum_field) == _checksum(document)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"expected {kind.kind}, got a damaged file ({error})") from error
    if not unaltered:
        raise DamagedError(f"expected {kind.kind} as it was written, got altered bytes")
    # From here on the bytes are what was written, by whatever version of this package.
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        fields = listed(".".join(map(str, problem["loc"])) or problem["msg"] for problem in problems)
        raise DamagedError(
            f"expected {kind.kind} that this version can read, got one of schema version "
            f"{shown(document.get('schema_version'))} in which these fields are missing or differ: {fields}; "
            "read it with the version of mnist-pipeline that it names"
        ) from error


def _render(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
