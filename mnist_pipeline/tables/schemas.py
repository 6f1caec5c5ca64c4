"""Declares the Arrow schema of every Parquet table of the package; no schema is inferred.

The data dictionary in the docs is generated from the column descriptions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from mnist_pipeline.core.images import DIGITS, PIXELS

# Increase it when a column without nulls is added, or any column is dropped or changes its type or meaning. Tables, and
# columns that may be null, can be added without: `decode` fills in nulls, and passes over what it does not know.
SCHEMA_VERSION = "2"

PIXEL_BYTES = 4 * PIXELS
# Rows per row group of a shard. Writing holds one row group in memory, reading its compressed bytes.
SHARD_ROW_GROUP = 2048

# pandas reads a date column as Python objects, a timestamp at midnight as datetime64.
RUN_DATE = pa.timestamp("us")
# Of the ids by which tables are joined, in every table.
KEY = pa.dictionary(pa.int32(), pa.string())
DIRECTION = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Column:
    """A column: name, Arrow type, description, and whether it may hold nulls."""

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
    """A table: its columns in order, what a row is, and its Parquet layout."""

    name: str
    row: str
    columns: tuple[Column, ...]
    metadata: Mapping[str, str]
    layout: Mapping[str, Any]  # of the Parquet file, for `pyarrow.parquet.ParquetWriter`

    @property
    def repeating(self) -> list[str]:
        """The columns whose values repeat: in memory they are dictionary-encoded."""
        return [column.name for column in self.columns if pa.types.is_dictionary(column.type)]

    @cached_property  # a run asks for it a hundred times
    def schema(self) -> pa.Schema:
        """The Arrow schema, with column descriptions and the metadata with which pandas restores nullable dtypes."""
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

    @property
    def empty(self) -> pa.Table:
        """The table without rows."""
        return pa.Table.from_batches([], self.schema)


_RUN_COLUMNS = (
    Column("run_id", KEY, "the run this row was published by"),
    Column("run_date", RUN_DATE, "UTC calendar date the run stands for, at midnight"),
    Column("dataset", pa.string(), "name of the data set"),
    Column("split", pa.string(), "split of the data set"),
)
# The checksum of a page says nothing of its header: each column with a dictionary adds the header of one more.
_SMALL: Mapping[str, Any] = {"compression": "zstd", "use_dictionary": ["run_id"]}
_FLOATS = ("confidence", *(f"proba_{digit}" for digit in range(DIGITS)))

_IMAGE_KEY = Column(
    "image_key", pa.string(), "the data set's own name of the image; null if it names none", nullable=True
)

IMAGES = Table(
    name="images",
    row="one image, normalised and flattened",
    columns=(
        Column("image_id", pa.int64(), "position of the image in its split, from 0"),
        _IMAGE_KEY,
        Column("label", pa.int8(), "the true digit, 0-9; null where the image has none", nullable=True),
        Column("pixels", pa.binary(PIXEL_BYTES), "784 little-endian float32 in 0..1, row by row from the top left"),
    ),
    metadata={
        "pixels": json.dumps(
            {"dtype": "<f4", "shape": [PIXELS], "image_shape": [28, 28], "order": "row-major", "range": [0, 1]}
        ),
        "read_pixels": "np.frombuffer(b''.join(df['pixels']), '<f4').reshape(-1, 784)",
    },
    # Fixed-size binary with lz4 and no dictionary decodes several times as fast as any list of floats. A page is closed
    # at the first multiple of `write_batch_size` rows past `data_page_size`: 32 rows here, 98 KiB, which fit into
    # the L2 cache. In pages of 64 KiB or less LZ4 looks for matches of four bytes, not five (LZ4_hash4 and
    # LZ4_hash5 in its lz4.c): they take a tenth more space and a third longer to decode.
    layout={
        "compression": "lz4",
        "use_dictionary": False,
        "write_statistics": ["image_id", "label"],
        "data_page_size": 64 * 1024,
        "write_batch_size": 16,
    },
)
PREDICTIONS = Table(
    name="predictions",
    row="one image of the run, in image order",
    columns=(
        *_RUN_COLUMNS,
        Column("image_id", pa.int64(), "position of the image in its split, from 0"),
        _IMAGE_KEY,
        Column("label", pa.int8(), "the true digit, 0-9; null where the image has none", nullable=True),
        Column("prediction", pa.int8(), "the digit guessed, 0-9: the most probable, the lowest among equals"),
        Column("correct", pa.bool_(), "prediction equals label; null where there is no label", nullable=True),
        Column("confidence", pa.float32(), "probability of the predicted digit, 0..1"),
        *(Column(f"proba_{digit}", pa.float32(), f"probability of digit {digit}, 0..1") for digit in range(DIGITS)),
    ),
    metadata={},
    # Snappy takes half the time of zstd and a tenth more space. Floats of random images have no useful statistics.
    layout={
        "compression": "snappy",
        "use_dictionary": ["run_id", "dataset", "split"],
        "write_statistics": ["run_id", "run_date", "dataset", "split", "image_id", "label", "prediction", "correct"],
        "column_encoding": dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT") | {"image_id": "DELTA_BINARY_PACKED"},
    },
)
SUMMARY = Table(
    name="summary",
    row="one digit of the run, ten rows",
    columns=(
        *_RUN_COLUMNS,
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
        *_RUN_COLUMNS,
        Column("label", pa.int8(), "the true digit, 0-9; null for images without a label", nullable=True),
        Column("prediction", pa.int8(), "the digit guessed, 0-9"),
        Column("count", pa.int64(), "images with this label and this prediction"),
    ),
    metadata={},
    layout=_SMALL,
)
RELIABILITY = Table(
    name="reliability",
    row="one of 15 bins of confidence of equal width, labelled images only",
    columns=(
        *_RUN_COLUMNS,
        Column("bin", pa.int8(), "number of the bin, from 0, the least confident"),
        Column("low", pa.float64(), "confidences of the bin lie above this"),
        Column("high", pa.float64(), "and up to this, included"),
        Column("images", pa.int64(), "labelled images whose confidence lies in the bin"),
        Column("correct", pa.int64(), "of these, predicted right"),
        Column("mean_confidence", pa.float64(), "mean confidence of the bin's images", nullable=True),
        Column("accuracy", pa.float64(), "correct / images; equals mean_confidence if confidences are right", True),
        Column("accuracy_low", pa.float64(), "lower end of accuracy's 95 % Wilson interval", nullable=True),
        Column("accuracy_high", pa.float64(), "upper end of accuracy's 95 % Wilson interval", nullable=True),
    ),
    metadata={},
    layout=_SMALL,
)
INPUTS = Table(
    name="inputs",
    row="one bin of one property of the run's images, labelled or not",
    columns=(
        *_RUN_COLUMNS,
        Column(
            "statistic",
            pa.string(),
            "mean or largest: of the image's pixels; centre_x, centre_y: column and row of its centre of mass, "
            "from 0; width, height: pixels from the first to the last of half of full ink or more, 0 if it has none",
        ),
        Column("low", pa.float64(), "values of the bin are this or more: ink of 0..1 in mean and largest, else pixels"),
        Column("high", pa.float64(), "and less than this; equal to low where the bin holds that one value"),
        Column("images", pa.int64(), "images in the bin; those without ink have no centre and are in none of its bins"),
    ),
    metadata={},
    layout=_SMALL,
)
_VERDICT_COLUMNS = (
    *_RUN_COLUMNS,
    Column("verdict_id", KEY, "the verdict this row belongs to"),
)
_AGAINST_COLUMNS = (
    Column("against", pa.string(), "what the run is compared with: last passed, earlier or baseline"),
    Column("reference_run_id", KEY, "the run that is"),
)
COMPARISON = Table(
    name="comparison",
    row="one digit, or all together, against one reference",
    columns=(
        *_VERDICT_COLUMNS,
        *_AGAINST_COLUMNS,
        Column("digit", pa.int8(), "the true digit, 0-9; null for all together", nullable=True),
        Column("images", pa.int64(), "labelled images of the run"),
        Column("correct", pa.int64(), "of these, predicted right"),
        Column("images_before", pa.int64(), "labelled images of the reference"),
        Column("correct_before", pa.int64(), "of these, predicted right"),
        Column("both_right", pa.int64(), "right before and now; null where the images differ", nullable=True),
        Column("lost", pa.int64(), "right before, wrong now; null where the images differ", nullable=True),
        Column("gained", pa.int64(), "wrong before, right now; null where the images differ", nullable=True),
        Column("difference", pa.float64(), "accuracy now less accuracy before, -1..1", nullable=True),
        Column("low", pa.float64(), "lower end of the difference's 95 % interval", nullable=True),
        Column("high", pa.float64(), "upper end of the difference's 95 % interval", nullable=True),
        Column("p", pa.float64(), "two-sided p-value of no change"),
        Column("p_holm", pa.float64(), "p corrected for there being ten digits; null for all together", nullable=True),
        Column("method", pa.string(), "test and interval: McNemar exact, Tango; or Fisher exact, Newcombe"),
    ),
    metadata={},
    layout=_SMALL,
)
FLIPS = Table(
    name="flips",
    row="one image whose prediction changed against one reference, by image_id",
    columns=(
        *_VERDICT_COLUMNS,
        *_AGAINST_COLUMNS,
        Column("image_id", pa.int64(), "position of the image in its split, from 0"),
        _IMAGE_KEY,
        Column("label", pa.int8(), "the true digit, 0-9; null where the image has none", nullable=True),
        Column("before", pa.int8(), "the reference's prediction"),
        Column("now", pa.int8(), "the run's prediction"),
        Column("confidence_before", pa.float32(), "the reference's probability of its prediction, 0..1"),
        Column("confidence_now", pa.float32(), "the run's probability of its prediction, 0..1"),
        Column(
            "direction", DIRECTION, "lost, gained or still wrong; null without the same label in both", nullable=True
        ),
    ),
    metadata={},
    layout={
        **_SMALL,
        "use_dictionary": ["run_id", "dataset", "split", "verdict_id", "against", "reference_run_id", "direction"],
    },
)
GATES = Table(
    name="gates",
    row="one gate, judged",
    columns=(
        *_VERDICT_COLUMNS,
        Column("gate", pa.string(), "name of the gate, as in config/gates.toml"),
        Column("against", pa.string(), "the reference it is about; null if about the run alone", nullable=True),
        Column("digit", pa.int8(), "the true digit, 0-9; null for all together", nullable=True),
        Column("outcome", pa.string(), "pass, fail or inconclusive"),
        Column("bound", pa.float64(), "as in config/gates.toml: a loss of 0.01 is kept by a value above -0.01"),
        Column(
            "value",
            pa.float64(),
            "what was found, a loss below 0 as in comparison; null where it cannot be known",
            nullable=True,
        ),
        Column("low", pa.float64(), "lower end of its interval; null where it is certain or unknown", nullable=True),
        Column("high", pa.float64(), "upper end of its interval", nullable=True),
        Column("confidence", pa.float64(), "of these intervals: 1 - 2 alpha"),
        Column("p", pa.float64(), "of the test that would fail the gate, Holm-corrected over digits", nullable=True),
        Column("detectable", pa.float64(), "smallest loss that would have failed the gate here", nullable=True),
        Column("reason", pa.string(), "the outcome in a sentence"),
    ),
    metadata={},
    layout=_SMALL,
)
_WHICH_COUNT = (
    Column(
        "counts",
        pa.bool_(),
        "whether the run was made with the current weights and the configured settings, or was accepted, and was not "
        "withdrawn",
    ),
    Column("is_of_date", pa.bool_(), "whether it is the run of its date: the newest that counts, by counted_at"),
    Column("is_latest", pa.bool_(), "whether it is the run of the newest date, which the name latest means"),
)
HISTORY = Table(
    name="history",
    row="one digit of one run, over all published runs",
    columns=(
        *SUMMARY.columns,
        Column("weights_sha256", pa.string(), "sha256 of the weights"),
        Column("outcome", pa.string(), "of the run's newest verdict; null if it was never judged", nullable=True),
        Column("published_at", pa.timestamp("us", "UTC"), "when the run was published"),
        *_WHICH_COUNT,
    ),
    metadata={},
    layout=_SMALL,
)
RUNS = Table(
    name="runs",
    row="one published run",
    columns=(
        *_RUN_COLUMNS,
        Column("images", pa.int64(), "images in all"),
        Column("labelled", pa.int64(), "images with a label"),
        Column("correct", pa.int64(), "labelled images predicted right"),
        Column("accuracy", pa.float64(), "correct / labelled; null without labels", nullable=True),
        Column("accuracy_low", pa.float64(), "lower end of accuracy's 95 % Wilson interval", nullable=True),
        Column("accuracy_high", pa.float64(), "upper end of accuracy's 95 % Wilson interval", nullable=True),
        Column("top2_accuracy", pa.float64(), "share of labels among the two most probable digits", nullable=True),
        Column("nll", pa.float64(), "mean negative log likelihood of the label, nats", nullable=True),
        Column("nll_error", pa.float64(), "standard error of nll", nullable=True),
        Column("brier", pa.float64(), "mean Brier score over the ten probabilities, 0..2", nullable=True),
        Column("brier_error", pa.float64(), "standard error of brier", nullable=True),
        Column("ece", pa.float64(), "expected calibration error over 15 bins, 0..1", nullable=True),
        Column(
            "ece_noise", pa.float64(), "what ece would be by chance alone, were all confidences right", nullable=True
        ),
        Column("verdict_id", KEY, "newest verdict of the run; null if it was never judged", nullable=True),
        Column(
            "outcome",
            pa.string(),
            "of that verdict: pass, fail, inconclusive, or none: nothing was judged",
            nullable=True,
        ),
        Column(
            "changed",
            pa.int64(),
            "changed predictions against the first reference of that verdict over the same images; null without one",
            nullable=True,
        ),
        Column(
            "standing",
            pa.string(),
            "what a person decided of the run: accepted or withdrawn, damaged if that cannot be read; null if nothing",
            nullable=True,
        ),
        *_WHICH_COUNT,
        Column(
            "counted_at",
            pa.timestamp("us", "UTC"),
            "when a night made it the run of its date, or a person accepted it; null if it does not count",
            nullable=True,
        ),
        Column("images_sha256", pa.string(), "sha256 of the images' IDX file"),
        Column("labels_sha256", pa.string(), "sha256 of the labels' IDX file; null without labels", nullable=True),
        Column("weights_sha256", pa.string(), "sha256 of the weights"),
        Column(
            "shard_set",
            pa.string(),
            "folder of its images below shards/; null if published under schema version 1",
            nullable=True,
        ),
        Column("batch_rows", pa.int64(), "images per forward pass"),
        Column("shard_rows", pa.int64(), "images per Parquet file"),
        Column("engine", pa.string(), "what ran the stages: direct or prefect"),
        Column("evaluated_at", pa.timestamp("us", "UTC"), "when the evaluation began"),
        Column("published_at", pa.timestamp("us", "UTC"), "when the run was published"),
        Column("seconds", pa.float64(), "wall seconds of all stages together"),
        Column(
            "pruned_at",
            pa.timestamp("us", "UTC"),
            "when its predictions were given up: do not begin to read them; null if they are kept",
            nullable=True,
        ),
    ),
    metadata={},
    layout=_SMALL,
)
# Tables that runs published before may lack: the schema version stayed when they were added.
ADDED = (INPUTS,)
TABLES = (IMAGES, PREDICTIONS, SUMMARY, CONFUSION, RELIABILITY, INPUTS, COMPARISON, FLIPS, GATES, HISTORY, RUNS)
