"""An instruction is what people typed: cleaned and capped before a model reads it."""

from __future__ import annotations

import re
import unicodedata

_SPACE = re.compile(r"\s+")


def clean(text: str, max_chars: int) -> str:
    """NFKC-normalised, without control, format and unassigned characters, white space folded, at most `max_chars` long.

    What is left is plain words: whoever turns it into tokens must still not parse special tokens out of it
    (rayrec.reranking.vocabulary.words does not).
    """
    folded = _SPACE.sub(" ", unicodedata.normalize("NFKC", text))
    plain = "".join(letter for letter in folded if letter == " " or not unicodedata.category(letter).startswith("C"))
    return _SPACE.sub(" ", plain).strip()[:max_chars].rstrip()
