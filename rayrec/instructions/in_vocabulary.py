"""What a model made from scratch hears of a request: the words that it was taught.

It knows no others. Spelt in pieces of words that it does know, they would say something else, so they are left out: of
"it's pouring, got any Westerns?" it hears "it ' s , any western ?". A plural stands for its singular and the other way
round, "90s", "nineties" and "1994" for "1990s", and a price for the next lower one that was taught: "under 7" is heard
as "under 5". Words with letters beyond ASCII are left as they are: not every script divides its words.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

_PIECE = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\w+|[^\w\s]")
_NUMBER, _YEAR, _DECADE = re.compile(r"\d+(?:\.\d+)?"), re.compile(r"(?:1[89]|2[01])\d\d"), re.compile(r"\d\d(\d0s)")
_BOUNDS = frozenset({"below", "max", "maximum", "most", "than", "to", "under", "until", "up", "within"})
_BEFORE = 3  # pieces
_SPELT = dict(
    zip(
        (f"{tens}0s" for tens in range(2, 10)),
        ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties"),
        strict=True,
    )
)


def tokenize_words(text: str) -> list[str]:
    """Words, numbers and marks, in lower case; numbers without the commas of their thousands."""
    return [piece if piece == "," else piece.replace(",", "") for piece in _PIECE.findall(text.lower())]


class InVocabularyFilter:
    """`taught`: the texts that words are taught by."""

    def __init__(self, taught: Iterable[str]) -> None:
        self.words = frozenset(piece for text in taught for piece in tokenize_words(text))
        self._as: dict[str, str] = {}
        for word in sorted(self.words):
            for other in _variants(word):
                self._as.setdefault(other, word)
        self._as |= {word: word for word in self.words}
        self._prices = sorted((float(word), word) for word in self.words if _NUMBER.fullmatch(word))

    def __call__(self, text: str) -> str:
        """The text in lower case, its pieces a space apart, without those that say nothing."""
        return " ".join(filter(None, self.filter_tokens(tokenize_words(text))))

    def filter_tokens(self, said: Sequence[str]) -> list[str]:
        """What each of these pieces is heard as, "" for those that say nothing."""
        return [self._one(said, at) for at in range(len(said))]

    def _one(self, said: Sequence[str], at: int) -> str:
        piece = said[at]
        if piece in self._as:
            return self._as[piece]
        if not piece.isascii():
            return piece if unicodedata.category(piece[0])[0] not in "PS" else ""
        if _YEAR.fullmatch(piece) and (decade := f"{piece[:3]}0s") in self.words:
            return decade
        if _NUMBER.fullmatch(piece) and is_upper_bound(said, at):
            lower = bisect_right(self._prices, float(piece), key=lambda price: price[0])
            return self._prices[lower - 1][1] if lower else ""
        return ""


def is_upper_bound(said: Sequence[str], at: int) -> bool:
    """Whether the number at `at` of these pieces is the most that something may be: "under £5"."""
    return not _BOUNDS.isdisjoint(said[max(0, at - _BEFORE) : at])


def _variants(word: str) -> Iterator[str]:
    """How else people write it: the other number, a decade without its century, in digits or as a word."""
    if decade := _DECADE.fullmatch(word):
        yield decade[1]
        if decade[1] in _SPELT:
            yield _SPELT[decade[1]]
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
