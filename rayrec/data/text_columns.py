"""Text columns as codes of distinct values, so that the cost of a check depends on distinct values, not rows."""

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

# Control characters, line separators, and characters that reorder or hide text (bidi controls, tags, BOM).
INVISIBLE_CHARACTERS = r"[\p{Cc}\x{2028}\x{2029}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{FEFF}\x{E0000}-\x{E007F}]+"

MAX_FIELD_CHARS = {"title": 500, "description": 2_000, "": 200}
"""Maximum length of item fields, by field; "" for all others."""

Codes = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Text:
    """A text column: row i holds values[codes[i]]; code -1: no value. Values are distinct, not null, valid UTF-8."""

    codes: Codes  # [n]
    values: pa.StringArray

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """[n]"""
        return self.codes >= 0

    def map(self, change: Callable[[pa.Array], pa.Array]) -> Text:
        """Change the values; null and empty results become no value."""
        changed = change(self.values)
        if changed.equals(self.values) and not pc.any(pc.equal(changed, "")).as_py():
            return self
        changed = pc.if_else(pc.equal(changed, ""), pa.scalar(None, pa.string()), changed)
        distinct = pc.dictionary_encode(changed)
        to_new: Codes = distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return Text(self.look_up(to_new, -1), distinct.dictionary)

    def where(self, test: Callable[[pa.Array], pa.Array]) -> npt.NDArray[np.bool_]:
        """Bool [n]: rows whose value passes the test; false for rows without a value."""
        passed: npt.NDArray[np.bool_] = test(self.values).fill_null(False).to_numpy(zero_copy_only=False)
        return self.look_up(passed, False)

    def only(self, mask: npt.NDArray[np.bool_]) -> Text:
        """Remove the values of rows that are not in mask [n]."""
        return Text(np.where(mask, self.codes, -1).astype(np.int32), self.values)

    def look_up(self, per_value: npt.NDArray[T], nothing: object) -> npt.NDArray[T]:
        """per_value[codes] [n]; `nothing` for rows without a value."""
        # Code -1 finds the last entry.
        return np.append(per_value, np.array([nothing], per_value.dtype))[self.codes]

    def to_arrow(self) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(self.codes, mask=self.codes < 0), self.values)


def as_text(column: pa.ChunkedArray, name: str, where: str) -> Text:
    """The column as stripped text. Raises DataError for types other than text and numbers."""
    array = column.combine_chunks()
    try:
        encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        codes, values = compact(codes, encoded.dictionary)  # parquet's dictionary covers the whole row group
        return Text(codes, _strings(values)).map(pc.utf8_trim_whitespace)
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"the column {name!r} holds {array.type}, not text or numbers", where=where, hint="name another column"
        ) from None


def extracted(text: Text, pattern: str | None) -> Text:
    """The part of each value that the pattern's group matches."""
    return text if pattern is None else text.map(lambda values: regex_patterns.extract(values, pattern))


def compact(codes: Codes, values: pa.Array) -> tuple[Codes, pa.Array]:
    """Drop unused values; the order of values stays."""
    if len(values) > 8 * len(codes):
        used = np.unique(codes[codes >= 0])
        return np.where(codes < 0, -1, np.searchsorted(used, codes)).astype(np.int32), values.take(pa.array(used))
    is_used = np.zeros(len(values), bool)
    is_used[codes[codes >= 0]] = True
    if is_used.all():
        return codes, values
    to_new = np.append(np.cumsum(is_used) - 1, -1).astype(np.int32)  # code -1 finds the last entry
    return to_new[codes], values.filter(pa.array(is_used))


def _strings(values: pa.Array) -> pa.StringArray:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return valid_utf8(values.cast(pa.binary()).fill_null(b""))
    if pa.types.is_floating(kind):  # NaN and infinities are no value
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    return values.cast(pa.string()).fill_null("")


def valid_utf8(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Binary values as text; undecodable bytes become UNDECODABLE."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:  # parquet does not check the UTF-8 that it stores
        texts = (None if value is None else value.decode(errors="replace") for value in values.to_pylist())
        return pa.array(list(texts), pa.string())


def has_undecodable_bytes(values: pa.Array) -> pa.Array:
    """Whether each value has bytes that could not be decoded."""
    return pc.match_substring(values, UNDECODABLE)


def has_invisible_characters(values: pa.Array) -> pa.Array:
    """Whether each value has control characters or other invisible ones."""
    return regex_patterns.matches(values, INVISIBLE_CHARACTERS)


def clean_item_text(text: Text, field: str) -> Text:
    """An item's field as displayed to people and used in prompts.

    Invisible characters and runs of white space become one space each; the text is truncated at MAX_FIELD_CHARS.
    """
    longest = MAX_FIELD_CHARS.get(field, MAX_FIELD_CHARS[""])

    def clean(values: pa.Array) -> pa.Array:
        start = pc.utf8_slice_codeunits(values, 0, 4 * longest)
        plain = pc.replace_substring_regex(pc.replace_substring_regex(start, INVISIBLE_CHARACTERS, " "), r"\s+", " ")
        return pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(plain), 0, longest))

    return text.map(clean)
