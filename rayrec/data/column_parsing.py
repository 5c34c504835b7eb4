"""Parses columns of numbers and times. Invalid values are flagged one by one, never guessed.

Times become microseconds since the epoch, UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import regex_patterns
from rayrec.data import time_zones

EARLIEST = int(datetime(1990, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
LATEST = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""Times outside [EARLIEST, LATEST) indicate a wrong unit or clock: seconds read as milliseconds fall into 1970."""

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_SECONDS = (EARLIEST // 1_000_000 - 86_400, LATEST // 1_000_000 + 86_400)  # one day more, for time zones
_CLOCK = r"(?:[01]\d|2[0-3])(?::[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?)?"
_ISO = rf"^\d{{4}}-\d\d-\d\d(?:[ T]{_CLOCK})?(?:Z|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?$"
# What other spellings have and ISO 8601, as Arrow reads it, has not; then each with its usual spelling.
_OTHER_SPELLING = r"^\d{8}(?:[Tt]|$)|[A-Z]$| [+-]\d\d|,\d"
_SPELLINGS = (
    (r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3"),
    (r"^(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)(\d\d)", r"\1-\2-\3T\4:\5:\6"),
    (r"^(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)", r"\1-\2-\3T\4:\5"),
    (r"(:\d\d),(\d)", r"\1.\2"),
    (r"(\d) ([+-]\d\d(?::?\d\d)?)$", r"\1\2"),
    (r"(\d) ?\+00:?00 UTC$", r"\1Z"),
    (r"(\d) ?(?:UTC|GMT|Etc/UTC|Z)$", r"\1Z"),
)

Micros = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_NUMBER = r"(?i)^[+-]?(?:\d+\.?\d*(?:e[+-]?\d{1,4})?|\.\d+(?:e[+-]?\d{1,4})?|inf|infinity)$"
_NO_NUMBER = r"(?i)^(?:[+-]?nan)?$"
_TRUE, _FALSE = r"(?i)^(?:true|t)$", r"(?i)^(?:false|f)$"

_SPACES = r"\s\x{A0}\x{2009}\x{202F}"
_CURRENCY = rf"\p{{L}}\p{{Sc}}{_SPACES}"  # £, EUR, kr, or the space before one


def plain_numbers(values: pa.StringArray, written: str) -> pa.StringArray:
    """Numbers that are written as `written` (1,234.56 or 1.234,56), perhaps with a currency, as plain ones: 1234.56.

    Other text stays as it is.
    """
    thousands, point = re.escape(written[1]), re.escape(written[5])
    digits = rf"\d{{1,3}}(?:[{thousands}'’{_SPACES}]\d{{3}})+|\d+"
    pattern = rf"^([+-]?)(?:[{_CURRENCY}]|\p{{L}}\.)*([+-]?)({digits})((?:{point}\d*)?)[{_CURRENCY}]*$"
    found = regex_patterns.matches(values, pattern).fill_null(False)
    if not pc.any(found).as_py():
        return values
    numbers = pc.replace_substring_regex(values.filter(found), pattern, r"\1\2\3\4")
    numbers = pc.replace_substring_regex(numbers, rf"[{thousands}'’{_SPACES}]", "")
    return pc.replace_with_mask(values, found, pc.replace_substring(numbers, written[5], "."))


def floats(text: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Float64 [n] (NaN where there is no finite number), and the invalid values, bool [n].

    Empty, null and NaN (as pandas writes no value) are missing, not invalid; words and infinities are invalid. True and
    false are 1 and 0.
    """
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(regex_patterns.matches(text, _NO_NUMBER), pa.scalar(None, pa.string()), text)
    absent = text.is_null().to_numpy(zero_copy_only=False)
    try:
        numbers = text.cast(pa.float64())
    except pa.ArrowInvalid:
        text = pc.replace_substring_regex(pc.replace_substring_regex(text, _TRUE, "1"), _FALSE, "0")
        numbers = pc.if_else(regex_patterns.matches(text, _NUMBER), text, pa.scalar(None, pa.string())).cast(
            pa.float64()
        )
    return _finite(numbers, absent)


def typed_floats(column: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Like `floats`, for a numeric or boolean column."""
    numbers = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    numbers = numbers.cast(pa.float64(), safe=False)
    return _finite(numbers, pc.is_null(numbers, nan_is_null=True).to_numpy(zero_copy_only=False))


def _finite(numbers: pa.Array, absent: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values: npt.NDArray[Any] = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    return np.where(finite, values, np.nan), ~finite & ~absent


class UnreadableTimeError(ValueError):
    """The column's type cannot hold times as configured; the message says why."""


def microseconds(
    column: pa.Array, *, format: str | None = None, unit: str | None = None, timezone: str = "UTC"
) -> tuple[Micros, Mask]:
    """Microseconds since the epoch UTC, int64 [n], and which of them are valid, bool [n].

    Typed columns are converted by their type. Text is parsed by `format` (strptime), as a number of `unit`s, or as ISO
    8601 and as databases write it (`_iso`); with a `format`, whole numbers are text (day keys such as 20110831). Valid
    means readable and in [EARLIEST, LATEST). Naive times are in `timezone`; an ambiguous one is the earlier. Raises
    UnreadableTimeError if the type cannot hold a time, or a number has neither format nor unit.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        micros, valid = _scaled(column.cast(pa.int64()), kind.unit)
        return (micros, valid & _in_range(micros)) if kind.tz else _localised(micros, valid, timezone)
    if pa.types.is_date(kind):
        seconds = _whole_numbers(pc.cast(column, pa.date32()).cast(pa.int32()).cast(pa.int64()))
        return _localised(*_from_integers(seconds[0] * 86_400, seconds[1], "s"), timezone)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if format:
            return _formatted(_whole_number_texts(column), format, timezone)
        if unit is None:
            raise UnreadableTimeError(f"it holds {kind}; {_advice(column)}")
        micros, valid = _from_numbers(column, unit)
    elif pa.types.is_string(kind) or pa.types.is_null(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        if format:
            return _formatted(text, format, timezone)
        if unit is None:
            return _iso(text, timezone)
        micros, valid = _from_text_numbers(text, unit)
    else:
        raise UnreadableTimeError(f"it holds {kind}, which is not a time")
    return micros, valid & _in_range(micros)


def _whole_number_texts(column: pa.Array) -> pa.Array:
    """Whole numbers as text, null for others: pandas writes integers with a missing one as floats."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
    texts = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
    return pc.if_else(pa.array(whole), texts, pa.scalar(None, pa.string()))


def _advice(column: pa.Array) -> str:
    """What to set for a column of numbers without a unit."""
    numbers = column.cast(pa.float64(), safe=False)
    numbers = numbers.filter(pc.is_finite(numbers))
    first = float(numbers[0].as_py()) if len(numbers) else 0.0
    example = f"; the first is {first:.10g}" if len(numbers) else ""
    if first == int(first) and _iso(pa.array([f"{first:.0f}"]), "UTC")[1][0]:
        return f"these are day keys, so set `format` ('%Y%m%d'){example}"
    if 20_000 < first < 80_000:
        return f"these look like days since 1900 of a spreadsheet: write them as ISO 8601 text{example}"
    return f"no unit is given; set `unit` (s, ms, us or ns){example}"


def _in_range(micros: Micros) -> Mask:
    return (micros >= EARLIEST) & (micros < LATEST)


def _localised(micros: Micros, valid: Mask, timezone: str) -> tuple[Micros, Mask]:
    if timezone == "UTC":
        return micros, valid & _in_range(micros)
    micros = time_zones.to_utc(np.where(valid, micros, 0), timezone)
    return micros, valid & _in_range(micros)


def _whole_numbers(integers: pa.Array) -> tuple[Micros, Mask]:
    return integers.fill_null(0).to_numpy(zero_copy_only=False), integers.is_valid().to_numpy(zero_copy_only=False)


def _scaled(integers: pa.Array, unit: str) -> tuple[Micros, Mask]:
    return _from_integers(*_whole_numbers(integers), unit)


def _from_integers(values: npt.NDArray[Any], valid: Mask, unit: str) -> tuple[Micros, Mask]:
    # Check bounds in the column's own unit: scaling first could overflow into a plausible time.
    per_second = _PER_SECOND[unit]
    valid = valid & (values >= _SECONDS[0] * per_second) & (values < _SECONDS[1] * per_second)
    values = np.where(valid, values, 0).astype(np.int64)
    return (values * (1_000_000 // per_second) if per_second <= 1_000_000 else values // 1_000), valid


def _from_floats(values: npt.NDArray[np.float64], unit: str) -> tuple[Micros, Mask]:
    per_second = _PER_SECOND[unit]
    valid = (values >= _SECONDS[0] * per_second) & (values < _SECONDS[1] * per_second)  # false for NaN
    return np.rint(np.where(valid, values, 0) * (1_000_000 / per_second)).astype(np.int64), valid


def _from_numbers(column: pa.Array, unit: str) -> tuple[Micros, Mask]:
    if pa.types.is_integer(column.type):
        if pa.types.is_uint64(column.type):
            return _from_integers(*_whole_numbers(column), unit)
        return _scaled(column.cast(pa.int64()), unit)
    return _from_floats(column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False), unit)


def _from_text_numbers(text: pa.Array, unit: str) -> tuple[Micros, Mask]:
    try:
        return _scaled(text.cast(pa.int64()), unit)
    except pa.ArrowInvalid:  # mixed values: integers stay exact, the others are read as floats
        whole = regex_patterns.matches(text, r"^\d{1,18}$").fill_null(False)
        micros, valid = _scaled(pc.if_else(whole, text, pa.scalar(None, pa.string())).cast(pa.int64()), unit)
        others, other_valid = _from_floats(floats(text)[0], unit)
        return np.where(valid, micros, others), valid | other_valid


def _formatted(text: pa.Array, format: str, timezone: str) -> tuple[Micros, Mask]:
    read = pc.strptime(text, format=format, unit="us", error_is_null=True)
    micros, valid = _whole_numbers(read.cast(pa.int64()))
    # strptime reads 30 February as 2 March: check everything that falls on the first days of a month.
    moments = time_zones.without_zone(read)
    suspects = np.flatnonzero(valid & (pc.day(moments).fill_null(31).to_numpy(zero_copy_only=False) <= 3))
    if len(suspects):
        some = text.take(pa.array(suspects))
        if read.type.tz:
            moments = moments.cast(pa.timestamp("us", "+00:00"))
        written_again = pc.strftime(moments.take(pa.array(suspects)), format=format)
        same = pc.equal(written_again, some).to_numpy(zero_copy_only=False)
        for row, written in zip(suspects[~same], some.filter(pa.array(~same)).to_pylist(), strict=True):
            valid[row] = _is_real_day(written, format)
    return (micros, valid & _in_range(micros)) if read.type.tz else _localised(micros, valid, timezone)


def _is_real_day(written: str, format: str) -> bool:
    try:
        datetime.strptime(written, format)
    except ValueError:
        return False
    return True


def _iso(text: pa.Array, timezone: str) -> tuple[Micros, Mask]:
    """ISO 8601, also its basic form, and a zone as databases write it after a space: `UTC` (BigQuery, Trino), `GMT`,
    `Z`, `-0800` (Snowflake), `+0000 UTC` (Go); a decimal comma is a point."""
    if pc.any(regex_patterns.matches(text, _OTHER_SPELLING)).as_py():
        for pattern, spelling in _SPELLINGS:
            text = pc.replace_substring_regex(text, pattern, spelling)
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        try:
            micros, valid = _whole_numbers(text.cast(kind).cast(pa.int64()))
        except pa.ArrowInvalid:
            continue  # not every value is of this kind
        return (micros, valid & _in_range(micros)) if kind.tz else _localised(micros, valid, timezone)
    return _iso_one_by_one(text, timezone)


def _iso_one_by_one(text: pa.Array, timezone: str) -> tuple[Micros, Mask]:
    """Parse columns that mix times with and without zones, exceed microseconds, or hold unreadable values."""
    text = pc.utf8_upper(pc.replace_substring_regex(text, r"(\.\d{6})\d+", r"\1"))
    # pandas also reads "now" and "2011-8-1", but no zone after a bare day: pass on only what matches the pattern.
    text = pc.if_else(regex_patterns.matches(text, _ISO), text, pa.scalar(None, pa.string()))
    text = pc.replace_substring_regex(text, r"^(.{10})([Z+-])", r"\1T00\2")
    moments = pd.to_datetime(text.to_pandas(), format="ISO8601", errors="coerce", utc=True).dt.as_unit("us")
    micros, valid = moments.astype("int64").to_numpy(), moments.notna().to_numpy()
    naive, naive_valid = _localised(np.where(valid, micros, 0), valid, timezone)
    has_zone = regex_patterns.matches(text, r"^.{10}.*[Z+-]").fill_null(False).to_numpy(zero_copy_only=False)
    return np.where(has_zone, micros, naive), np.where(has_zone, valid & _in_range(micros), naive_valid)
