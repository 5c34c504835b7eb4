"""Text columns as codes of distinct values, so that the cost of a check depends on distinct values, not rows."""

from __future__ import annotations

import uuid
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

# Control characters, line separators, and characters that reorder or hide text (bidi controls, tags).
INVISIBLE_CHARACTERS = r"[\p{Cc}\x{2028}\x{2029}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{E0000}-\x{E007F}]+"

# Soft hyphen, direction marks, zero-width space, word joiner, invisible operators, byte order mark. Not the joiners
# U+200C and U+200D: Persian, Indic scripts and emoji are written with them.
ZERO_WIDTH_CHARACTERS = r"[\x{AD}\x{61C}\x{180E}\x{200B}\x{200E}\x{200F}\x{2060}-\x{2064}\x{FEFF}]+"

MAX_FIELD_CHARS = {"title": 500, "description": 2_000, "": 200}
"""Maximum length of item fields, by field; "" for all others."""

_UUID_BYTES = 16

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

    @classmethod
    def of(cls, codes: Codes, values: pa.StringArray) -> Text:
        """From values that may be equal, null or empty."""
        values = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
        encoded = pc.dictionary_encode(values)
        to_new: Codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        return cls(np.append(to_new, np.int32(-1))[codes], encoded.dictionary)

    def map(self, change: Callable[[pa.Array], pa.Array]) -> Text:
        """Change the values; null and empty results become no value, equal results one value."""
        changed = change(self.values)
        if changed.equals(self.values) and not pc.any(pc.equal(changed, "")).as_py():
            return self
        return Text.of(self.codes, changed)

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


def as_text(column: pa.ChunkedArray | pa.Array, name: str, where: str) -> Text:
    """The column as stripped text without zero-width characters, from every Arrow type that has one.

    Raw UUIDs become their usual text. Raises DataError for types other than text, numbers and UUIDs.
    """
    try:
        codes, values = distinct(column)
        return Text.of(codes, clean(strings(values)))
    except pa.ArrowNotImplementedError:
        raise DataError(
            f"the column {name!r} holds {column.type}, not text or numbers", where=where, hint="name another column"
        ) from None


def clean(values: pa.StringArray) -> pa.StringArray:
    """Without zero-width characters, and without white space at both ends."""
    if not pc.all(pc.string_is_ascii(values)).as_py():
        values = pc.replace_substring_regex(values, ZERO_WIDTH_CHARACTERS, "")
    return pc.utf8_trim_whitespace(values)


def distinct(column: pa.ChunkedArray | pa.Array) -> tuple[Codes, pa.Array]:
    """Codes int32 [n] (-1: null) and the values that occur, of a simple type; a value may occur twice.

    Raises pa.ArrowNotImplementedError for nested types.
    """
    array = plain(column)
    encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    # Polars and others write unsigned and 64-bit indices.
    codes = encoded.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    codes, values = compact(codes, encoded.dictionary)  # parquet's dictionary covers the whole row group
    return codes, plain(values)


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array without extension type, run-end encoding, views or narrow decimals; dictionaries stay."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array.type, pa.BaseExtensionType):
        return plain(array.storage)
    if pa.types.is_run_end_encoded(array.type):
        return plain(pc.run_end_decode(array))
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        return array.cast(pa.large_string() if pa.types.is_string_view(array.type) else pa.large_binary())
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        return array.cast(pa.decimal128(array.type.precision, array.type.scale))
    return array


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


def strings(values: pa.Array) -> pa.StringArray:
    """Values of a simple type as text, "" for none. Raises pa.ArrowNotImplementedError for other types."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return valid_utf8(values.cast(pa.binary()).fill_null(b""))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _text_or_uuid(values.cast(pa.binary()).fill_null(b""))
    if is_raw_uuid(kind):
        return pa.array([_uuid(value) if value else "" for value in values.to_pylist()], pa.string())
    if pa.types.is_floating(kind):  # NaN and infinities are no value
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, kind))
    return values.cast(pa.string()).fill_null("")


def is_raw_uuid(kind: pa.DataType) -> bool:
    """Whether the type holds 16 bytes a value."""
    return bool(pa.types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES)


def _text_or_uuid(values: pa.BinaryArray) -> pa.StringArray:
    """Binary values as text; 16 bytes that are not text are a UUID."""
    texts = valid_utf8(values)
    odd = pc.or_(has_undecodable_bytes(texts), regex_patterns.matches(texts, r"[\x00-\x08\x0E-\x1F]"))
    at = pc.and_(odd, pc.equal(pc.binary_length(values), _UUID_BYTES))
    if not pc.any(at).as_py():
        return texts
    uuids = pa.array([_uuid(value) for value in values.filter(at).to_pylist()], pa.string())
    return pc.replace_with_mask(texts, at, uuids)


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


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

    def cut(values: pa.Array) -> pa.Array:
        start = pc.utf8_slice_codeunits(values, 0, 4 * longest)
        seen = pc.replace_substring_regex(pc.replace_substring_regex(start, INVISIBLE_CHARACTERS, " "), r"\s+", " ")
        return pc.utf8_trim_whitespace(pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(seen), 0, longest))

    return text.map(cut)
