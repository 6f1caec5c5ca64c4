"""Every Parquet table we write: its Arrow schema in full, and how it becomes bytes and comes back.

Schemas are declared here and nowhere else; nothing is inferred. Each column carries a description, from
which the data dictionary in the docs is generated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline.core.images import DIGITS, PIXELS
from mnist_pipeline.errors import DamagedError

# Raised when a column is added, dropped, or changes its type or meaning.
SCHEMA_VERSION = "1"

PIXEL_BYTES = 4 * PIXELS
# Row groups of a shard: a batch that has just been decoded is then still in the processor's cache.
SHARD_ROW_GROUP = 2048

# A date column would reach pandas as Python objects; a timestamp at midnight arrives as datetime64.
RUN_DATE = pa.timestamp("us")
RUN_ID = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, whether nulls may occur, what it means."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False

    @property
    def pandas_dtype(self) -> str | None:
        """The pandas extension dtype that keeps nulls, for nullable integers and booleans."""
        if not self.nullable or not (pa.types.is_integer(self.type) or pa.types.is_boolean(self.type)):
            return None
        return "boolean" if pa.types.is_boolean(self.type) else str(self.type).replace("int", "Int")


@dataclass(frozen=True)
class Table:
    """A table: its columns in order, what a row is, and how it is laid out in Parquet."""

    name: str
    row: str
    columns: tuple[Column, ...]
    metadata: Mapping[str, str]
    layout: Mapping[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with column descriptions and what pandas needs to restore nullable dtypes."""
        fields = [
            pa.field(column.name, column.type, column.nullable, {"description": column.description})
            for column in self.columns
        ]
        pandas = {
            "columns": [
                {
                    "name": column.name,
                    "field_name": column.name,
                    "pandas_type": str(column.type),
                    "numpy_type": column.pandas_dtype,
                    "metadata": None,
                }
                for column in self.columns
                if column.pandas_dtype
            ],
            "index_columns": [],
            "column_indexes": [],
        }
        return pa.schema(fields, {**self.metadata, "schema_version": SCHEMA_VERSION, "pandas": json.dumps(pandas)})


_RUN_COLUMNS = (
    Column("run_id", RUN_ID, "the run this row was published by"),
    Column("run_date", RUN_DATE, "UTC calendar date the run stands for, at midnight"),
)
_SET_COLUMNS = (
    Column("dataset", pa.string(), "name of the data set"),
    Column("split", pa.string(), "split of the data set"),
)
_SMALL: Mapping[str, Any] = {"compression": "zstd", "use_dictionary": ["run_id"]}
_FLOATS = ("confidence", *(f"proba_{digit}" for digit in range(DIGITS)))

IMAGES = Table(
    name="images",
    row="one image, normalised and flattened",
    columns=(
        Column("image_id", pa.int64(), "position of the image in its IDX file, from 0"),
        Column("label", pa.int8(), "the true digit, 0-9; null where the data set has no labels", nullable=True),
        Column("pixels", pa.binary(PIXEL_BYTES), "784 little-endian float32 in 0..1, row by row from the top left"),
    ),
    metadata={
        "pixels": json.dumps(
            {"dtype": "<f4", "shape": [PIXELS], "image_shape": [28, 28], "order": "row-major", "range": [0, 1]}
        ),
        "read_pixels": "np.frombuffer(b''.join(df['pixels']), '<f4').reshape(-1, 784)",
    },
    # Fixed-size binary with lz4 and no dictionary decodes several times as fast as any list of floats.
    layout={"compression": "lz4", "use_dictionary": False, "write_statistics": ["image_id", "label"]},
)
PREDICTIONS = Table(
    name="predictions",
    row="one image of the run, in image order",
    columns=(
        *_RUN_COLUMNS,
        Column("image_id", pa.int64(), "position of the image in its IDX file, from 0"),
        Column("label", pa.int8(), "the true digit, 0-9; null where the data set has no labels", nullable=True),
        Column("prediction", pa.int8(), "the digit guessed, 0-9: the most probable, the lowest among equals"),
        Column("correct", pa.bool_(), "prediction equals label; null where there is no label", nullable=True),
        Column("confidence", pa.float32(), "probability of the predicted digit, 0..1"),
        *(Column(f"proba_{digit}", pa.float32(), f"probability of digit {digit}, 0..1") for digit in range(DIGITS)),
    ),
    metadata={},
    layout={
        "compression": "zstd",
        "use_dictionary": ["run_id"],
        "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT") | {"image_id": "DELTA_BINARY_PACKED"},
    },
)
SUMMARY = Table(
    name="summary",
    row="one digit of the run, ten rows",
    columns=(
        *_RUN_COLUMNS,
        *_SET_COLUMNS,
        Column("digit", pa.int8(), "the digit this row is about, 0-9"),
        Column("images", pa.int64(), "images labelled with this digit"),
        Column("predicted", pa.int64(), "images predicted as this digit, labelled or not"),
        Column("correct", pa.int64(), "images labelled and predicted as this digit"),
        Column("accuracy", pa.float64(), "correct / images (the digit's recall); null without images", nullable=True),
        Column("accuracy_low", pa.float64(), "lower end of accuracy's 95 % Wilson interval", nullable=True),
        Column("accuracy_high", pa.float64(), "upper end of accuracy's 95 % Wilson interval", nullable=True),
        Column("precision", pa.float64(), "correct / labelled images predicted as this digit", nullable=True),
        Column("f1", pa.float64(), "harmonic mean of accuracy and precision", nullable=True),
        Column("mean_confidence", pa.float64(), "mean confidence over the digit's images, 0..1", nullable=True),
        Column("top_wrong_prediction", pa.int8(), "most common wrong prediction; null without errors", nullable=True),
        Column("top_wrong_count", pa.int64(), "images of this digit that got that prediction"),
    ),
    metadata={},
    layout=_SMALL,
)
CONFUSION = Table(
    name="confusion",
    row="one pair of label and prediction; a null label where images have none",
    columns=(
        Column("label", pa.int8(), "the true digit, 0-9; null for images without a label", nullable=True),
        Column("prediction", pa.int8(), "the digit guessed, 0-9"),
        Column("count", pa.int64(), "images with this label and this prediction"),
    ),
    metadata={},
    layout=_SMALL,
)
HISTORY = Table(
    name="history",
    row="one digit of one run, over all published runs",
    columns=(
        *SUMMARY.columns,
        Column("published_at", pa.timestamp("us", "UTC"), "when the run was published"),
    ),
    metadata={},
    layout=_SMALL,
)
TABLES = (IMAGES, PREDICTIONS, SUMMARY, CONFUSION, HISTORY)


def build(table: Table, columns: Mapping[str, Any]) -> pa.Table:
    """An Arrow table of exactly the declared columns; a null where none is allowed is our own bug."""
    schema = table.schema
    arrays = [_array(columns[field.name], field.type) for field in schema]
    built = pa.Table.from_arrays(arrays, schema=schema)
    for field in schema:
        assert field.nullable or built[field.name].null_count == 0, f"{table.name}.{field.name} holds nulls"
    return built


def constant(value: object, type: pa.DataType, rows: int) -> pa.Array:  # noqa: A002  Arrow's word
    """A column that holds one value throughout, dictionary-encoded if its type says so."""
    if pa.types.is_dictionary(type):
        indices = pa.array(np.zeros(rows, np.int32))
        return pa.DictionaryArray.from_arrays(indices, pa.array([value], type.value_type))
    return pa.repeat(pa.scalar(value).cast(type), rows)


def encode(table: Table, data: pa.Table, row_group_rows: int | None = None) -> bytes:
    """Write a whole Parquet file in memory, so that no half-written one can ever carry a final name.

    Pages carry checksums: without them most flipped bits would read back as wrong numbers, silently.
    """
    assert data.schema.equals(table.schema, check_metadata=True), f"{table.name}: not the declared schema"
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink, row_group_size=row_group_rows, write_page_checksum=True, **table.layout)
    return bytes(sink.getvalue())


def decode(table: Table, data: bytes, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole Parquet file from memory, its page checksums verified.

    Raises:
        DamagedError: the bytes are not Parquet, a checksum fails, or the schema is another one.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        found = file.schema_arrow
        content = file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"{name}: expected a {table.name} table, got a damaged file ({error})") from error
    version = (found.metadata or {}).get(b"schema_version", b"none").decode(errors="replace")
    if not found.equals(table.schema) or version != SCHEMA_VERSION:
        raise DamagedError(
            f"{name}: expected the columns of {table.name}, schema version {SCHEMA_VERSION}, "
            f"got {found.names}, version {version}; "
            "was it written by another version of this package?"
        )
    return content


def _array(values: Any, type: pa.DataType) -> pa.Array:  # noqa: A002  Arrow's word
    return values if isinstance(values, pa.Array) else pa.array(values, type)
