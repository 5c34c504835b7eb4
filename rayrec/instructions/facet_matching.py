"""Facet matching by rules: which facets of the catalogue a request includes and which it excludes.

"A comedy from the 90s, nothing with zombies, under £7" includes comedy, 1990s and below 5, and excludes zombies, if
the catalogue has these facets. A title word is included only if the request names no other facet except a bound:
words like "night" have many uses. A negation ("no", "without", "not in the mood for") shortly before a facet excludes
it, up to the next punctuation mark or "but" (`negation`). A facet further behind a negation is ambiguous: neither
included nor excluded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayrec.instructions.facet_scheme import BELOW, WORD, FacetScheme
from rayrec.instructions.negation import NEGATIONS, negates, request_words
from rayrec.instructions.vocabulary_filter import InVocabularyFilter, is_upper_bound, stop_words, tokenize_words

_OR = frozenset({"and", "nor", "or"})  # extend a negation to the next facet
_WITHIN = frozenset("-/'’&")  # punctuation inside names: "sci-fi"


@dataclass(frozen=True)
class FacetMatches:
    """Facet numbers, ascending and distinct."""

    include: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    ambiguous: tuple[int, ...] = ()  # named, but neither included nor excluded

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


class FacetMatcher:
    """Matches requests against the facets of a scheme; a pure function of the text."""

    def __init__(self, scheme: FacetScheme) -> None:
        self._kind = scheme.kind
        names = [
            (number, kind, tuple(_words(name)))
            for number, (kind, name) in enumerate(zip(scheme.kind, scheme.name, strict=True))
            if not stop_words().issuperset(_words(name))
        ]
        self._bounds = {words[0]: number for number, kind, words in names if kind == BELOW}
        self._names: dict[tuple[str, ...], list[int]] = {}
        for number, kind, words in names:
            if kind != BELOW:
                for form in {words, ("".join(words),)}:  # "sci fi" and "scifi"
                    self._names.setdefault(form, []).append(number)
        self._longest = max(map(len, self._names), default=0)
        known = {word for form in self._names for word in form} | self._bounds.keys()
        self._word_filter = InVocabularyFilter(
            [*known, *stop_words(), *NEGATIONS]
        )  # keeps "new" from being read as the singular of "news"

    def __call__(self, text: str) -> FacetMatches:
        words = [word for word in request_words(text) if word not in _WITHIN]
        known = self._word_filter.filter_tokens(words)
        include, exclude, ambiguous = set[int](), set[int](), set[int]()
        excluded_end = -1  # end of the previous facet, if it was excluded
        for at, end, numbers in self._found(known):
            with_the_last = 0 <= excluded_end < at and _OR.issuperset(words[excluded_end:at])
            negated = True if with_the_last else negates(words, at)
            (ambiguous if negated is None else exclude if negated else include).update(numbers)
            if negated:
                excluded_end = end
        # A negation before a bound is a part of it: "no more than 5".
        include.update(
            self._bounds[word] for at, word in enumerate(known) if word in self._bounds and is_upper_bound(words, at)
        )
        if any(self._kind[number] not in (WORD, BELOW) for number in include):
            include = {number for number in include if self._kind[number] != WORD}
        sides = include - exclude, exclude, ambiguous - include - exclude
        return FacetMatches(*(tuple(sorted(side)) for side in sides))

    def _found(self, words: Sequence[str]) -> Iterator[tuple[int, int, list[int]]]:
        """Start, end and facet numbers of the names in the text; the longest name wins ("film noir" over "noir")."""
        at = 0
        while at < len(words):
            for end in range(min(at + self._longest, len(words)), at, -1):
                if numbers := self._names.get(tuple(words[at:end])):
                    yield at, end, numbers
                    break
            else:
                end = at + 1
            at = end


def _words(name: str) -> list[str]:
    return [word for word in tokenize_words(name) if word not in _WITHIN]
