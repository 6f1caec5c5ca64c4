"""A folder of PNG or JPEG pictures, one image each: flat, or in subfolders `0` to `9` that are their labels.

Images are in the order of their relative paths, which are their names. The whole folder is identified like one file,
whose content is what `sha256sum` prints of all pictures in that order. A split is pickled with every task and holds no
names: each process lists the folder again, and the versions of all files must be those of when they were hashed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mnist_pipeline.core.images import BY_TYPE, PIXELS, PixelFormat
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.interface import NO_LABELS, Wanted
from mnist_pipeline.datasets.formats.pictures.decoding import decode_picture
from mnist_pipeline.datasets.formats.pictures.listing import Listing, each, list_pictures, parts
from mnist_pipeline.datasets.source_files import SourceFile, Verify
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, LabelError, SettingsError, listed, shown
from mnist_pipeline.store.base import Location, Store
from mnist_pipeline.store.documents import canonical_sha256
from mnist_pipeline.store.opening import open_store
from mnist_pipeline.tables.columns import column_of

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Names of subfolders, each of which begins with its digit: `7`, or `7 - seven` as torchvision names MNIST's classes.
LABELS = frozenset(name for digit, word in enumerate(WORDS) for name in (f"{digit}", f"{digit} - {word}"))
CHANGED = "expected the pictures that were verified, got others since; run again to verify them again"


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder, see `OpenSplit`; `folder` identifies all of them."""

    dataset: str
    split: str
    folder: SourceFile
    rows: int
    labelled: bool
    pixel_format: PixelFormat = BY_TYPE

    @property
    def images_sha256(self) -> str:
        return self.folder.sha256

    @property
    def labels_sha256(self) -> str | None:
        return canonical_sha256({"labels_in_paths": self.folder.sha256}) if self.labelled else None

    @property
    def keys_from(self) -> str:
        return "path"

    @property
    def transform_version(self) -> str:
        return self.pixel_format.transform_version(np.dtype(np.uint8))

    def decoded_from(self, row: int) -> int:
        """The row itself: each picture is decoded alone."""
        return row

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read the images of each range, see `OpenSplit`.

        Raises:
            DataError: the folder or a file of it has changed since it was verified, or cannot be read.
            ImagesError: a picture is not 28x28 grey pixels, or damaged.
        """
        if not ranges:
            return
        listing = _listed(self.folder.location, self.folder.version)
        self.folder.confirm(listing.opened)
        store = open_store(listing.location)
        decoded = each(store, partial(_decoded, listing, store), [part for rows in ranges for part in parts(rows)])
        buffer = np.empty((max(rows.rows for rows in ranges), PIXELS), np.float32)
        for rows in ranges:
            for part in parts(rows):
                pixels = buffer[part.start - rows.start : part.stop - rows.start]
                self.pixel_format.to_input(next(decoded), partial(listing.name_row, part.start), pixels)
            names = [listing.path(row) for row in range(rows.start, rows.stop)]
            labels = np.array([int(name[0]) for name in names], np.int8) if self.labelled else None
            yield ImageRows(buffer[: rows.rows], labels, column_of(names, pa.string()))


def open_pictures(dataset: str, listing: Listing, wanted: Wanted, verify: Verify) -> PictureFolder:
    """Verify the pictures of a folder, without decoding them.

    Args:
        dataset: the name of the data set in its runs.
        listing: the folder.
        wanted: what the settings say of the images.
        verify: hashes them, or looks their hash up in the cache.

    Raises:
        SettingsError: a column is named.
        LabelError: pictures are in other subfolders than `0` to `9`, or only some of them in subfolders.
        DataError: there are no pictures, or one cannot be read.
    """
    columns = {"image": wanted.image_column, "label": wanted.label_column, "id": wanted.id_column}
    for option, name in columns.items():
        if name is not None and (option, name) != ("label", NO_LABELS):
            raise SettingsError(
                f"--{option}-column {shown(name)}: expected none, as {listing.location} is a folder of pictures: their "
                "paths are their names and their subfolders the labels; leave it out"
            )
    if not listing.files:
        raise DataError(f"{listing.location}: expected pictures *.png or *.jpg, got none; check the path")
    labelled = wanted.label_column is None and _is_labelled(listing)
    folder = verify(listing.location, opening=listing.opened)
    return PictureFolder(dataset, wanted.split, folder, len(listing.files), labelled, wanted.pixel_format)


def _is_labelled(listing: Listing) -> bool:
    """Whether the pictures are in subfolders that are their labels.

    Raises:
        LabelError: they are in others, or only some of them.
    """
    outside, folders = "", set[str]()
    for path in map(listing.path, range(len(listing.files))):
        top, _, below = path.partition("/")
        if below:
            folders.add(top)
        else:
            outside = outside or path
    if wrong := sorted(folders - LABELS):
        raise LabelError(
            f"{listing.location}: expected pictures in subfolders 0 to 9, their labels, got {listed(wrong)}; rename "
            f"them, or say --label-column {NO_LABELS} if they are no labels"
        )
    if folders and outside:
        raise LabelError(
            f"{listing.location}: expected all pictures in subfolders 0 to 9 or none, got {shown(outside)} outside; "
            f"move it, or say --label-column {NO_LABELS} if the subfolders are no labels"
        )
    return bool(folders)


@lru_cache(maxsize=1)
def _listed(location: Location, version: str) -> Listing:
    """List a folder once in each process; each file is compared with the list when it is read."""
    listing = list_pictures(location)
    if listing.version != version:
        raise DataError(f"{location}: {CHANGED}")
    return listing


def _decoded(listing: Listing, store: Store, rows: RowRange) -> NDArray[np.uint8]:
    """The pixels of some pictures, `[n, 784]`."""
    pixels = np.empty((rows.rows, PIXELS), np.uint8)
    for index in range(rows.rows):
        pixels[index] = decode_picture(listing.read(store, rows.start + index), listing.name_row(rows.start, index))
    return pixels
