"""Reads verified IDX files from disk, a range of rows at a time. It fetches nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import BY_TYPE, DIGITS, PIXELS, SIDE, PixelFormat, flatten, normalise
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.source_files import SourceFile, open_regular, stamp_of
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, IdxFormatError, LabelError


@dataclass(frozen=True)
class IdxSplit:
    """A split of IDX files: its images, its labels if it has any, its number of images, and what its pixels mean."""

    dataset: str
    split: str
    images: SourceFile
    labels: SourceFile | None
    rows: int
    pixel_format: PixelFormat = BY_TYPE

    @property
    def images_sha256(self) -> str:
        return self.images.sha256

    @property
    def labels_sha256(self) -> str | None:
        return self.labels.sha256 if self.labels else None

    @property
    def keys_from(self) -> None:
        return None  # IDX has no room for names

    @property
    def transform_version(self) -> str:
        return self.pixel_format.transform_version(np.dtype(np.uint8))

    def decoded_from(self, row: int) -> int:
        """The row itself: IDX allows random access."""
        return row

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read and normalise the images of each range, see `OpenSplit`.

        Raises:
            DataError: a file is missing or has changed since it was verified.
            ImagesError: a pixel is larger than the given scale.
        """
        for file in filter(None, (self.images, self.labels)):
            file.confirm()
        buffer = np.empty((max((rows.rows for rows in ranges), default=0), PIXELS), np.float32)
        for rows in ranges:
            pixels = normalise(flatten(read_images(self, rows)), out=buffer[: rows.rows])
            labels = read_labels(self, rows)
            yield ImageRows(pixels, None if labels is None else labels.astype(np.int8))


def open_split(
    dataset: str,
    split: str,
    images: SourceFile,
    labels: SourceFile | None,
    pixel_format: PixelFormat = BY_TYPE,
) -> IdxSplit:
    """Open two IDX files and check that they are images and labels that belong together.

    Raises:
        IdxFormatError: a file is not IDX, is truncated or oversized, or its images are not 28x28.
        LabelError: the numbers of images and labels differ, or a label is not a digit.
        DataError: there are no images.
    """
    rows, *side = _header(images.path, dimensions=3).shape
    if side != [SIDE, SIDE]:
        raise IdxFormatError(
            f"{images.path}: expected images of {SIDE}x{SIDE} pixels, got {side[0]}x{side[1]}; "
            "only data sets in the format of MNIST are read"
        )
    if rows == 0:
        raise DataError(f"{images.path}: expected at least one image, got none; give a data set with images")
    if labels is not None:
        _check_labels(images.path, labels.path, rows)
    return IdxSplit(dataset, split, images, labels, rows, pixel_format)


def read_images(source_images: IdxSplit, rows: RowRange) -> NDArray[np.uint8]:
    """Read the images of the given rows: `[n, 28, 28]` uint8, 0..255, in MNIST's form whatever the file's.

    Raises:
        DataError: the file is missing or has changed since it was verified.
        ImagesError: a pixel is larger than the given scale.
    """
    skip = idx.IdxHeader((source_images.rows, SIDE, SIDE)).header_bytes + rows.start * PIXELS
    values = _read_values(source_images.images, skip, rows.rows * PIXELS)
    path = source_images.images.path
    images = source_images.pixel_format.to_bytes(
        values.reshape(-1, PIXELS), lambda row: f"{path}: image {rows.start + row}"
    )
    return images.reshape(rows.rows, SIDE, SIDE)


def read_labels(source_images: IdxSplit, rows: RowRange) -> NDArray[np.uint8] | None:
    """Read the labels of the given rows: `[n]` uint8, 0..9; None if the data set has none.

    Raises:
        DataError: the file is missing or has changed since it was verified.
    """
    if source_images.labels is None:
        return None
    skip = idx.IdxHeader((source_images.rows,)).header_bytes + rows.start
    return _read_values(source_images.labels, skip, rows.rows)


def _header(path: Path, dimensions: int) -> idx.IdxHeader:
    with open_regular(path) as file:
        header = idx.parse_header(file.read(idx.MAX_HEADER_BYTES), str(path), dimensions)
        size_bytes, *_ = stamp_of(file)
    idx.check_size(header, size_bytes, str(path))
    return header


def _check_labels(images: Path, labels: Path, rows: int) -> None:
    (count,) = _header(labels, dimensions=1).shape
    if count != rows:
        raise LabelError(
            f"{labels}: expected {rows} labels, one for each image of {images}, got {count}; "
            "are the two files of the same split?"
        )
    with open_regular(labels) as file:
        values = np.memmap(file, np.uint8, mode="r", offset=idx.IdxHeader((rows,)).header_bytes)
    if values.max() >= DIGITS:
        where = int(np.argmax(values >= DIGITS))
        raise LabelError(
            f"{labels}: expected labels 0-9, got {int(values[where])} for image {where}; correct or drop the labels"
        )


def _read_values(source_file: SourceFile, skip: int, count: int) -> NDArray[np.uint8]:
    with open_regular(source_file.path) as file:
        values = np.fromfile(file, np.uint8, count=count, offset=skip)
        problem = source_file.problem_with(file)  # after reading, to detect a change during the read too
    if problem or len(values) != count:
        raise DataError(f"{source_file.path}: {problem or 'truncated'}; run again to verify it again")
    return values
