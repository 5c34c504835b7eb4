"""What a model made from scratch hears of a request: the words that it was taught.

It knows no others. Spelt in pieces of words that it does know, they would say something else, so they are left out: of
"it's pouring, got any Westerns?" it hears "it ' s , any western ?". A plural stands for its singular and the other way
round, "90s" for "1990s". Words with letters beyond ASCII are left as they are: not every script divides its words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

_PIECE = re.compile(r"\w+|[^\w\s]")  # as the tokenizer of rayrec.reranking.vocabulary divides
_DECADE = re.compile(r"(?:19|20)(\d0s)")


class Hearing:
    """`taught`: the texts that words are taught by."""

    def __init__(self, taught: Iterable[str]) -> None:
        self.words = frozenset(piece for text in taught for piece in _PIECE.findall(text.lower()))
        self._as: dict[str, str] = {}
        for word in sorted(self.words):
            for other in _variants(word):
                self._as.setdefault(other, word)
        self._as |= {word: word for word in self.words}

    def __call__(self, text: str) -> str:
        """The text in lower case, its pieces a space apart, without those that say nothing."""
        found = (self._as.get(piece, piece if _foreign(piece) else "") for piece in _PIECE.findall(text.lower()))
        return " ".join(filter(None, found))


def _foreign(piece: str) -> bool:
    return not piece.isascii() and unicodedata.category(piece[0])[0] not in "PS"


def _variants(word: str) -> Iterator[str]:
    """How else people write it: the other number, a decade without its century."""
    if decade := _DECADE.fullmatch(word):
        yield decade[1]
    if len(word) < 3 or not word.isalpha():
        return
    yield from (word + "s", word + "es")
    if word.endswith("y"):
        yield word[:-1] + "ies"
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]
