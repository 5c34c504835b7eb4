"""Files of rows, and how fields are read from their columns."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, model_validator

from rayrec.config import regex_patterns
from rayrec.config.section import Section
from rayrec.storage_url import url_problem


def _pattern(text: str, *, one_group: bool = False) -> str:
    if problem := regex_patterns.pattern_error(text, one_group=one_group):
        raise ValueError(problem)
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a known time zone; write it like Europe/London") from None
    return name


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(f"{name!r} is not a known text encoding; write it like utf8 or latin-1") from None
    return name


_SPELLED = {"\\t": "\t", "\\x01": "\x01", "\\001": "\x01", "\\u0001": "\x01"}  # in YAML without double quotes


def _delimiter(text: str) -> str:
    text = _SPELLED.get(text, text)
    if not text or set(text) & set('"\r\n'):
        raise ValueError("a delimiter is one or more characters, none of them a quote or a line break")
    return text


def _one_character(text: str) -> str:
    if len(text) != 1 or not text.isascii() or not text.isprintable() or text.isspace():
        raise ValueError("give one printable ASCII character, or null")
    return text


def _below_the_root(path: str) -> str:
    if "://" in path or url_problem(path) is not None:
        raise ValueError("a path below the root, not a URL; give the URL as `root`")
    return path


RelativePath = Annotated[str, AfterValidator(_below_the_root)]
Pattern = Annotated[str, AfterValidator(_pattern)]  # RE2
GroupPattern = Annotated[str, AfterValidator(partial(_pattern, one_group=True))]  # RE2 with exactly one group


def strptime_can_read(format: str) -> bool:
    """Whether Arrow can parse this format; false for directives that it can only write."""
    # An offset instead of UTC, which Arrow would look up in a database that slim images lack.
    moment = pa.array([datetime(2011, 8, 31, 12, 0, tzinfo=UTC)], pa.timestamp("us", tz="+00:00"))
    try:
        written = pc.strftime(moment.cast(pa.timestamp("s", tz="+00:00")), format=format)
        read = pc.strptime(written, format=format, unit="us", error_is_null=True)
    except pa.ArrowException:
        return False
    return read.null_count == 0 and int(pc.year(read.cast(pa.int64()).cast(pa.timestamp("us")))[0].as_py()) == 2011


class Column(Section):
    """A part of a column, e.g. `{column: title, extract: '(19..|20..)'}`."""

    column: str
    """The column's name."""
    extract: GroupPattern | None = None
    """A pattern (RE2) with exactly one group: the part of the text that is used. Values that do not match are
    missing."""
    number: Literal["1,234.56", "1.234,56"] | None = None
    """How the column writes numbers, if with currencies or thousands separators: `£3.50` and `1,299.00 EUR` are read as
    3.50 and 1299.00 by `1,234.56`, `3,50 €` and `1.299 €` by `1.234,56`. Text that is not written so stays as it is."""


ColumnLike = str | Column


class Timestamp(Section):
    """A time column that needs a format, unit or time zone, e.g. `{column: rated_at, unit: s}`.

    Rows with a time before 1990 or from 2100 on, which indicates a wrong unit or clock, are quarantined.
    """

    column: str
    """The column's name."""
    format: str | None = None
    """The strptime format of text; `%f` and `%p` are not supported. `null`: ISO 8601, or a column of a time type."""
    unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of numbers, counted since 1970; required for number columns. Not together with `format`."""
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    """Time zone of times without one. Where clocks go back, the earlier of the two moments is used."""

    @model_validator(mode="after")
    def _one_reading(self) -> Timestamp:
        if self.format and self.unit:
            raise ValueError("a time is text in `format` or a number of `unit`s, not both")
        if self.format and not strptime_can_read(self.format):
            raise ValueError(f"times in the format {self.format!r} cannot be read; %f and %p are not supported")
        return self


class FileSource(Section):
    """The files that hold the rows, and their format."""

    path: RelativePath
    """File, folder or glob, relative to the root; a folder stands for all its files."""
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    """`auto`: by each file's name, compressed (`.gz`, `.zst`, `.bz2`, `.lz4`) or not."""
    delimiter: Annotated[str, AfterValidator(_delimiter)] = ","
    """CSV only: one or more characters, none of them a quote or a line break."""
    quote: Annotated[str, AfterValidator(_one_character)] | None = '"'
    """CSV only: the character around fields that hold delimiters or line breaks, doubled inside them (RFC 4180).
    `null`: quotes are ordinary characters, as in many tab-separated files."""
    escape: Annotated[str, AfterValidator(_one_character)] | None = None
    """CSV only: the character before a quote, delimiter, line break or itself that stands for itself: a backslash in
    files of Spark, Hive and MySQL (which write NULL as backslash and N). `null`: quotes are doubled."""
    header: bool = True
    """CSV only: whether the first line names the columns."""
    names: tuple[str, ...] = ()
    """CSV only: the column names; required if and only if there is no header."""
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf8"
    """Encoding of CSV and JSON lines, e.g. `latin-1`. Rows whose id cannot be decoded are quarantined."""

    @model_validator(mode="after")
    def _named_columns(self) -> Self:
        if self.header == bool(self.names):
            raise ValueError("give `names` exactly when the files have no header (header: false)")
        if len(set(self.names)) < len(self.names):
            raise ValueError("`names` repeats a column")
        special = [each for each in (self.delimiter, self.quote, self.escape) if each is not None]
        if len(set(special)) < len(special):
            raise ValueError("delimiter, quote and escape are different characters")
        if self.escape and not (len(self.delimiter) == 1 and self.delimiter.isascii()):
            raise ValueError("`escape` needs a delimiter of one ASCII character")
        return self
