"""Streams JSON objects: one a line, several on a line, spread over lines, or in an array.

A file is read line by line, unless it begins with `[` or with an object of several lines. A row is an object: rows are
numbered by objects, so that fifty objects on one line count as fifty rows. What is no JSON counts as one malformed row,
up to the next `}{`, `},{` or line. A column `user.id` is the key of that name or, within the object `user`, the key
`id`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from rayrec.data.raw_rows import (
    MAX_BATCH_ROWS,
    MAX_RAW_CHARS,
    MAX_ROW_BYTES,
    UNDECODABLE,
    Malformed,
    RawBatch,
    check_columns,
)
from rayrec.data.text_stream import LINES_BLOCK, TextStream, blocks_of_lines

_EXPONENT_CHARS = range(1, 5)  # e5 to e+999


def _float(text: str) -> str:
    """The number as written, but whole ones with an exponent as integers: 1e5 is a number here, and a code in text."""
    if len(text.lower().partition("e")[2]) not in _EXPONENT_CHARS:
        return text
    number = Decimal(text)
    return str(int(number)) if number.copy_abs() < 2**53 and number == number.to_integral_value() else text


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name  # as in columns of numbers


_DECODER = json.JSONDecoder(parse_int=str, parse_float=_float, parse_constant=_constant)
_BETWEEN_OBJECTS = re.compile("[\\s,\ufeff\x1e]*")  # 0x1e: JSON text sequences, RFC 7464
_BETWEEN_ELEMENTS = re.compile("[\\s,\ufeff\x1e\\[\\]]*")
_NEXT_OBJECT = re.compile(r"\}\s*+(?:,\s*+)?+(?=\{)|\n[ \t]*+(?=\{)")  # possessive: linear in the text
_MAX_KEYS = 1000  # for messages


def read_json(stream: TextStream, columns: Sequence[str], needed: Sequence[str], where: str) -> Iterator[RawBatch]:
    """Read `columns` as strings, numbers with their original digits; null if an object lacks the key.

    Raises DataError if no object of the first batch has a `needed` key, and for too long lines.
    """
    rows = _Rows(columns, needed, where)
    start = stream.read(LINES_BLOCK)
    blocks = _documents(stream, start, rows) if _is_document(start) else _lines(stream, start, rows, where)
    for _ in blocks:
        if len(rows):
            yield rows.batch()


def _is_document(start: bytes) -> bool:
    """Whether the file is an array, or begins with an object of several lines."""
    text = start.decode("utf8", "ignore")
    at = _end(_BETWEEN_OBJECTS, text, 0)
    if text[at : at + 1] == "[":
        return True
    try:
        return "\n" in text[at : _DECODER.raw_decode(text, at)[1]]
    except (json.JSONDecodeError, RecursionError):
        return False


class _Rows:
    """The rows found since the last batch."""

    def __init__(self, columns: Sequence[str], needed: Sequence[str], where: str) -> None:
        self._columns, self._needed, self._where = columns, needed, where
        self._paths = {at: name.split(".") for at, name in enumerate(columns) if "." in name}
        self.next_row = 1
        self._keys: dict[str, None] | None = {}  # of the first batch
        self._clear()

    def _clear(self) -> None:
        self._objects: list[list[str | None]] = []
        self._raw: list[str] = []
        self._row: list[int] = []
        self._malformed: list[Malformed] = []

    def __len__(self) -> int:
        return len(self._row) + len(self._malformed)

    def add(self, content: Any, raw: str) -> None:
        if type(content) is not dict:
            return self.add_malformed("not a JSON object", raw)
        # Most values are plain text; checking that here saves a call each.
        values = [
            value if value is None or (type(value) is str and value.isascii()) else _text(value)
            for value in map(content.get, self._columns)
        ]
        for at, path in self._paths.items():
            if values[at] is None:
                values[at] = _text(_within(content, path))
        self._objects.append(values)
        if self._keys is not None and len(self._keys) < _MAX_KEYS:
            self._keys.update(dict.fromkeys(content))
            self._keys.update((self._columns[at], None) for at in self._paths if values[at] is not None)
        self._raw.append(raw)
        self._row.append(self.next_row)
        self.next_row += 1
        return None

    def add_malformed(self, detail: str, raw: str) -> None:
        self._malformed.append(Malformed(self.next_row, detail, raw[:MAX_RAW_CHARS]))
        self.next_row += 1

    def batch(self) -> RawBatch:
        """All rows since the last batch. Raises DataError if the first one lacks a needed key."""
        if self._keys is not None and self._objects:
            check_columns(list(self._keys), self._needed, self._needed, self._where)
            self._keys = None
        values = list(zip(*self._objects, strict=True)) if self._objects else [() for _ in self._columns]
        arrays = [pa.array(column, pa.string()) for column in values]
        table = pa.table(arrays, names=list(self._columns))
        not_plain = {
            name: np.fromiter((type(value) is _JsonText for value in column), bool, len(column))
            for name, column in zip(self._columns, values, strict=True)
            if _JsonText in set(map(type, column))
        }
        batch = RawBatch(
            table,
            np.array(self._row, np.int64),
            tuple(self._malformed),
            pa.array(self._raw, pa.string()),
            not_plain=not_plain,
        )
        self._clear()
        return batch


def _lines(stream: TextStream, start: bytes, rows: _Rows, where: str) -> Iterator[None]:
    for lines in blocks_of_lines(stream, where, start):
        for line in lines:
            try:
                content = _DECODER.decode(line)
            except (json.JSONDecodeError, RecursionError):
                yield from _all_of(line, rows, _BETWEEN_OBJECTS)
            else:
                if type(content) is list and content and type(content[0]) is dict:
                    yield from _all_of(line, rows, _BETWEEN_ELEMENTS)
                else:
                    rows.add(content, line)
        yield


def _all_of(line: str, rows: _Rows, between: re.Pattern[str]) -> Iterator[None]:
    """Add all values of a line."""
    before = rows.next_row
    at = 0
    while at < len(line):
        at = _add_values(line, at, rows, between, final=True)
        if len(rows) >= MAX_BATCH_ROWS:
            yield
    if rows.next_row == before:  # nothing but commas and brackets
        rows.add_malformed("not JSON", line)


def _documents(stream: TextStream, start: bytes, rows: _Rows) -> Iterator[None]:
    text = start.decode()
    while text or not stream.ended:
        text = text[_add_values(text, 0, rows, _BETWEEN_ELEMENTS, final=stream.ended) :]
        yield
        if not stream.ended and len(rows) < MAX_BATCH_ROWS:
            text += stream.read(LINES_BLOCK).decode()


def _add_values(text: str, at: int, rows: _Rows, between: re.Pattern[str], *, final: bool) -> int:
    """Add the values from `at` on, at most as many as fill a batch; returns the end of those that were added.

    Unless `final`, a value that cannot be read is left for later: more text may complete it.
    """
    at = _end(between, text, at)
    while at < len(text) and len(rows) < MAX_BATCH_ROWS:
        try:
            content, end = _DECODER.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            if not final and len(text) - at <= MAX_ROW_BYTES:
                return at
            broken_at = error.pos if isinstance(error, json.JSONDecodeError) else at
            following = _NEXT_OBJECT.search(text, max(at, broken_at - 1))
            end = following.end() if following else len(text)
            reason = f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            rows.add_malformed(reason, text[at:end])
        else:
            rows.add(content, text[at:end])
        at = _end(between, text, end)
    return at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _within(content: Any, path: Sequence[str]) -> Any:
    """What the keys of the path lead to, each in the object before; None if there is no such value."""
    for key in path:
        content = content.get(key) if type(content) is dict else None
    return content


class _JsonText(str):
    """An object, a list or a truth value."""

    __slots__ = ()


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):  # half of an escaped surrogate pair is not a character
        return UNDECODABLE if any("\ud800" <= char <= "\udfff" for char in value) else value
    try:
        return _JsonText(json.dumps(value, ensure_ascii=True))
    except RecursionError:
        return UNDECODABLE
