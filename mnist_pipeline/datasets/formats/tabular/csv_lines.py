"""Parses lines of CSV with pyarrow, and says which one is wrong, and why. It reads no files."""

import csv
import re
from collections.abc import Sequence

import pyarrow as pa
from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

from mnist_pipeline.datasets.formats.tabular.layout import Layout
from mnist_pipeline.errors import DataError, ImagesError, LabelError, shown

TYPES = {"int16": pa.int16(), "int64": pa.int64(), "float64": pa.float64()}  # of pixels
_INTEGER = re.compile(r"\s*-?[0-9]+\s*")
_NUMBER = re.compile(r"\s*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)\s*", re.IGNORECASE)


def is_number(field: str) -> bool:
    """Whether a field may be a pixel or a label, or none."""
    return not field or _NUMBER.fullmatch(field) is not None


def fields_of(line: bytes, delimiter: str, where: str) -> list[str]:
    """The fields of a line.

    Args:
        line: with or without its end.
        delimiter: between fields.
        where: names the line in errors.

    Raises:
        DataError: it is empty, not in UTF-8, or not a whole line of CSV.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = "\0"
    text = text.removesuffix("\n").removesuffix("\r")
    if "\0" in text:  # as UTF-16 has them
        raise DataError(f"{where}: expected UTF-8, got another encoding; write the file again in UTF-8")
    if not text:
        raise DataError(f"{where}: expected fields, got an empty line; drop it")
    if "\r" in text:
        raise DataError(f"{where}: expected lines that end with LF or CRLF, got CR alone; convert the file")
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{where}: expected fields that end in the same line, got {error}; take the line breaks out, or close the "
            "quotes"
        ) from error


class LineParser:
    """Parses lines that have the same columns.

    Args:
        name: of the file, in errors.
        names: of its columns, in order; those that are read are unique.
        delimiter: between fields.
        first_line: the number of the line of the first image, from 1.
        layout: says which columns are read, and what they hold.
    """

    def __init__(self, name: str, names: Sequence[str], delimiter: str, first_line: int, layout: Layout) -> None:
        self._name, self._delimiter, self._first_line, self._layout = name, delimiter, first_line, layout
        positions = {column: position for position, column in enumerate(names)}
        self._positions = {column: positions[column] for column in layout.columns}
        # By position, as others may have the same name.
        self._names = [str(position) for position in range(len(names))]
        types = {layout.label: pa.float64(), layout.key: pa.string()}
        self._types = {str(at): types.get(column, TYPES[layout.numbers]) for column, at in self._positions.items()}

    def parse(self, text: bytes, rows: int, first: int) -> pa.RecordBatch:
        """The columns of whole lines; an empty field is null.

        Args:
            text: the lines.
            rows: the number of lines.
            first: the number of the first one's image in the file.

        Raises:
            DataError: a line is not as it should be.
        """
        try:
            content = self._parsed(text)
        except pa.ArrowInvalid as error:
            raise self._error(text, first, str(error)) from error
        if content.num_rows != rows:
            raise self._error(text, first, "other lines")
        return content

    def has_types(self, text: bytes) -> bool:
        """Whether the fields of these lines have the types of the layout."""
        try:
            self._parsed(text)
        except pa.ArrowInvalid:
            return False
        return True

    def _parsed(self, text: bytes) -> pa.RecordBatch:
        table = read_csv(
            pa.BufferReader(text),
            ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=self._names),
            ParseOptions(delimiter=self._delimiter),
            ConvertOptions(include_columns=list(self._types), column_types=self._types, null_values=[""]),
        )
        batches = table.combine_chunks().to_batches()
        return batches[0].rename_columns(self._layout.columns) if batches else pa.RecordBatch.from_pylist([])

    def _error(self, text: bytes, first: int, reason: str) -> DataError:
        """What is wrong with the first line that is not as it should be."""
        lines = text.removesuffix(b"\n").split(b"\n")
        wrong = next((index for index, line in enumerate(lines) if not self._is_row(line)), 0)
        row = first + wrong
        where = f"{self._name}: row {row} (line {self._first_line + row})"
        try:
            fields = fields_of(lines[wrong], self._delimiter, where)
        except DataError as error:
            return error
        if len(fields) != len(self._names):
            return DataError(
                f"{where}: expected {len(self._names)} fields, got {len(fields)}; correct or drop the line"
            )
        found = (self._field_error(where, column, fields[at]) for column, at in self._positions.items())
        return next(
            filter(None, found),
            DataError(f"{where}: expected a line of CSV, got {shown(reason)}; correct the line"),
        )

    def _is_row(self, line: bytes) -> bool:
        try:
            return bool(
                self._parsed(line + b"\n" + line).num_rows == 2
            )  # a field that does not end goes on in the second
        except pa.ArrowInvalid:
            return False

    def _field_error(self, where: str, column: str, field: str) -> DataError | None:
        if not field or column == self._layout.key:
            return None
        is_integer = _INTEGER.fullmatch(field) is not None
        if column == self._layout.label:
            what = f"expected a label 0-9 in column {shown(column)}, or nothing, got {shown(field)}; write digits"
            return None if is_number(field) else LabelError(f"{where}: {what}")
        got = f"in column {shown(column)}, got {shown(field)}"
        if not is_number(field):
            return ImagesError(f"{where}: expected a number {got}; correct it, or drop the line")
        if self._layout.numbers == "float64":
            return None
        if not is_integer:
            return ImagesError(f"{where}: expected an integer as in the first lines {got}; write all pixels alike")
        if abs(int(field)) >= 1 << 15:
            return ImagesError(f"{where}: expected pixels in 0..255, one {got}; correct it, or drop the line")
        return None
