"""One published run: its manifest, its tables, and whether every byte of it is as published.

A run never changes once visible, but for pruning: then its predictions are deleted, and a record of that is added.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError, PrunedError, StoreError, shown
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.manifest import Manifest, Pruned, RunName
from mnist_pipeline.runs.outputs import Outputs
from mnist_pipeline.store.base import Location, exists, is_empty
from mnist_pipeline.store.files import (
    FileRecord,
    prefetch,
    read_checked,
    read_document,
    read_if_there,
    read_recorded,
)


@dataclass(frozen=True)
class Run:
    """A published run.

    Attributes:
        outputs: the outputs folder it is in.
        name: what its run_id says.
        stored_in: the folder of its manifest, if that is another than the one of published runs.
        verified: whether this command has verified or written its files: they are not hashed again, and the checksums
            of their pages guard what is read.
    """

    outputs: Outputs
    name: RunName
    stored_in: str = ""
    verified: bool = False

    @property
    def folder(self) -> Location:
        """The folder of its manifest, for people and for other tools."""
        return self.outputs.path(self._folder)

    @property
    def files(self) -> Location:
        """The folder that the paths in the manifest are relative to: that of the manifest, but in a bucket."""
        return self.outputs.path(self._files)

    def exists(self) -> bool:
        """Whether there is anything of the run, sound or not; without renames, whether it is published."""
        store = self.outputs.store
        if not store.has_rename:  # a manifest makes a run, and other objects below its name do not
            return exists(store, f"{self._folder}/{layout.MANIFEST}")
        try:
            return not is_empty(store, self._folder)
        except StoreError:  # what cannot be looked through is there, and whoever reads it hears of the reason
            return True

    def manifest(self) -> Manifest:
        """Read and check the manifest.

        Raises:
            DamagedError: it is missing or altered, or belongs to another run.
            StoreError: it cannot be read.
        """
        name = f"{self._folder}/{layout.MANIFEST}"
        path = self.outputs.path(name)
        manifest = Manifest.from_bytes(read_document(self.outputs.store, name, "a manifest"), str(path))
        if manifest.run_id != self.name.run_id:
            raise DamagedError(f"{path}: expected the manifest of {self.name.run_id}, got {manifest.run_id}'s")
        return manifest

    def pruned(self) -> Pruned | None:
        """The record of when its predictions and report were pruned, or None.

        Raises:
            DamagedError: it is altered.
            StoreError: it cannot be read.
        """
        name = f"{self._folder}/{layout.PRUNED}"
        data = read_if_there(self.outputs.store, name)
        if data is None:
            return None
        pruned = Pruned.from_bytes(data, str(self.outputs.path(name)))
        if pruned.run_id != self.name.run_id:
            raise DamagedError(
                f"{self.outputs.path(name)}: expected the record of {self.name.run_id}, got {shown(pruned.run_id)}"
            )
        return pruned

    def paths(self, table: tables.Table) -> list[Location]:
        """The files of a table, in order; none of one that was added after the run was published.

        Raises:
            DamagedError: the manifest is missing or altered, or the run has no such table.
            PrunedError: its predictions were pruned.
        """
        return [self.files / file.path for file in self._files_of(table)]

    def read(self, table: tables.Table, columns: list[str] | None = None) -> pa.Table:
        """A whole table of the run, each file's bytes checked against the manifest before they are parsed.

        One that was added after the run was published has no rows.

        Raises:
            DamagedError: a file is missing or altered, or the run has no such table.
            PrunedError: its predictions were pruned.
        """
        found = [*self.read_files(table, columns)]
        return pa.concat_tables(found) if found else table.empty.select(columns or table.schema.names)

    def read_files(self, table: tables.Table, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """A table of the run file by file, in order, each checked as by `read`; one at a time is decoded.

        Raises:
            DamagedError: a file is missing or altered, or the run has no such table.
            PrunedError: its predictions were pruned.
        """
        files = self._files_of(table)
        read = functools.partial(read_recorded if self.verified else read_checked, self.outputs.store, self._files)
        for file, data in zip(files, prefetch(read, files), strict=True):
            yield tables.decode(table, data, str(self.files / file.path), columns, self.name.key_columns)

    def decode(self, file: FileRecord, columns: list[str]) -> pa.Table:
        """Columns of one of its files of predictions, its bytes checked first.

        Raises:
            DamagedError: it is missing or altered.
        """
        data = read_checked(self.outputs.store, self._files, file)
        return tables.decode(tables.PREDICTIONS, data, file.path, columns, self.name.key_columns)

    @property
    def predictions(self) -> str:
        """The name of the folder of its prediction files."""
        return f"{self._files}/{layout.PREDICTIONS}"

    def problems(self) -> list[str]:
        """Everything about the run that is not as its manifest says; empty if it verifies."""
        store = self.outputs.store
        if self.verified:
            return []
        try:
            manifest, pruned = self.manifest(), self.pruned()
            if manifest.tally is not None:  # schema version 1 did not keep it
                manifest.counted()
        except DamagedError as error:
            return [str(error)]

        def problem(file: FileRecord) -> str | None:
            try:
                read_checked(store, self._files, file)
                return None
            except DamagedError as error:
                return str(error)

        deleted = files_of_table(manifest, tables.PREDICTIONS) if pruned else []
        found = [each for each in prefetch(problem, [file for file in manifest.files if file not in deleted]) if each]
        if not store.has_rename:  # attempts that were not published leave their files beside these
            return found
        present = {entry.name.removeprefix(f"{self._folder}/") for entry in store.list(self._folder)}
        extra = present - {layout.MANIFEST, layout.PRUNED} - {file.path for file in manifest.files}
        return found + [f"{self.folder / path}: expected no such file" for path in sorted(extra)]

    @property
    def _folder(self) -> str:
        return self.stored_in or layout.run_folder(self.name.run_id)

    @property
    def _files(self) -> str:
        return self.outputs.files_of(self._folder, self.name.run_id)

    def _files_of(self, table: tables.Table) -> list[FileRecord]:
        if table is tables.PREDICTIONS and (pruned := self.pruned()):
            raise PrunedError(
                f"run {self.name.run_id}: expected its predictions, got none: they were pruned at "
                f"{pruned.pruned_at:%Y-%m-%d %H:%M} UTC; its other tables are there, and `mnist-pipeline run "
                f"--run-date {self.name.run_date}` with the same weights and settings brings them back"
            )
        if not (found := files_of_table(self.manifest(), table)) and table not in tables.ADDED:
            raise DamagedError(f"run {self.name.run_id}: expected a {table.name} table, got none in its manifest")
        return found


def table_of(file: FileRecord) -> str:
    """The name of the table that a published file holds, all of it or a part."""
    return re.split("[/.-]", file.path)[0]


def files_of_table(manifest: Manifest, table: tables.Table) -> list[FileRecord]:
    """The files of a run that hold a table, in order."""
    return [file for file in manifest.files if table_of(file) == table.name]
