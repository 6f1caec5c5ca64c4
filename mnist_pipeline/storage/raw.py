"""Verified IDX files on disk -> arrays, a range of rows at a time. Fetches nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import DIGITS, PIXELS, SIDE
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.errors import DataError, IdxFormatError, LabelError


@dataclass(frozen=True)
class RawFile:
    """One IDX file whose bytes have been verified."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class RawSplit:
    """The images of a split, its labels if it has any, and how many images there are."""

    dataset: str
    split: str
    images: RawFile
    labels: RawFile | None
    rows: int


def open_split(dataset: str, split: str, images: RawFile, labels: RawFile | None) -> RawSplit:
    """Check that two IDX files are images and labels that belong together.

    Raises:
        IdxFormatError: a file is not IDX, is truncated or oversized, or its images are not 28x28.
        LabelError: the numbers of images and labels differ, or a label is not a digit.
        DataError: there are no images.
    """
    rows, *side = _header(images.path, dimensions=3).shape
    if side != [SIDE, SIDE]:
        raise IdxFormatError(
            f"{images.path}: expected images of {SIDE}x{SIDE} pixels, got {side[0]}x{side[1]}; "
            "only data sets of the MNIST form are read"
        )
    if rows == 0:
        raise DataError(f"{images.path}: expected at least one image, got none; give a data set with images")
    if labels is not None:
        _check_labels(images.path, labels.path, rows)
    return RawSplit(dataset, split, images, labels, rows)


def read_images(raw: RawSplit, rows: RowRange) -> NDArray[np.uint8]:
    """Images of the given rows: `[n, 28, 28]` uint8, 0..255."""
    skip = idx.IdxHeader((raw.rows, SIDE, SIDE)).header_bytes + rows.start * PIXELS
    values = _read_values(raw.images.path, skip, rows.rows * PIXELS)
    return values.reshape(rows.rows, SIDE, SIDE)


def read_labels(raw: RawSplit, rows: RowRange) -> NDArray[np.uint8] | None:
    """Labels of the given rows: `[n]` uint8, 0..9; None if the data set has none."""
    if raw.labels is None:
        return None
    skip = idx.IdxHeader((raw.rows,)).header_bytes + rows.start
    return _read_values(raw.labels.path, skip, rows.rows)


def _header(path: Path, dimensions: int) -> idx.IdxHeader:
    with path.open("rb") as file:
        header = idx.parse_header(file.read(idx.MAX_HEADER_BYTES), str(path), dimensions)
    idx.check_size(header, path.stat().st_size, str(path))
    return header


def _check_labels(images: Path, labels: Path, rows: int) -> None:
    (count,) = _header(labels, dimensions=1).shape
    if count != rows:
        raise LabelError(
            f"{labels}: expected {rows} labels, one for each image of {images}, got {count}; "
            "are the two files of the same split?"
        )
    values = np.memmap(labels, np.uint8, mode="r", offset=idx.IdxHeader((rows,)).header_bytes)
    if values.max() >= DIGITS:
        where = int(np.argmax(values >= DIGITS))
        raise LabelError(
            f"{labels}: expected labels 0-9, got {int(values[where])} for image {where}; correct or drop the labels"
        )


def _read_values(path: Path, skip: int, count: int) -> NDArray[np.uint8]:
    values = np.fromfile(path, np.uint8, count=count, offset=skip)
    if len(values) != count:
        raise IdxFormatError(
            f"{path}: expected {count} bytes from byte {skip} on, got {len(values)}; "
            "the file was cut short since it was verified: fetch it again"
        )
    return values
