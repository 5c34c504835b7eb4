"""Ranking metrics per user: recall@k, nDCG@k, HR@k, reciprocal rank, and coverage.

Not `ir-measures`: its providers take one Python object per (user, item) pair, 2 to 3 µs each, too slow for a million
users. tests/evaluation/test_metrics.py checks every metric against it (R@k, nDCG@k, Success@k, RR; binary relevance,
trec_eval's definitions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.errors import DataError
from rayrec.numerics.types import Bools, Float64s, Int32s, Int64s

METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "hr@10", "mrr")
OUTCOMES = ("conversion", "consumed", "hits@10")  # of a split experiment: not normalised by what a user consumed
ADJUSTED = {"conversion_cuped": "conversion", "consumed_cuped": "consumed"}  # adjusted for past activity
SHOWN = ("precision", "shown")  # where an arm withholds ranks: consumed items a rank shown; ranks shown
COVERAGE_AT = 10


@dataclass(frozen=True)
class RelevantItems:
    """Relevant items: `user_id` [users] sorted, `matrix` bool CSR [users, items] in the order of `item_id`."""

    user_id: pa.Array
    item_id: pa.Array  # the catalogue, sorted
    matrix: sp.csr_matrix

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def from_pairs(
        cls, user_id: pa.Array, item_id: pa.Array, catalogue: pa.Array, users: pa.Array | None = None
    ) -> RelevantItems:
        """Create from pairs (string [n] each; duplicates count once). Items outside the catalogue are dropped.

        `users`: the users, also those without a pair; pairs of others are dropped. By default the users of the pairs.
        """
        known = pc.index_in(item_id, catalogue)
        valid = pc.is_valid(known)
        if users is not None:
            valid = pc.and_(valid, pc.is_in(user_id, users))
        users = pc.unique(user_id.filter(valid)).sort() if users is None else users.sort()
        row = pc.index_in(user_id.filter(valid), users).to_numpy(zero_copy_only=False)
        column = known.filter(valid).to_numpy(zero_copy_only=False)
        matrix = sp.csr_matrix((np.ones(len(row), bool), (row, column)), shape=(len(users), len(catalogue)))
        return cls(users, catalogue, matrix)

    def restrict_to(self, user_ids: pa.Array) -> RelevantItems:
        """Select the users in `user_ids`."""
        return self.take(np.flatnonzero(pc.is_in(self.user_id, user_ids).to_numpy(zero_copy_only=False)))

    def take(self, rows: Int64s) -> RelevantItems:
        """Select the users in these rows."""
        if len(rows) == len(self):
            return self
        return RelevantItems(self.user_id.take(pa.array(rows)), self.item_id, self.matrix[rows])


@dataclass(frozen=True)
class UserMetrics:
    """Metric values of one system per user, in the order of its `rows`."""

    system: str
    values: dict[str, Float64s]  # metric -> [users]; NaN where it is undefined
    top: Int32s  # [users, COVERAGE_AT] item codes, best first; -1 where there is none
    items: int  # of the catalogue
    rows: Int64s  # [users] rows of RelevantItems, ascending

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self, metrics: Sequence[str]) -> Float64s:
        """Values as [users, metrics]."""
        return np.stack([self.values[name] for name in metrics], axis=1)

    def coverage(self) -> float:
        """Share of the catalogue in the top COVERAGE_AT of at least one user."""
        return len(np.unique(self.top[self.top >= 0])) / max(self.items, 1)

    def take(self, chosen: npt.NDArray[np.integer] | Bools) -> UserMetrics:
        """Select users by position or by mask."""
        values = {name: array[chosen] for name, array in self.values.items()}
        return UserMetrics(self.system, values, self.top[chosen], self.items, self.rows[chosen])

    @classmethod
    def concat(cls, parts: Sequence[UserMetrics]) -> UserMetrics:
        """Concatenate parts of one system with distinct users; their `rows` already index all users."""
        first = parts[0]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in first.values}
        top, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("top", "rows"))
        return cls(first.system, values, top, first.items, rows)


def user_metrics(system: str, slates: pa.Table, relevant: RelevantItems) -> UserMetrics:
    """Compute metrics of `slates` (columns user_id, rank from 1, item_id; any order) for the users of `relevant`.

    A user without a slate has 0 in every metric; recall and nDCG of a user without relevant items are NaN.
    Raises DataError for an item twice in a slate.
    """
    row = _codes(slates["user_id"], relevant.user_id)
    item = _codes(slates["item_id"], relevant.item_id)
    rank = slates["rank"].combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    known = (row >= 0) & (item >= 0)
    row, item, rank = row[known], item[known], rank[known]
    pair = row * np.int64(relevant.matrix.shape[1]) + item
    if len(np.unique(pair)) != len(pair):
        what = f"{system}: an item is twice in one user's slate"
        raise DataError(what, hint="evaluate one arm and one date at a time")
    hit = is_relevant(relevant.matrix, row, item)
    top = np.full((len(relevant), COVERAGE_AT), -1, np.int32)
    shown = rank <= COVERAGE_AT
    top[row[shown], rank[shown] - 1] = item[shown]
    values = _values(relevant, row[hit], rank[hit])
    return UserMetrics(system, values, top, len(relevant.item_id), np.arange(len(relevant)))


def outcome_metrics(found: UserMetrics, relevant: RelevantItems) -> dict[str, Float64s]:
    """OUTCOMES of the users of `found`, whose rows are those of `relevant`, [users]: consumed anything, how many items,
    and how many of the first ten of the slate."""
    consumed = np.diff(relevant.matrix.indptr).astype(np.float64)
    hits = found.values["recall@10"] * consumed
    return {"conversion": (consumed > 0).astype(float), "consumed": consumed, "hits@10": np.nan_to_num(hits)}


def shown_metrics(slates: pa.Table, relevant: RelevantItems) -> dict[str, Float64s]:
    """SHOWN of the users of `relevant`, [users]; precision is NaN without a slate. Arguments as of `user_metrics`."""
    row, item = _codes(slates["user_id"], relevant.user_id), _codes(slates["item_id"], relevant.item_id)
    row, item = row[row >= 0], item[row >= 0]
    shown = np.bincount(row, minlength=len(relevant)).astype(np.float64)
    hit = (item >= 0) & is_relevant(relevant.matrix, row, np.maximum(item, 0))
    hits = np.bincount(row[hit], minlength=len(relevant))
    precision = np.divide(hits, shown, out=np.full(len(relevant), np.nan), where=shown > 0)
    return dict(zip(SHOWN, (precision, shown), strict=True))


def _values(relevant: RelevantItems, row: Int64s, rank: Int64s) -> dict[str, Float64s]:
    """Metric values from the hits: `row` [hits] the user, `rank` [hits] the position."""
    users, many = len(relevant), np.diff(relevant.matrix.indptr)
    relevant_count = np.where(many > 0, many, np.nan)

    def total(weight: Float64s) -> Float64s:
        return np.asarray(np.bincount(row, weight, minlength=users), np.float64)

    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])  # with 0 to 10 relevant items at the top
    first = np.full(users, np.inf)
    np.minimum.at(first, row, rank.astype(np.float64))
    gain = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)
    return {
        "recall@10": total((rank <= 10).astype(float)) / relevant_count,
        "recall@50": total((rank <= 50).astype(float)) / relevant_count,
        "ndcg@10": total(gain) / np.where(many > 0, ideal[np.minimum(many, 10)], np.nan),
        "hr@1": (first <= 1).astype(float),
        "hr@10": (first <= 10).astype(float),
        "mrr": 1 / first,
    }


def is_relevant(matrix: sp.csr_matrix, row: Int64s, column: Int64s) -> Bools:
    """Mask of the (row, column) pairs that are stored in `matrix`."""
    stored = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * np.int64(matrix.shape[1]) + matrix.indices
    return np.isin(row * np.int64(matrix.shape[1]) + column, stored)


def _codes(column: pa.ChunkedArray, ids: pa.Array) -> Int64s:
    """Position of each text in `ids`, −1 if missing, [n]; each distinct text is looked up once."""
    coded = column.combine_chunks()
    if not pa.types.is_dictionary(coded.type):
        coded = coded.dictionary_encode()
    place = pc.index_in(coded.dictionary.cast(pa.string()), ids).fill_null(-1).to_numpy().astype(np.int64)
    found: Int64s = np.append(place, -1)[coded.indices.fill_null(len(place)).to_numpy()]
    return found
