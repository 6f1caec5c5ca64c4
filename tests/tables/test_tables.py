import dataclasses
import json
import struct
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_pipeline import tables
from mnist_pipeline.errors import DamagedError, StoreError
from mnist_pipeline.tables import (
    CONFUSION,
    HISTORY,
    IMAGES,
    PREDICTIONS,
    SUMMARY,
    TABLES,
    Column,
    Table,
    parquet,
    schemas,
)

# The columns of each table as the first release of a schema version wrote them: name, type, whether it may be null.
COLUMNS = Path(__file__).with_name("columns.json")

every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def values_of(column: Column, rows: int, random: np.random.Generator, nulls: str) -> Any:
    """Any values a column may hold; of a nullable column some, none or all are null."""
    values: Any
    type = column.type  # noqa: A001  Arrow's word
    present = {"some": np.arange(rows) % 3 != 1, "none": np.ones(rows, bool), "all": np.zeros(rows, bool)}[
        nulls if column.nullable else "none"
    ]
    if pa.types.is_dictionary(type) and column.nullable:
        values = [["lost", "gained", "still wrong"][row // 3 % 3] for row in range(rows)]
        return pa.array([value if there else None for value, there in zip(values, present, strict=True)], type)
    if pa.types.is_dictionary(type):
        return tables.constant("2026-01-31-toy-test-0123456789ab", type, rows)
    if type == tables.RUN_DATE:
        return tables.constant(date(2026, 1, 31), type, rows)
    if pa.types.is_timestamp(type):
        moment = datetime(2026, 2, 1, 3, 4, 5, 678901, UTC)
        return pa.array([moment if there else None for there in present], type)
    if pa.types.is_fixed_size_binary(type):
        return pa.array([random.bytes(type.byte_width) for _ in range(rows)], type)
    if pa.types.is_string(type):
        values = [["toy", "other-set"][row % 2] for row in range(rows)]
    elif pa.types.is_boolean(type):
        values = random.integers(0, 2, rows).astype(bool).tolist()
    elif pa.types.is_floating(type):
        values = random.random(rows).astype(type.to_pandas_dtype()).tolist()
    elif pa.types.is_int8(type):
        values = random.integers(0, 10, rows).tolist()
    else:
        values = random.integers(0, 2**40, rows).tolist()
    return [value if there else None for value, there in zip(values, present, strict=True)]


def sample(table: Table, rows: int = 30, seed: int = 0, nulls: str = "some") -> pa.Table:
    random = np.random.default_rng(seed)
    return tables.build(table, {column.name: values_of(column, rows, random, nulls) for column in table.columns})


def write(folder: Path, table: Table, rows: int = 30, seed: int = 0, nulls: str = "some") -> Path:
    path = folder / f"part-{seed:05d}.parquet"
    path.write_bytes(tables.encode(table, sample(table, rows, seed, nulls)))
    return path


def footer_bytes(data: bytes) -> int:
    (size,) = struct.unpack("<I", data[-8:-4])
    return int(size) + 8


# What is written


@every_table
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_a_table_comes_back_with_every_value_its_schema_and_its_metadata(table: Table, rows: int) -> None:
    written = sample(table, rows)
    read = tables.decode(table, tables.encode(table, written), "x")
    assert read.equals(written)
    assert read.schema.equals(table.schema, check_metadata=True)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_shards_come_back_whatever_their_row_groups(rows: int, row_group_rows: int, seed: int) -> None:
    written = sample(IMAGES, rows, seed)
    data = tables.encode_groups(
        IMAGES, (written.slice(start, row_group_rows) for start in range(0, rows, row_group_rows))
    )
    assert tables.decode(IMAGES, data, "x").equals(written)
    assert pq.ParquetFile(pa.BufferReader(data)).num_row_groups == -(-rows // row_group_rows)


@every_table
def test_the_same_table_gives_the_same_bytes(table: Table) -> None:
    assert tables.encode(table, sample(table)) == tables.encode(table, sample(table))


def test_only_the_columns_asked_for_are_read() -> None:
    data = tables.encode(PREDICTIONS, sample(PREDICTIONS))
    assert tables.decode(PREDICTIONS, data, "x", ["image_id", "prediction"]).column_names == ["image_id", "prediction"]


@every_table
def test_every_page_of_floats_or_pixels_is_written_without_a_dictionary(table: Table) -> None:
    group = pq.ParquetFile(pa.BufferReader(tables.encode(table, sample(table)))).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    found = [column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings]
    many = ("predictions", "flips")  # rows
    texts = [
        name for name, dtype in PANDAS_DTYPES[table.name].items() if dtype in ("category", TEXT) and name != "image_key"
    ]
    assert found == (texts if table.name in many else texts[:1] if "run_id" in texts else [])


# What is declared


def test_columns_change_only_together_with_the_schema_version() -> None:
    """But tables, and columns that may be null, may be added: files without them are still read."""
    recorded = json.loads(COLUMNS.read_text())
    assert recorded.pop("schema_version") == tables.SCHEMA_VERSION, f"write {COLUMNS.name} anew"
    for table in TABLES:
        if table.name in recorded:
            now = [[column.name, str(column.type), column.nullable] for column in table.columns]
            before = recorded.pop(table.name)
            assert [column for column in now if column in before or not column[2]] == before, (
                f"the columns of {table.name} are not those of schema version {tables.SCHEMA_VERSION}: raise it"
            )
    assert not recorded, "a table is gone: raise SCHEMA_VERSION"


@every_table
def test_every_column_and_every_row_is_described(table: Table) -> None:
    assert table.row
    assert len({column.name for column in table.columns}) == len(table.columns)
    for field in table.schema:
        assert len(field.metadata[b"description"]) > 10


@every_table
def test_the_schema_says_its_version(table: Table, tmp_path: Path) -> None:
    metadata = pq.read_schema(write(tmp_path, table)).metadata
    assert metadata[b"schema_version"] == tables.SCHEMA_VERSION.encode()


def test_pixels_can_be_read_as_the_metadata_of_the_shard_says(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGES)
    recipe = pq.read_schema(path).metadata[b"read_pixels"].decode()
    pixels = eval(recipe, {"np": np, "df": pd.read_parquet(path)})
    assert pixels.shape == (30, 784)
    assert pixels.tobytes() == b"".join(sample(IMAGES)["pixels"].to_pylist())
    described = json.loads(pq.read_schema(path).metadata[b"pixels"])
    assert described == {
        "dtype": "<f4",
        "shape": [784],
        "image_shape": [28, 28],
        "order": "row-major",
        "range": [0, 1],
    }


def test_run_date_is_midnight_and_never_another_hour() -> None:
    column = tables.constant(date(2026, 3, 29), tables.RUN_DATE, 2)  # a day with 23 hours in Europe
    assert column.to_pylist() == [datetime(2026, 3, 29)] * 2


# What readers see, by their defaults

TEXT = str(pd.Series(["text"]).dtype)  # object in pandas 2, str in pandas 3
RUN_DTYPES = {"run_id": "category", "run_date": "datetime64[us]", "dataset": TEXT, "split": TEXT}
AGAINST_DTYPES = {**RUN_DTYPES, "verdict_id": "category", "against": TEXT, "reference_run_id": "category"}
SUMMARY_DTYPES = {
    **RUN_DTYPES,
    "digit": "int8",
    "images": "int64",
    "predicted": "int64",
    "correct": "int64",
    "accuracy": "float64",
    "accuracy_low": "float64",
    "accuracy_high": "float64",
    "precision": "float64",
    "f1": "float64",
    "mean_confidence": "float64",
    "top_wrong_prediction": "Int8",
    "top_wrong_count": "int64",
}
COUNT_DTYPES = {"counts": "bool", "is_of_date": "bool", "is_latest": "bool"}
PANDAS_DTYPES = {
    "images": {"image_id": "int64", "image_key": TEXT, "label": "Int8", "pixels": "object"},
    "predictions": {
        **RUN_DTYPES,
        "image_id": "int64",
        "image_key": TEXT,
        "label": "Int8",
        "prediction": "int8",
        "correct": "boolean",
        "confidence": "float32",
        **{f"proba_{digit}": "float32" for digit in range(10)},
    },
    "summary": SUMMARY_DTYPES,
    "confusion": {**RUN_DTYPES, "label": "Int8", "prediction": "int8", "count": "int64"},
    "reliability": {
        **RUN_DTYPES,
        "bin": "int8",
        "low": "float64",
        "high": "float64",
        "images": "int64",
        "correct": "int64",
        "mean_confidence": "float64",
        "accuracy": "float64",
        "accuracy_low": "float64",
        "accuracy_high": "float64",
    },
    "inputs": {**RUN_DTYPES, "statistic": TEXT, "low": "float64", "high": "float64", "images": "int64"},
    "comparison": {
        **AGAINST_DTYPES,
        "digit": "Int8",
        "images": "int64",
        "correct": "int64",
        "images_before": "int64",
        "correct_before": "int64",
        "both_right": "Int64",
        "lost": "Int64",
        "gained": "Int64",
        "difference": "float64",
        "low": "float64",
        "high": "float64",
        "p": "float64",
        "p_holm": "float64",
        "method": TEXT,
    },
    "flips": {
        **AGAINST_DTYPES,
        "image_id": "int64",
        "image_key": TEXT,
        "label": "Int8",
        "before": "int8",
        "now": "int8",
        "confidence_before": "float32",
        "confidence_now": "float32",
        "direction": "category",
    },
    "gates": {
        **RUN_DTYPES,
        "verdict_id": "category",
        "gate": TEXT,
        "against": TEXT,
        "digit": "Int8",
        "outcome": TEXT,
        "bound": "float64",
        "value": "float64",
        "low": "float64",
        "high": "float64",
        "confidence": "float64",
        "p": "float64",
        "detectable": "float64",
        "reason": TEXT,
    },
    "runs": {
        **RUN_DTYPES,
        "images": "int64",
        "labelled": "int64",
        "correct": "int64",
        "accuracy": "float64",
        "accuracy_low": "float64",
        "accuracy_high": "float64",
        "top2_accuracy": "float64",
        "nll": "float64",
        "nll_error": "float64",
        "brier": "float64",
        "brier_error": "float64",
        "ece": "float64",
        "ece_noise": "float64",
        "verdict_id": "category",
        "outcome": TEXT,
        "changed": "Int64",
        "standing": TEXT,
        **COUNT_DTYPES,
        "counted_at": "datetime64[us, UTC]",
        "images_sha256": TEXT,
        "labels_sha256": TEXT,
        "weights_sha256": TEXT,
        "shard_set": TEXT,
        "batch_rows": "int64",
        "shard_rows": "int64",
        "engine": TEXT,
        "evaluated_at": "datetime64[us, UTC]",
        "published_at": "datetime64[us, UTC]",
        "seconds": "float64",
        "pruned_at": "datetime64[us, UTC]",
    },
    "history": {
        **SUMMARY_DTYPES,
        "weights_sha256": TEXT,
        "outcome": TEXT,
        "published_at": "datetime64[us, UTC]",
        **COUNT_DTYPES,
    },
}
DUCKDB_TYPES = {
    "category": "VARCHAR",
    "datetime64[us]": "TIMESTAMP",
    "datetime64[us, UTC]": "TIMESTAMP WITH TIME ZONE",
    TEXT: "VARCHAR",
    "int8": "TINYINT",
    "Int8": "TINYINT",
    "int64": "BIGINT",
    "Int64": "BIGINT",
    "bool": "BOOLEAN",
    "boolean": "BOOLEAN",
    "float32": "FLOAT",
    "float64": "DOUBLE",
}
POLARS_TYPES = {
    "category": pl.Categorical,
    "datetime64[us]": pl.Datetime("us"),
    "datetime64[us, UTC]": pl.Datetime("us", "UTC"),
    TEXT: pl.String,
    "int8": pl.Int8,
    "Int8": pl.Int8,
    "int64": pl.Int64,
    "Int64": pl.Int64,
    "bool": pl.Boolean,
    "boolean": pl.Boolean,
    "float32": pl.Float32,
    "float64": pl.Float64,
}


def of_reader(table: Table, types: dict[str, Any], binary: Any) -> dict[str, Any]:
    dtypes = PANDAS_DTYPES[table.name]
    return {name: binary if name == "pixels" else types[dtype] for name, dtype in dtypes.items()}


@every_table
@pytest.mark.parametrize(("nulls", "count"), [("some", 10), ("none", 0), ("all", 30)])
def test_pandas_gives_exactly_the_declared_dtypes(table: Table, nulls: str, count: int, tmp_path: Path) -> None:
    frame = pd.read_parquet(write(tmp_path, table, nulls=nulls))
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS_DTYPES[table.name]
    assert isinstance(frame.index, pd.RangeIndex)
    assert frame.isna().sum().to_dict() == {c.name: count if c.nullable else 0 for c in table.columns}


@every_table
def test_duckdb_reads_the_same_values_in_types_that_fit(table: Table, tmp_path: Path) -> None:
    found = duckdb.connect().sql(f"from '{write(tmp_path, table)}'")
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert types == of_reader(table, DUCKDB_TYPES, "BLOB")
    instant = [
        n for n in found.columns if types[n] == "TIMESTAMP WITH TIME ZONE"
    ]  # Python objects of it would need pytz
    plain = found.select(", ".join(f"epoch_us({n}) as {n}" if n in instant else n for n in found.columns))
    expected = sample(table)
    for name in instant:
        expected = expected.set_column(expected.column_names.index(name), name, expected[name].cast(pa.int64()))
    assert plain.fetchall() == [tuple(row.values()) for row in expected.to_pylist()]


@every_table
def test_polars_reads_the_same_values_in_types_that_fit(table: Table, tmp_path: Path) -> None:
    frame = pl.read_parquet(write(tmp_path, table))
    assert dict(frame.schema) == of_reader(table, POLARS_TYPES, pl.Binary)
    assert frame.rows() == [tuple(row.values()) for row in sample(table).to_pylist()]


@every_table
def test_a_table_without_rows_reads_with_the_same_types(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    path.write_bytes(tables.encode(table, table.schema.empty_table()))
    frame = pd.read_parquet(path)
    assert len(frame) == 0
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS_DTYPES[table.name]
    found = duckdb.connect().sql(f"from '{path}'")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == of_reader(table, DUCKDB_TYPES, "BLOB")
    assert found.select("count(*)").fetchall() == [(0,)]
    assert dict(pl.read_parquet(path).schema) == of_reader(table, POLARS_TYPES, pl.Binary)
    assert pl.read_parquet(path).height == 0


def test_a_folder_of_prediction_files_reads_as_one_table(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, PREDICTIONS, rows=20, seed=seed)
    expected = [row for seed in range(3) for row in sample(PREDICTIONS, 20, seed).to_pylist()]
    frame = pd.read_parquet(tmp_path)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS_DTYPES["predictions"]
    assert frame["proba_3"].tolist() == [row["proba_3"] for row in expected]
    assert pl.read_parquet(tmp_path).to_dicts() == expected
    found = duckdb.connect().sql(f"from '{tmp_path}/*.parquet'")
    assert found.fetchall() == [tuple(row.values()) for row in expected]


# What is refused


@every_table
def test_a_null_where_none_is_allowed_is_our_own_bug(table: Table) -> None:
    columns = {name: column.combine_chunks() for name, column in zip(table.schema.names, sample(table), strict=True)}
    for column in table.columns:
        if column.nullable:
            continue
        nulls = pa.nulls(30, column.type)
        with pytest.raises(AssertionError, match=rf"{table.name}\.{column.name} holds nulls"):
            tables.build(table, columns | {column.name: nulls})


@every_table
def test_a_table_that_lacks_a_column_is_our_own_bug(table: Table) -> None:
    columns = sample(table).to_pydict()
    del columns[table.columns[-1].name]
    with pytest.raises(KeyError, match=table.columns[-1].name):
        tables.build(table, columns)


def test_writing_another_schema_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="summary: not the declared schema"):
        tables.encode(SUMMARY, sample(HISTORY))
    with pytest.raises(AssertionError, match="summary: not the declared schema"):
        tables.encode(SUMMARY, sample(SUMMARY).replace_schema_metadata({}))


@every_table
def test_a_flipped_bit_never_reads_back_as_other_values(table: Table) -> None:
    written = sample(table, rows=500)
    data = tables.encode(table, written)
    random = np.random.default_rng(0)
    positions = random.choice(len(data) - footer_bytes(data), 200, replace=len(data) < 2000).tolist()
    refusals = 0
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(random.integers(8))
        try:
            # Some bits of a page's header are statistics and the like, of no consequence.
            assert tables.decode(table, bytes(damaged), "x").equals(written)
        except DamagedError:
            refusals += 1
    assert refusals > 50


@every_table
def test_every_page_with_values_carries_a_checksum_that_is_checked(table: Table) -> None:
    data = tables.encode(table, sample(table, rows=200))
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        last = column.data_page_offset - 1 + column.total_compressed_size
        if column.has_dictionary_page:
            last += column.dictionary_page_offset - column.data_page_offset
        damaged = bytearray(data)
        damaged[last] ^= 1  # the last byte of a column is a value's
        with pytest.raises(DamagedError, match=f"x: expected a {table.name} table, got a damaged file"):
            tables.decode(table, bytes(damaged), "x")


@every_table
@pytest.mark.parametrize("keep", [0, 1, 4, 0.3, 0.999])
def test_a_table_cut_short_is_refused(table: Table, keep: float) -> None:
    data = tables.encode(table, sample(table))
    kept = data[: keep if isinstance(keep, int) else int(len(data) * keep)]
    with pytest.raises(DamagedError, match=f"x: expected a {table.name} table, got a damaged file"):
        tables.decode(table, kept, "x")


@pytest.mark.parametrize("found", [IMAGES, PREDICTIONS, CONFUSION, HISTORY], ids=lambda table: table.name)
def test_a_table_of_other_columns_is_refused(found: Table) -> None:
    with pytest.raises(
        DamagedError, match=r"x: expected the columns of summary, schema version .+, got '.*by another version"
    ):
        tables.decode(SUMMARY, tables.encode(found, sample(found)), "x")


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("count", pa.field("count", pa.uint64(), nullable=False)),
        ("count", pa.field("count", pa.int64(), nullable=True)),
        ("count", pa.field("images", pa.int64(), nullable=False)),
    ],
)
def test_a_column_of_another_type_name_or_nullability_is_refused(name: str, field: pa.Field) -> None:
    written = sample(CONFUSION)
    index = written.column_names.index(name)
    sink = pa.BufferOutputStream()
    pq.write_table(written.set_column(index, field, written[name].cast(field.type)), sink)
    with pytest.raises(DamagedError, match="x: expected the columns of confusion"):
        tables.decode(CONFUSION, bytes(sink.getvalue()), "x")


def test_the_same_columns_of_another_schema_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "SCHEMA_VERSION", "0")
    of_another = dataclasses.replace(SUMMARY)  # a table makes its schema once
    data = tables.encode(of_another, sample(of_another))
    monkeypatch.undo()
    with pytest.raises(DamagedError, match=r"schema version 2, got 'run_id'.*, version '0'; was it written by another"):
        tables.decode(SUMMARY, data, "x")


def encoded(written: pa.Table, version: str = tables.SCHEMA_VERSION) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(written.replace_schema_metadata({"schema_version": version}), sink)
    return bytes(sink.getvalue())


def test_a_column_that_may_be_null_may_be_missing_and_one_that_is_not_known_is_passed_over() -> None:
    written = sample(SUMMARY)
    later = written.append_column(pa.field("added_later", pa.int8()), pa.nulls(30, pa.int8()))
    assert tables.decode(SUMMARY, encoded(later), "x").equals(written)
    without = tables.decode(SUMMARY, encoded(written.drop_columns("f1")), "x")
    assert without.schema.equals(SUMMARY.schema, check_metadata=True)
    assert without["f1"].null_count == 30
    assert without.drop_columns("f1").equals(written.drop_columns("f1"))
    assert tables.decode(SUMMARY, encoded(written.drop_columns("f1")), "x", ["digit", "f1"]).num_columns == 2
    needed = written.append_column(pa.field("added_later", pa.int8(), nullable=False), pa.array([1] * 30, pa.int8()))
    with pytest.raises(DamagedError, match="x: expected the columns of summary"):
        tables.decode(SUMMARY, encoded(needed), "x")


def test_the_first_schema_version_gets_its_keys_from_the_run() -> None:
    keys = {"run_id": "2026-01-31-toy-test-0123456789ab", "run_date": date(2026, 1, 31), "dataset": "a", "split": "b"}
    written = sample(CONFUSION)
    old = encoded(written.drop_columns(list(keys)), tables.FIRST_VERSION)
    read = tables.decode(CONFUSION, old, "x", keys=keys)
    assert read.schema.equals(CONFUSION.schema, check_metadata=True)
    assert read.drop_columns(list(keys)).equals(written.drop_columns(list(keys)))
    assert {tuple(row[name] for name in keys) for row in read.to_pylist()} == {
        (keys["run_id"], datetime(2026, 1, 31), "a", "b")
    }
    with pytest.raises(DamagedError, match=r"schema version 2, got 'label', .*, version '1'"):
        tables.decode(CONFUSION, old, "x")


# Tables written bit by bit


def written_by_appending(folder: Path, appended: list[pa.Table], table: Table = tables.FLIPS) -> tuple[Path, int]:
    path = folder / f"{table.name}.parquet"
    writer = tables.Writer(table, path)
    for each in appended:
        writer.append(each)
    writer.close()
    return path, writer.rows


@every_table
def test_what_is_appended_comes_back_in_order_with_its_schema(table: Table, tmp_path: Path) -> None:
    appended = [sample(table, rows, seed=rows) for rows in (3, 0, 1, 20)]
    path, rows = written_by_appending(tmp_path, appended, table)
    read = tables.decode(table, path.read_bytes(), "x")
    assert rows == read.num_rows == 24
    assert read.to_pylist() == [row for each in appended for row in each.to_pylist()]
    assert read.schema.equals(table.schema, check_metadata=True)
    assert pq.ParquetFile(path).num_row_groups == 1  # few rows are not split into row groups


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_nothing_appended_is_a_table_without_rows_for_every_reader(counts: list[int], tmp_path: Path) -> None:
    path, rows = written_by_appending(tmp_path, [sample(tables.FLIPS, count) for count in counts])
    assert rows == 0
    assert tables.decode(tables.FLIPS, path.read_bytes(), "x").equals(tables.FLIPS.schema.empty_table())
    frame = pd.read_parquet(path)
    assert len(frame) == 0
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == PANDAS_DTYPES["flips"]
    assert duckdb.connect().sql(f"select count(*) from '{path}'").fetchall() == [(0,)]
    assert dict(pl.read_parquet(path).schema) == of_reader(tables.FLIPS, POLARS_TYPES, pl.Binary)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 12), max_size=12), at_once=st.integers(1, 9))
def test_rows_are_written_as_soon_as_enough_have_gathered(
    sizes: list[int], at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, waited = tmp_path_factory.mktemp("writer"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "WRITTEN_AT_ONCE", at_once)
        writer = tables.Writer(tables.FLIPS, folder / "flips.parquet")
        for seed, size in enumerate(sizes):
            writer.append(sample(tables.FLIPS, size, seed))
            waited.append((sum(waiting.num_rows for waiting in writer._waiting), len(writer._waiting)))
        writer.close()
    assert all(rows < at_once and count <= rows for rows, count in waited)
    read = tables.decode(tables.FLIPS, (folder / "flips.parquet").read_bytes(), "x")
    assert read.to_pylist() == [
        row for seed, size in enumerate(sizes) for row in sample(tables.FLIPS, size, seed).to_pylist()
    ]
    metadata = pq.ParquetFile(folder / "flips.parquet").metadata
    assert all(metadata.row_group(group).num_rows <= at_once for group in range(metadata.num_row_groups))


def test_texts_that_differ_from_one_append_to_the_next_come_back(tmp_path: Path) -> None:
    appended = []
    for reference in ("2026-01-30-toy-test-0123456789ab", "2026-01-29-toy-test-ba9876543210"):
        each = sample(tables.FLIPS, 6)
        column = tables.constant(reference, tables.KEY, 6)
        field = each.schema.field("reference_run_id")
        appended.append(each.set_column(each.column_names.index("reference_run_id"), field, column))
    unlabelled = sample(tables.FLIPS, 6, nulls="all")
    field = unlabelled.schema.field("direction")
    nulls = pa.nulls(6, tables.DIRECTION)  # of an empty dictionary
    appended.append(unlabelled.set_column(unlabelled.column_names.index("direction"), field, nulls))
    path, _ = written_by_appending(tmp_path, appended)
    expected = [row for each in appended for row in each.to_pylist()]
    assert tables.decode(tables.FLIPS, path.read_bytes(), "x").to_pylist() == expected
    assert pl.read_parquet(path).to_dicts() == expected
    assert pd.read_parquet(path)["reference_run_id"].tolist() == [row["reference_run_id"] for row in expected]


def test_appending_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="schema does not match"):
        written_by_appending(tmp_path, [sample(CONFUSION)], SUMMARY)


def test_appended_pages_carry_checksums(tmp_path: Path) -> None:
    path, _ = written_by_appending(tmp_path, [sample(tables.FLIPS, 200)])
    column = pq.ParquetFile(path).metadata.row_group(0).column(tables.FLIPS.schema.names.index("image_id"))
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    with pytest.raises(DamagedError, match=r"x: expected a flips table, got a damaged file .*CRC"):
        tables.decode(tables.FLIPS, bytes(data), "x")


# Files that grow as they are decoded


def bomb(table: tables.Table, rows: int, text: str = "x") -> bytes:
    """A file of the table's own schema whose rows are all the same: some kilobytes, whatever their number."""
    columns = {
        column.name: tables.constant(
            text if column.type in (pa.string(), tables.KEY) else False if column.type == pa.bool_() else 0,
            column.type,
            rows,
        )
        for column in table.columns
        if not pa.types.is_timestamp(column.type)
    }
    columns |= {
        column.name: tables.constant(datetime(2026, 1, 1), column.type, rows)
        for column in table.columns
        if pa.types.is_timestamp(column.type)
    }
    sink = pa.BufferOutputStream()
    pq.write_table(tables.build(table, columns), sink, compression="zstd")
    return bytes(sink.getvalue())


@pytest.mark.parametrize(("table", "rows", "text"), [(HISTORY, 700_000, "x"), (HISTORY, 1000, "x" * 80_000)])
def test_a_small_file_of_very_many_or_long_values_is_refused_before_it_is_decoded(
    table: tables.Table, rows: int, text: str
) -> None:
    data = bomb(table, rows, text)
    assert len(data) < 100_000
    before = pa.total_allocated_bytes()
    with pytest.raises(DamagedError, match=r"expected a history table that takes at most .* bytes in memory, got one"):
        tables.decode(table, data, "x")
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert tables.decode(table, bomb(table, 1000), "x").num_rows == 1000


def test_a_column_that_is_not_wanted_is_not_decoded() -> None:
    data = bomb(HISTORY, 700_000)
    assert tables.decode(HISTORY, data, "x", ["digit"]).num_rows == 700_000


def test_names_of_columns_are_quoted_and_cut() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"\x1b[2J\nroot: all is well" + "x" * 1000: pa.array([1])}), sink)
    with pytest.raises(DamagedError) as caught:
        tables.decode(HISTORY, bytes(sink.getvalue()), "x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_without_memory_nothing_is_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 5 failed")

    monkeypatch.setattr(pq.ParquetFile, "read", fail)
    with pytest.raises(StoreError, match="x: expected memory for a summary table, got malloc of size 5 failed"):
        tables.decode(SUMMARY, tables.encode(SUMMARY, sample(SUMMARY)), "x")
