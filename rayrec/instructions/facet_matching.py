"""Facet matching by rules: which facets of the catalogue a request includes and which it excludes.

"A comedy from the 90s, nothing with zombies, under £7" includes comedy, 1990s and below 5, and excludes zombies, if
the catalogue has these facets. A facet may have synonyms ("historical" for history), and ranges of years or prices
include or exclude the decades and bounds that they cover ("before 1970", "over £10"). A title word is included only if
the request names no other facet except a bound: words like "night" have many uses. A negation ("no", "without", "not
in the mood for") shortly before a facet excludes it, up to the next punctuation mark or "but" (`negation`). A facet
further behind a negation is ambiguous: neither included nor excluded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayrec.instructions.facet_scheme import BELOW, DECADE, WORD, FacetScheme
from rayrec.instructions.negation import negation_words, scopes
from rayrec.instructions.negation_forms import request_words
from rayrec.instructions.number_ranges import NumberRange, number_ranges
from rayrec.instructions.vocabulary_filter import InVocabularyFilter, spelling_variants, stop_words, tokenize_words

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

    def __init__(self, scheme: FacetScheme, synonyms: Mapping[str, Iterable[str]] | None = None) -> None:
        """`synonyms`: other names of facets, by name."""
        self._kind = scheme.kind
        self._names: dict[tuple[str, ...], list[int]] = {}
        for number, (kind, name) in enumerate(zip(scheme.kind, scheme.name, strict=True)):
            for one in {name, *(synonyms or {}).get(name, ())} if kind not in (BELOW, WORD) else {name}:
                words = tuple(_words(one))
                if kind != BELOW and not stop_words().issuperset(words):
                    for form in {words, ("".join(words),)}:  # "sci fi" and "scifi"
                        self._names.setdefault(form, []).append(number)
        for form in [form for form in self._names if len(form) == 1]:  # titles have "candle" and "candles"
            for variant in set(spelling_variants(form[0])) - {form[0]}:
                if (variant,) in self._names:
                    self._names[form] = sorted({*self._names[form], *self._names[(variant,)]})
        self._bounds = sorted((float(name), n) for n, name in enumerate(scheme.name) if scheme.kind[n] == BELOW)
        self._decades = [(int(name[:4]), n) for n, name in enumerate(scheme.name) if scheme.kind[n] == DECADE]
        self._longest = max(map(len, self._names), default=0)
        # Stop words are known, which keeps "new" from being read as the singular of "news".
        self._word_filter = InVocabularyFilter(
            [*(word for form in self._names for word in form), *stop_words(), *negation_words()]
        )

    def __call__(self, text: str) -> FacetMatches:
        words = [word for word in request_words(text) if word not in _WITHIN]
        negated, ranges = scopes(words).negated, number_ranges(words)
        include, exclude, ambiguous = set[int](), set[int](), set[int]()
        for one in ranges:
            if negated[one.start] is None:
                continue
            # A negation before a bound may be a part of it: "no more than 5".
            wanted, unwanted = self._covered(one, negated=bool(negated[one.start]))
            include.update(wanted)
            exclude.update(unwanted)
        in_range = {at for one in ranges for at in range(one.start, one.end)}
        excluded_end = -1  # end of the previous facet, if it was excluded
        for at, end, numbers in self._found(self._word_filter.filter_tokens(words)):
            if at in in_range:
                numbers = [number for number in numbers if self._kind[number] != DECADE]
            with_the_last = 0 <= excluded_end <= at and _OR.issuperset(words[excluded_end:at])
            unsure = negated[at] is None and not with_the_last
            (ambiguous if unsure else exclude if negated[at] or with_the_last else include).update(numbers)
            if exclude.issuperset(numbers) and not unsure:
                excluded_end = end
        if any(self._kind[number] not in (WORD, BELOW) for number in include):
            include = {number for number in include if self._kind[number] != WORD}
        sides = include - exclude, exclude, ambiguous - include - exclude
        return FacetMatches(*(tuple(sorted(side)) for side in sides))

    def names(self, words: Sequence[str], kinds: Iterable[str]) -> list[tuple[int, int]]:
        """Start and end of the names of facets of these kinds in `tokenize_words`."""
        kept = [at for at, word in enumerate(words) if word not in _WITHIN]
        found = self._found(self._word_filter.filter_tokens([words[at] for at in kept]))
        wanted = set(kinds)
        return [
            (kept[start], kept[end - 1] + 1)
            for start, end, numbers in found
            if any(self._kind[number] in wanted for number in numbers)
        ]

    def _covered(self, said: NumberRange, *, negated: bool) -> tuple[list[int], list[int]]:
        """The facets that a range includes and excludes. Decades that it covers whole, if it does any."""
        if said.years:
            touched = [(year, n) for year, n in self._decades if year < said.high and said.low < year + 10]
            whole = [n for year, n in touched if said.low <= year and year + 10 <= said.high]
            overlapping = [n for _, n in touched]
            return ([], overlapping) if negated else (whole or overlapping, [])
        low, high = (said.high, said.low) if negated else (said.low, said.high)
        most = [n for bound, n in self._bounds if bound <= high < float("inf")]
        least = [n for bound, n in self._bounds if bound >= low > -float("inf")]
        return most[-1:], least[:1]

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
