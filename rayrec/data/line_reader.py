"""Rows that are lines: JSON lines, and fields split by a delimiter of several characters (without any quoting)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import FileSource
from rayrec.data.raw_rows import MAX_RAW_CHARS, MAX_ROW_BYTES, Malformed, RawBatch, require_columns
from rayrec.data.utf8_stream import UNDECODABLE, Utf8Stream
from rayrec.errors import DataError

_BLOCK = 4 << 20


def read_delimited(stream: Utf8Stream, source: FileSource, columns: Sequence[str], where: str) -> Iterator[RawBatch]:
    """All columns as strings. Raises DataError for missing or doubled columns and for lines without end."""
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
    """`columns` as strings, numbers in their own digits; null where a line lacks the key.

    Raises DataError where no line of the first block has a `needed` key.
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
    """The object on the line, its numbers as text; or what is wrong with it."""
    try:
        content = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        return f"no JSON: {error}"
    except RecursionError:
        return "no JSON that can be read: nested too deeply"
    return content if isinstance(content, dict) else "no JSON object"


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value.isascii()):
        return value
    if isinstance(value, str):  # an escaped half of a surrogate pair is no character
        return value.encode("utf8", "replace").decode() if _is_text(value) else UNDECODABLE
    return json.dumps(value, ensure_ascii=True)


def _is_text(value: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in value)


def _blocks_of_lines(stream: Utf8Stream, where: str) -> Iterator[list[str]]:
    """Lines that are not blank, without their ends, some megabytes at a time."""
    rest = b""
    while block := stream.read(_BLOCK):
        whole, line_break, tail = (rest + block).rpartition(b"\n")
        if len(tail) > MAX_ROW_BYTES:
            raise DataError(
                f"a line is longer than {MAX_ROW_BYTES >> 20} MB",
                where=where,
                hint="check that the file's format is right",
            )
        rest = tail
        lines = [line.removesuffix("\r") for line in whole.decode().split("\n")] if line_break else []
        if lines := [line for line in lines if line.strip()]:
            yield lines
