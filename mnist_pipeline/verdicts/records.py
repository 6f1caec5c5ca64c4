"""Published verdicts: one folder for each run, set of references and gates. A verdict never changes once visible.

Judges nothing itself.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from mnist_pipeline import tables
from mnist_pipeline.core.gates import DIFFERENCES, Outcome
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import RunContent, RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.runs.quarantine import move_to_quarantine
from mnist_pipeline.runs.run import table_of
from mnist_pipeline.runs.staging import StagingDirectory, staging_directory
from mnist_pipeline.store.base import Location, is_empty
from mnist_pipeline.store.disk import translated
from mnist_pipeline.store.documents import ChecksummedDocument, Count, Moment, Sha256, canonical_sha256
from mnist_pipeline.store.files import FileRecord, read_checked, read_if_there

logger = logging.getLogger(__name__)

VERDICT_ID_DIGITS = 12
_MIRRORED = {"value": "value", "low": "high", "high": "low"}


class ReferenceRecord(BaseModel):
    """A run that a verdict compared with, and what was found on the way."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    against: str
    run_id: str
    sha256: Sha256 | None  # over the hashes of its files; None if they could not be known
    problem: str | None
    same_images: bool
    same_labels: bool = True  # an earlier version said so in `same_images`
    same_weights: bool
    changed: Count | None


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
    judged_at: Moment
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class PublishedVerdict:
    """A published verdict."""

    outputs: Outputs
    document: VerdictDocument

    @property
    def folder(self) -> Location:
        """The folder of its document, for people and for other tools."""
        return self.outputs.path(self._folder)

    @property
    def files(self) -> Location:
        """The folder that the paths in the document are relative to: that of the document, but in a bucket."""
        return self.outputs.path(self._files)

    @property
    def outcome(self) -> Outcome:
        """What the document says; none where no gate was judged, which earlier versions called a pass."""
        judged = sum(file.rows for file in self.document.files if table_of(file) == tables.GATES.name)
        return self.document.outcome if judged else "none"

    @property
    def changed(self) -> int | None:
        """Changed predictions against the first reference over the same images, or None."""
        return next((each.changed for each in self.document.references if each.changed is not None), None)

    def read(self, table: tables.Table) -> pa.Table:
        """A table of the verdict, its bytes checked against the document before they are parsed.

        Raises:
            DamagedError: the file is missing or altered, or the verdict has no such table.
        """
        for file in self.document.files:
            if table_of(file) == table.name:
                data = read_checked(self.outputs.store, self._files, file)
                name = RunName.parse(self.document.run_id)
                found = tables.decode(table, data, str(self.files / file.path), keys=name.key_columns if name else None)
                of_first = table is tables.GATES and self.document.schema_version == tables.FIRST_VERSION
                return _as_differences(found) if of_first else found
        raise DamagedError(f"{self.folder}: expected a {table.name} table, got none in its document")

    def check(self) -> None:
        """Check every byte of its tables.

        Raises:
            DamagedError: a table is missing or altered.
        """
        for file in self.document.files:
            read_checked(self.outputs.store, self._files, file)

    @property
    def _folder(self) -> str:
        return layout.verdict_folder(self.document.run_id, self.document.verdict_id)

    @property
    def _files(self) -> str:
        staging = layout.verdict_staging(self.document.run_id, self.document.verdict_id)
        return self.outputs.files_of(self._folder, staging)


def verdict_id(run: RunContent, references: Mapping[str, RunContent], gates: Mapping[str, Any]) -> str:
    """The name of the verdict on a run by these references (by "against") and gates."""
    named = {against: asdict(reference) for against, reference in references.items()}
    return canonical_sha256({"run": asdict(run), "references": named, "gates": dict(gates)})[:VERDICT_ID_DIGITS]


def find_verdict(outputs: Outputs, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run, or None.

    Raises:
        DamagedError: its document is missing or altered, or is that of another verdict.
        StoreError: it cannot be read.
    """
    store, folder = outputs.store, layout.verdict_folder(run_id, name)
    document_name = f"{folder}/{layout.VERDICT}"
    path = outputs.path(document_name)
    data = read_if_there(store, document_name)
    if data is None:
        if not store.has_rename or is_empty(store, folder):
            return None
        raise DamagedError(f"{outputs.path(folder)}: expected {layout.VERDICT}, got none")
    document = VerdictDocument.from_bytes(data, str(path))
    if (document.run_id, document.verdict_id) != (run_id, name):
        raise DamagedError(
            f"{outputs.path(folder)}: expected the verdict of that name, got {document.run_id}/{document.verdict_id}"
        )
    return PublishedVerdict(outputs, document)


def sound_verdict(outputs: Outputs, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run if every byte of it is as published, or None; a damaged one is quarantined.

    Raises:
        StoreError: it cannot be moved.
    """
    try:
        return read_whole(outputs, run_id, name)
    except DamagedError:
        folder = layout.verdict_folder(run_id, name)
        move_to_quarantine(outputs, folder, layout.VERDICT, lambda: _damage(outputs, run_id, name))
    return find_verdict(outputs, run_id, name)  # that of another process, if it was faster


def read_whole(outputs: Outputs, run_id: str, name: str) -> PublishedVerdict | None:
    """The verdict of that name on that run, every byte of it checked, or None.

    Raises:
        DamagedError: its document or a table is missing or altered.
    """
    published = find_verdict(outputs, run_id, name)
    if published is not None:
        published.check()
    return published


def newest_verdict(outputs: Outputs, run: RunContent) -> PublishedVerdict | None:
    """The verdict on a run, as it is now, that was published last; damaged ones are logged and left out."""
    found = []
    for name in outputs.store.children(f"{layout.VERDICTS}/{run.run_id}"):
        try:
            verdict = find_verdict(outputs, run.run_id, name)
        except DamagedError as error:
            logger.warning("left out: %s", error)
            continue
        if verdict and verdict.document.run_sha256 == run.sha256:
            found.append(verdict)
    return max(found, key=lambda verdict: verdict.document.judged_at, default=None)


class StagedVerdict:
    """The staging directory in which the files of one verdict gather."""

    def __init__(self, staging: StagingDirectory) -> None:
        self.staging = staging
        self.files: list[FileRecord] = []

    def add(self, table: tables.Table, data: pa.Table) -> None:
        """Write one small table whole."""
        self.files.append(self.staging.put(f"{table.name}.parquet", data.num_rows, tables.encode(table, data)))

    @contextmanager
    def writer(self, table: tables.Table) -> Iterator[tables.Writer]:
        """Write one table of any size, row by row, by way of a temporary file."""
        folder = self.staging.outputs.store.local_folder(self.staging.folder)
        with (
            translated(f"cannot write {table.name} in the folder for temporary files"),
            TemporaryDirectory(prefix="mnist-pipeline-", dir=folder, ignore_cleanup_errors=True) as scratch,
        ):
            writer = tables.Writer(table, path := Path(scratch, f"{table.name}.parquet"))
            yield writer
            writer.close()
            self.files.append(self.staging.put(path.name, writer.rows, path))


@contextmanager
def staged_verdict(outputs: Outputs, run_id: str, name: str) -> Iterator[StagedVerdict]:
    """A staging directory for the files of a verdict; deleted after the block, whatever was not published.

    A verdict takes seconds: unlike a run's, its files are not worth keeping for the next attempt.

    Raises:
        StoreError: the outputs folder cannot be written.
    """
    store = outputs.store
    with staging_directory(outputs, layout.verdict_staging(run_id, name)) as staging:
        if not store.has_rename:
            yield StagedVerdict(staging)
            return
        store.delete(staging.files)  # what a killed attempt has left
        try:
            yield StagedVerdict(staging)
        finally:
            store.delete(staging.folder)


def commit_verdict(outputs: Outputs, staged: StagedVerdict, document: VerdictDocument) -> PublishedVerdict:
    """Publish a verdict in one step; if it is published already, that one stands.

    Raises:
        StoreError: the outputs folder cannot be written.
        DamagedError: the verdict that is published is altered.
    """
    target = layout.verdict_folder(document.run_id, document.verdict_id)
    outputs.store.publish(staged.staging.files, target, layout.VERDICT, document.to_bytes())
    published = find_verdict(outputs, document.run_id, document.verdict_id)
    assert published is not None, "published a moment ago"
    return published


def _as_differences(gates: pa.Table) -> pa.Table:
    """The gates of schema version 1, which counted a loss upwards, as those of this one."""
    rows = [
        {**row, **{name: row[other] and -row[other] for name, other in _MIRRORED.items()}}
        if row["gate"] in DIFFERENCES
        else row
        for row in gates.to_pylist()
    ]
    return tables.build(tables.GATES, {name: [row[name] for row in rows] for name in gates.column_names})


def _damage(outputs: Outputs, run_id: str, name: str) -> str | None:
    try:
        read_whole(outputs, run_id, name)
    except DamagedError as error:
        return str(error)
    return None
