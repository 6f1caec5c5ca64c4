"""Finished files with a record beside them that says what they must be: the whole resume mechanism.

Present and verified: reuse. Present and damaged: say so and redo. Absent: do.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mnist_pipeline.storage.files import FileRecord, outputs_errors, record, replace_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A finished file: its record, and what its maker noted about it."""

    file: FileRecord
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Pieces:
    """Files in `folder`, which others may read as one table; records and unfinished files in `records`."""

    folder: Path
    records: Path

    def find(self, name: str) -> Piece | None:
        """The piece of that name if it is finished and its bytes are what its record says, else None."""
        try:
            document = json.loads((self.records / f"{name}.json").read_bytes())
            piece = Piece(FileRecord(**document["file"]), document["notes"])
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            logger.warning("%s has an unreadable record and will be made again: %s", self.folder / name, error)
            return None
        if problem := piece.file.problem_with(data):
            logger.warning("%s is damaged and will be made again: %s", self.folder / name, problem)
            return None
        return piece

    def finish(self, name: str, rows: int, data: bytes, notes: Mapping[str, Any]) -> Piece:
        """Put a whole file in place, then the record that vouches for it; a kill in between leaves no record."""
        piece = Piece(record(f"{self.folder.name}/{name}", rows, data), notes)
        document = json.dumps({"file": asdict(piece.file), "notes": piece.notes}, indent=1)
        with outputs_errors(f"cannot write {self.folder / name}"):
            replace_file(self.folder / name, data, scratch=self.records)
            replace_file(self.records / f"{name}.json", document.encode())
        return piece
