"""Titles that a request names: "with 'love' in the title", "called Up", or nothing but words that one title has."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rayrec.instructions.negation import scopes
from rayrec.instructions.negation_forms import request_words
from rayrec.instructions.vocabulary_filter import spelling_variants
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Int64s

_WORD = re.compile(r"\w+")
_MOST_WORDS = 6  # of a title that is named
_TITLE = r"(?:titles?|names?|descriptions?)"
_TEXT = r"(?:the )?(?:words? )?(?P<title>[\w'’\"“” &-]{1,60}?)"
_HAS = r"(?:with|has|have|having|contain\w*|includ\w*|say\w*|mention\w*)"
_NAMED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\bthe words? {_TEXT} (?:should be |must be |has to be |is |are )?in (?:its |the |their |a )?{_TITLE}\b",
        rf"\b{_HAS} {_TEXT} in (?:its |the |their |a )?{_TITLE}\b",
        rf"\b(?:(?:in )?(?:its|the|their|whose|a) )?{_TITLE} (?:that |which )?{_HAS} {_TEXT}(?=[.,;!?]|$)",
        rf"\b(?:called|titled|entitled) {_TEXT}(?=[.,;!?]|$| (?:or something|please|from|but)\b)",
        r"(?<!\w)[\"“](?P<title>[^\"“”]{2,60})[\"”](?!\w)",
    )
)


@dataclass(frozen=True)
class NamedTitle:
    """Words that titles are to have (weight 1), or not to have (-1)."""

    words: tuple[str, ...]
    weight: float = 1.0


class TitleIndex:
    """Finds the items whose titles have all of some words, in singular or plural."""

    def __init__(self, titles: Iterable[str]) -> None:
        self._number: dict[str, int] = {}
        word, item = array("q"), array("q")
        self.items = 0
        for title in titles:
            for one in dict.fromkeys(_WORD.findall(title.lower())):
                word.append(self._number.setdefault(one, len(self._number)))
                item.append(self.items)
            self.items += 1
        words = np.array(word, np.int64)
        order = np.argsort(words, kind="stable")
        self._with_word = Ragged.from_lengths(
            np.array(item, np.int64)[order], np.bincount(words, minlength=len(self._number))
        )

    def items_with(self, words: Sequence[str]) -> Int64s:
        """Codes of the items with all of the words, ascending; none without words."""
        found: Int64s | None = None
        for word in words:
            forms = [self._number[form] for form in {word, *spelling_variants(word)} if form in self._number]
            own = np.unique(np.concatenate([np.empty(0, np.int64), *(self._with_word[form] for form in forms)]))
            found = own if found is None else np.intersect1d(found, own, assume_unique=True)
        return np.empty(0, np.int64) if found is None else found


def named_titles(text: str) -> tuple[str, list[NamedTitle]]:
    """The titles that a text names as such, and the text without them."""
    found = list[NamedTitle]()
    for pattern in _NAMED:
        while match := pattern.search(text):
            negated = scopes([*request_words(text[: match.start()]), "it"]).negated[-1] is not False
            for part in re.split(r"\bor\b", match["title"].lower()):
                if words := tuple(_WORD.findall(part))[:_MOST_WORDS]:
                    found.append(NamedTitle(words, -1.0 if negated else 1.0))
            text = f"{text[: match.start()].rstrip()} {text[match.end() :].lstrip()}".strip()
    return text, found
