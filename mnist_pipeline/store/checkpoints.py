"""Files with a checkpoint record beside them that says what they must be: the whole resume mechanism.

Present and verified: reuse. Present and damaged: log it and recompute. Absent: compute.
"""

import functools
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from mnist_pipeline.errors import printable
from mnist_pipeline.store.base import Location, Store
from mnist_pipeline.store.documents import MAX_DOCUMENT_BYTES, canonical_json, canonical_sha256, parse_json
from mnist_pipeline.store.files import FileRecord, content_name, record

logger = logging.getLogger(__name__)

MAX_WHY = 200  # characters


@functools.cache  # here, as it takes as long as NumPy's core; what only looks at runs reads no record
def _file_type() -> TypeAdapter[FileRecord]:
    return TypeAdapter(FileRecord)


@dataclass(frozen=True)
class Checkpoint:
    """A file that is complete: its record, and what its maker noted about it."""

    file: FileRecord
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """Files in `folder`, which others may read as one table, and their checkpoint records in `records`.

    With `content_names` a file has its content in its name: attempts that share the folder never replace each other's.
    """

    store: Store
    folder: str
    records: str
    content_names: bool = False

    @property
    def location(self) -> Location:
        """The folder, for readers of Parquet and for people."""
        return self.store.location / self.folder

    def names(self) -> set[str]:
        """The names of the files that are complete by their records, whatever their bytes are."""
        there = set(self.store.children(self.folder))
        return {record.removesuffix(".json") for record in self.store.children(self.records)} & there

    def record(self, name: str) -> Checkpoint | None:
        """The checkpoint of that name as its record has it, or None; the file itself is not read."""
        try:
            document = parse_json(self.store.read(f"{self.records}/{name}.json", MAX_DOCUMENT_BYTES + 1))
            file = _file_type().validate_python(vars(FileRecord(**document["file"])))
            checkpoint = Checkpoint(file, document["notes"])
            # The notes are numbers that are published: they are checked like the file they are about.
            if document["content_sha256"] != canonical_sha256(_content(checkpoint)):
                raise ValueError("its own checksum is another")
            if not checkpoint.file.is_named(name):
                raise ValueError(f"it is about {checkpoint.file.path}")
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            why = printable(error)[:MAX_WHY]
            where = self.location / name
            logger.warning("%s has a damaged checkpoint record and will be recomputed: %s", where, why)
            return None
        return checkpoint

    def read(self, checkpoint: Checkpoint) -> bytes | None:
        """The bytes of a file, or None if they are not what its record says."""
        try:
            data = self.store.read(f"{self.folder}/{checkpoint.file.name}", checkpoint.file.size_bytes + 1)
        except FileNotFoundError:
            return None
        if problem := checkpoint.file.problem_with(data):
            where = self.location / checkpoint.file.name
            logger.warning("%s is damaged and will be recomputed: %s", where, problem)
            return None
        return data

    def find(self, name: str) -> Checkpoint | None:
        """The checkpoint of that name if its file is complete and its bytes are what its record says, else None."""
        checkpoint = self.record(name)
        return checkpoint if checkpoint and self.read(checkpoint) is not None else None

    def write(self, name: str, rows: int, data: bytes, notes: Mapping[str, Any]) -> Checkpoint:
        """Write a file, then its checkpoint record: a kill in between leaves no record.

        Neither is synced: what a power cut garbles does not verify and is recomputed. `Store.publish` syncs.

        Raises:
            StoreError: it cannot be written.
        """
        file = record(f"{self.folder.rpartition('/')[2]}/{name}", rows, data)
        if self.content_names:
            file = replace(file, path=content_name(file.path, file.sha256))
        self.store.write(f"{self.folder}/{file.name}", data, sync=False)
        content = canonical_json(_content(checkpoint := Checkpoint(file, notes)))
        document = b'%s,"content_sha256":"%s"}' % (content[:-1], hashlib.sha256(content).hexdigest().encode())
        self.store.write(f"{self.records}/{name}.json", document, sync=False)
        return checkpoint


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"file": vars(checkpoint.file), "notes": checkpoint.notes}
