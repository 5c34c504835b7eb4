"""A column as text, each distinct value once: checks cost by the distinct values, not by the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import regex_patterns
from rayrec.data.raw_rows import UNDECODABLE
from rayrec.errors import DataError

# Control characters, line separators, the invisible ones that turn or hide text (bidi controls, tags, BOM).
INVISIBLE_CHARACTERS = r"[\p{Cc}\x{2028}\x{2029}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{FEFF}\x{E0000}-\x{E007F}]+"

MAX_FIELD_CHARS = {"title": 500, "description": 2_000, "": 200}
"""Characters kept of an item's fields, by field; "" for the others."""

Codes = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Text:
    """Row i holds values[codes[i]]; code -1: nothing. Values are distinct, not null, valid UTF-8."""

    codes: Codes  # [n]
    values: pa.StringArray

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """[n]"""
        return self.codes >= 0

    def map(self, change: Callable[[pa.Array], pa.Array]) -> Text:
        """Other values; those that become null or empty are nothing."""
        changed = change(self.values)
        if changed.equals(self.values) and not pc.any(pc.equal(changed, "")).as_py():
            return self
        changed = pc.if_else(pc.equal(changed, ""), pa.scalar(None, pa.string()), changed)
        distinct = pc.dictionary_encode(changed)
        to_new: Codes = distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Text(self.look_up(to_new, -1), distinct.dictionary)

    def where(self, test: Callable[[pa.Array], pa.Array]) -> npt.NDArray[np.bool_]:
        """Which rows' values pass, bool [n]; rows without a value do not."""
        passed: npt.NDArray[np.bool_] = test(self.values).fill_null(False).to_numpy(zero_copy_only=False)
        return self.look_up(passed, False)

    def only(self, mask: npt.NDArray[np.bool_]) -> Text:
        """The rows in mask [n]; the others are nothing."""
        return Text(np.where(mask, self.codes, -1).astype(np.int32), self.values)

    def look_up(self, per_value: npt.NDArray[T], nothing: object) -> npt.NDArray[T]:
        """per_value[codes] [n], and `nothing` where there is no value."""
        # A last entry for the rows without a value, which code -1 finds.
        return np.append(per_value, np.array([nothing], per_value.dtype))[self.codes]

    def to_arrow(self) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(self.codes, mask=self.codes < 0), self.values)


def as_text(column: pa.ChunkedArray, name: str, where: str) -> Text:
    """The column as text, white space around it removed. Raises DataError for types that are no text."""
    array = column.combine_chunks()
    try:
        encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        codes, values = compact(codes, encoded.dictionary)  # a parquet dictionary is that of the whole row group
        return Text(codes, _strings(values)).map(pc.utf8_trim_whitespace)
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"the column {name!r} holds {array.type}, not text or numbers", where=where, hint="name another column"
        ) from None


def extracted(text: Text, pattern: str | None) -> Text:
    """What the pattern's group matches of each value."""
    return text if pattern is None else text.map(lambda values: regex_patterns.extract(values, pattern))


def compact(codes: Codes, values: pa.Array) -> tuple[Codes, pa.Array]:
    """The same rows with only the values that they use, in the same order."""
    if len(values) > 8 * len(codes):
        used = np.unique(codes[codes >= 0])
        return np.where(codes < 0, -1, np.searchsorted(used, codes)).astype(np.int32), values.take(pa.array(used))
    is_used = np.zeros(len(values), bool)
    is_used[codes[codes >= 0]] = True
    if is_used.all():
        return codes, values
    to_new = np.append(np.cumsum(is_used) - 1, -1).astype(np.int32)  # the last entry is what code -1 finds
    return to_new[codes], values.filter(pa.array(is_used))


def _strings(values: pa.Array) -> pa.StringArray:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return _valid_utf8(values.cast(pa.binary()))
    if pa.types.is_floating(kind):  # whole numbers are written without a point, NaN and infinities are nothing
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    return values.cast(pa.string()).fill_null("")


def _valid_utf8(values: pa.BinaryArray) -> pa.StringArray:
    values = values.fill_null(b"")
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:  # parquet promises UTF-8 and does not check it
        return pa.array([value.decode(errors="replace") for value in values.to_pylist()], pa.string())


def has_undecodable_bytes(values: pa.Array) -> pa.Array:
    """Values that hold what no encoding explained."""
    return pc.match_substring(values, UNDECODABLE)


def has_invisible_characters(values: pa.Array) -> pa.Array:
    """Values that hold control or other invisible characters."""
    return regex_patterns.matches(values, INVISIBLE_CHARACTERS)


def clean_item_text(text: Text, field: str) -> Text:
    """A field of an item as people and prompts may see it.

    Invisible characters become a space, runs of white space one space; cut at LONGEST characters.
    """
    longest = MAX_FIELD_CHARS.get(field, MAX_FIELD_CHARS[""])

    def clean(values: pa.Array) -> pa.Array:
        cut = pc.utf8_slice_codeunits(values, 0, 4 * longest)
        plain = pc.replace_substring_regex(pc.replace_substring_regex(cut, INVISIBLE_CHARACTERS, " "), r"\s+", " ")
        return pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(plain), 0, longest))

    return text.map(clean)
