"""Which facets of the catalogue a request names: those that it wants and those that it turns down.

Read by rules, word for word: "a comedy from the 90s, nothing with zombies, under £7" wants comedy, 1990s and below 5,
and turns zombies down, where the catalogue has such facets. A word of titles is wanted only where nothing but a bound
is named beside it: people say "night" of many things. A name is turned down by a word against it shortly before ("no",
"without", "anything but"), as far as the next mark or "but"; further off it counts for nothing, because what such a
sentence means is anybody's guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayrec.instructions.facet_scheme import BELOW, WORD, FacetScheme
from rayrec.instructions.in_vocabulary import InVocabularyFilter, is_upper_bound, tokenize_words
from rayrec.instructions.stopwords import stop_words

_NOT = re.compile(r"n['’]t\b")
_AGAINST = frozenset(
    tokenize_words(
        "avoid avoiding cannot dislike dislikes except exclude excluding hate hates instead minus neither never no"
        " nobody non none nor not nothing skip without"
    )
)
_TWO_AGAINST = frozenset(
    tuple(tokenize_words(two))
    for two in (
        *("all but", "anything but", "everything but", "other than", "rather than", "away from", "leave out"),
        *("leaving out", "enough of", "sick of", "tired of", "fed up", "spare me"),
    )
)
_END = frozenset(",.;:!?()") | {"but", "just", "only"}  # of what a word against reaches
_NEAR = 2  # pieces: how far before a name a word against it may stand ("can't find a comedy" wants one)
_OR = frozenset({"and", "nor", "or"})  # what is said against one name holds for the next
_WITHIN = frozenset("-/'’&")  # marks within names: "sci-fi"


@dataclass(frozen=True)
class FacetMatches:
    """Facet numbers, ascending, each once."""

    include: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)


class FacetMatcher:
    """Reads requests; the same text always names the same."""

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
        self._hearing = InVocabularyFilter(
            [*known, *stop_words(), *_AGAINST]
        )  # "new" is a word of its own, not one of the news

    def __call__(self, text: str) -> FacetMatches:
        said = [piece for piece in tokenize_words(_NOT.sub(" not", text)) if piece not in _WITHIN]
        heard = self._hearing.filter_tokens(said)
        wanted, unwanted = set[int](), set[int]()
        turned_down = -1  # where the last name ended, if it was turned down
        for at, end, numbers in self._found(heard):
            against = _against(said, at)
            with_the_last = 0 <= turned_down < at and _OR.issuperset(said[turned_down:at])
            if with_the_last or (against is not None and against <= _NEAR):
                unwanted.update(numbers)
                turned_down = end
            elif against is None:
                wanted.update(numbers)
        # What stands against a bound is a part of it: "no more than 5".
        wanted.update(
            self._bounds[word] for at, word in enumerate(heard) if word in self._bounds and is_upper_bound(said, at)
        )
        if any(self._kind[number] not in (WORD, BELOW) for number in wanted):
            wanted = {number for number in wanted if self._kind[number] != WORD}
        return FacetMatches(tuple(sorted(wanted - unwanted)), tuple(sorted(unwanted)))

    def _found(self, heard: Sequence[str]) -> Iterator[tuple[int, int, list[int]]]:
        """Where names begin and end, the longest at each place: "film noir" is no noir film."""
        at = 0
        while at < len(heard):
            for end in range(min(at + self._longest, len(heard)), at, -1):
                if numbers := self._names.get(tuple(heard[at:end])):
                    yield at, end, numbers
                    break
            else:
                end = at + 1
            at = end


def _against(said: Sequence[str], at: int) -> int | None:
    """How many pieces before `at` a word stands that turns it down; None: none does."""
    for back in range(1, at + 1):
        piece = said[at - back]
        if piece in _AGAINST or tuple(said[max(0, at - back - 1) : at - back + 1]) in _TWO_AGAINST:
            return back
        if piece in _END:
            return None
    return None


def _words(name: str) -> list[str]:
    return [piece for piece in tokenize_words(name) if piece not in _WITHIN]
