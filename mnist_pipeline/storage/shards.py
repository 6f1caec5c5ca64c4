"""Pixels <-> Parquet shards. A shard set is named after everything its bytes depend on, and reused by that name."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mnist_pipeline.core.images import PIXELS, SIDE, TRANSFORM_VERSION, flatten, normalise
from mnist_pipeline.core.plan import RowRange, Shard, plan_shards
from mnist_pipeline.errors import DamagedError
from mnist_pipeline.storage import tables
from mnist_pipeline.storage.canonical import canonical_sha256
from mnist_pipeline.storage.columns import numpy_of
from mnist_pipeline.storage.manifest import Identity
from mnist_pipeline.storage.pieces import Piece, Pieces
from mnist_pipeline.storage.raw import RawSplit, read_images, read_labels


@dataclass(frozen=True)
class ShardLabels:
    """Which images a shard holds.

    Attributes:
        image_ids: `[n]` int64, positions in the IDX file.
        labels: `[n]` int8 in 0..9, or None if the data set has none.
    """

    image_ids: NDArray[np.int64]
    labels: NDArray[np.int8] | None


@dataclass(frozen=True)
class ShardFile:
    """A shard opened for reading, and what to call it in an error."""

    name: str
    parquet: pq.ParquetFile


def shard_set(outputs: Path, raw: RawSplit, shard_rows: int) -> Pieces:
    """Where the shards of a split cut by `shard_rows` lie, whether they exist yet or not."""
    labels_sha256 = raw.labels.sha256 if raw.labels else None
    return _shard_set(outputs, raw.dataset, raw.split, raw.images.sha256, labels_sha256, shard_rows)


def shard_set_of(outputs: Path, run: Identity) -> Pieces:
    """Where the shards lie from which a run was made; they may be gone."""
    return _shard_set(outputs, run.dataset, run.split, run.images_sha256, run.labels_sha256, run.shard_rows)


def _shard_set(
    outputs: Path, dataset: str, split: str, images_sha256: str, labels_sha256: str | None, shard_rows: int
) -> Pieces:
    key = canonical_sha256(
        {
            "images_sha256": images_sha256,
            "labels_sha256": labels_sha256,
            "transform_version": TRANSFORM_VERSION,
            "schema_version": tables.SCHEMA_VERSION,
            "shard_rows": shard_rows,
        }
    )
    root = outputs / "shards" / f"{dataset}-{split}-{key[:12]}"
    return Pieces(folder=root / "images", records=root / "records")


def write_shard(raw: RawSplit, shard: Shard, pieces: Pieces) -> Piece:
    """Normalise and flatten one shard's images and put them in place as one Parquet file.

    Raises:
        DataError: a raw file is gone or was changed since it was verified.
        OutputsError: the file cannot be written.
    """
    data = tables.encode_groups(tables.IMAGES, _row_groups(raw, shard.range))
    return pieces.finish(shard.file_name, shard.range.rows, data, notes={})


def open_shard(pieces: Pieces, shard: Shard) -> ShardFile:
    """Open a shard for reading, its page checksums verified on the way.

    Raises:
        DamagedError: the file is missing, not Parquet, or does not hold the planned number of rows.
    """
    path = pieces.folder / shard.file_name
    name = f"{shard} ({path})"
    with _damage(name):
        parquet = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
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

    Batches are views of what Parquet decoded wherever a batch does not straddle two row groups.

    Raises:
        DamagedError: the file is not as it was written.
    """
    return _rebatch(_blocks(file), batch_rows)


def read_pictures(pieces: Pieces, run: Identity, image_ids: Collection[int]) -> dict[int, NDArray[np.uint8]]:
    """Single images of a split by image_id, `[28, 28]` uint8 as in the IDX file.

    Only the shards that hold one are read.

    Raises:
        DamagedError: a shard is gone or not as it was written.
    """
    found: dict[int, NDArray[np.uint8]] = {}
    for shard in plan_shards(run.images, run.shard_rows):
        wanted = sorted(place for place in image_ids if shard.range.start <= place < shard.range.stop)
        if not wanted:
            continue
        start = shard.range.start
        for block in _blocks(open_shard(pieces, shard)):
            inside = [place for place in wanted if start <= place < start + len(block)]
            found |= {
                place: np.rint(block[place - start] * 255).astype(np.uint8).reshape(SIDE, SIDE) for place in inside
            }
            start += len(block)
    return found


def _row_groups(raw: RawSplit, rows: RowRange) -> Iterator[pa.Table]:
    """Rows of the table of images, a row group at a time; each is overwritten by the next."""
    buffer = np.empty((min(rows.rows, tables.SHARD_ROW_GROUP), PIXELS), np.float32)
    for start in range(rows.start, rows.stop, len(buffer)):
        group = RowRange(start, min(start + len(buffer), rows.stop))
        pixels = normalise(flatten(read_images(raw, group)), out=buffer[: group.rows]).astype("<f4", copy=False)
        labels = read_labels(raw, group)
        columns = {
            "image_id": np.arange(group.start, group.stop, dtype=np.int64),
            "label": pa.nulls(group.rows, pa.int8()) if labels is None else labels.astype(np.int8),
            "pixels": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(tables.PIXEL_BYTES), group.rows, [None, pa.py_buffer(pixels)]
            ),
        }
        yield tables.build(tables.IMAGES, columns)


def _blocks(file: ShardFile) -> Iterator[NDArray[np.float32]]:
    for index in range(file.parquet.metadata.num_row_groups):
        with _damage(file.name):
            column = file.parquet.read_row_group(index, columns=["pixels"], use_threads=False)["pixels"]
            blocks = [_as_matrix(chunk) for chunk in column.chunks]
        yield from blocks


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


def _rebatch(blocks: Iterable[NDArray[np.float32]], batch_rows: int) -> Iterator[NDArray[np.float32]]:
    held: list[NDArray[np.float32]] = []
    held_rows = 0
    for block in blocks:
        start = 0
        while start < len(block):
            piece = block[start : start + batch_rows - held_rows]
            start += len(piece)
            held.append(piece)
            held_rows += len(piece)
            if held_rows == batch_rows:
                yield _joined(held)
                held, held_rows = [], 0
    if held:
        yield _joined(held)


def _joined(pieces: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
