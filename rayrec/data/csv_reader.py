"""Rows of CSV files with a one-character delimiter, streamed; quoted line breaks are part of a field.

Known limit: a stray opening quote swallows rows until the next quote. A field that holds whole rows is recognised and
quarantined; one that swallowed less than a row is not told from a field with a line break.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from rayrec.config import FileSource
from rayrec.data.raw_rows import MAX_RAW_CHARS, MAX_ROW_BYTES, Malformed, RawBatch, require_columns
from rayrec.data.utf8_stream import Utf8Stream


def read(stream: Utf8Stream, source: FileSource, columns: Sequence[str], where: str) -> Iterator[RawBatch]:
    """All columns, as strings; an empty file is one without rows.

    Raises DataError for missing or doubled columns, and whatever Arrow raises for a stream that cannot be read.
    """
    numbering = _Numbering(header=source.header)
    try:
        reader = _open(stream, source, numbering)
    except pa.ArrowInvalid:
        if stream.blank:
            return
        raise
    require_columns(reader.schema.names, columns, where)
    for batch in reader:
        table = pa.Table.from_batches([batch])
        rows = numbering.number(table.num_rows)
        table, rows, swallowed = _without_swallowed_rows(table, rows, source.delimiter)
        yield RawBatch(table, rows, (*numbering.malformed_until_now(), *swallowed))
    if left := numbering.malformed_left():
        yield RawBatch(reader.schema.empty_table(), np.zeros(0, np.int64), left)


def _open(stream: Utf8Stream, source: FileSource, numbering: _Numbering) -> pcsv.CSVStreamingReader:
    return pcsv.open_csv(
        stream,
        read_options=pcsv.ReadOptions(
            use_threads=False,  # with threads Arrow does not know the number of a malformed row
            block_size=min(MAX_ROW_BYTES, stream.longest),  # Arrow needs a whole row in a block
            column_names=list(source.names) or None,
        ),
        parse_options=pcsv.ParseOptions(
            delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=numbering.malformed_row
        ),
        convert_options=pcsv.ConvertOptions(
            default_column_type=pa.string(), strings_can_be_null=False, check_utf8=False
        ),
    )


class _Numbering:
    """Data row numbers for the rows that Arrow passes on: those that the malformed ones left."""

    def __init__(self, *, header: bool) -> None:
        self._header = int(header)  # Arrow counts the header as row 1
        self._next = 1
        self._malformed: list[Malformed] = []

    def malformed_row(self, row: pcsv.InvalidRow) -> str:
        number = row.number - self._header
        detail = f"{row.actual_columns} fields where the others have {row.expected_columns}"
        self._malformed.append(Malformed(number, detail, row.text[:MAX_RAW_CHARS]))
        return "skip"

    def number(self, count: int) -> npt.NDArray[np.int64]:
        skipped = np.array([row.row for row in self._malformed], np.int64)
        rows = np.arange(self._next, self._next + count + len(skipped), dtype=np.int64)
        rows = rows[~np.isin(rows, skipped)][:count]
        self._next = int(rows[-1]) + 1 if count else self._next
        return rows

    def malformed_until_now(self) -> tuple[Malformed, ...]:
        # Arrow reads ahead: later ones may be known already, or not; the same rows must come out every time.
        return self._take([row.row < self._next for row in self._malformed])

    def malformed_left(self) -> tuple[Malformed, ...]:
        return self._take([True] * len(self._malformed))

    def _take(self, due: list[bool]) -> tuple[Malformed, ...]:
        taken = tuple(row for row, is_due in zip(self._malformed, due, strict=True) if is_due)
        self._malformed = [row for row, is_due in zip(self._malformed, due, strict=True) if not is_due]
        return taken


def _without_swallowed_rows(
    table: pa.Table, rows: npt.NDArray[np.int64], delimiter: str
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Malformed]]:
    """Take out rows of which a field holds whole rows: an unclosed quote swallowed them."""
    delimiters = table.num_columns - 1
    if delimiters < 1:
        return table, rows, []
    found: dict[int, str] = {}
    for column in table.columns:
        if not any(_has_line_break(chunk) for chunk in column.chunks):
            continue
        for row in np.flatnonzero(pc.match_substring(column, "\n").to_numpy()):
            text: str = column[int(row)].as_py()
            if any(line.count(delimiter) == delimiters for line in text.split("\n")[1:]):
                found[int(row)] = text
    if not found:
        return table, rows, []
    detail = "a field holds whole rows: a quote is not closed"
    swallowed = [Malformed(int(rows[row]), detail, text[:MAX_RAW_CHARS]) for row, text in sorted(found.items())]
    keep = np.ones(table.num_rows, bool)
    keep[list(found)] = False
    return table.filter(pa.array(keep)), rows[keep], swallowed


def _has_line_break(chunk: pa.Array) -> bool:
    data = chunk.buffers()[2]
    return data is not None and bool((np.frombuffer(data, np.uint8) == ord("\n")).any())
