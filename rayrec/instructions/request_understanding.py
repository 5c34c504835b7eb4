"""What a request means in terms of the catalogue: facets with weights from -1 (unwanted) to 1 (wanted).

Rules find the facets that a text names (`facet_matching`): a hit counts 1 or -1. A sentence encoder finds what its
clauses mean (`soft_facets`): wanted clauses count positively, unwanted ones negatively. A rule's hit wins, also where
rules cannot be sure. Refusals in a turn of phrase that the rules lack are written out first (`refusals`); a sentence
of which it is unsure means nothing. Without an encoder the rules are all.

A text may name titles (`title_search`): "with 'love' in the title", or nothing that a facet is but words of one title.

A word of a title counts only in catalogues without categories and values, unless it is unwanted; everywhere it can find
candidates by BM25 (`searchable_words`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from rayrec.instructions.facet_matching import FacetMatcher
from rayrec.instructions.facet_scheme import CATEGORY, WORD, FacetScheme
from rayrec.instructions.facet_sentences import load_facet_sentences
from rayrec.instructions.negation import Clause, clauses
from rayrec.instructions.refusals import Refusals
from rayrec.instructions.soft_facets import SoftFacets, SoftWeights, compared_kinds
from rayrec.instructions.spelling import SpellingCorrector
from rayrec.instructions.title_search import NamedTitle, TitleIndex, named_titles
from rayrec.instructions.vocabulary_filter import stop_words, tokenize_words
from rayrec.text_encoding.sentence_encoder import SentenceEncoder

_MIN_UNWANTED = 0.2  # weight of a facet that is to be avoided
_GENERIC = frozenset(
    ["film", "films", "flick", "flicks", "movie", "movies", "product", "products", "series", "show", "shows"]
)
_BESIDE_TITLES = 0.5  # factor of what the encoder finds where titles have the very words
_MOST_WORDS = 6  # of a text that is the title of an item
_MOST_SHARE, _FEW = 0.05, 10  # of the items that a text may mean by words of titles


@dataclass(frozen=True)
class Understanding:
    """Facet weights in ascending order of the facets, and the clauses that mean no facet."""

    weights: tuple[tuple[int, float], ...] = ()
    not_understood: tuple[str, ...] = ()
    titles: tuple[NamedTitle, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.weights or self.titles)


@dataclass(frozen=True)
class RequestUnderstanding:
    """Understands texts one by one; a pure function of the text."""

    scheme: FacetScheme
    matcher: FacetMatcher
    soft: SoftFacets | None = None
    spelling: SpellingCorrector | None = None
    titles: TitleIndex | None = None
    refusals: Refusals | None = None

    @classmethod
    def of(
        cls,
        scheme: FacetScheme,
        encoder: SentenceEncoder | None = None,
        sentences: str | None = None,
        titles: TitleIndex | None = None,
    ) -> Self:
        """`sentences`: the config's `instruction.facet_sentences`. Without `titles` none is found. Raises
        ConfigError."""
        loaded = load_facet_sentences(sentences, categories(scheme))
        matcher = FacetMatcher(scheme, loaded.synonyms)
        if encoder is None:
            return cls(scheme, matcher, titles=titles)
        plurals = [f"{name[:-1]}ies" if name.endswith("y") else f"{name}s" for name in scheme.name]
        names = [*scheme.name, *plurals, *(text for texts in loaded.synonyms.values() for text in texts)]
        expected = [*loaded.facet, *loaded.neutral, *(text for texts in loaded.descriptions.values() for text in texts)]
        spelling = SpellingCorrector(expected, encoder.is_word, names, encoder.is_common)
        soft = SoftFacets.of(encoder.encode, scheme, loaded)
        refusals = Refusals(matcher, compared_kinds(scheme), encoder)
        return cls(scheme, matcher, soft, spelling, titles, refusals)

    def __call__(self, text: str) -> Understanding:
        rest, titles = named_titles(text)
        titles = [title for title in titles if self.titles is not None and len(self.titles.items_with(title.words))]
        meant = self._facets(rest if titles else text, by_title=bool(titles))
        return replace(meant, titles=tuple(titles)) if titles else meant

    def _facets(self, text: str, *, by_title: bool) -> Understanding:
        """What the text means; `by_title`: it also names a title, so that none is looked for."""
        said, text = text, text if self.spelling is None else self.spelling(text)
        text, unsure = (text, ()) if self.refusals is None else self.refusals(text)
        named, parts = self.matcher(text), clauses(text)
        search = () if by_title or named or named.ambiguous else self._words_of_a_title(said)
        meant = [SoftWeights() if self.soft is None else self.soft(part.text) for part in parts]
        found: SoftWeights = {facet: 1.0 for facet in named.include if self._counts(facet)}
        found |= dict.fromkeys(named.exclude, -1.0)
        decided = found.keys() | set(named.ambiguous)
        found |= {facet: weight for facet, weight in self._meant(parts, meant).items() if facet not in decided}
        open_parts = [
            part.text for part, weights in zip(parts, meant, strict=True) if not weights and not self.matcher(part.text)
        ]
        if search and (not found or WORD in compared_kinds(self.scheme)):
            weights = ((facet, _BESIDE_TITLES * weight) for facet, weight in sorted(found.items()))
            return Understanding(tuple(weights), (), search)
        silent = (*open_parts, *unsure) if parts or found or unsure else (text,)
        return Understanding(tuple(sorted(found.items())), silent)

    def _words_of_a_title(self, text: str) -> tuple[NamedTitle, ...]:
        """All the words of the text, if a title has them; where there are categories, one word alone is too little."""
        words = tuple(word for word in searchable_words(text).split() if word not in _GENERIC)
        few = 1 if WORD in compared_kinds(self.scheme) else 2
        if self.titles is None or not few <= len(words) <= _MOST_WORDS:
            return ()
        found = len(self.titles.items_with(words))
        return (NamedTitle(words),) if 0 < found <= max(_MOST_SHARE * self.titles.items, _FEW) else ()

    def _meant(self, parts: Sequence[Clause], meant: Sequence[SoftWeights]) -> SoftWeights:
        """The weights of all clauses. Wanted ones are also encoded together: "spies, gadgets" is one wish."""
        wanted = [part.text for part in parts if not part.unwanted]
        together = [self.soft(", ".join(wanted))] if self.soft is not None and len(wanted) > 1 else []
        found = SoftWeights()
        for weights in [*together, *(own for part, own in zip(parts, meant, strict=True) if not part.unwanted)]:
            for facet, weight in weights.items():
                found[facet] = max(found.get(facet, 0.0), weight)
        for part, weights in zip(parts, meant, strict=True):
            for facet, weight in weights.items():
                if part.unwanted and weight >= max(_MIN_UNWANTED, found.get(facet, 0.0)):
                    found[facet] = -weight
        return found

    def _counts(self, facet: int) -> bool:
        return self.scheme.kind[facet] != WORD or WORD in compared_kinds(self.scheme)


def categories(scheme: FacetScheme) -> list[str]:
    return [name for kind, name in zip(scheme.kind, scheme.name, strict=True) if kind == CATEGORY]


def searchable_words(text: str) -> str:
    """The words of a request to search item texts for: those beside stop words and negated clauses."""
    wanted = (part.text for part in clauses(text) if not part.unwanted)
    return " ".join(
        word for part in wanted for word in tokenize_words(part) if word.isalnum() and word not in stop_words()
    )
