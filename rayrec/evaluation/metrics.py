"""Ranking metrics per user: recall@k, nDCG@k, HR@k, reciprocal rank, and coverage.

Own numpy rather than `ir-measures`: its providers take one Python object a (user, item) pair, 2 to 3 µs each, which a
million users' slates cannot afford. tests/evaluation/test_metrics.py holds every metric equal to `ir-measures`
(R@k, nDCG@k, Success@k, RR; binary relevance, trec_eval's definitions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.errors import DataError

METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "hr@10", "mrr")
COVERAGE_AT = 10


@dataclass(frozen=True)
class RelevantItems:
    """What each judged user did: `user_id` [users] sorted, `wanted` bool CSR [users, items] in `item_id`'s order."""

    user_id: pa.Array
    item_id: pa.Array  # the catalogue, sorted
    relevant: sp.csr_matrix

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def of(cls, user_id: pa.Array, item_id: pa.Array, catalogue: pa.Array) -> RelevantItems:
        """From pairs (string [n] each; duplicates count once). Items outside the catalogue are nobody's to propose."""
        known = pc.index_in(item_id, catalogue)
        kept = pc.is_valid(known)
        users = pc.unique(user_id.filter(kept)).sort()
        row = pc.index_in(user_id.filter(kept), users).to_numpy(zero_copy_only=False)
        column = known.filter(kept).to_numpy(zero_copy_only=False)
        relevant = sp.csr_matrix((np.ones(len(row), bool), (row, column)), shape=(len(users), len(catalogue)))
        return cls(users, catalogue, relevant)

    def restrict_to(self, user_ids: pa.Array) -> RelevantItems:
        """Only the users in `user_ids`."""
        return self.take(np.flatnonzero(pc.is_in(self.user_id, user_ids).to_numpy(zero_copy_only=False)))

    def take(self, rows: npt.NDArray[np.int64]) -> RelevantItems:
        """Only the users in these rows."""
        if len(rows) == len(self):
            return self
        return RelevantItems(self.user_id.take(pa.array(rows)), self.item_id, self.relevant[rows])


@dataclass(frozen=True)
class UserMetrics:
    """One system's values per user, in the order of its `rows`."""

    system: str
    values: dict[str, npt.NDArray[np.float64]]  # metric -> [users]; NaN where it says nothing of a user
    top: npt.NDArray[np.int32]  # [users, COVERAGE_AT] item codes, best first; -1 where there is none
    items: int  # of the catalogue
    rows: npt.NDArray[np.int64]  # [users] which users of the truth, ascending

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self, metrics: Sequence[str]) -> npt.NDArray[np.float64]:
        """Values as [users, metrics]."""
        return np.stack([self.values[name] for name in metrics], axis=1)

    def coverage(self) -> float:
        """Share of the catalogue that stands in the top COVERAGE_AT of at least one judged user."""
        return len(np.unique(self.top[self.top >= 0])) / max(self.items, 1)

    def take(self, chosen: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> UserMetrics:
        """Only these users, by place or by mask."""
        values = {name: array[chosen] for name, array in self.values.items()}
        return UserMetrics(self.system, values, self.top[chosen], self.items, self.rows[chosen])

    def with_metrics(self, more: Mapping[str, npt.NDArray[np.float64]]) -> UserMetrics:
        """The same system with further metrics [users]."""
        return replace(self, values={**self.values, **more})

    @classmethod
    def concat(cls, parts: Sequence[UserMetrics]) -> UserMetrics:
        """One system's parts, each of other users, as one; `rows` count through the parts' truths already."""
        first = parts[0]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in first.values}
        top, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("top", "rows"))
        return cls(first.system, values, top, first.items, rows)


def user_metrics(system: str, slates: pa.Table, truth: RelevantItems) -> UserMetrics:
    """Values of `slates` (columns user_id, rank from 1, item_id; any order) for the users of `truth`.

    A judged user without a slate counts as 0: the job owed that user one. An item twice in a slate is an error.
    """
    row = _codes(slates["user_id"], truth.user_id)
    item = _codes(slates["item_id"], truth.item_id)
    rank = slates["rank"].combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    known = (row >= 0) & (item >= 0)
    row, item, rank = row[known], item[known], rank[known]
    _check(system, row, item, truth)
    hit = _member(truth.relevant, row, item)
    top = np.full((len(truth), COVERAGE_AT), -1, np.int32)
    shown = rank <= COVERAGE_AT
    top[row[shown], rank[shown] - 1] = item[shown]
    return UserMetrics(system, _values(truth, row[hit], rank[hit]), top, len(truth.item_id), np.arange(len(truth)))


def _values(
    truth: RelevantItems, row: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """From the hits alone: row [hits] the user, rank [hits] where it stood."""
    users, relevant = len(truth), np.diff(truth.relevant.indptr)

    def total(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(row, weight, minlength=users), np.float64)

    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])  # of 0..10 wanted items at the top
    first = np.full(users, np.inf)
    np.minimum.at(first, row, rank.astype(np.float64))
    gain = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)
    return {
        "recall@10": total((rank <= 10).astype(float)) / relevant,
        "recall@50": total((rank <= 50).astype(float)) / relevant,
        "ndcg@10": total(gain) / ideal[np.minimum(relevant, 10)],
        "hr@1": (first <= 1).astype(float),
        "hr@10": (first <= 10).astype(float),
        "mrr": 1 / first,
    }


def _member(matrix: sp.csr_matrix, row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which (row, column) pairs are stored in `matrix`."""
    stored = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * np.int64(matrix.shape[1]) + matrix.indices
    return np.isin(row * np.int64(matrix.shape[1]) + column, stored)


def _check(system: str, row: npt.NDArray[np.int64], item: npt.NDArray[np.int64], truth: RelevantItems) -> None:
    pair = row * np.int64(truth.relevant.shape[1]) + item
    if len(np.unique(pair)) != len(pair):
        raise DataError(
            f"{system}: an item stands twice in one user's slate", hint="judge one arm and one date at a time"
        )


def _codes(column: pa.ChunkedArray, ids: pa.Array) -> npt.NDArray[np.int64]:
    """The place of each text in `ids`, -1 where it is not there, [n]; each distinct text is looked up once."""
    coded = column.combine_chunks()
    if not pa.types.is_dictionary(coded.type):
        coded = coded.dictionary_encode()
    place = pc.index_in(coded.dictionary.cast(pa.string()), ids).fill_null(-1).to_numpy().astype(np.int64)
    found: npt.NDArray[np.int64] = np.append(place, -1)[coded.indices.fill_null(len(place)).to_numpy()]
    return found
