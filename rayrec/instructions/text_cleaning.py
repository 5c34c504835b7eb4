"""Cleaning of untrusted text before a model reads it."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")
# Invisible letters and marks outside the format category: the combining grapheme joiner, fillers of Hangul, inherent
# vowels of Khmer, the blank of Braille, and variation selectors, which can hide whole texts.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def clean(text: str, max_chars: int) -> str:
    """The text NFKC-normalised, without invisible characters, white space folded, at most `max_chars` long.

    Invisible are control, format (including bidi and zero-width), private and unassigned characters, fillers and
    variation selectors. The result may still spell special tokens (see `safe_tokenizer`). Cleaning is idempotent.
    """
    plain = text if text.isascii() and text.isprintable() else _plain(text)  # fast path, ten times as fast
    return _SPACE.sub(" ", plain).strip()[:max_chars].rstrip()


def _plain(text: str) -> str:
    seen = "".join(letter for letter in _SPACE.sub(" ", text) if not unicodedata.category(letter).startswith("C"))
    return unicodedata.normalize("NFKC", _BLANK.sub("", seen))
