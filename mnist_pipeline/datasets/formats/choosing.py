"""Chooses the format of images by the names of their files: the only module that knows every format."""

import logging
import re
from collections.abc import Sequence

from mnist_pipeline.datasets.formats.files import open_files
from mnist_pipeline.datasets.formats.interface import NO_LABELS, Format, Wanted
from mnist_pipeline.datasets.formats.npz import FORMAT as NPZ
from mnist_pipeline.datasets.formats.pictures.decoding import ENDINGS
from mnist_pipeline.datasets.formats.pictures.folder import LABELS, open_pictures
from mnist_pipeline.datasets.formats.pictures.listing import Listing, list_pictures
from mnist_pipeline.datasets.formats.tabular.csv import FORMAT as CSV
from mnist_pipeline.datasets.formats.tabular.parquet import FORMAT as PARQUET
from mnist_pipeline.datasets.source_files import GZIP, Verify, is_file, source_errors, verified_file
from mnist_pipeline.datasets.splits import OpenSplit
from mnist_pipeline.errors import DataError, NoDataError, listed
from mnist_pipeline.store.base import Location
from mnist_pipeline.store.opening import open_store

logger = logging.getLogger(__name__)

FORMATS: Sequence[Format] = (PARQUET, CSV, NPZ)
# Names of files that people keep images or labels in. In a folder of images they must not be passed over in silence.
DATA_NAMES = re.compile(
    r"image|label|\.(parquet|parq|pq|arrow|feather|npz|npy|csv|tsv|jsonl|png|jpe?g|bmp|gif|tiff?|webp)"
    r"(\.(gz|zst|bz2|xz|lz4|snappy))?$|ubyte(\.gz)?$",
    re.IGNORECASE,
)


def open_images(dataset: str, location: Location, wanted: Wanted, verify: Verify = verified_file) -> OpenSplit:
    """Open a file of images, the files of a folder in order of name, or a folder of pictures, on disk or in a bucket.

    A single file whose name says nothing is taken for Parquet. In a folder, names that start with a dot or an
    underscore are skipped.

    Args:
        dataset: the name of the data set in its runs.
        location: the file or folder.
        wanted: what the settings say of the images.
        verify: hashes a file, or looks its hash up in the cache.

    Raises:
        NoDataError: there is nothing at the location.
        DataError: a file cannot be read or is damaged, there are no images, or the folder holds other data.
    """
    with source_errors(location):
        names = [name for name in open_store(location).children("") if name[0] not in "._"]
        if not names and not is_file(location):
            raise NoDataError(
                f"--images {location}: expected a file of images or a folder of them, got nothing there; check the path"
            )
    if not names and location.name.lower().endswith(ENDINGS):
        raise DataError(f"--images {location}: expected a folder of pictures, got one picture; give its folder")
    if _are_pictures(location, names, wanted):
        pictures = list_pictures(location)
        _require_all_listed(pictures, names)
        _pass_over(location, "*.png and *.jpg", pictures.others)
        return open_pictures(dataset, pictures, wanted, verify)
    if not names:
        return open_files(dataset, location, False, [location], _kind_of(location.name) or PARQUET, wanted, verify)
    kind, paths = _files_of(location, names)
    return open_files(dataset, location, True, [location / name for name in paths], kind, wanted, verify)


def _are_pictures(folder: Location, names: Sequence[str], wanted: Wanted) -> bool:
    """Whether a folder that holds these names is one of pictures: some lie there, or in subfolders.

    Raises:
        DataError: there are files of another format, too.
    """
    pictures = [name for name in names if name in LABELS or name.lower().endswith(ENDINGS)]
    others = [name for name in names if _kind_of(name)]
    if pictures and others:
        raise DataError(
            f"{folder}: expected images of one form, got {listed([*others, *pictures])}; move away what is not meant, "
            "or name it"
        )
    return bool(pictures) or (bool(names) and not others and wanted.label_column == NO_LABELS)


def _require_all_listed(pictures: Listing, names: Sequence[str]) -> None:
    """Raise DataError if a folder at the top is none of those that were listed, but holds something: it is a link."""
    links = [name for name in names if name not in pictures.tops and open_store(pictures.location / name).children("")]
    if links:
        raise DataError(
            f"{pictures.location}: expected folders, got links to folders, {listed(links)}; copy here what they lead to"
        )


def _kind_of(name: str) -> Format | None:
    for kind in FORMATS:
        plain = name.lower().removesuffix(GZIP) if kind.may_be_gzip else name.lower()
        if plain.endswith(kind.endings):
            return kind
    return None


def _files_of(folder: Location, names: Sequence[str]) -> tuple[Format, list[str]]:
    """The format of a folder's files, and their names in order.

    Raises:
        DataError: there are files of several formats, or of none that is read: they would be missing in the runs.
    """
    kinds = {name: kind for name in names if (kind := _kind_of(name))}
    kind = next(iter(kinds.values()), None)
    if kind is None:
        raise DataError(
            f"{folder}: expected files {', '.join(f'*{kind.endings[0]}' for kind in FORMATS)} or pictures, also in "
            f"subfolders 0 to 9, got {listed(names)}; give a folder that holds them, or one file"
        )
    what = f"*{kind.endings[0]}"
    others = [name for name in names if kinds.get(name) is not kind]
    _pass_over(folder, what, others)
    return kind, sorted(name for name in names if name not in others)


def _pass_over(folder: Location, what: str, others: Sequence[str]) -> None:
    """Warn of files that are not read.

    Raises:
        DataError: there are data among them.
    """
    if left_out := [name for name in others if DATA_NAMES.search(name)]:
        raise DataError(
            f"{folder}: expected no data but files {what}, got {listed(left_out)}; they would be left out: move "
            "them away, or name the folder or file that is meant"
        )
    if others:
        logger.warning("%s: only files %s are read, and not %s", folder, what, listed(others))
