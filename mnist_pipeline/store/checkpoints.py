"""Finished files with a record beside them that says what they must be: the whole resume mechanism.

Present and verified: reuse. Present and damaged: say so and redo. Absent: do.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnist_pipeline.errors import StoreError
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import FileRecord, outputs_errors, put_file, record, replace_file
from mnist_pipeline.store.objects import Location

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A finished file: its record, and what its maker noted about it."""

    file: FileRecord
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """Files in `folder`, which others may read as one table; records and unfinished files in `records`.

    `to_publish` says that they will be part of what is published, and that its readers find them by their records.
    """

    folder: Location
    records: Location
    to_publish: bool = False

    def count(self) -> int:
        """How many files are there, whole or not."""
        return sum(1 for _ in self.folder.iterdir()) if self.folder.is_dir() else 0

    def find(self, name: str) -> Checkpoint | None:
        """The piece of that name if it is finished and its bytes are what its record says, else None."""
        try:
            document = json.loads((self.records / f"{name}.json").read_bytes())
            checkpoint = Checkpoint(FileRecord(**document["file"]), document["notes"])
            # The notes are numbers that end up in print: they are checked like the file they are about.
            if document["content_sha256"] != canonical_sha256(_content(checkpoint)):
                raise ValueError("its own checksum is another")
            if not checkpoint.file.is_named(name):
                raise ValueError(f"it is about {checkpoint.file.path}")
            data = (self.folder / checkpoint.file.name).read_bytes()
        except FileNotFoundError:
            return None
        except StoreError:
            raise
        except OSError as error:
            logger.warning("%s cannot be read and will be made again: %s", self.folder / name, error)
            return None
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s has an unreadable record and will be made again: %s", self.folder / name, error)
            return None
        if problem := checkpoint.file.problem_with(data):
            logger.warning("%s is damaged and will be made again: %s", self.folder / name, problem)
            return None
        return checkpoint

    def write(self, name: str, rows: int, data: bytes, notes: Mapping[str, Any]) -> Checkpoint:
        """Put a whole file in place, then the record that vouches for it; a kill in between leaves no record.

        Neither is made to outlive a power cut: what that garbles does not verify and is made again. Who publishes the
        file syncs it.
        """
        path = f"{self.folder.name}/{name}"
        with outputs_errors(f"cannot write {self.folder / name}"):
            if self.to_publish:
                file = put_file(self.folder.parent, path, rows, data, scratch=self.records, sync=False)
            else:
                file = record(path, rows, data)
                replace_file(self.folder / name, data, scratch=self.records, sync=False)
            checkpoint = Checkpoint(file, notes)
            content = _content(checkpoint)
            document = json.dumps({**content, "content_sha256": canonical_sha256(content)})
            replace_file(self.records / f"{name}.json", document.encode(), sync=False)
        return checkpoint


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"file": asdict(checkpoint.file), "notes": checkpoint.notes}
