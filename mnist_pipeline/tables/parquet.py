"""Encodes and decodes the declared tables as Parquet with page checksums, in memory or by appending to a file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline.errors import DamagedError, StoreError, listed, shown
from mnist_pipeline.tables.columns import column_of
from mnist_pipeline.tables.schemas import SCHEMA_VERSION, Table

FIRST_VERSION = "1"  # wrote no keys into some tables: read, and never written
WRITTEN_AT_ONCE = 100_000  # rows that a `Writer` buffers
# What a file may take in memory: a shard's worth at any rate, and more in relation to its size. LZ4 and RLE of blank
# images come to 255 times.
MAX_SMALL_BYTES = 64 << 20
MAX_RATIO = 256


def build(table: Table, columns: Mapping[str, Any]) -> pa.Table:
    """Build an Arrow table of exactly the declared columns; an unexpected null is a bug and fails an assertion."""
    schema = table.schema
    arrays = [_array(columns[field.name], field.type) for field in schema]
    built = pa.Table.from_arrays(arrays, schema=schema)
    for field in schema:
        assert field.nullable or built[field.name].null_count == 0, f"{table.name}.{field.name} holds nulls"
    return built


def constant(value: object, type: pa.DataType, rows: int) -> pa.Array:  # noqa: A002  Arrow's word
    """A column with the same value in every row, dictionary-encoded if its type says so."""
    if pa.types.is_dictionary(type):
        indices = column_of(np.zeros(rows, np.int32), type.index_type)
        return pa.DictionaryArray.from_arrays(indices, column_of([value], type.value_type))
    return pa.repeat(column_of([value], type)[0], rows)


def constants(table: Table, values: Mapping[str, object], rows: int) -> dict[str, pa.Array]:
    """The columns of the table among `values`, each with the same value in every row."""
    types = {column.name: column.type for column in table.columns}
    return {name: constant(value, types[name], rows) for name, value in values.items() if name in types}


def encode(table: Table, data: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a whole Parquet file in memory, so that no half-written one can ever carry a final name."""
    return encode_groups(table, [data], metadata)


def encode_groups(table: Table, groups: Iterable[pa.Table], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a whole Parquet file in memory, each item as a row group; one of them at a time is held.

    Pages have checksums: without them most bit flips would silently read back as wrong numbers.
    """
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata({**table.schema.metadata, **(metadata or {})})
    with _writer(table, sink, schema) as writer:
        for group in groups:
            assert group.schema.equals(table.schema, check_metadata=True), f"{table.name}: not the declared schema"
            writer.write_table(group.replace_schema_metadata(schema.metadata))
    return bytes(sink.getvalue())


class Writer:
    """Appends rows to one Parquet file with bounded memory, for tables that may not fit in memory.

    The file is complete only after `close`, and an incomplete file after an exception may look complete: write into a
    staging directory that is deleted on errors.
    """

    def __init__(self, table: Table, path: Path) -> None:
        self.table, self.rows = table, 0
        self._file = _writer(table, path, table.schema)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def append(self, data: pa.Table) -> None:
        """Add rows of exactly the declared columns."""
        if not data.num_rows:  # empty tables would accumulate without ever reaching the limit
            return
        self.rows += data.num_rows
        self._waiting.append(data)
        self._waiting_rows += data.num_rows
        if self._waiting_rows >= WRITTEN_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write the remaining rows and the footer."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._waiting:
            rows = pa.concat_tables(self._waiting).unify_dictionaries()
            self._file.write_table(rows, row_group_size=WRITTEN_AT_ONCE)
            self._waiting, self._waiting_rows = [], 0


def decode(
    table: Table,
    data: bytes,
    name: str,
    columns: Sequence[str] | None = None,
    keys: Mapping[str, object] | None = None,
) -> pa.Table:
    """Decode a Parquet file in memory and verify its page checksums.

    Args:
        table: what it has to be.
        data: the file.
        name: of the file, for messages.
        columns: which columns; all if None.
        keys: of the rows, by column: what schema version 1 did not write. A table without them is refused without.

    Returns:
        The columns as this version has them, in their order. A column that may be null and is not there is all nulls.

    Raises:
        DamagedError: the bytes are not Parquet, a checksum fails, they are another table or of another version, or
            would take more memory than a table of ours of that size.
        StoreError: there is no memory for it.
    """
    with _damage(table, name):
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        found = file.schema_arrow
    # The schema first, then the footer: a file of a few bytes may decode to any number of rows.
    version = (found.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    missing = [field for field in table.schema if found.get_field_index(field.name) < 0]
    known = {*(keys or {}), *(field.name for field in table.schema if field.nullable)}
    as_written = version == SCHEMA_VERSION and found.equals(table.schema)
    if not as_written and not (
        version in (SCHEMA_VERSION, FIRST_VERSION)
        and all(field.name in known for field in missing)
        and all(_is_read(field, table) for field in found)
    ):
        raise DamagedError(
            f"{name}: expected the columns of {table.name}, schema version {SCHEMA_VERSION}, "
            f"got {listed(found.names)}, version {shown(version)}; "
            "was it written by another version of this package?"
        )
    wanted = pa.schema([field for field in table.schema if columns is None or field.name in columns])
    stored = [field for field in wanted if field not in missing]
    limit = MAX_SMALL_BYTES + MAX_RATIO * len(data)
    if (size := _decoded_bytes(file.metadata, stored)) > limit:
        raise DamagedError(
            f"{name}: expected a {table.name} table that takes at most {limit:,} bytes in memory, got one of {size:,}"
        )
    with _damage(table, name):
        content = file.read(columns=[field.name for field in stored], use_threads=False)
        content.validate(full=True)  # an index beyond its dictionary, or text that is none, would end its readers
    if as_written:
        return content
    filled = dict.fromkeys((field.name for field in missing), None) | dict(keys or {})
    return pa.table(
        [
            constant(filled[field.name], field.type, content.num_rows) if field in missing
            else content[field.name]
            for field in wanted
        ],
        schema=wanted.with_metadata(table.schema.metadata),
    )  # fmt: skip


@contextmanager
def _damage(table: Table, name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise StoreError(f"{name}: expected memory for a {table.name} table, got {error}; make room") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{name}: expected a {table.name} table, got a damaged file ({error})") from error


def _decoded_bytes(footer: pq.FileMetaData, columns: Sequence[pa.Field]) -> int:
    """What columns may take in memory by the footer: their pages, and in each row a value or, of a text, all of a page.

    Accepted: the sizes are those that the file declares. Pages that hold more than that are decoded, each up to 2 GB.
    """
    types = {field.name: field.type for field in columns}
    size = 0
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if (type_ := types.get(chunk.path_in_schema)) is None:
                continue
            width = 4 if pa.types.is_dictionary(type_) or pa.types.is_string(type_) else type_.bit_width // 8 + 1
            if pa.types.is_string(type_) and chunk.has_dictionary_page:  # each row may be the longest one
                width += chunk.total_uncompressed_size
            size += chunk.total_uncompressed_size + width * max(group.num_rows, chunk.num_values)
    return size


def _is_read(found: pa.Field, table: Table) -> bool:
    """Whether a column of a file is one of the table, or one that a later version may have added."""
    index = table.schema.get_field_index(found.name)
    return bool(found.nullable) if index < 0 else bool(found.equals(table.schema.field(index)))


def _writer(table: Table, sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(sink, schema, write_page_checksum=True, **table.layout)


def _array(values: Any, type: pa.DataType) -> pa.Array:  # noqa: A002  Arrow's word
    return values if isinstance(values, pa.Array) else column_of(values, type)
