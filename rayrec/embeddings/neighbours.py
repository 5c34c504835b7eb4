"""Who and what is nearest to whom: the best inner products of unit vectors, by faiss, exactly.

faiss compares everybody with everybody in blocks, whose last bits depend on the block: it finds somewhat more than is
asked for, and those are compared again pair by pair. So a user's neighbours are the same in any company, and ties go
to the first. Vectors that are equal to the last bit (users of whom nothing is known) are one entry of the index, so
that no tie, however large, hides the first.

The work is users x entries: for a million users of 64 dimensions about an hour of one core an instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_SPARE = 16  # found beyond what is asked for: near-ties that the second comparison puts in order
_BLOCK = 4096  # queries that faiss gets at once: with a quarter of them it is four times as slow
_CELLS = 1 << 24  # of the second comparison at once


@dataclass(frozen=True)
class SearchResult:
    """Row by row, best first; -1 and -inf where there are not so many."""

    place: npt.NDArray[np.int64]  # [queries, k]
    similarity: Vectors  # [queries, k]


class Index:
    """Vectors to be found, float32 [entries, dim], by their places."""

    def __init__(self, vectors: Vectors) -> None:
        whole = np.ascontiguousarray(vectors, np.float32)
        rows = whole.view(np.dtype((np.void, whole.shape[1] * 4))).ravel()
        _, first, group = np.unique(rows, return_index=True, return_inverse=True)
        order = np.argsort(first)  # distinct vectors by the first place that has them
        self._distinct = whole[first[order]]
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        self._members = np.argsort(rank[group], kind="stable")  # places, by distinct vector, then ascending
        self._starts = np.searchsorted(rank[group][self._members], np.arange(len(order) + 1))
        self._index: Any = faiss.IndexFlatIP(whole.shape[1])
        self._index.add(self._distinct)

    def search(self, queries: Vectors, k: int, without: npt.NDArray[np.int64] | None = None) -> SearchResult:
        """The k best places of each query [queries, dim]; `without` [queries]: a place that is left out, one's own."""
        if k < 1:
            raise ValueError("k must be at least 1")
        queries = np.ascontiguousarray(queries, np.float32)
        place, similarity = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        width = k + 1 + _SPARE
        step = max(1, _CELLS // width**2)
        for start in range(0, len(queries), _BLOCK):
            near = self._index.search(queries[start : start + _BLOCK], min(width, len(self._distinct)))[1]
            for first in range(start, start + len(near), step):
                rows = slice(first, min(first + step, start + len(near)))
                own = None if without is None else without[rows]
                part = self._ranked(queries[rows], near[rows.start - start : rows.stop - start], width, own)
                place[rows], similarity[rows] = (values[:, :k] for values in part)
        return SearchResult(place, similarity)

    def _ranked(
        self, queries: Vectors, near: npt.NDArray[np.int64], width: int, without: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.int64], Vectors]:
        """Places and similarities [queries, width], best first, of the distinct vectors `near` [queries, n]."""
        similarity = np.einsum("qd,qnd->qn", queries, self._distinct[near])  # each pair on its own
        group, within = _spread(np.minimum(np.diff(self._starts)[near], width), width)
        there = group < near.shape[1]
        group = np.minimum(group, near.shape[1] - 1)
        start = self._starts[np.take_along_axis(near, group, 1)]
        place = np.where(there, self._members[np.where(there, start + within, 0)], -1)
        if without is not None:
            there &= place != without[:, None]
        scores = np.where(there, np.take_along_axis(similarity, group, 1), -np.inf).astype(np.float32)
        place = np.where(there, place, -1)
        order = np.lexsort((place, -scores), axis=1)
        return np.take_along_axis(place, order, 1), np.take_along_axis(scores, order, 1)


def _spread(sizes: npt.NDArray[np.int64], width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first `width` members of the groups of each row, whose sizes [rows, groups] are given.

    Each one's group (as many as there are groups: nobody is left), and its number within the group: [rows, width].
    """
    end = np.cumsum(sizes, axis=1)
    group = (end[:, None, :] <= np.arange(width)[None, :, None]).sum(2)
    begin = np.take_along_axis(end - sizes, np.minimum(group, sizes.shape[1] - 1), 1)
    return group, np.arange(width) - begin
