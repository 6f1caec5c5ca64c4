"""The keys of a split, its own names of its images, as its shards hold them: streamed, and refused if two are equal.

It reads no pixels: of each shard only the column of keys.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mnist_pipeline.core.plan import Shard
from mnist_pipeline.errors import DamagedError, DataError, shown
from mnist_pipeline.store.checkpoints import CheckpointFolder

Keys = Callable[[], Iterator[pa.StringArray]]  # of all images in order, some at a time, from the start at each call
# More different keys than this that share their hashes by accident are not to be expected in any set of images.
MAX_LOOKED_AT = 1000


def read_keys(checkpoints: CheckpointFolder, shard: Shard) -> pa.StringArray:
    """The keys of the images of a shard, `[n]`.

    Raises:
        DamagedError: the shard is missing or damaged.
        StoreError: it cannot be read.
    """
    name = f"{shard} ({checkpoints.location / shard.file_name})"
    try:
        with checkpoints.store.open(f"{checkpoints.folder}/{shard.file_name}") as opened:
            file = pq.ParquetFile(pa.PythonFile(opened.stream, mode="r"), page_checksum_verification=True)
            keys = file.read(columns=["image_key"], use_threads=False)["image_key"].combine_chunks()
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(f"{name}: expected a whole Parquet file, got {error}; run again to rebuild it") from error
    if len(keys) != shard.range.rows or keys.null_count:
        raise DamagedError(
            f"{name}: expected {shard.range.rows} keys, got {len(keys) - keys.null_count}; run again to rebuild it"
        )
    return keys


def require_unique(keys: Keys, images: int, name: str) -> None:
    """Reject keys of which two are equal. Holds 16 bytes an image, and looks at those whose hashes are equal.

    Args:
        keys: of all images.
        images: how many there are.
        name: of the split, in errors.

    Raises:
        DataError: two images have the same key.
    """
    hashes = np.fromiter((hash(key) for some in keys() for key in some.to_pylist()), np.int64, images)
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])[:MAX_LOOKED_AT]
    if not repeated.size:
        return
    seen, start = dict[str, int](), 0
    for some in keys():
        for position in np.flatnonzero(np.isin(hashes[start : start + len(some)], repeated)).tolist():
            key, image_id = some[position].as_py(), start + position
            if (first := seen.setdefault(key, image_id)) != image_id:
                raise DataError(
                    f"{name}: expected another key for each image, got {shown(key)} for images {first} and {image_id}; "
                    "name another column, or leave one of the two out"
                )
        start += len(some)
