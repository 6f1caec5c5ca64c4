"""A split whose images have keys, for tests: that of IDX files, with keys laid over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.idx import IdxSplit, open_split
from mnist_pipeline.datasets.source_files import verified_file
from mnist_pipeline.datasets.splits import ImageRows
from tests.builders import images_name, make_split


@dataclass(frozen=True)
class KeyedSplit:
    """An `OpenSplit`: that of `inner` with other keys."""

    inner: IdxSplit
    keys: tuple[str | None, ...]
    keys_from: str = "path"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        for rows, images in zip(ranges, self.inner.read(ranges), strict=True):
            yield replace(images, keys=pa.array(self.keys[rows.start : rows.stop], pa.string()))


def keyed_split(folder: Path, keys: Sequence[str | None]) -> KeyedSplit:
    """Images without labels, one for each key."""
    make_split(folder / "idx", len(keys), labelled=False)
    return KeyedSplit(open_split("toy", "test", verified_file(folder / "idx" / images_name()), None), tuple(keys))
