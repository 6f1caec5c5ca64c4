"""Published verdicts: one folder for each run, set of references and gates. A verdict never changes once visible.

Judges nothing itself.
"""

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from mnist_pipeline import tables
from mnist_pipeline.core.gates import Outcome
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs.lookup import read_checked, table_of
from mnist_pipeline.runs.manifest import RunContent
from mnist_pipeline.runs.quarantine import move_to_quarantine
from mnist_pipeline.runs.staging import StagingDirectory, data_folder, staging_directory
from mnist_pipeline.store.documents import ChecksummedDocument, canonical_sha256
from mnist_pipeline.store.files import (
    FileRecord,
    outputs_errors,
    publish_files,
    put_file,
    put_finished,
    read_if_there,
    remove_folder,
    subfolders,
)
from mnist_pipeline.store.objects import Location, ObjectPath

logger = logging.getLogger(__name__)

VERDICTS = "verdicts"
DOCUMENT = "verdict.json"
VERDICT_ID_DIGITS = 12
STAGING_PREFIX = re.compile(r"^verdict-[0-9a-f]{12}-")  # of the name of a stage, before the run_id


class ReferenceRecord(BaseModel):
    """A run that a verdict compared with, and what was found on the way."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    against: str
    run_id: str
    sha256: str | None  # over the hashes of its files; None if they could not be known
    problem: str | None
    same_images: bool
    same_weights: bool
    changed: int | None


class VerdictDocument(ChecksummedDocument):
    """What a verdict says and what it is made from. Paths are relative to its folder."""

    kind: ClassVar[str] = "a verdict"
    checksum_field: ClassVar[str] = "verdict_sha256"

    verdict_id: str
    run_id: str
    run_sha256: str  # over the hashes of the run's files
    outcome: Outcome
    notes: tuple[str, ...]
    references: tuple[ReferenceRecord, ...]
    gates: Mapping[str, Any]
    versions: Mapping[str, str]
    judged_at: datetime
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class PublishedVerdict:
    """A published verdict."""

    folder: Location
    document: VerdictDocument

    @property
    def outcome(self) -> Outcome:
        """What the document says; none where no gate was judged, which earlier versions called a pass."""
        judged = sum(file.rows for file in self.document.files if table_of(file) == tables.GATES.name)
        return self.document.outcome if judged else "none"

    @property
    def files(self) -> Location:
        """What the paths in the document are relative to: its folder, but in an object store."""
        if isinstance(self.folder, ObjectPath):
            outputs = self.folder.parent.parent.parent
            return data_folder(outputs, _staging_name(self.document.run_id, self.document.verdict_id))
        return self.folder

    def read(self, table: tables.Table) -> pa.Table:
        """A table of the verdict, its bytes checked against the document before they are parsed.

        Raises:
            DamagedError: the file is missing or altered, or the verdict has no such table.
        """
        for file in self.document.files:
            if table_of(file) == table.name:
                return tables.decode(table, read_checked(self.files, file), str(self.files / file.path))
        raise DamagedError(f"{self.folder}: expected a {table.name} table, got none in its document")


def verdict_id(run: RunContent, references: Mapping[str, RunContent], gates: Mapping[str, Any]) -> str:
    """The name of the verdict on a run by these references (by "against") and gates."""
    named = {against: asdict(reference) for against, reference in references.items()}
    return canonical_sha256({"run": asdict(run), "references": named, "gates": dict(gates)})[:VERDICT_ID_DIGITS]


def find_verdict(outputs: Location, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run, or None.

    Raises:
        DamagedError: its document is missing or altered, or is that of another verdict.
    """
    folder = outputs / VERDICTS / run_id / name
    path = folder / DOCUMENT
    data = read_if_there(path, "a verdict")
    if data is None:
        if isinstance(folder, ObjectPath) or not folder.exists():
            return None
        raise DamagedError(f"{folder}: expected {DOCUMENT}, got none")
    document = VerdictDocument.from_bytes(data, str(path))
    if (document.run_id, document.verdict_id) != (run_id, name):
        raise DamagedError(f"{folder}: expected the verdict of that name, got {document.run_id}/{document.verdict_id}")
    return PublishedVerdict(folder, document)


def sound_verdict(outputs: Location, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run if every byte of it is as published, or None: a damaged one is set aside.

    Raises:
        OutputsError: it cannot be moved.
    """
    folder = outputs / VERDICTS / run_id / name
    try:
        return read_whole(outputs, run_id, name)
    except DamagedError:
        with outputs_errors(f"cannot set {folder} aside"):
            move_to_quarantine(outputs, folder, DOCUMENT, lambda: _damage(outputs, run_id, name))
    return find_verdict(outputs, run_id, name)  # that of another, if it was faster


def read_whole(outputs: Location, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run, every byte of it checked, or None.

    Raises:
        DamagedError: its document or a table is missing or altered.
    """
    published = find_verdict(outputs, run_id, name)
    if published is not None:
        for file in published.document.files:
            read_checked(published.files, file)
    return published


def _damage(outputs: Location, run_id: str, name: str) -> str | None:
    try:
        read_whole(outputs, run_id, name)
    except DamagedError as error:
        return str(error)
    return None


def newest_verdict(outputs: Location, run: RunContent) -> PublishedVerdict | None:
    """The verdict on a run, as it is now, that was published last; damaged ones are passed over with a warning."""
    found = []
    folder = outputs / VERDICTS / run.run_id
    for path in sorted(subfolders(folder)):
        try:
            verdict = find_verdict(outputs, run.run_id, path.name)
        except DamagedError as error:
            logger.warning("passed over: %s", error)
            continue
        if verdict and verdict.document.run_sha256 == run.sha256:
            found.append(verdict)
    return max(found, key=lambda verdict: verdict.document.judged_at, default=None)


class StagedVerdict:
    """The stage in which the files of one verdict gather."""

    def __init__(self, staging: StagingDirectory) -> None:
        self.staging = staging
        self.files: list[FileRecord] = []

    def add(self, table: tables.Table, data: pa.Table) -> None:
        """Write one small table whole."""
        encoded = tables.encode(table, data)
        self.files.append(
            put_file(self.staging.run, f"{table.name}.parquet", data.num_rows, encoded, self.staging.records)
        )

    @contextmanager
    def writer(self, table: tables.Table) -> Iterator[tables.Writer]:
        """Write one table of any size, row by row."""
        with ExitStack() as stack:
            folder = self.staging.run
            scratch = Path(stack.enter_context(TemporaryDirectory())) if isinstance(folder, ObjectPath) else folder
            path = scratch / f"{table.name}.parquet"
            writer = tables.Writer(table, path)
            yield writer
            writer.close()
            self.files.append(put_finished(folder, path, writer.rows))


@contextmanager
def staged_verdict(outputs: Location, run_id: str, name: str) -> Iterator[StagedVerdict]:
    """A folder for the files of a verdict; gone after the block, whatever was not published.

    Raises:
        OutputsError: the outputs folder cannot be written.
    """
    with (
        outputs_errors(f"cannot write the verdict on {run_id}"),
        staging_directory(outputs, _staging_name(run_id, name)) as staging,
    ):
        if isinstance(staging.folder, ObjectPath):
            yield StagedVerdict(staging)
            return
        run = staging.folder / "run"
        shutil.rmtree(run)  # what an attempt that was killed has left
        run.mkdir()
        try:
            yield StagedVerdict(staging)
        finally:  # a verdict takes seconds: unlike a run's, its parts are not worth keeping for the next attempt
            remove_folder(staging.folder)


def commit_verdict(outputs: Location, staged: StagedVerdict, document: VerdictDocument) -> PublishedVerdict:
    """Publish a verdict in one step; if it is there already, that one stands.

    Raises:
        OSError: the folder cannot be written.
        DamagedError: the verdict that is there is altered.
    """
    target = outputs / VERDICTS / document.run_id / document.verdict_id
    publish_files(staged.staging.run, target, DOCUMENT, document.to_bytes(), staged.staging.records)
    published = find_verdict(outputs, document.run_id, document.verdict_id)
    assert published is not None, "published a moment ago"
    return published


def _staging_name(run_id: str, name: str) -> str:
    return f"verdict-{name}-{run_id}"
