"""Who a run is (its identity) and what it consists of (its manifest). Reads and writes no files."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from mnist_pipeline.errors import DamagedError
from mnist_pipeline.storage.canonical import canonical_json, canonical_sha256
from mnist_pipeline.storage.files import FileRecord

FINGERPRINT_DIGITS = 12
RUN_ID = re.compile(
    r"(?P<run_date>\d{4}-\d\d-\d\d)-(?P<dataset>[a-z0-9][a-z0-9_-]*)-(?P<split>[a-z0-9_]+)-(?P<fingerprint>[0-9a-f]{12})"
)


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identity(_Values):
    """Everything that can change the published numbers, and the day the run stands for."""

    run_date: date
    dataset: str
    split: str
    images: int
    images_sha256: str
    labels_sha256: str | None
    weights_sha256: str
    transform_version: str
    schema_version: str
    batch_rows: int
    shard_rows: int

    @property
    def fingerprint(self) -> str:
        """Sha256 in hex of the canonical JSON of all fields but the date."""
        return canonical_sha256(self.model_dump(mode="json", exclude={"run_date"}))

    @property
    def run_id(self) -> str:
        return f"{self.run_date}-{self.dataset}-{self.split}-{self.fingerprint[:FINGERPRINT_DIGITS]}"


class RunName(_Values):
    """What a run_id says by itself."""

    run_id: str
    run_date: date
    dataset: str
    split: str

    def is_of(self, dataset: str, split: str) -> bool:
        """Whether the run evaluated that split of that data set."""
        return (self.dataset, self.split) == (dataset, split)

    @classmethod
    def parse(cls, run_id: str) -> Self | None:
        """Take a run_id apart; None if it is not one."""
        match = RUN_ID.fullmatch(run_id)
        try:
            return match and cls(
                run_id=run_id,
                run_date=date.fromisoformat(match["run_date"]),
                dataset=match["dataset"],
                split=match["split"],
            )
        except ValueError:
            return None


class Totals(_Values):
    """The run in four numbers; accuracy is null without labels."""

    images: int
    labelled: int
    correct: int
    accuracy: float | None


class Manifest(_Values):
    """What a published run consists of and how it came to be. Paths are relative to the run's directory.

    A field that a later version adds is passed over here; one added here needs a default for the runs before.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: str
    run_id: str
    fingerprint: str
    identity: Identity
    totals: Totals
    versions: Mapping[str, str]
    engine: Literal["direct", "prefect"]
    workers: int
    evaluated_at: datetime
    published_at: datetime
    timings_seconds: Mapping[str, float]
    files: tuple[FileRecord, ...]

    def to_bytes(self) -> bytes:
        """The manifest as a JSON file that carries the sha256 of its own canonical content."""
        content = self.model_dump(mode="json")
        return _render({**content, "manifest_sha256": _checksum(content)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read a manifest file back.

        Raises:
            DamagedError: not a manifest, or any byte of it is not as written.
        """
        try:
            document = json.loads(data)
            unaltered = _render(document) == data
            unaltered &= document.pop("manifest_sha256") == _checksum(document)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DamagedError(f"{name}: expected a run's manifest, got a damaged file ({error})") from error
        if not unaltered:
            raise DamagedError(f"{name}: expected the manifest as it was written, got altered bytes")
        # From here on the bytes are what was written, by whatever version of this package.
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise DamagedError(
                f"{name}: expected a manifest this version can read, got one of schema version "
                f"{document.get('schema_version')} ({error.error_count()} fields differ); "
                "read it with the version of mnist-pipeline that it names"
            ) from error


def _render(document: object) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
