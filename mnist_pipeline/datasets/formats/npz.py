"""Streams images from NumPy's files, .npz and .npy, without unpickling anything.

Of an .npz each array is a member of a zip archive. A stored one (`numpy.savez`) is entered at any row; a deflated one
(`numpy.savez_compressed`) is read from its beginning.

Threat: a small file that announces or inflates to gigabytes. Nothing is held but some rows, and an array must have
exactly the size that its header implies, and no more than deflate can hold. Accepted: the checksums (CRC) of stored
images are not compared, as nobody reads them from end to end; an archive's directory is held whole, which is less than
the file.
"""

import io
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.arrays import (
    MAX_HEADER_BYTES,
    Array,
    ArrayLayout,
    ArrayRows,
    layout_of,
    parse_header,
)
from mnist_pipeline.datasets.formats.files import ENTRY_SPACING
from mnist_pipeline.datasets.formats.interface import Look, Rows, Wanted
from mnist_pipeline.datasets.source_files import MAX_DECOMPRESSED_BYTES, OpenSource, SourceFile
from mnist_pipeline.errors import DataError, listed, shown

NPY = ".npy"
NPY_ARRAY = "arr_0"  # the name of the one array of an .npy file, as `numpy.savez` would call it
MAX_ARRAYS = 100
DECODED_AT_ONCE = 1024  # rows
BUFFER_BYTES = 1 << 20
MAX_RATIO = 1032  # of deflate
ENCRYPTED = 0x1  # a flag of a member
LOCAL_HEADER = struct.Struct("<26x2H")  # of a member, before its name and extra field, of these lengths
# What zipfile and NumPy raise. RuntimeError: a password is wanted.
DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, LookupError, struct.error, OverflowError)


@dataclass(frozen=True)
class NpzReader(ArrayLayout):
    """Reads NumPy's files of one layout."""

    def read(self, source: OpenSource, ranges: Sequence[RowRange]) -> Iterator[tuple[int, Rows]]:
        """Read the rows of the ranges, see `Reader`."""
        with _opened(source) as opened:
            with opened.decoding():
                images = opened.values(self.images, is_entered=True)
                labels, keys = map(opened.column, (self.label_column, self.id_column))
            for start, stop in _blocks(ranges):
                with opened.decoding():
                    content = ArrayRows(images.read(start, stop), labels(start, stop), keys(start, stop), self.numbers)
                yield start, content


@dataclass(frozen=True)
class Npz:
    """The format, see `Format`."""

    name: str = "NPZ"
    endings: tuple[str, ...] = (".npz", NPY)
    may_be_gzip: bool = False

    def look(self, source: OpenSource, source_file: SourceFile, wanted: Wanted) -> Look:
        """Read the headers of all arrays; pixels and labels are checked only when they are read."""
        with _opened(source) as opened:
            arrays = {name: opened.header(name) for name in opened.members}
            layout = layout_of(arrays, str(source.location), wanted)
            for name in layout.arrays:
                opened.require_size(name, arrays[name], source_file.size_bytes)
            member = opened.members[layout.images]
        rows = arrays[layout.images].rows
        is_stored = member is None or member.compress_type == zipfile.ZIP_STORED
        return Look(NpzReader(**vars(layout)), rows, range(0, rows, ENTRY_SPACING) if is_stored else (0,))


@dataclass(frozen=True)
class _Values:
    """An array of which rows can be read, forwards only if it is deflated."""

    stream: BinaryIO
    start: int  # of the first row
    array: Array

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Some rows, each flat: `[stop - start, n]`."""
        row_bytes, rows = self.array.row_bytes, stop - start
        self.stream.seek(self.start + start * row_bytes)
        data = self.stream.read(rows * row_bytes)
        if len(data) != rows * row_bytes:
            raise EOFError(f"an array that ends before row {stop}")
        return np.frombuffer(data, self.array.stored).reshape(rows, -1)


@dataclass(frozen=True)
class _Opened:
    """An open file, and its arrays by name with their places in the archive; None in an .npy file."""

    source: OpenSource
    archive: zipfile.ZipFile | None
    members: dict[str, zipfile.ZipInfo | None]

    def decoding(self) -> Any:
        return self.source.decoding(FORMAT.name, *DAMAGE)

    def header(self, name: str) -> Array:
        """The header of an array.

        Raises:
            DataError: it is none of NumPy's format.
        """
        with self.decoding():
            data = self._stream(name).read(MAX_HEADER_BYTES)
            try:
                return parse_header(data)
            except ValueError as error:
                raise DataError(
                    f"{self.source.location}: {shown(name)}: expected an array as NumPy saves it, got "
                    f"{shown(error)}; replace the file"
                ) from error

    def values(self, name: str, is_entered: bool = False) -> _Values:
        """An array for reading; `is_entered` if reading starts far from its beginning."""
        array, member = self.header(name), self.members[name]
        if member is None:
            return _Values(cast(BinaryIO, self.source.stream), array.header_bytes, array)
        if is_entered and member.compress_type == zipfile.ZIP_STORED:  # zipfile would read all that is before
            self.source.stream.seek(member.header_offset)
            lengths = LOCAL_HEADER.unpack(self.source.stream.read(LOCAL_HEADER.size))
            start = member.header_offset + LOCAL_HEADER.size + sum(lengths)
            return _Values(cast(BinaryIO, self.source.stream), start + array.header_bytes, array)
        # Arrays are read in turn: without a buffer each turn would be a request to the bucket.
        stream = io.BufferedReader(cast(io.RawIOBase, self._stream(name)), BUFFER_BYTES)
        return _Values(cast(BinaryIO, stream), array.header_bytes, array)

    def column(self, name: str | None) -> Callable[[int, int], NDArray[Any] | None]:
        """Reads some rows of an array of one value a row, `[stop - start]`; None if there is no such array."""
        if name is None:
            return lambda start, stop: None  # noqa: ARG005
        values = self.values(name)
        return lambda start, stop: values.read(start, stop)[:, 0]

    def require_size(self, name: str, array: Array, file_bytes: int) -> None:
        """Compare the size of an array with what its header implies, and with the size of the file.

        Raises:
            DataError: it is another, or would inflate to more than the file can hold.
        """
        member, location = self.members[name], self.source.location
        size_bytes = file_bytes if member is None else member.file_size
        if array.size_bytes != size_bytes:
            raise DataError(
                f"{location}: {shown(name)}: expected {array.size_bytes} bytes for {shown(array)}, got {size_bytes}; "
                "replace the file"
            )
        limit = file_bytes
        if member is not None and member.compress_type != zipfile.ZIP_STORED:
            limit = min(MAX_RATIO * file_bytes, MAX_DECOMPRESSED_BYTES)
        if size_bytes > limit:
            raise DataError(
                f"{location}: {shown(name)}: expected at most {limit} bytes in a file of {file_bytes}, got "
                f"{size_bytes} by its directory; replace the file"
            )

    def _stream(self, name: str) -> BinaryIO:
        member = self.members[name]
        if self.archive is None or member is None:
            self.source.stream.seek(0)
            return cast(BinaryIO, self.source.stream)
        return cast(BinaryIO, self.archive.open(member))


@contextmanager
def _opened(source: OpenSource) -> Iterator[_Opened]:
    if source.location.name.lower().endswith(NPY):
        yield _Opened(source, None, {NPY_ARRAY: None})
        return
    with source.decoding(FORMAT.name, *DAMAGE):
        archive = zipfile.ZipFile(cast(BinaryIO, source.stream))
    with archive:
        yield _Opened(source, archive, _members(source, archive))


def _members(source: OpenSource, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo | None]:
    """The arrays of an archive.

    Raises:
        DataError: several bear the same name, or they are encrypted, or compressed in another way than NumPy does it.
    """
    found = [member for member in archive.infolist() if member.filename.endswith(NPY)]
    names = [member.filename.removesuffix(NPY) for member in found]
    problem = None
    if len(found) > MAX_ARRAYS:
        problem = f"at most {MAX_ARRAYS} arrays, got {len(found):,}; save all images as one array"
    elif twice := [name for name, times in Counter(names).items() if times > 1]:
        problem = f"arrays of different names, got several of {listed(twice)}; save the file again"
    elif any(member.flag_bits & ENCRYPTED for member in found):
        problem = "arrays that can be read without a password, got encrypted ones; save the file again"
    elif any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in found):
        problem = "arrays that are stored or deflated, got another compression; save the file again"
    if problem:
        raise DataError(f"{source.location}: expected {problem}")
    return dict(zip(names, found, strict=True))


def _blocks(ranges: Sequence[RowRange]) -> Iterator[tuple[int, int]]:
    """Blocks of rows to read at once (start, stop), in order; ranges that touch are read as one."""
    start, stop = ranges[0].start, ranges[0].stop
    for rows in [*ranges[1:], None]:
        if rows is not None and rows.start == stop:
            stop = rows.stop
            continue
        yield from ((first, min(first + DECODED_AT_ONCE, stop)) for first in range(start, stop, DECODED_AT_ONCE))
        if rows is not None:
            start, stop = rows.start, rows.stop


FORMAT = Npz()
