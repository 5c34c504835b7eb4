"""What a slate is besides accurate, per user: novel, diverse, calibrated to the user's past, popular.

All at the top 10, as arrays [users]; users without a slate get NaN and count in no mean.

- novelty@10: mean of -log2 of the item's share of all events, in bits (surprisal, Zhou et al. 2010),
- diversity@10: share of pairs of items that differ in category (intra-list distance, Smyth & McClave 2001),
- miscalibration@10: KL(p || 0.99 q + 0.01 p), p the categories of the history and q those of the slate, in bits; 0 as
  in the past (Steck 2018, eq. 6),
- popularity@10: mean of the items' popularity percentile, 0 the least popular, 1 the most (Abdollahpouri et al. 2019),
- tail@10: share of items outside the short head, the most popular items that have 80% of all events (the same).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

METRICS = ("novelty@10", "diversity@10", "miscalibration@10", "popularity@10", "tail@10")
SHORT_HEAD_SHARE = 0.8  # share of the events that the short head has
_SMOOTHING = 0.01  # alpha of Steck's q~

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ItemStatistics:
    """What is known of each item of the catalogue, whoever the user is; NaN where its events are not."""

    surprisal: Floats  # [items] bits
    percentile: Floats  # [items] in [0, 1]
    tail: Floats  # [items] 1 outside the short head, 0 in it
    kind: Codes  # [items] code of the category; -1 without one
    categories: tuple[str, ...]

    @classmethod
    def of(cls, count: npt.NDArray[np.floating] | None, category: pa.Array) -> ItemStatistics:
        """From the events of each item [items] before the date (None: not known), and the catalogue's categories."""
        kinds = category.dictionary_encode()
        code = kinds.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        names = tuple(kinds.dictionary.to_pylist())
        if count is None:
            unknown = np.full(len(code), np.nan)
            return cls(unknown, unknown, unknown, code, names)
        events = np.asarray(count, np.float64)
        share = (events + 0.5) / max(float((events + 0.5).sum()), 1e-12)  # half an event each: new items are finite
        order = np.argsort(-events, kind="stable")
        reached = np.cumsum(events[order]) - events[order]
        tail = np.ones(len(events))
        tail[order[reached < SHORT_HEAD_SHARE * events.sum()]] = 0
        return cls(-np.log2(share), _percentiles(events), tail, code, names)

    def category_shares(self, item: npt.NDArray[np.integer], row: npt.NDArray[np.integer], users: int) -> sp.csr_matrix:
        """How often each user's past [events] shows each category: float CSR [users, kinds], rows sum to 1 or 0."""
        kind = self.kind[item]
        known = kind >= 0
        past = (np.ones(int(known.sum())), (row[known], kind[known]))
        return _shares(sp.csr_matrix(past, shape=(users, len(self.categories))))


def beyond_accuracy(top: Codes, facts: ItemStatistics, category_shares: sp.csr_matrix) -> dict[str, Floats]:
    """The metrics of the module for rankings [users, 10] of item codes, -1 where there is none."""
    there = top >= 0
    many = there.sum(axis=1)

    def mean(of_item: npt.NDArray[np.generic]) -> Floats:
        total = np.where(there, of_item.astype(np.float64)[top], 0.0).sum(axis=1)
        return np.asarray(np.divide(total, many, out=np.full(len(top), np.nan), where=many > 0))

    kind = np.where(there, facts.kind[top], -1)
    values = (mean(facts.surprisal), _diversity(kind, many), _miscalibration(kind, category_shares))
    return dict(zip(METRICS, (*values, mean(facts.percentile), mean(facts.tail)), strict=True))


def _diversity(kind: Codes, many: npt.NDArray[np.int64]) -> Floats:
    """An item without a category is like no other."""
    same = (kind[:, :, None] == kind[:, None, :]) & (kind >= 0)[:, :, None]
    alike = (same.sum(axis=(1, 2)) - (kind >= 0).sum(axis=1)) / 2
    pairs = many * (many - 1) / 2
    return np.asarray(1 - np.divide(alike, pairs, out=np.full(len(kind), np.nan), where=pairs > 0))


def _miscalibration(kind: Codes, category_shares: sp.csr_matrix) -> Floats:
    """NaN for users whose past, or whose slate, has no category."""
    row, column = np.nonzero(kind >= 0)
    slate = sp.csr_matrix((np.ones(len(row)), (row, kind[row, column])), shape=category_shares.shape)
    q, p = _shares(slate), category_shares.tocoo()
    smoothed = (1 - _SMOOTHING) * _at(q, p.row, p.col) + _SMOOTHING * p.data
    found = np.bincount(p.row, p.data * np.log2(p.data / smoothed), minlength=len(kind))
    known = (np.diff(category_shares.indptr) > 0) & (np.diff(q.indptr) > 0)
    return np.where(known, found, np.nan)


def _at(matrix: sp.csr_matrix, row: npt.NDArray[np.integer], column: npt.NDArray[np.integer]) -> Floats:
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)


def _shares(counts: sp.csr_matrix) -> sp.csr_matrix:
    counts.sum_duplicates()
    total = np.asarray(counts.sum(axis=1)).ravel()
    return sp.csr_matrix(sp.diags(1 / np.maximum(total, 1e-12)) @ counts)


def _percentiles(events: Floats) -> Floats:
    """Share of the other items with fewer events, ties counted half."""
    ordered = np.sort(events)
    below, upto = np.searchsorted(ordered, events, "left"), np.searchsorted(ordered, events, "right")
    percentile: Floats = (below + upto - 1) / (2 * max(len(events) - 1, 1))
    return percentile
