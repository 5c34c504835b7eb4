"""What a request names is weighed once more, as sets: rules read it where the LLM might not.

    score = log P(item | prompts) + FACET_MATCH_WEIGHT x (facets wanted that the item has - facets turned down that it has)

It is Bayes' rule with a reader who errs alike for all items: an item that has what is named is e^FACET_MATCH_WEIGHT times as likely
to have been meant. The LLM has learned to hear our own phrases; in strangers' it hears less, but the names in them are
the same. It stays a matter of degree, so that a name said aside ("for a family night, a western") bars nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayrec.instructions.facet_matching import FacetMatcher, FacetMatches
from rayrec.instructions.facets import Facets

FACET_MATCH_WEIGHT = 4.0  # nats a facet


class FacetMatchScore:
    """Reads requests against a catalogue's facets. `codes` of items: rows of that catalogue."""

    def __init__(self, facets: Facets) -> None:
        self._facets = facets
        self._naming = FacetMatcher(facets.scheme)

    def matches(self, requests: Sequence[str | None]) -> list[FacetMatches]:
        """What each request names; nothing where there is none."""
        read = {text: self._naming(text) if text else FacetMatches() for text in set(requests)}
        return [read[text] for text in requests]

    def score_bonus(self, named: FacetMatches, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """What is added to the items' scores, nats, float32 [codes]."""
        sign = dict.fromkeys(named.include, 1) | dict.fromkeys(named.exclude, -1)
        total = np.zeros(len(codes), np.float32)
        for facet, way in sign.items():
            total += np.float32(way * FACET_MATCH_WEIGHT) * self._facets.has(codes, np.full(len(codes), facet))
        return total
