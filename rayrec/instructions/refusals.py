"""Requests with the refusals written out that only a model finds: "westerns bore the pants off me" is "no westerns".

Only sentences that name a facet are judged: what ghosts and blood say about the wish for them cannot be masked. Those
that the rules of `negation` decide stay as they are, and those with a range of years or prices, which only wishes have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rayrec.instructions.facet_matching import FacetMatcher
from rayrec.instructions.number_ranges import number_ranges
from rayrec.instructions.polarity import MASK, Polarity, is_decided, polarity_of
from rayrec.instructions.vocabulary_filter import tokenize_words
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

_BREAK = re.compile(r"((?:[.;!]+\s+|\s*[–]\s*|,?\s+\bbut\b))")
_COMMA = re.compile(r"(,\s+)")


@dataclass(frozen=True)
class Refusals:
    """`kinds`: of the facets whose names are masked."""

    matcher: FacetMatcher
    kinds: tuple[str, ...]
    encoder: SentenceEncoder

    def __call__(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The text with refusals written out, without the sentences that may be refusals; and these."""
        parts, unsure = list[str](), list[str]()
        for sentence in _BREAK.split(text):
            if _BREAK.fullmatch(sentence) or is_decided(sentence):
                parts.append(sentence)
                continue
            pieces = _COMMA.split(sentence)
            several = sum(bool(self._names(tokenize_words(piece))) for piece in pieces) > 1
            for piece in pieces if several else [sentence]:
                meant = self._written_out(piece)
                parts.append(piece if meant is None else meant)
                if meant == "":
                    unsure.append(piece.strip())
        return "".join(parts), tuple(unsure)

    def _written_out(self, piece: str) -> str | None:
        """The refusal; empty: unsure; None: none."""
        words = tokenize_words(piece.replace("’", "'"))
        names = self._names(words)
        if not names or number_ranges(words):
            return None
        masked = _masked(words, names)
        score = self._polarity.score(masked, self.encoder.encode([masked])[0])
        if score < self._polarity.unsure:
            return None
        refused = (" ".join(words[start:end]) for start, end in names)
        return ", ".join(f"no {name}" for name in refused) if score >= self._polarity.refused else ""

    def _names(self, words: Sequence[str]) -> list[tuple[int, int]]:
        return self.matcher.names(words, self.kinds)

    @cached_property
    def _polarity(self) -> Polarity:
        return polarity_of(self.encoder.encode, self.encoder.digest)


def _masked(words: Sequence[str], names: Sequence[tuple[int, int]]) -> str:
    found, at = list[str](), 0
    for start, end in names:
        found += words[at:start]
        if found[-1:] != [MASK]:  # "crime comedies" are one thing
            found.append(MASK)
        at = end
    return " ".join([*found, *words[at:]])
