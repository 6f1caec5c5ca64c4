"""JSON documents that carry the sha256 of their own content: whatever byte is altered, it is noticed on reading.

Reads and writes no files.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mnist_pipeline.errors import DamagedError


def canonical_json(document: Any) -> bytes:
    """Keys sorted, no spaces, ASCII only, no NaN: RFC 8785's idea, for documents of strings, integers and null."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def canonical_sha256(document: Any) -> str:
    """Sha256 in hex of the canonical JSON of `document`."""
    return hashlib.sha256(canonical_json(document)).hexdigest()


class ChecksummedDocument(BaseModel):
    """A document that is written once and never changes.

    A field that a later version adds is passed over here; one that is added needs a default for the documents before.
    """

    # NaN would be written as null, and a document with it might never be read again: it is refused instead.
    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="constants")

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
            document = json.loads(data)
            unaltered = _render(document) == data
            unaltered &= document.pop(cls.checksum_field) == _checksum(document)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DamagedError(f"{name}: expected {cls.kind}, got a damaged file ({error})") from error
        if not unaltered:
            raise DamagedError(f"{name}: expected {cls.kind} as it was written, got altered bytes")
        # From here on the bytes are what was written, by whatever version of this package.
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
            raise DamagedError(
                f"{name}: expected {cls.kind} that this version can read, got one of schema version "
                f"{document.get('schema_version')} in which these fields are missing or differ: {fields}; "
                "read it with the version of mnist-pipeline that it names"
            ) from error


def _render(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
