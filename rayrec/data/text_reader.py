"""Streams rows of text files: CSV, JSON lines and lines split by a longer delimiter, in any encoding.

Known limit: a stray opening quote in a CSV file swallows rows until the next quote. A field that holds whole rows is
detected and quarantined; a field that holds less than a row looks like one with a line break.
"""

from __future__ import annotations

import codecs
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from rayrec.config import FileSource
from rayrec.data.input_files import COMPRESSIONS
from rayrec.data.raw_rows import MAX_RAW_CHARS, MAX_ROW_BYTES, UNDECODABLE, Malformed, RawBatch, require_columns
from rayrec.errors import DataError
from rayrec.storage import Storage

_DECODED_BLOCK = 1 << 20  # bytes


class Utf8Stream(io.RawIOBase):
    """`raw`, text in `encoding`, as UTF-8 that ends in a line break.

    An undecodable byte becomes UNDECODABLE, so that the contract rejects its row and not the whole file.
    """

    def __init__(self, raw: pa.NativeFile, encoding: str, longest: int) -> None:
        self._raw = raw
        self.longest = longest  # upper bound of the bytes to come
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""
        self._ended = False
        self.blank = True  # only white space so far

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        missing = size
        while missing and (block := self._ready or self._next_block()):
            part = block if size < 0 else block[:missing]
            self._ready = block[len(part) :]
            parts.append(part)
            missing -= len(part) if size >= 0 else 0
        return b"".join(parts)

    def _next_block(self) -> bytes:
        while not self._ended:
            data = self._raw.read(_DECODED_BLOCK)
            self._ended = not data
            block = self._decoder.decode(data, final=self._ended).encode() + (b"\n" if self._ended else b"")
            self.blank = self.blank and not block.strip()
            if block:
                return block
        return b""


@contextmanager
def open_text(storage: Storage, path: str, encoding: str) -> Iterator[Utf8Stream]:
    """The text of a file, decompressed according to its suffix."""
    compression = COMPRESSIONS.get(PurePosixPath(path.lower()).suffix)
    # One byte becomes at most three: the length of the replacement character.
    longest = sys.maxsize if compression else 3 * storage.info(path).size + 64
    with storage.open(path) as handle, pa.input_stream(handle, compression=compression) as raw:
        yield Utf8Stream(raw, encoding, longest)


def read_csv(stream: Utf8Stream, source: FileSource, columns: Sequence[str], where: str) -> Iterator[RawBatch]:
    """Read all columns as strings; an empty file has no rows.

    Raises DataError for missing or duplicated columns, and Arrow's errors for an unreadable stream.
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
            use_threads=False,  # with threads Arrow does not report the number of a malformed row
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
    """Assigns data row numbers to the rows that Arrow returns; Arrow skips malformed rows without counting them."""

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
        # Arrow reads ahead by varying amounts; for determinism report only rows before the next one.
        return self._pop([row.row < self._next for row in self._malformed])

    def malformed_left(self) -> tuple[Malformed, ...]:
        return self._pop([True] * len(self._malformed))

    def _pop(self, due: list[bool]) -> tuple[Malformed, ...]:
        due_rows = tuple(row for row, is_due in zip(self._malformed, due, strict=True) if is_due)
        self._malformed = [row for row, is_due in zip(self._malformed, due, strict=True) if not is_due]
        return due_rows


def _without_swallowed_rows(
    table: pa.Table, rows: npt.NDArray[np.int64], delimiter: str
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Malformed]]:
    """Remove rows in which a field holds whole rows: an unclosed quote swallowed them."""
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


_LINES_BLOCK = 4 << 20  # bytes


def read_delimited(stream: Utf8Stream, source: FileSource, columns: Sequence[str], where: str) -> Iterator[RawBatch]:
    """Read all columns as strings. Raises DataError for missing or duplicated columns and for too long lines."""
    names = list(source.names)
    next_row = 1
    for lines in _blocks_of_lines(stream, where):
        if not names:
            names, lines = lines[0].removeprefix("\ufeff").split(source.delimiter), lines[1:]
        if next_row == 1:
            require_columns(names, columns, where)
        rows = np.arange(next_row, next_row + len(lines), dtype=np.int64)
        next_row += len(lines)
        yield _split(lines, rows, names, source.delimiter)


def _split(lines: list[str], rows: npt.NDArray[np.int64], names: list[str], delimiter: str) -> RawBatch:
    parts = pc.split_pattern(pa.array(lines, pa.string()), delimiter)
    fields = parts.value_lengths().to_numpy(zero_copy_only=False)
    good = fields == len(names)
    malformed = tuple(
        Malformed(int(rows[i]), f"{fields[i]} fields where the others have {len(names)}", lines[i][:MAX_RAW_CHARS])
        for i in np.flatnonzero(~good)
    )
    flat = parts.filter(pa.array(good)).flatten()
    first = np.arange(int(good.sum())) * len(names)
    table = pa.table([flat.take(pa.array(first + field)) for field in range(len(names))], names=names)
    return RawBatch(table, rows[good], malformed)


def read_jsonl(stream: Utf8Stream, columns: Sequence[str], needed: Sequence[str], where: str) -> Iterator[RawBatch]:
    """Read `columns` as strings, numbers with their original digits; null if a line lacks the key.

    Raises DataError if no line of the first block has a `needed` key.
    """
    next_row = 1
    for lines in _blocks_of_lines(stream, where):
        parsed = [_parsed(line) for line in lines]
        rows = np.arange(next_row, next_row + len(lines), dtype=np.int64)
        good = np.array([isinstance(line, dict) for line in parsed], bool)
        malformed = tuple(
            Malformed(int(rows[i]), str(parsed[i]), lines[i][:MAX_RAW_CHARS]) for i in np.flatnonzero(~good)
        )
        objects = [line for line in parsed if isinstance(line, dict)]
        if next_row == 1 and objects:
            require_columns(list(dict.fromkeys(key for line in objects for key in line)), needed, where)
        next_row += len(lines)
        table = pa.table({name: pa.array([_text(line.get(name)) for line in objects], pa.string()) for name in columns})
        raw = pa.array([line for line, is_good in zip(lines, good, strict=True) if is_good], pa.string())
        yield RawBatch(table, rows[good], malformed, raw)


def _parsed(line: str) -> dict[str, Any] | str:
    """The line's object with numbers as text, or the reason why the line is malformed."""
    try:
        content = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        return f"not JSON: {error}"
    except RecursionError:
        return "not readable JSON: nested too deeply"
    return content if isinstance(content, dict) else "not a JSON object"


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.isascii()):
        return value
    if isinstance(value, str):  # half of an escaped surrogate pair is not a character
        return value.encode("utf8", "replace").decode() if _is_text(value) else UNDECODABLE
    return json.dumps(value, ensure_ascii=True)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _blocks_of_lines(stream: Utf8Stream, where: str) -> Iterator[list[str]]:
    """Blocks of a few megabytes of lines, without blank lines and line breaks."""
    rest = b""
    while block := stream.read(_LINES_BLOCK):
        whole, line_break, tail = (rest + block).rpartition(b"\n")
        if len(tail) > MAX_ROW_BYTES:
            raise DataError(
                f"a line is longer than {MAX_ROW_BYTES >> 20} MB",
                where=where,
                hint="check the file's format",
            )
        rest = tail
        lines = [line.removesuffix("\r") for line in whole.decode().split("\n")] if line_break else []
        if lines := [line for line in lines if line.strip()]:
            yield lines
