"""Writes and reads Parquet shards of images. A hash of everything a shard set depends on names it, for reuse.

The record of each shard keeps the bins of its images, so that a set can be looked at without decoding it again.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.images import NO_LABEL, PIXELS
from mnist_pipeline.core.plan import RowRange, Shard, cut, plan_shards
from mnist_pipeline.datasets.image_bins import ImageBins
from mnist_pipeline.datasets.splits import ImageRows, OpenSplit
from mnist_pipeline.errors import DamagedError, DataError, shown
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.files import read_expected
from mnist_pipeline.tables.columns import column_of, numpy_of

BINS = "bins"  # in the notes of a record


class ShardedImages(Protocol):
    """What a shard set is named after."""

    @property
    def dataset(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def images_sha256(self) -> str: ...
    @property
    def labels_sha256(self) -> str | None: ...
    @property
    def keys_from(self) -> str | None: ...
    @property
    def transform_version(self) -> str: ...


class ShardedRun(ShardedImages, Protocol):
    """A run that was made from shards: how many images, and how many of them in each shard."""

    @property
    def images(self) -> int: ...
    @property
    def shard_rows(self) -> int: ...


@dataclass(frozen=True)
class ShardLabels:
    """The image ids, labels and keys of a shard.

    Attributes:
        image_ids: `[n]` int64, positions in the split.
        labels: `[n]` int8 in 0..9, NO_LABEL where an image has none.
        keys: `[n]` strings, the data set's own names of the images; None if it names none.
    """

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int8]
    keys: pa.StringArray | None = None


@dataclass(frozen=True)
class ShardFile:
    """A shard opened for reading, and its name in errors."""

    name: str
    parquet: pq.ParquetFile


def shard_set_name(images: ShardedImages, shard_rows: int, schema_version: str | None = None) -> str:
    """The name of the shards of a split cut by `shard_rows`: after everything that their bytes depend on.

    `schema_version` is that of this package if it is None.
    """
    key = canonical_sha256(
        {
            "images_sha256": images.images_sha256,
            "labels_sha256": images.labels_sha256,
            "transform_version": images.transform_version,
            "schema_version": schema_version or tables.SCHEMA_VERSION,
            "shard_rows": shard_rows,
            **({"keys_from": images.keys_from} if images.keys_from else {}),
        }
    )
    return f"{images.dataset}-{images.split}-{key[:12]}"


def write_shard(source_images: OpenSplit, shard: Shard, checkpoints: CheckpointFolder) -> Checkpoint:
    """Write the images of one shard as one Parquet file; see `write_shards`."""
    (checkpoint,) = write_shards(source_images, [shard], checkpoints)
    return checkpoint


def write_shards(
    source_images: OpenSplit, shards: Sequence[Shard], checkpoints: CheckpointFolder
) -> Iterator[Checkpoint]:
    """Write the images of each shard as one Parquet file, reading the split once for all of them.

    Args:
        source_images: the split.
        shards: some of its shards, in order.
        checkpoints: where the shards and their records are stored.

    Raises:
        DataError: a source file is missing, has changed since it was verified, or has invalid content; or an image has
            no key, although the others have one.
        OutputsError: the file cannot be written.
    """
    ranges = {shard: _row_groups(shard.range) for shard in shards}
    blocks = source_images.read([rows for groups in ranges.values() for rows in groups])
    for shard, groups in ranges.items():
        bins: list[ImageBins] = []
        rows = _counted(source_images, groups, islice(blocks, len(groups)), bins)
        data = tables.encode_groups(tables.IMAGES, rows)
        yield checkpoints.write(shard.file_name, shard.range.rows, data, notes={BINS: ImageBins.total(bins).to_json()})


def bins_of(checkpoint: Checkpoint) -> ImageBins | None:
    """The bins of a shard's images; None if its record does not have all, as those of earlier versions."""
    try:
        bins = ImageBins.from_json(checkpoint.notes[BINS])
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return bins if bins.add_up and bins.images == checkpoint.file.rows else None


def open_shard(checkpoints: CheckpointFolder, shard: Shard) -> ShardFile | None:
    """Read a shard once, check its bytes against its record, and open them for decoding.

    Returns:
        None if it is missing or damaged: then it has to be written again.

    Raises:
        DamagedError: its bytes are as recorded, but not the Parquet file that was planned.
        StoreError: it cannot be read.
    """
    checkpoint = checkpoints.record(shard.file_name)
    data = None if checkpoint is None else checkpoints.read(checkpoint)
    return None if data is None else _opened(checkpoints, shard, data)


def _opened(checkpoints: CheckpointFolder, shard: Shard, data: bytes, page_checksums: bool = False) -> ShardFile:
    name = _name_of(checkpoints, shard)
    with _damage(name):
        parquet = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=page_checksums)
    if parquet.metadata.num_rows != shard.range.rows:
        raise DamagedError(
            f"{name}: expected {shard.range.rows} rows, got {parquet.metadata.num_rows}; run again to rebuild it"
        )
    return ShardFile(name, parquet)


def read_shard_labels(file: ShardFile) -> ShardLabels:
    """Read the image ids, labels and keys of a shard.

    Raises:
        DamagedError: the file is damaged.
    """
    with _damage(file.name):
        content = file.parquet.read(columns=["image_id", "image_key", "label"], use_threads=False)
        image_ids, labels = content["image_id"], content["label"]
        # Earlier versions wrote no column of keys.
        keys = content["image_key"].combine_chunks() if "image_key" in content.column_names else None
    named = keys is not None and not keys.null_count
    return ShardLabels(numpy_of(image_ids), numpy_of(labels, null=NO_LABEL), keys if named else None)


def read_keys(checkpoints: CheckpointFolder, shard: Shard) -> pa.StringArray:
    """The keys of the images of a shard, `[n]`; of the shard no other column is read.

    Raises:
        DamagedError: the shard is missing or damaged.
        StoreError: it cannot be read.
    """
    name = _name_of(checkpoints, shard)
    with _damage(name), checkpoints.store.open(f"{checkpoints.folder}/{shard.file_name}") as opened:
        file = pq.ParquetFile(pa.PythonFile(opened.stream, mode="r"), page_checksum_verification=True)
        keys = file.read(columns=["image_key"], use_threads=False)["image_key"].combine_chunks()
    if len(keys) != shard.range.rows or keys.null_count:
        raise DamagedError(
            f"{name}: expected {shard.range.rows} keys, got {len(keys) - keys.null_count}; run again to rebuild it"
        )
    return keys


def read_batches(file: ShardFile, batch_rows: int) -> Iterator[NDArray[np.float32]]:
    """Yield the pixels of a shard, `[B, 784]` float32 in 0..1; B is `batch_rows`, or less for the last batch.

    Each batch is decoded on demand and is a view of the decoded Arrow buffer.

    Raises:
        DamagedError: the file is damaged.
    """
    with _damage(file.name):
        for batch in file.parquet.iter_batches(batch_rows, columns=["pixels"], use_threads=False):
            yield _as_matrix(batch["pixels"])


def read_selected(
    checkpoints: CheckpointFolder, run: ShardedRun, image_ids: Collection[int]
) -> dict[int, NDArray[np.float32]]:
    """Read single images of a split by image_id, `[784]` float32 in 0..1, from the shards that hold them.

    Raises:
        DamagedError: a shard is missing or damaged.
    """
    found: dict[int, NDArray[np.float32]] = {}
    for shard in plan_shards(run.images, run.shard_rows):
        wanted = sorted(image_id for image_id in image_ids if shard.range.start <= image_id < shard.range.stop)
        if not wanted:
            continue
        data = read_expected(checkpoints.store, f"{checkpoints.folder}/{shard.file_name}", "a shard")
        file = _opened(checkpoints, shard, data, page_checksums=True)  # a few images are not worth hashing all of it
        start = shard.range.start
        for batch in read_batches(file, tables.SHARD_ROW_GROUP):
            inside = [image_id for image_id in wanted if start <= image_id < start + len(batch)]
            found |= {image_id: batch[image_id - start].copy() for image_id in inside}  # a view keeps the batch
            start += len(batch)
    return found


def _row_groups(rows: RowRange) -> list[RowRange]:
    return [
        RowRange(rows.start + group.start, rows.start + group.stop) for group in cut(rows.rows, tables.SHARD_ROW_GROUP)
    ]


def _counted(
    source_images: OpenSplit, groups: Sequence[RowRange], blocks: Iterator[ImageRows], bins: list[ImageBins]
) -> Iterator[pa.Table]:
    """The row groups of a shard, one at a time, each with its bins appended to `bins`."""
    for rows, block in zip(groups, blocks, strict=True):
        if block.keys is not None:
            _require_keys(source_images, rows, block.keys)
        bins.append(ImageBins.count(block.pixels))
        yield _table(rows, block)


def _table(rows: RowRange, images: ImageRows) -> pa.Table:
    pixels = images.pixels.astype("<f4", copy=False)
    columns = {
        "image_id": np.arange(rows.start, rows.stop, dtype=np.int64),
        "image_key": pa.nulls(rows.rows, pa.string()) if images.keys is None else images.keys,
        "label": pa.nulls(rows.rows, pa.int8()) if images.labels is None else label_column(images.labels),
        "pixels": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(tables.PIXEL_BYTES), rows.rows, [None, pa.py_buffer(pixels)]
        ),
    }
    return tables.build(tables.IMAGES, columns)


def _require_keys(source_images: OpenSplit, rows: RowRange, keys: pa.StringArray) -> None:
    for position, key in enumerate(keys.to_pylist()):
        if not key:
            raise DataError(
                f"{source_images.dataset}/{source_images.split}: image {rows.start + position}: expected a key in "
                f"{shown(source_images.keys_from)}, got {'null' if key is None else 'an empty one'}; fill it in, or "
                "leave the image out"
            )


def label_column(labels: NDArray[np.int8]) -> pa.Array:
    """The column of labels `[n]` int8: null where one is NO_LABEL."""
    return column_of(labels, pa.int8(), known=labels != NO_LABEL)


def _name_of(checkpoints: CheckpointFolder, shard: Shard) -> str:
    """The name of a shard in errors."""
    return f"{shard} ({checkpoints.location / shard.file_name})"


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(f"{name}: expected a whole Parquet file, got {error}; run again to rebuild it") from error


def _as_matrix(chunk: pa.FixedSizeBinaryArray) -> NDArray[np.float32]:
    values = np.frombuffer(
        chunk.buffers()[1], "<f4", count=len(chunk) * PIXELS, offset=chunk.offset * tables.PIXEL_BYTES
    )
    return values.reshape(-1, PIXELS)
