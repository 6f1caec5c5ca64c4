"""Streams images from CSV files, also compressed with gzip: one image a line, below a line of names or without one.

A file is parsed in blocks of whole lines, so that every error names its row, and memory does not grow with the file.
Lines end with LF or CRLF, the last one also with the file. Empty lines at its end do not count; others are refused. An
empty label is no label; an empty pixel is refused. Names of images are read as they are written: `007` stays `007`.

Accepted: the first image, or the first block, decides whether the pixels are integers or floats.
"""

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from mnist_pipeline.core.images import PIXELS
from mnist_pipeline.core.plan import RowRange
from mnist_pipeline.datasets.formats.interface import LABEL_COLUMN, NO_LABELS, Look, Rows, Wanted
from mnist_pipeline.datasets.formats.tabular.columns import ColumnReader, ColumnRows
from mnist_pipeline.datasets.formats.tabular.csv_lines import TYPES, LineParser, fields_of, is_number
from mnist_pipeline.datasets.formats.tabular.layout import Candidate, Layout, layout_of
from mnist_pipeline.datasets.source_files import GZIP, LINE_ENDS, OpenSource, SourceFile, newlines_in
from mnist_pipeline.errors import DataError, ImagesError, listed

BLOCK_BYTES = 1 << 20  # also the longest line; one of 784 floats has some 20,000
TSV = ".tsv"
DELIMITERS = ",\t;|"
FLOATS = "float64"


@dataclass(frozen=True)
class CsvReader(ColumnReader):
    """Reads CSV files of one layout, whatever the order of their columns."""

    def read(self, source: OpenSource, ranges: Sequence[RowRange]) -> Iterator[tuple[int, Rows]]:
        """Decode the blocks that hold rows of the ranges, see `Reader`; lines of others are only counted."""
        head = _read_head(source)
        parser = _parser(source, head, self.layout)
        for first, rows, text in _blocks(source, head):
            if any(wanted.start < first + rows and first < wanted.stop for wanted in ranges):
                with source.decoding(FORMAT.name):
                    content = parser.parse(text, rows, first)
                yield first, ColumnRows(content, self.layout)
            if first + rows >= ranges[-1].stop:
                return


@dataclass(frozen=True)
class Csv:
    """The format, see `Format`."""

    name: str = "CSV"
    endings: tuple[str, ...] = (".csv", ".tsv")
    may_be_gzip: bool = True

    def look(self, source: OpenSource, source_file: SourceFile, wanted: Wanted) -> Look:
        """Read the first block: it decides whether the pixels are integers. Fields are checked when they are read."""
        name = str(source.location)
        if source_file.lines == 0:
            raise DataError(f"{name}: expected a line for each image, got an empty file; give a file with images")
        head = _read_head(source)
        if not head.has_names:
            _require_options(head, name, wanted)
        label = LABEL_COLUMN if wanted.label_column is None else wanted.label_column
        types = {label: pa.float64(), wanted.id_column: pa.string()}
        schema = pa.schema([(column, types.get(column, pa.int16())) for column in head.names])
        layout = layout_of(schema, name, wanted)
        _, _, text = next(_blocks(source, head), (0, 0, b""))
        layout = replace(layout, images=replace(layout.images, numbers=_numbers(source, head, layout.images, text)))
        return Look(CsvReader(layout), source_file.lines - head.has_names)


@dataclass(frozen=True)
class _Head:
    """What the first line of a file says.

    Attributes:
        names: of the columns; their positions if it does not name them.
        delimiter: between fields.
        row: the line, if it is the first image.
    """

    names: Sequence[str]
    delimiter: str
    row: bytes

    @property
    def has_names(self) -> bool:
        return not self.row


def _read_head(source: OpenSource) -> _Head:
    """Read the first line. It is the first image if it holds nothing but numbers, other than 0, 1, 2 and so on.

    Raises:
        DataError: it is no line of CSV with commas, or tabs in a .tsv; two columns have the same name.
    """
    where = f"{source.location}: line 1"
    delimiter = "\t" if source.location.name.lower().removesuffix(GZIP).endswith(TSV) else ","
    with source.decoding(FORMAT.name):
        line = source.stream.readline(BLOCK_BYTES + 1).removeprefix(codecs.BOM_UTF8)
        _require_short(line, where)
        names = [name.strip() for name in fields_of(line, delimiter, where)]
    for other in DELIMITERS.replace(delimiter, ""):
        if line.count(other.encode()) >= PIXELS - 1:
            raise DataError(
                f"{where}: expected fields separated by {delimiter!r}, got {other!r}; write the file with commas, or "
                "with tabs and a name that ends in .tsv"
            )
    given = [*filter(None, names)]  # pandas leaves the name of its index empty
    positions = [str(position) for position in range(len(names))]
    if given != positions[: len(given)] and all(map(is_number, names)):
        return _Head(positions, delimiter, line)
    if repeated := [name for name, times in Counter(given).items() if times > 1]:
        raise DataError(
            f"{where}: expected names of columns, each once, or nothing but numbers, got {listed(repeated)} repeated; "
            "correct the line"
        )
    return _Head(names, delimiter, b"")


def _require_options(head: _Head, name: str, wanted: Wanted) -> None:
    """Check that the settings say what columns without names hold: which ones beside 784 pixels in a row."""
    named = [column for column in (wanted.label_column, wanted.id_column) if column not in (None, NO_LABELS)]
    pixels = [position for position, column in enumerate(head.names) if column not in named]
    if len(pixels) == PIXELS == pixels[-1] - pixels[0] + 1 and {*named} <= {*head.names}:
        return
    last, beside = len(head.names) - 1, f"beside columns {listed(named)}" if named else "and no other columns"
    raise ImagesError(
        f"{name}: no names of columns in line 1: expected {PIXELS} pixels in a row "
        f"{beside}, got {len(head.names)} columns; give the position of each other column: "
        f"--label-column 0 or --label-column {last}, --id-column 0 or --id-column {last}"
    )


def _parser(source: OpenSource, head: _Head, layout: Layout) -> LineParser:
    return LineParser(str(source.location), head.names, head.delimiter, 1 + head.has_names, layout)


def _numbers(source: OpenSource, head: _Head, images: Candidate, text: bytes) -> str:
    """The type of the pixels: of the first image if it has pixels above 1, which only integers have; else of all lines.

    So one that is no integer further down is named by its row, and does not make all others floats.
    """
    first = text.partition(b"\n")[0]
    for lines in (first, text):
        numbers = next((each for each in TYPES if _is_of(source, head, images, each, lines)), FLOATS)
        if first and lines is first and numbers != FLOATS:
            fields = dict(zip(head.names, fields_of(first, head.delimiter, f"{source.location}: row 0"), strict=False))
            if any(int(fields.get(column) or 0) > 1 for column in images.columns):
                return numbers
    return numbers


def _is_of(source: OpenSource, head: _Head, images: Candidate, numbers: str, text: bytes) -> bool:
    """Whether all pixels of some lines are numbers of that type."""
    pixels = Layout(replace(images, numbers=numbers), label=None, label_type=None)
    return not text or _parser(source, head, pixels).has_types(text)


def _blocks(source: OpenSource, head: _Head) -> Iterator[tuple[int, int, bytes]]:
    """Whole lines, but for empty ones at the end of the file: the number of their first row, how many, and the text."""
    row, rest = 0, head.row
    while True:
        with source.decoding(FORMAT.name):
            some = source.stream.read(BLOCK_BYTES)
        content = rest + some
        # The last line that is not empty waits for more; at the end of the file it is complete.
        end = content.rfind(b"\n", 0, len(content.rstrip(LINE_ENDS))) + 1 if some else len(content.rstrip(LINE_ENDS))
        if end:
            rows = newlines_in(content[:end]) + (not some)
            yield row, rows, content[:end]
            row += rows
        if not some:
            return
        rest = content[end:]
        _require_short(rest, f"{source.location}: row {row}")


def _require_short(line: bytes, where: str) -> None:
    if len(line) > BLOCK_BYTES:
        raise DataError(
            f"{where}: expected lines of at most {BLOCK_BYTES:,} bytes, got a longer one; write one image a line"
        )


FORMAT = Csv()
