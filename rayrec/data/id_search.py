"""Search for user ids in any content: as they are, byte by byte, where an id cannot be mistaken for something else.

An id such as `17` or `daily` occurs everywhere; finding its bytes says nothing. Such ids are found in columns of users
and in the raw values of rows, by their tokens (rayrec.data.erasure_list).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

_LEAST_CHARS, _LEAST_DIGITS, _LEAST_LETTERS = 6, 9, 12
_IDS_A_PATTERN = 400  # RE2's patterns have a bound


def is_distinctive(user_id: str) -> bool:
    """Whether the bytes of an id are its own: letters with digits or signs, or a long number or word."""
    digits, letters = any(char.isdigit() for char in user_id), any(char.isalpha() for char in user_id)
    if user_id.isdigit():
        return len(user_id) >= _LEAST_DIGITS
    if letters and not digits and user_id.isalpha():
        return len(user_id) >= _LEAST_LETTERS
    return len(user_id) >= _LEAST_CHARS


class IdSearch:
    """Finds distinctive ids in byte strings, also as UTF-16 and UTF-32; an id within a longer word does not count."""

    def __init__(self, user_ids: Iterable[str]) -> None:
        self.ids = sorted({user for user in user_ids if is_distinctive(user)})
        self._patterns = [
            _pattern(self.ids[start : start + _IDS_A_PATTERN]) for start in range(0, len(self.ids), _IDS_A_PATTERN)
        ]

    def found_in(self, texts: pa.Array) -> bool:
        """`texts`: large_binary."""
        return any(pc.any(pc.match_substring_regex(texts, pattern), min_count=0).as_py() for pattern in self._patterns)


def _pattern(ids: list[str]) -> str:
    """A pattern over bytes, each as the character of its number (Arrow matches binary as Latin-1)."""
    narrow = "|".join(_escaped(user.encode()) for user in ids)
    wide = "|".join(_escaped(user.encode(encoding)) for user in ids for encoding in ("utf-16-le", "utf-32-le"))
    return f"(?:^|[^0-9A-Za-z_])(?:{narrow})(?:$|[^0-9A-Za-z_])|{wide}"


def _escaped(data: bytes) -> str:
    return "".join(chr(byte) if re.match(rb"[0-9A-Za-z]", bytes([byte])) else f"\\x{byte:02x}" for byte in data)
