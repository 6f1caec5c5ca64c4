"""Pixels <-> Parquet shards. A shard set is named after everything its bytes depend on, and reused by that name."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline import tables
from mnist_pipeline.core.images import PIXELS, as_bytes
from mnist_pipeline.core.plan import RowRange, Shard, cut, plan_shards
from mnist_pipeline.datasets.splits import ImageRows, OpenSplit
from mnist_pipeline.errors import DamagedError, StoreError
from mnist_pipeline.store.checkpoints import Checkpoint, CheckpointFolder
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.locks import shared
from mnist_pipeline.store.objects import Location, ObjectPath
from mnist_pipeline.tables.columns import numpy_of

SHARDS = "shards"


class _Hashed(Protocol):
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
    def transform_version(self) -> str: ...


class ShardedRun(_Hashed, Protocol):
    """A run that was made from shards: how many images, and how many of them in each shard."""

    @property
    def images(self) -> int: ...
    @property
    def shard_rows(self) -> int: ...


@dataclass(frozen=True)
class ShardLabels:
    """Which images a shard holds.

    Attributes:
        image_ids: `[n]` int64, positions in the split.
        labels: `[n]` int8 in 0..9, or None if the data set has none.
    """

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int8] | None


@dataclass(frozen=True)
class ShardFile:
    """A shard opened for reading, and what to call it in an error."""

    name: str
    parquet: pq.ParquetFile


def shard_set(outputs: Location, source_images: OpenSplit, shard_rows: int) -> CheckpointFolder:
    """Where the shards of a split cut by `shard_rows` lie, whether they exist yet or not."""
    return _shard_set(outputs, source_images, shard_rows)


def shard_set_of(outputs: Location, run: ShardedRun) -> CheckpointFolder:
    """Where the shards lie from which a run was made; they may be gone."""
    return _shard_set(outputs, run, run.shard_rows)


def _shard_set(outputs: Location, of: _Hashed, shard_rows: int) -> CheckpointFolder:
    key = canonical_sha256(
        {
            "images_sha256": of.images_sha256,
            "labels_sha256": of.labels_sha256,
            "transform_version": of.transform_version,
            "schema_version": tables.SCHEMA_VERSION,
            "shard_rows": shard_rows,
        }
    )
    root = outputs / SHARDS / f"{of.dataset}-{of.split}-{key[:12]}"
    return CheckpointFolder(folder=root / "images", records=root / "records")


@contextmanager
def in_use(checkpoints: CheckpointFolder) -> Iterator[None]:
    """Keep a shard set from being swept for the length of the block."""
    folder = checkpoints.folder.parent
    with nullcontext() if isinstance(folder, ObjectPath) else shared(folder):  # nothing is swept in an object store
        yield


def write_shard(source_images: OpenSplit, shard: Shard, checkpoints: CheckpointFolder) -> Checkpoint:
    """Put one shard's images in place as one Parquet file; see `write_shards`."""
    (checkpoint,) = write_shards(source_images, [shard], checkpoints)
    return checkpoint


def write_shards(
    source_images: OpenSplit, shards: Sequence[Shard], checkpoints: CheckpointFolder
) -> Iterator[Checkpoint]:
    """Put the images of each shard in place as one Parquet file, reading the split once for all of them.

    Args:
        source_images: the split.
        shards: some of its shards, in order.
        checkpoints: where they go.

    Raises:
        DataError: a raw file is gone or was changed since it was verified, or what it holds is refused.
        OutputsError: the file cannot be written.
    """
    ranges = {shard: _row_groups(shard.range) for shard in shards}
    blocks = source_images.read([rows for groups in ranges.values() for rows in groups])
    for shard, groups in ranges.items():
        images = zip(groups, islice(blocks, len(groups)), strict=True)
        data = tables.encode_groups(tables.IMAGES, (_table(*each) for each in images))
        yield checkpoints.write(shard.file_name, shard.range.rows, data, notes={})


def open_shard(checkpoints: CheckpointFolder, shard: Shard) -> ShardFile:
    """Open a shard for reading, its page checksums verified on the way.

    Raises:
        DamagedError: the file is missing, not Parquet, or does not hold the planned number of rows.
    """
    path = checkpoints.folder / shard.file_name
    name = f"{shard} ({path})"
    with _damage(name):
        source = pa.BufferReader(path.read_bytes()) if isinstance(path, ObjectPath) else path
        parquet = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
    if parquet.metadata.num_rows != shard.range.rows:
        raise DamagedError(
            f"{name}: expected {shard.range.rows} rows, got {parquet.metadata.num_rows}; run again to rebuild it"
        )
    return ShardFile(name, parquet)


def read_shard_labels(file: ShardFile) -> ShardLabels:
    """Image ids and labels of a whole shard.

    Raises:
        DamagedError: the file is not as it was written.
    """
    with _damage(file.name):
        content = file.parquet.read(columns=["image_id", "label"], use_threads=False)
        image_ids, labels = content["image_id"], content["label"]
    return ShardLabels(
        image_ids=numpy_of(image_ids),
        labels=None if labels.null_count else numpy_of(labels),
    )


def read_batches(file: ShardFile, batch_rows: int) -> Iterator[NDArray[np.float32]]:
    """Pixels of a shard, `[B, 784]` float32 in 0..1, B = `batch_rows` but for a shorter last batch.

    Each batch is decoded when it is asked for, and is a view of what Parquet decoded.

    Raises:
        DamagedError: the file is not as it was written.
    """
    with _damage(file.name):
        for batch in file.parquet.iter_batches(batch_rows, columns=["pixels"], use_threads=False):
            yield _as_matrix(batch["pixels"])


def read_pictures(
    checkpoints: CheckpointFolder, run: ShardedRun, image_ids: Collection[int]
) -> dict[int, NDArray[np.uint8]]:
    """Single images of a split by image_id, `[28, 28]` uint8 as in the IDX file.

    Only the shards that hold one are read.

    Raises:
        DamagedError: a shard is gone or not as it was written.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    for shard in plan_shards(run.images, run.shard_rows):
        wanted = sorted(image_id for image_id in image_ids if shard.range.start <= image_id < shard.range.stop)
        if not wanted:
            continue
        start = shard.range.start
        for batch in read_batches(open_shard(checkpoints, shard), tables.SHARD_ROW_GROUP):
            inside = [image_id for image_id in wanted if start <= image_id < start + len(batch)]
            found |= {image_id: as_bytes(batch[image_id - start])[0] for image_id in inside}
            start += len(batch)
    return found


def _row_groups(rows: RowRange) -> list[RowRange]:
    return [
        RowRange(rows.start + group.start, rows.start + group.stop) for group in cut(rows.rows, tables.SHARD_ROW_GROUP)
    ]


def _table(rows: RowRange, images: ImageRows) -> pa.Table:
    pixels = images.pixels.astype("<f4", copy=False)
    columns = {
        "image_id": np.arange(rows.start, rows.stop, dtype=np.int64),
        "label": pa.nulls(rows.rows, pa.int8()) if images.labels is None else images.labels,
        "pixels": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(tables.PIXEL_BYTES), rows.rows, [None, pa.py_buffer(pixels)]
        ),
    }
    return tables.build(tables.IMAGES, columns)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(f"{name}: expected a whole Parquet file, got {error}; run again to rebuild it") from error


def _as_matrix(chunk: pa.FixedSizeBinaryArray) -> NDArray[np.float32]:
    values = np.frombuffer(
        chunk.buffers()[1], "<f4", count=len(chunk) * PIXELS, offset=chunk.offset * tables.PIXEL_BYTES
    )
    return values.reshape(-1, PIXELS)
