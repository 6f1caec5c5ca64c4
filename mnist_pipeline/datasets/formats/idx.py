"""Reads verified IDX files, on disk or in a bucket, a range of rows at a time. It fetches nothing."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core import idx
from mnist_pipeline.core.images import BY_TYPE, DIGITS, PIXELS, SIDE, PixelFormat, flatten, normalise
from mnist_pipeline.core.plan import RowRange, cut
from mnist_pipeline.datasets.source_files import OpenSource, SourceFile
from mnist_pipeline.datasets.splits import ImageRows
from mnist_pipeline.errors import DataError, IdxFormatError, LabelError

CHECKED_AT_ONCE = 100_000  # labels


@dataclass(frozen=True)
class IdxSplit:
    """A split of IDX files: its images, its labels if it has any with their header, and what its pixels mean."""

    dataset: str
    split: str
    images: SourceFile
    labels: SourceFile | None
    rows: int
    pixel_format: PixelFormat = BY_TYPE
    labels_header: idx.IdxHeader | None = None

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
        """The row itself: IDX allows random access, but in a .gz, which is read from its beginning."""
        return 0 if any(file.is_gzip for file in filter(None, (self.images, self.labels))) else row

    def read(self, ranges: Sequence[RowRange]) -> Iterator[ImageRows]:
        """Read and normalise the images of each range, see `OpenSplit`.

        Raises:
            DataError: a file is missing or has changed since it was verified.
            ImagesError: a pixel is larger than the given scale.
        """
        buffer = np.empty((max((rows.rows for rows in ranges), default=0), PIXELS), np.float32)
        for rows, images, labels in self.read_bytes(ranges):
            pixels = normalise(flatten(images), out=buffer[: rows.rows])
            yield ImageRows(pixels, None if labels is None else labels.astype(np.int8))

    def read_bytes(
        self, ranges: Sequence[RowRange]
    ) -> Iterator[tuple[RowRange, NDArray[np.uint8], NDArray[np.uint8] | None]]:
        """The images of each range, `[n, 28, 28]` uint8, 0..255, in MNIST's form whatever the file's, and their labels.

        Labels are `[n]` uint8, 0..9; None if the data set has none.

        Raises:
            DataError: a file is missing or has changed since it was verified.
            ImagesError: a pixel is larger than the given scale.
        """
        for file in filter(None, (self.images, self.labels)):
            file.confirm()
        header = idx.IdxHeader((self.rows, SIDE, SIDE))
        with ExitStack() as stack:
            images = stack.enter_context(self.images.open())
            labels = stack.enter_context(self.labels.open()) if self.labels else None
            for rows in ranges:
                values = np.frombuffer(_read_rows(images, header, rows), np.uint8).reshape(-1, PIXELS)
                pixels = self.pixel_format.to_bytes(values, functools.partial(self._name_row, rows.start))
                yield rows, pixels.reshape(-1, SIDE, SIDE), self.labels_of(labels, rows)

    def _name_row(self, start: int, row: int) -> str:
        return f"{self.images.location}: image {start + row}"

    def labels_of(self, labels: OpenSource | None, rows: RowRange) -> NDArray[np.uint8] | None:
        """The labels of some rows in the open file of labels, if there is one."""
        if labels is None or self.labels_header is None:
            return None
        return idx.decode_labels(_read_rows(labels, self.labels_header, rows), self.labels_header).astype(np.uint8)


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
    with images.open() as source:
        header = idx.parse_header(_start(source), str(images.location), dimensions=3)
    idx.check_size(header, images.size_bytes, str(images.location))
    rows, *side = header.shape
    if side != [SIDE, SIDE]:
        raise IdxFormatError(
            f"{images.location}: expected images of {SIDE}x{SIDE} pixels, got {side[0]}x{side[1]}; "
            "only data sets in the format of MNIST are read"
        )
    if rows == 0:
        raise DataError(f"{images.location}: expected at least one image, got none; give a data set with images")
    labels_header = None if labels is None else _checked_labels(images, labels, rows)
    return IdxSplit(dataset, split, images, labels, rows, pixel_format, labels_header)


def read_images(source_images: IdxSplit, rows: RowRange) -> NDArray[np.uint8]:
    """The images of some rows, as by `IdxSplit.read_bytes`."""
    ((_, images, _),) = source_images.read_bytes([rows])
    return images


def read_labels(source_images: IdxSplit, rows: RowRange) -> NDArray[np.uint8] | None:
    """The labels of some rows, as by `IdxSplit.read_bytes`; the images are not read."""
    if source_images.labels is None:
        return None
    source_images.labels.confirm()
    with source_images.labels.open() as labels:
        return source_images.labels_of(labels, rows)


def _checked_labels(images: SourceFile, labels: SourceFile, rows: int) -> idx.IdxHeader:
    """The header of the labels; every label is read."""
    name = str(labels.location)
    with labels.open() as source:
        header = idx.parse_labels_header(_start(source), name)
        idx.check_size(header, labels.size_bytes, name)
        if header.shape[0] != rows:
            raise LabelError(
                f"{name}: expected {rows} labels, one for each image of {images.location}, got {header.shape[0]}; "
                "are the two files of the same split?"
            )
        for some in cut(rows, CHECKED_AT_ONCE):
            values = idx.decode_labels(_read_rows(source, header, some), header)
            if (wrong := (values < 0) | (values >= DIGITS)).any():
                where = int(np.argmax(wrong))
                raise LabelError(
                    f"{name}: expected labels 0-9, got {values[where]} for image {some.start + where}; "
                    "correct or drop the labels"
                )
    return header


def _start(source: OpenSource) -> bytes:
    with source.decoding("IDX"):
        return source.stream.read(idx.MAX_HEADER_BYTES)


def _read_rows(source: OpenSource, header: idx.IdxHeader, rows: RowRange) -> bytes:
    with source.decoding("IDX"):
        source.stream.seek(header.header_bytes + rows.start * header.row_bytes)
        data = source.stream.read(rows.rows * header.row_bytes)
        if len(data) != rows.rows * header.row_bytes:
            raise DataError(f"{source.location}: truncated; run again to verify it again")
    return data
