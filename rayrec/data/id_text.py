"""The text of an id, the same for equal ids however a file's type spells them.

- Integers: their digits. Decimals: without trailing zeros. Floats: whole numbers as integers.
- UUIDs, as a type or as 16 raw bytes: lower case, with dashes.
- Text: as written, but for white space at the ends, characters of no width, and numbers as floats and decimals are
  written into text files: `12423.0`, `12423.000`, `1.2423e4` and `1.2423E+04` are `12423`. `007`, `1e5`, `1.50` and
  `007.0` stay: no writer of floats makes them.
- Empty text, nulls, and NaN and infinities of float columns are no id. `NA`, `null` and `NaN` as text are ids.

A float cannot tell whole numbers apart from 2^53 on (32 bits: from 2^24, 16 bits: from 2^11), so such a column is
refused. Text that such a float was written as, rounded numbers (`1.23E+11`, as spreadsheets write them) and floats with
a fraction (10.10 becomes 10.1) are inexact: `is_inexact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import regex_patterns
from rayrec.data.text_columns import Text, clean, distinct, extracted, is_raw_uuid, strings
from rayrec.errors import DataError

INVISIBLE_JOINERS = r"[\x{200C}\x{200D}]+"  # in an id they only hide; in titles they are spelling

_EXACT_BITS = {pa.float16(): 11, pa.float32(): 24, pa.float64(): 53}
_SAFE_DIGITS = 15  # any whole number of so many digits is below 2^53
_MAX_SAFE_CHARS = len(str(-(2**53)))
_WHOLE = r"^-?(?:0|[1-9]\d*)\.0+$"
_SCIENTIFIC = r"^-?(?:\d\.\d+[eE][+-]?\d{1,3}|\d[eE][+-]\d{2,3})$"  # 1e5 is a code as often as a number
_SHORT_WHOLE = rf"^(-?\d{{1,{_SAFE_DIGITS}}})\.0+$"
# As spreadsheets (1.23E+11, at most five decimals) and %g (1.23457e+11) round.
_ROUNDED = re.compile(r"-?\d(?:\.(\d{0,5}))?E\+(\d+)|-?\d\.(\d{5})e\+(\d+)")
_LONG_WHOLE = re.compile(rf"(-?\d{{{_SAFE_DIGITS + 1},}})\.(0+)")


def id_text(column: pa.ChunkedArray | pa.Array, name: str, where: str, *, extract: str | None = None) -> Text:
    """The ids of a column. `extract`: a pattern with one group, applied to text as it is written.

    Raises DataError for types that hold no ids, and for floats that cannot be exact; `name` and `where` are the column
    and the file.
    """
    if not _holds_ids(column.type):
        hint = "name the column of the ids, or write them as text or whole numbers"
        raise DataError(f"the column {name!r} holds {column.type}, which is no id", where=where, hint=hint)
    codes, values = distinct(column)
    text = extracted(Text.of(codes, clean(_texts(values, name, where))), extract)
    return text.map(_canonical)


def canonical_ids(ids: Iterable[object]) -> list[str]:
    """Ids given in Python or in a config (text or integers) as they are in the tables, in order."""
    return [str(text) for text in _canonical(clean(pa.array([str(each) for each in ids], pa.string()))).to_pylist()]


def is_inexact(ids: pa.Array) -> pa.Array:
    """Bool [n]: which canonical ids are a float's spelling of a fraction, a rounded number, or one from 2^53 on."""
    return regex_patterns.matches(ids, f"{_WHOLE}|{_SCIENTIFIC}")


def _holds_ids(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return isinstance(kind, pa.UuidType) or pa.types.is_string(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _holds_ids(kind.value_type)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    raw = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(numbers or texts or raw or is_raw_uuid(kind) or pa.types.is_null(kind))


def _texts(values: pa.Array, name: str, where: str) -> pa.StringArray:
    """Distinct values as text, "" for none."""
    if pa.types.is_floating(values.type):
        return _float_texts(values, name, where)
    if pa.types.is_decimal(values.type):
        return _decimal_texts(values)
    return strings(values)


def _float_texts(values: pa.Array, name: str, where: str) -> pa.StringArray:
    limit = 2 ** _EXACT_BITS[values.type]
    numbers: npt.NDArray[np.float64] = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    finite = np.isfinite(numbers)
    unsafe = numbers[finite & (np.abs(numbers) >= limit)]
    if len(unsafe):
        raise DataError(
            f"the column {name!r} holds ids as {values.type}, which cannot tell numbers from {limit:,} on apart "
            f"({unsafe[0]:.0f}): several ids may have become one",
            where=where,
            hint="write the ids as integers or text (in pandas: astype('Int64') before the values become floats)",
        )
    whole = finite & (numbers == np.floor(numbers))
    integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.string())
    fractions = np.flatnonzero(finite & ~whole)
    texts = pc.if_else(pa.array(whole), integers, "")
    if len(fractions):  # spelled so that `is_inexact` finds them
        spelled = pa.array([f"{number:.17e}" for number in numbers[fractions]], pa.string())
        texts = pc.replace_with_mask(texts, pa.array(finite & ~whole), spelled)
    return texts


def _decimal_texts(values: pa.Array) -> pa.StringArray:
    texts = values.cast(pa.string()).fill_null("")
    if pc.any(pc.match_substring(texts, "E")).as_py():  # very small ones, and those of a negative scale
        texts = pa.array(["" if value is None else format(value, "f") for value in values.to_pylist()], pa.string())
    whole = pc.replace_substring_regex(texts, r"^(-?\d+)\.0+$", r"\1")
    return pc.replace_substring_regex(whole, r"^(-?\d+\.\d*[1-9])0+$", r"\1")


def _canonical(texts: pa.StringArray) -> pa.StringArray:
    """Cleaned texts, with numbers as integers are written."""
    if not pc.all(pc.string_is_ascii(texts)).as_py():
        texts = pc.replace_substring_regex(texts, INVISIBLE_JOINERS, "")
    spelled = is_inexact(texts).fill_null(False)
    if not pc.any(spelled).as_py():
        return texts
    numbers = pc.replace_substring_regex(texts.filter(spelled), _SHORT_WHOLE, r"\1")
    long = is_inexact(numbers)
    if pc.any(long).as_py():
        integers = pa.array([_integer(text) for text in numbers.filter(long).to_pylist()], pa.string())
        numbers = pc.replace_with_mask(numbers, long, integers)
    numbers = pc.if_else(pc.equal(numbers, "-0"), "0", numbers)
    return pc.replace_with_mask(texts, spelled, numbers)


def _integer(text: str) -> str:
    """The whole number that a float or a decimal was written as; the text itself if it is not exact."""
    if found := _LONG_WHOLE.fullmatch(text):
        # One zero is how floats are written; more are a decimal's, which is exact at any size.
        exact = len(found[2]) > 1 or (len(found[1]) <= _MAX_SAFE_CHARS and abs(int(found[1])) < 2**53)
        return found[1] if exact else text
    if rounded := _ROUNDED.fullmatch(text):
        decimals, exponent = rounded[1] or rounded[3] or "", rounded[2] or rounded[4]
        if int(exponent) > len(decimals):
            return text
    number = Decimal(text)
    return str(int(number)) if number == number.to_integral_value() and number.copy_abs() < 2**53 else text
