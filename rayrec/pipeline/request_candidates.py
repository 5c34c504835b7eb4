"""Candidates for requests: items with the words of a request (BM25) and items with the facets and titles that it
means, fused.

Reciprocal rank fusion (Cormack, Clarke & Buettcher 2009): an item scores the sum over both lists of 1 / (60 + rank).
Ties go to the more popular item. Items with an unwanted facet are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facets import Facets
from rayrec.instructions.request_understanding import Understanding, searchable_words
from rayrec.instructions.title_search import TitleIndex
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s

Codes = npt.NDArray[np.int32]
_K = 60
Query = tuple[str, Understanding]


@dataclass(frozen=True)
class RequestSearch:
    """`popularity` [items]: breaks ties. Item codes are rows of the catalogue of all three."""

    index: Bm25
    facets: Facets
    titles: TitleIndex
    popularity: Float32s

    def __call__(self, queries: Sequence[Sequence[Query]], top: int) -> Ragged:
        """The candidates (int32 codes) for the queries of each row: the best `top` of each query, so that no query
        displaces another's results. An item that two queries find appears twice."""
        found = {query: self.find(*query, top) for query in dict.fromkeys(one for row in queries for one in row)}
        rows = [np.concatenate([np.empty(0, np.int32), *(found[query] for query in row)]) for row in queries]
        return Ragged.from_lengths(np.concatenate([np.empty(0, np.int32), *rows]), [len(row) for row in rows])

    def find(self, text: str, meaning: Understanding, top: int) -> Codes:
        """The best `top` items for one request, best first."""
        match, lists = request_match(self.facets, self.titles, meaning), []
        if words := searchable_words(text):
            lists.append(self.best(np.where(match < 0, np.float32(0), self.index.scores([words])[0]), top))
        if (match > 0).any():
            lists.append(self.best(match, top))
        if len(lists) < 2:
            return lists[0] if lists else np.empty(0, np.int32)
        fused = np.zeros(len(self.popularity), np.float32)
        for ranked in lists:
            fused[ranked] += (1 / (_K + np.arange(1, len(ranked) + 1))).astype(np.float32)
        return self.best(fused, top)

    def best(self, scores: Float32s, top: int) -> Codes:
        """The best `top` items that score above 0, best first; ties by popularity, then by code."""
        found = np.flatnonzero(scores > 0)
        if len(found) > top > 0:
            # Avoid a full sort: select everything that scores at least as high as the last place.
            found = found[scores[found] >= np.partition(scores[found], -top)[-top]]
        order = np.lexsort((found, -self.popularity[found], -scores[found]))
        codes: Codes = found[order][:top].astype(np.int32)
        return codes


def request_match(facets: Facets, titles: TitleIndex, meaning: Understanding) -> Float32s:
    """The sum of the weights of the facets and of the named titles that each item has, float32 [items]."""
    total = np.zeros(len(facets.of_item), np.float32)
    for facet, weight in meaning.weights:
        total[facets.items_by_facet[facet]] += np.float32(weight)
    for title in meaning.titles:
        total[titles.items_with(title.words)] += np.float32(title.weight)
    return total


def candidate_match(
    facets: Facets, titles: TitleIndex, meanings: Sequence[Understanding], candidate: Ragged
) -> Float32s:
    """The same for the candidates of each row, float32 [candidates]."""
    total = np.zeros(len(candidate.values), np.float32)
    items_with = {title: titles.items_with(title.words) for meaning in meanings for title in meaning.titles}
    for row, meaning in enumerate(meanings):
        here = slice(candidate.offsets[row], candidate.offsets[row + 1])
        codes = candidate.values[here].astype(np.int64)
        for facet, weight in meaning.weights:
            total[here] += np.float32(weight) * facets.has(codes, np.full(len(codes), facet))
        for title in meaning.titles:
            total[here] += np.float32(title.weight) * np.isin(codes, items_with[title])
    return total
