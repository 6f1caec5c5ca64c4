"""Finds the IDX files of a data set in a folder, on disk or in a bucket, by the names that people give them."""

import difflib
import logging
from collections.abc import Iterable

from mnist_pipeline.datasets.catalogue import Dataset, IdxFile
from mnist_pipeline.datasets.source_files import GZIP, SourceFile, Verify, is_gzip, verified_file
from mnist_pipeline.errors import ChecksumError, DataError, NoDataError, listed
from mnist_pipeline.store.base import Location, exists
from mnist_pipeline.store.opening import open_store

logger = logging.getLogger(__name__)

# Maximum size of an unpinned .gz once decompressed: eight million images.
UNPINNED_LIMIT_BYTES = 6 << 30
NEAR = 0.8  # of the ratio of difflib, from where a file's name may be a misspelt one


def from_folder(
    folder: Location, dataset: Dataset, files: Iterable[IdxFile], verify: Verify
) -> dict[str, SourceFile | None]:
    """Look for each file under its names, plain or with .gz added.

    Returns:
        For each file name its verified file, or None for an unpinned file that is not there. Pinned ones that are not
        there are left out: other sources may have them.

    Raises:
        NoDataError: there is nothing in the folder.
        ChecksumError: a file is not the pinned one.
        DataError: a file cannot be read, several bear names of the same file, or one bears nearly such a name.
    """
    there = open_store(folder).children("")
    if not there:
        raise NoDataError(f"--data-dir {folder}: expected a folder with IDX files, got nothing there; check the path")
    found: dict[str, SourceFile | None] = {}
    for file in files:
        if name := _name_of(folder, there, file):
            found[file.name] = verified(folder / name, file, verify)
        elif file.sha256 is None:
            if near := _near(there, dataset, file.name):
                raise DataError(
                    f"{folder}: expected {file.name} or {file.name}{GZIP}, got {listed(near)}; rename the file that is "
                    "meant, or move away what is not"
                )
            found[file.name] = None
            if others := _others(there, dataset):
                logger.warning("%s: no %s; files that are not read: %s", folder, file.name, listed(others))
        else:
            logger.warning("%s holds no %s; asking the other sources for it", folder, file.name)
    return found


def verified(location: Location, file: IdxFile, verify: Verify = verified_file) -> SourceFile:
    """Hash a file, or look its hash up, and compare it with what is pinned.

    Raises:
        ChecksumError: it is another one.
        DataError: it cannot be read.
    """
    source_file = verify(location, file.size_bytes or UNPINNED_LIMIT_BYTES)
    if problem := problem_with(file, source_file.size_bytes, source_file.sha256):
        raise ChecksumError(
            f"{location}: {'once decompressed, ' if is_gzip(location) else ''}{problem}; replace the file, or give "
            "your own data its own name with --dataset NAME"
        )
    return source_file


def problem_with(file: IdxFile, size_bytes: int, sha256: str) -> str | None:
    """Why some content is not that of a file; None if it may be."""
    if file.size_bytes not in (None, size_bytes):
        return f"expected {file.size_bytes} bytes, got {size_bytes}"
    if file.sha256 not in (None, sha256):
        return f"expected sha256 {file.sha256}, got {sha256}"
    return None


def _name_of(folder: Location, there: Iterable[str], file: IdxFile) -> str | None:
    """The name under which a file is there; a plain one goes before a compressed one."""
    found = [f"{name}{ending}" for ending in ("", GZIP) for name in names_of(file) if f"{name}{ending}" in there]
    if len(found) > 1:  # archives hold folders of the same names
        found = [name for name in found if exists(open_store(folder), name)] or found
    found = [name for name in found if name.endswith(GZIP) == found[0].endswith(GZIP)]
    if len(found) > 1:
        raise DataError(f"{folder}: expected one {file.name}, got {listed(found)}; move away what is not meant")
    return found[0] if found else None


def names_of(file: IdxFile) -> list[str]:
    """The names of a file, each also with a dot before `idx`, as some archives spell it."""
    return [name for each in (file.name, *file.other_names) for name in (each, each.replace("-idx", ".idx"))]


def _near(there: Iterable[str], dataset: Dataset, name: str) -> list[str]:
    """The files of a folder that may have been meant by a name, and are none of the data set's own."""
    words = [word for word in ("label", "image") if word in name.casefold()]
    return [
        other
        for other in _others(there, dataset)
        if any(word in other.casefold() for word in words)
        or difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio() >= NEAR
    ]


def _others(there: Iterable[str], dataset: Dataset) -> list[str]:
    """The files of a folder that are none of the data set's own."""
    known = {name for split in dataset.splits.values() for file in split.files for name in names_of(file)}
    return sorted(each for each in there if each.removesuffix(GZIP) not in known)
