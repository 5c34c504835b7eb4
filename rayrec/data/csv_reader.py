"""Streams the rows of CSV files whose delimiter is one ASCII character.

Arrow parses the records; our own code (`csv_records`) finds where they end, and what breaks the grammar.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from rayrec.config import FileSource
from rayrec.data.csv_dialect import Dialect
from rayrec.data.csv_records import Records, RecordSplitter
from rayrec.data.raw_rows import (
    MAX_BATCH_ROWS,
    MAX_RAW_CHARS,
    MAX_ROW_BYTES,
    Malformed,
    RawBatch,
    check_columns,
    cleaned_names,
)
from rayrec.data.text_stream import TextStream
from rayrec.errors import DataError

_BATCH_BYTES = 8 << 20
_HEADER_BYTES = 1 << 16
_BATCH_ROWS = 2 * MAX_BATCH_ROWS
_ESCAPED_SHARE = 0.05  # of the rows: above it, backslashes before quotes are no accident
NULL = "\\N"  # MySQL, PostgreSQL and Hive write it for null; it is nobody's id
_HINT = "; a backslash stands before a quote: set the source's escape: '\\'"
_SEPARATOR_LINE = re.compile(rb'"?sep=([^\r\n])"?[ ]*(?:\r\n|\n|\r)', re.IGNORECASE)  # Excel writes it


def read_csv(
    stream: TextStream, source: FileSource, columns: Sequence[str], needed: Sequence[str], where: str
) -> Iterator[RawBatch]:
    """Read all columns as strings; an empty file has no rows.

    Raises DataError for `needed` columns that are missing, `columns` that occur twice, too many columns, too long rows,
    and quotes that do not pair up.
    """
    dialect = _dialect(source.delimiter, source.quote, source.escape)
    text = b""
    while not text and not stream.ended:
        text = _more(stream, dialect, size=_HEADER_BYTES).lstrip(b"\r\n")
    if not text:
        return
    text, line = _without_separator_line(text, dialect, where)
    names: Sequence[str] = source.names
    if source.header:
        found, text = _header(text, stream, dialect, where)
        names, line = cleaned_names(found, columns), line + 1
    missing = check_columns(names, columns, needed, where)
    parser = _Parser(dialect, names, missing, where)
    splitter = RecordSplitter(dialect, len(names), where, line)
    while text or not stream.ended:
        piece = _rows_at_most(text)
        records, rest = splitter.split(piece, final=stream.ended and len(piece) == len(text))
        if len(rest) == len(piece) < len(text):  # one record of very many lines
            piece = text
            records, rest = splitter.split(piece, final=stream.ended)
        yield from parser.batches(records)
        if len(piece) < len(text):
            text = rest + text[len(piece) :]
        else:
            text = rest if stream.ended else _more(stream, dialect, rest)
        if not rest and text[:1] in (b"\r", b"\n"):
            text = text.lstrip(b"\r\n")


_dialect = lru_cache(Dialect)  # compiles its patterns once


def _more(stream: TextStream, dialect: Dialect, before: bytes = b"", *, size: int | None = None) -> bytes:
    # A final record ends in a line break; after an escape character the first one would be text.
    return stream.read(size or _BATCH_BYTES, before, b"\n\n" if dialect.escape else b"\n")


def _rows_at_most(text: bytes) -> bytes:
    """The text up to the line _BATCH_ROWS, so that short rows do not fill the memory."""
    is_break = np.frombuffer(text, np.uint8) == ord("\n")
    if np.count_nonzero(is_break) <= _BATCH_ROWS:
        return text
    return text[: int(np.flatnonzero(is_break)[_BATCH_ROWS - 1]) + 1]


def _without_separator_line(text: bytes, dialect: Dialect, where: str) -> tuple[bytes, int]:
    """The text after a first line such as `sep=;`, and the number of its first line."""
    found = _SEPARATOR_LINE.match(text)
    if not found:
        return text, 1
    if found[1] != dialect.delimiter.encode():
        said = found[1].decode("utf8", "replace")
        raise DataError(
            f"the first line says that the delimiter is {said!r}, the config says {dialect.delimiter!r}",
            where=where,
            hint="set the source's delimiter",
        )
    return text[found.end() :], 2


def _header(text: bytes, stream: TextStream, dialect: Dialect, where: str) -> tuple[list[str], bytes]:
    """The names in the first record, and the text after it."""
    while not (found := dialect.first_record.match(text)) and not stream.ended and len(text) <= MAX_ROW_BYTES:
        text = _more(stream, dialect, text)
    if not found:
        shown = text[:200].decode("utf8", "replace")
        raise DataError(
            f"the header has no end, or a quote in it does not close: {shown!r}",
            where=where,
            hint="correct the first line, or set the source's quote, escape or delimiter",
        )
    reader = csv.reader(
        io.StringIO(found[0].decode(), newline=""),
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        escapechar=dialect.escape,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
    )
    try:
        return next(reader), text[found.end() :]
    except csv.Error as error:
        raise DataError(f"the header cannot be read: {error}", where=where, hint="correct the first line") from None


@dataclass
class _Parser:
    """Parses the records of one file, and numbers its rows."""

    dialect: Dialect
    names: Sequence[str]
    missing: Mapping[str, DataError]
    where: str
    _next: int = field(default=1, init=False)
    _escaped: int = field(default=0, init=False)

    def batches(self, records: Records) -> Iterator[RawBatch]:
        """One batch, or none without rows."""
        if not records.text or (records.text.isspace() and not records.text.strip(b"\r\n")):
            return
        table, wrong = self._parsed(records.text, len(self.names))
        if self._next == 1 and (width := self._width_with_trailing_delimiter(wrong, table.num_rows)):
            self.names = [*self.names, ""][:width]
            table, wrong = self._parsed(records.text, width)
        marks = {f"\0{number}": line for number, line in enumerate(records.broken)}
        malformed = []
        for row in wrong:
            line = marks.get(row.text.rstrip(self.dialect.delimiter))
            number = self._next + row.number - 1
            if line is not None:
                malformed.append(Malformed(number, line.detail + (_HINT if line.escaped else ""), line.raw))
            else:
                malformed.append(Malformed(number, self._wrong_length(row), row.text[:MAX_RAW_CHARS]))
        keep = np.ones(table.num_rows + len(wrong), bool)
        keep[[row.number - 1 for row in wrong]] = False
        rows = self._next + np.flatnonzero(keep)
        self._next += len(keep)
        self._check_escapes(malformed)
        yield RawBatch(table.rename_columns(list(self.names)), rows, tuple(malformed), missing=self.missing)

    def _parsed(self, text: bytes, width: int) -> tuple[pa.Table, list[pcsv.InvalidRow]]:
        wrong: list[pcsv.InvalidRow] = []
        if self.dialect.escape:
            text = self.dialect.escaped_null.sub(b"", text)  # which Arrow would read as N

        def skip(row: pcsv.InvalidRow) -> str:
            wrong.append(row)
            return "skip"

        table = pcsv.read_csv(
            pa.BufferReader(text),
            read_options=pcsv.ReadOptions(
                use_threads=False,  # with threads Arrow does not report the number of a malformed row
                block_size=len(text) + 1,
                column_names=[str(column) for column in range(width)],  # names in the file may repeat
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=self.dialect.delimiter,
                quote_char=self.dialect.quote or False,
                escape_char=self.dialect.escape or False,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=pcsv.ConvertOptions(
                default_column_type=pa.string(),
                null_values=[NULL],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        return table, wrong

    def _width_with_trailing_delimiter(self, wrong: Sequence[pcsv.InvalidRow], good: int) -> int | None:
        """The number of fields, if most rows differ from the header only by a delimiter at the end; else None."""
        longer = shorter = 0
        for row in wrong:
            longer += row.actual_columns == row.expected_columns + 1 and row.text.endswith(self.dialect.delimiter)
            shorter += row.actual_columns == row.expected_columns - 1
        if longer > good and longer > len(wrong) / 2:
            return len(self.names) + 1
        return len(self.names) - 1 if not self.names[-1] and shorter > good and shorter > len(wrong) / 2 else None

    def _wrong_length(self, row: pcsv.InvalidRow) -> str:
        detail = f"{row.actual_columns} fields where the others have {row.expected_columns}"
        if self.dialect.quote is None:
            return detail
        if self.dialect.escape is None and f"\\{self.dialect.quote}" in row.text:
            return detail + _HINT
        spaced = f"{self.dialect.delimiter} {self.dialect.quote}" in row.text
        return detail + ("; a quote after a space does not quote" if spaced else "")

    def _check_escapes(self, malformed: Sequence[Malformed]) -> None:
        found = [row for row in malformed if row.detail.endswith(_HINT)]
        self._escaped += len(found)
        if found and self._escaped > _ESCAPED_SHARE * (self._next - 1):
            raise DataError(
                f"backslashes stand before quotes in {self._escaped:,} of the first {self._next - 1:,} rows, which "
                f"cannot be read without an escape character; the first is row {found[0].row:,}: {found[0].raw[:120]}",
                where=self.where,
                hint="set the source's escape: '\\'",
            )
