"""Exact nearest-neighbour search by inner products of unit vectors, with faiss.

faiss computes similarities in blocks, whose last bits depend on the block. The search therefore fetches a few extra
neighbours and recomputes their similarities pair by pair: results do not depend on the other queries, and ties go to
the lowest position. Bit-identical vectors (such as those of users without data) are one entry of the faiss index, so
that large groups of ties do not displace the lowest positions.

The cost is users x entries: about one core-hour per instruction for a million users in 64 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_SPARE = 16  # extra neighbours, for near-ties that the exact similarities reorder
_BLOCK = 4096  # queries per faiss call; a quarter of it is four times slower
_CELLS = 1 << 24  # of the pairwise recomputation held in memory


@dataclass(frozen=True)
class SearchResult:
    """Neighbours of each query, best first; padded with -1 and -inf."""

    place: npt.NDArray[np.int64]  # [queries, k]
    similarity: Vectors  # [queries, k]


class Index:
    """A search index over vectors float32 [entries, dim]; entries are identified by position."""

    def __init__(self, vectors: Vectors) -> None:
        whole = np.ascontiguousarray(vectors, np.float32)
        rows = whole.view(np.dtype((np.void, whole.shape[1] * 4))).ravel()
        _, first, group = np.unique(rows, return_index=True, return_inverse=True)
        order = np.argsort(first)  # distinct vectors by their first position
        self._distinct = whole[first[order]]
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        self._members = np.argsort(rank[group], kind="stable")  # positions by distinct vector, then ascending
        self._starts = np.searchsorted(rank[group][self._members], np.arange(len(order) + 1))
        self._index: Any = faiss.IndexFlatIP(whole.shape[1])
        self._index.add(self._distinct)

    def search(self, queries: Vectors, k: int, exclude: npt.NDArray[np.int64] | None = None) -> SearchResult:
        """The k nearest entries of each query [queries, dim]; `exclude` [queries]: the query's own position."""
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
                excluded = None if exclude is None else exclude[rows]
                part = self._ranked(queries[rows], near[rows.start - start : rows.stop - start], width, excluded)
                place[rows], similarity[rows] = (values[:, :k] for values in part)
        return SearchResult(place, similarity)

    def _ranked(
        self, queries: Vectors, near: npt.NDArray[np.int64], width: int, exclude: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.int64], Vectors]:
        """Positions and similarities [queries, width], best first, of the distinct vectors `near` [queries, n]."""
        similarity = np.einsum("qd,qnd->qn", queries, self._distinct[near])  # pair by pair
        group, within = _spread(np.minimum(np.diff(self._starts)[near], width), width)
        mask = group < near.shape[1]
        group = np.minimum(group, near.shape[1] - 1)
        start = self._starts[np.take_along_axis(near, group, 1)]
        place = np.where(mask, self._members[np.where(mask, start + within, 0)], -1)
        if exclude is not None:
            mask &= place != exclude[:, None]
        scores = np.where(mask, np.take_along_axis(similarity, group, 1), -np.inf).astype(np.float32)
        place = np.where(mask, place, -1)
        order = np.lexsort((place, -scores), axis=1)
        return np.take_along_axis(place, order, 1), np.take_along_axis(scores, order, 1)


def _spread(sizes: npt.NDArray[np.int64], width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The first `width` members of each row's groups, given their sizes [rows, groups].

    Returns each member's group (the number of groups: no member left) and its number within it, [rows, width].
    """
    end = np.cumsum(sizes, axis=1)
    group = (end[:, None, :] <= np.arange(width)[None, :, None]).sum(2)
    begin = np.take_along_axis(end - sizes, np.minimum(group, sizes.shape[1] - 1), 1)
    return group, np.arange(width) - begin
