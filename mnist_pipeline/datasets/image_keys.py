"""The keys of a split, its own names of its images: streamed, and refused if two are equal. It reads no files."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from mnist_pipeline.errors import DataError, shown

Keys = Callable[[], Iterator[pa.StringArray]]  # of all images in order, some at a time, from the start at each call
# More different keys than this that share their hashes by accident are not to be expected in any set of images.
MAX_LOOKED_AT = 1000


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
