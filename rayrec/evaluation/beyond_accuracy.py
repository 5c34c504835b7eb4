"""Beyond-accuracy metrics per user: novelty, diversity, miscalibration and popularity of the top 10.

Arrays are [users]; a user without a slate has NaN, which the means skip.

- novelty@10: mean of -log2 of the item's share of all events, in bits (surprisal, Zhou et al. 2010),
- diversity@10: share of pairs of items that differ in category (intra-list distance, Smyth & McClave 2001), among the
  items with a category; unknown with fewer than two of them,
- miscalibration@10: KL(p || 0.99 q + 0.01 p), p the categories of the history and q those of the slate, in bits; 0 is
  calibrated (Steck 2018, eq. 6),
- popularity@10: mean popularity percentile of the items, from 0 to 1 (Abdollahpouri et al. 2019),
- tail@10: share of items outside the short head, the most popular items with 80% of all events (same paper).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from rayrec.numerics.popularity_bands import TAIL, popularity_bands
from rayrec.numerics.types import Float64s, Int32s

METRICS = ("novelty@10", "diversity@10", "miscalibration@10", "popularity@10", "tail@10")
_SMOOTHING = 0.01  # alpha of Steck's q~


@dataclass(frozen=True)
class ItemStatistics:
    """Popularity and category of each item of the catalogue; popularity is NaN where the events are unknown."""

    surprisal: Float64s  # [items] bits
    percentile: Float64s  # [items] in [0, 1]
    tail: Float64s  # [items] 1 outside the short head, 0 in it
    category: Int32s  # [items] code; -1 without one
    categories: tuple[str, ...]

    @classmethod
    def of(cls, count: npt.NDArray[np.floating] | None, category: pa.Array) -> ItemStatistics:
        """From the number of events of each item before the date (None: unknown) and the catalogue's categories."""
        encoded = category.dictionary_encode()
        code = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        names = tuple(encoded.dictionary.to_pylist())
        if count is None:
            unknown = np.full(len(code), np.nan)
            return cls(unknown, unknown, unknown, code, names)
        events = np.asarray(count, np.float64)
        share = (events + 0.5) / max(float((events + 0.5).sum()), 1e-12)  # half an event each: new items are finite
        tail = (popularity_bands(events) == TAIL).astype(np.float64)
        return cls(-np.log2(share), _popularity_percentiles(events), tail, code, names)

    def category_shares(self, item: npt.NDArray[np.integer], row: npt.NDArray[np.integer], users: int) -> sp.csr_matrix:
        """Category shares of each user's history [events]: float CSR [users, categories], rows sum to 1 or 0."""
        category = self.category[item]
        known = category >= 0
        history = (np.ones(int(known.sum())), (row[known], category[known]))
        return _shares(sp.csr_matrix(history, shape=(users, len(self.categories))))


def beyond_accuracy(top: Int32s, items: ItemStatistics, category_shares: sp.csr_matrix) -> dict[str, Float64s]:
    """Compute the metrics of this module for rankings [users, 10] of item codes, −1 for empty ranks."""
    there = top >= 0
    many = there.sum(axis=1)

    def mean(of_item: npt.NDArray[np.generic]) -> Float64s:
        total = np.where(there, of_item.astype(np.float64)[top], 0.0).sum(axis=1)
        return np.asarray(np.divide(total, many, out=np.full(len(top), np.nan), where=many > 0))

    category = np.where(there, items.category[top], -1)
    values = (mean(items.surprisal), _diversity(category), _miscalibration(category, category_shares))
    return dict(zip(METRICS, (*values, mean(items.percentile), mean(items.tail)), strict=True))


def _diversity(category: Int32s) -> Float64s:
    known = category >= 0
    same = (category[:, :, None] == category[:, None, :]) & known[:, :, None]
    many = known.sum(axis=1)
    alike, pairs = (same.sum(axis=(1, 2)) - many) / 2, many * (many - 1) / 2
    return np.asarray(1 - np.divide(alike, pairs, out=np.full(len(category), np.nan), where=pairs > 0))


def _miscalibration(category: Int32s, category_shares: sp.csr_matrix) -> Float64s:
    """KL divergence in bits; NaN for users whose history or slate has no category."""
    row, column = np.nonzero(category >= 0)
    slate = sp.csr_matrix((np.ones(len(row)), (row, category[row, column])), shape=category_shares.shape)
    q, p = _shares(slate), category_shares.tocoo()
    smoothed = (1 - _SMOOTHING) * _at(q, p.row, p.col) + _SMOOTHING * p.data
    found = np.bincount(p.row, p.data * np.log2(p.data / smoothed), minlength=len(category))
    known = (np.diff(category_shares.indptr) > 0) & (np.diff(q.indptr) > 0)
    return np.where(known, found, np.nan)


def _at(matrix: sp.csr_matrix, row: npt.NDArray[np.integer], column: npt.NDArray[np.integer]) -> Float64s:
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)


def _shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    counts.sum_duplicates()
    total = np.asarray(counts.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags(1 / np.maximum(total, 1e-12)) @ counts)


def _popularity_percentiles(events: Float64s) -> Float64s:
    """Share of the other items with fewer events, ties counted half."""
    ordered = np.sort(events)
    below, upto = np.searchsorted(ordered, events, "left"), np.searchsorted(ordered, events, "right")
    percentile: Float64s = (below + upto - 1) / (2 * max(len(events) - 1, 1))
    return percentile
