"""Correction of slips of the pen: an unknown word that is one edit away from an expected one, or a rare word that is
one edit away from a name.

An edit inserts, drops or replaces a letter, or swaps two neighbours (Damerau 1964).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_WORD = re.compile(r"[^\W\d_]+")
_SHORTEST, _SHORTEST_NAME = 4, 5  # letters of a word that is corrected, and of a name that a rare word stands for


class SpellingCorrector:
    """Replaces unknown words. `expected`: texts whose words are the corrections; `is_known`: words left alone;
    `names`: further ones, for which a known word is left alone only if `is_common`."""

    def __init__(
        self,
        expected: Iterable[str],
        is_known: Callable[[str], bool],
        names: Iterable[str] = (),
        is_common: Callable[[str], bool] = lambda word: True,
    ) -> None:
        self._is_known, self._is_common = is_known, is_common
        self._names = frozenset(_words(names, _SHORTEST_NAME))
        words = sorted({*_words(expected, _SHORTEST), *_words(names, _SHORTEST)})
        self._words = frozenset(words)
        self._dropped: dict[str, str] = {}  # a word without one letter -> the word
        for word in words:
            for shorter in _without_a_letter(word):
                self._dropped.setdefault(shorter, word)

    def __call__(self, text: str) -> str:
        return _WORD.sub(lambda match: self._corrected(match[0]), text)

    def _corrected(self, word: str) -> str:
        lower = word.lower()
        if len(lower) < _SHORTEST or lower in self._words or (self._is_common(lower) and self._is_known(lower)):
            return word
        near = self._nearest(lower)
        return word if near is None or (self._is_known(lower) and near not in self._names) else near

    def _nearest(self, lower: str) -> str | None:
        if lower in self._dropped:  # a letter is missing
            return self._dropped[lower]
        for shorter in sorted(_without_a_letter(lower)):  # a letter too many, a wrong one, or two swapped
            near = shorter if shorter in self._words else self._dropped.get(shorter)
            if near is not None and is_one_edit(lower, near):
                return near
        return None


def is_one_edit(one: str, other: str) -> bool:
    """Whether two different words are one edit apart."""
    if len(one) > len(other):
        one, other = other, one
    at = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    if len(one) < len(other):
        return len(other) - len(one) == 1 and one[at:] == other[at + 1 :]
    swapped = one[at : at + 2] == other[at : at + 2][::-1] and one[at + 2 :] == other[at + 2 :]
    return one != other and (swapped or one[at + 1 :] == other[at + 1 :])


def _words(texts: Iterable[str], shortest: int) -> set[str]:
    return {word for text in texts for word in _WORD.findall(text.lower()) if len(word) >= shortest}


def _without_a_letter(word: str) -> set[str]:
    return {word[:at] + word[at + 1 :] for at in range(len(word))}
