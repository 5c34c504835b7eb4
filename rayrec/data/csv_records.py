r"""Splits CSV text into whole records, and finds the lines that break the grammar (`csv_dialect`).

No rule about what a field looks like is used, so no legal row is lost. Where the grammar is broken, because text
follows a closing quote or a quote never closes, the lines up to the one with the opening quote are malformed. The lines
that the quote had swallowed are rows if each of them is a record of the right length; else they are malformed as well.
Text is read again only from one opening quote to the next quote, so the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayrec.data.csv_dialect import Dialect
from rayrec.data.raw_rows import MAX_RAW_CHARS, MAX_ROW_BYTES
from rayrec.errors import DataError

_LOOK_AHEAD = 1 << 16  # bytes
_LINE_BREAK = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class BrokenLine:
    """A line that breaks the grammar."""

    detail: str
    raw: str
    escaped: bool  # a backslash stands before a quote, and the source has no escape character


@dataclass(frozen=True)
class Records:
    """Whole records. In `text`, the broken line i is replaced by `mark(i)`."""

    text: bytes
    broken: tuple[BrokenLine, ...] = ()


@dataclass
class RecordSplitter:
    """Splits the text of one file, given in pieces."""

    dialect: Dialect
    fields: int
    where: str
    line: int = 1  # the physical line at which the next piece begins

    def split(self, text: bytes, *, final: bool) -> tuple[Records, bytes]:
        """The whole records in `text`, and the rest: the begin of a record, to be given again with what follows.

        `text` begins with a record; `final`: it ends with the file, and in a line break. Raises DataError for a line
        that is too long.
        """
        end = self._end_of_plain_records(text)
        whole = final or len(text) - (end or 0) > MAX_ROW_BYTES  # nothing to wait for
        if end is not None and (end == len(text) or not whole):
            self.line += _lines(text, 0, end)
            return Records(text[:end]), text[end:]  # the first is no copy if it is the whole text
        parts: list[bytes] = []
        broken: list[BrokenLine] = []
        at = 0
        while True:
            legal = _end(self.dialect.legal, text, at)
            self.line += _lines(text, at, legal)
            parts.append(text[at:legal])
            at = legal
            found = self._broken_lines(text, at, final) if at < len(text) else None
            if found is None:
                break
            lines, after = found
            for line in lines:
                parts.append(f"{self.mark(len(broken))}\n".encode())
                broken.append(line)
            self.line += _lines(text, at, after)
            at = after
        return Records(self._prepared(b"".join(parts)), tuple(broken)), text[at:]

    def mark(self, number: int) -> str:
        """The text in place of a broken line: a row of a wrong length, so that the parser reports it.

        Wrong even if the rows have a delimiter more, or less, at their end than the header.
        """
        return f"\0{number}" + (4 * self.dialect.delimiter if self.fields <= 2 else "")

    def _end_of_plain_records(self, text: bytes) -> int | None:
        """The end of the last whole record, if it is plain that all are legal; else None.

        Plain is: every quote opens, closes or doubles. The n-th quote, from 0, then opens a field (or is the second of
        a doubled one) if n is even, and closes one (or is the first of a doubled one) if it is odd.
        """
        quote, escape = self.dialect.quote, self.dialect.escape
        if escape and escape.encode() in text:
            return None
        end = _after_break(text, len(text))
        if quote is None or text.find(quote.encode(), 0, end) < 0:
            return end
        data = np.frombuffer(text, np.uint8)
        quotes = np.flatnonzero(data == ord(quote))
        while end and (before := int(np.searchsorted(quotes, end - 1))) % 2:  # a line break inside a quoted field
            end = _after_break(text, int(quotes[before - 1]))
        quotes = quotes[: np.searchsorted(quotes, end)]
        opening, closing = quotes[::2], quotes[1::2]
        delimits = np.zeros(256, bool)
        delimits[[ord(self.dialect.delimiter), *b"\r\n"]] = True
        doubled = closing[:-1] + 1 == opening[1:]
        begins, ends = delimits[data[opening - 1]], delimits[data[closing + 1]]
        begins[:1] |= opening[:1] == 0
        begins[1:] |= doubled
        ends[:-1] |= doubled
        return end if begins.all() and ends.all() else None

    def _broken_lines(self, text: bytes, at: int, final: bool) -> tuple[list[BrokenLine], int] | None:
        """The malformed lines from the record at `at`, and where to go on; None to wait for more text."""
        whole = final or len(text) - at > MAX_ROW_BYTES
        opened = _end(self._leading_fields, text, at)
        quoted = text[opened : opened + 1] == self._quote
        ended = _end(self.dialect.open_field if quoted else self.dialect.unquoted_field, text, opened)
        after_line, last = _next_line(text, opened), _next_line(text, ended)
        if not whole and (ended == len(text) or last == len(text)):
            return None
        if not final and after_line == len(text):
            raise DataError(
                f"the row in line {self.line:,} is longer than {MAX_ROW_BYTES >> 20} MB"
                + (", and its quote does not close" if quoted else ""),
                where=self.where,
                hint="check the file's format, delimiter and quotes",
            )
        line = self.line + _lines(text, at, opened)
        detail = self._detail(text, ended, line, quoted, final)
        escaped = quoted and self.dialect.escape is None and b"\\" + self._quote in text[opened:last]
        lines = [BrokenLine(detail, _shown(each), escaped) for each in _split_lines(text, at, after_line)]
        swallowed = list(_split_lines(text, after_line, last))
        if ended == len(text) or (swallowed and all(self._row.fullmatch(each) for each in swallowed)):
            return lines, after_line
        last = self._end_of_broken_field(text, max(last, after_line))
        swallowed = list(_split_lines(text, after_line, last))
        return lines + [BrokenLine(detail, _shown(each), escaped) for each in swallowed], last

    def _detail(self, text: bytes, ended: int, line: int, quoted: bool, final: bool) -> str:
        if not quoted:
            return (
                "the row does not end" if ended == len(text) else f"more than {self.fields} fields, and broken quotes"
            )
        if ended == len(text):
            limit = "before the end of the file" if final else f"within {MAX_ROW_BYTES >> 20} MB"
            return f"the quote that opens in line {line:,} does not close {limit}"
        return f"text follows the closing quote of the field that opens in line {line:,}"

    def _end_of_broken_field(self, text: bytes, at: int) -> int:
        """Where the rows go on: after the line of the next quote if that one closes a field, and no row is before it.

        So a field with line breaks and with quotes that are not doubled gives no row of a part of it.
        """
        closing = text.find(self._quote, at, at + _LOOK_AHEAD)
        if (
            closing <= at
            or text[closing - 1] in self._delimits
            or text[closing + 1 : closing + 2] not in self._delimits
        ):
            return at
        end = _next_line(text, closing)
        return at if any(self._row.fullmatch(each) for each in _split_lines(text, at, end)) else end

    @cached_property
    def _quote(self) -> bytes:
        return (self.dialect.quote or "\0\0").encode()  # two bytes: never equal to one

    @cached_property
    def _delimits(self) -> bytes:
        return self.dialect.delimiter.encode() + b"\r\n"

    @cached_property
    def _leading_fields(self) -> re.Pattern[bytes]:
        return self.dialect.leading_fields(self.fields - 1)

    @cached_property
    def _row(self) -> re.Pattern[bytes]:
        return self.dialect.strict_record(self.fields)

    def _prepared(self, text: bytes) -> bytes:
        """The text for Arrow, to which an escape character escapes everything.

        Here it escapes quotes, delimiters, line breaks and itself, and stays before all else (`C:\temp`). A field of
        `\\N` is empty: so MySQL, Hive and PostgreSQL write NULL.
        """
        if self.dialect.escape is None or self.dialect.escape.encode() not in text:
            return text
        escape, delimiter = (re.escape(each).encode() for each in (self.dialect.escape, self.dialect.delimiter))
        quote = re.escape(self.dialect.quote or "").encode()
        text = re.sub(rb"(^|[%s\r\n])%sN(?=[%s\r\n])" % (delimiter, escape, delimiter), rb"\1", text)
        pair = rb"%s(?:([%s%s%s\r\n])|)" % (escape, escape, delimiter, quote)
        twice = self.dialect.escape.encode() * 2
        return re.sub(pair, lambda found: found[0] if found[1] else twice, text)


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _after_break(text: bytes, end: int) -> int:
    """After the last line break in text[:end]; 0 if there is none."""
    return max(text.rfind(b"\n", 0, end), text.rfind(b"\r", 0, end)) + 1


def _next_line(text: bytes, at: int) -> int:
    found = _LINE_BREAK.search(text, at)
    return found.end() if found else len(text)


def _split_lines(text: bytes, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        after = _next_line(text, start)
        yield text[start:after]
        start = after


def _lines(text: bytes, start: int, end: int) -> int:
    piece = np.frombuffer(text, np.uint8)[start:end]  # faster than bytes.count
    return int(np.count_nonzero(piece == ord("\n"))) or int(np.count_nonzero(piece == ord("\r")))


def _shown(line: bytes) -> str:
    return line[: 4 * MAX_RAW_CHARS].decode("utf8", "replace").rstrip("\r\n")[:MAX_RAW_CHARS]
