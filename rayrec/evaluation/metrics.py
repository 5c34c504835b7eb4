"""Ranking metrics per user: recall@k, nDCG@k, HR@k, reciprocal rank, and coverage.

Own numpy rather than `ir-measures`: its providers take one Python object a (user, item) pair, 2 to 3 µs each, which a
million users' slates cannot afford. tests/evaluation/test_metrics.py holds every metric equal to `ir-measures`
(R@k, nDCG@k, Success@k, RR; binary relevance, trec_eval's definitions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from rayrec.errors import DataError

METRICS = ("recall@10", "recall@50", "ndcg@10", "hr@1", "hr@10", "mrr")
COVERAGE_AT = 10


@dataclass(frozen=True)
class Truth:
    """What each judged user did: `user_id` [users] sorted, `wanted` bool CSR [users, items] in `item_id`'s order."""

    user_id: pa.Array
    item_id: pa.Array  # the catalogue, sorted
    wanted: sp.csr_matrix

    def __len__(self) -> int:
        return len(self.user_id)

    @classmethod
    def of(cls, user_id: pa.Array, item_id: pa.Array, catalogue: pa.Array) -> Truth:
        """From pairs (string [n] each; duplicates count once). Items outside the catalogue are nobody's to propose."""
        known = pc.index_in(item_id, catalogue)
        kept = pc.is_valid(known)
        users = pc.unique(user_id.filter(kept)).sort()
        row = pc.index_in(user_id.filter(kept), users).to_numpy(zero_copy_only=False)
        column = known.filter(kept).to_numpy(zero_copy_only=False)
        wanted = sp.csr_matrix((np.ones(len(row), bool), (row, column)), shape=(len(users), len(catalogue)))
        return cls(users, catalogue, wanted)

    def among(self, user_ids: pa.Array) -> Truth:
        """Only the users in `user_ids`."""
        rows = np.flatnonzero(pc.is_in(self.user_id, user_ids).to_numpy(zero_copy_only=False))
        return Truth(self.user_id.take(pa.array(rows)), self.item_id, self.wanted[rows])


@dataclass(frozen=True)
class Judged:
    """One system's values per user, in the order of the truth's users."""

    system: str
    values: dict[str, npt.NDArray[np.float64]]  # metric -> [users]
    shown: sp.csr_matrix  # bool [users, items]: the top COVERAGE_AT of each slate

    def __len__(self) -> int:
        return int(self.shown.shape[0])

    def coverage(self) -> float:
        """Share of the catalogue that stands in the top COVERAGE_AT of at least one judged user."""
        return len(np.unique(self.shown.indices)) / max(int(self.shown.shape[1]), 1)


def judge(system: str, slates: pa.Table, truth: Truth) -> Judged:
    """Values of `slates` (columns user_id, rank from 1, item_id; any order) for the users of `truth`.

    A judged user without a slate counts as 0: the job owed that user one. An item twice in a slate is an error.
    """
    row = pc.index_in(_plain(slates["user_id"]), truth.user_id)
    slates = slates.filter(pc.is_valid(row))
    row = row.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    column = pc.index_in(_plain(slates["item_id"]), truth.item_id).fill_null(-1)
    item = column.to_numpy(zero_copy_only=False).astype(np.int64)
    rank = _plain(slates["rank"]).to_numpy(zero_copy_only=False).astype(np.int64)
    known = item >= 0
    row, item, rank = row[known], item[known], rank[known]
    _check(system, row, item, truth)
    hit = _member(truth.wanted, row, item)
    return Judged(system, _values(truth, row[hit], rank[hit]), _shown(truth, row, item, rank))


def _values(
    truth: Truth, row: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float64]]:
    """From the hits alone: row [hits] the user, rank [hits] where it stood."""
    users, wanted = len(truth), np.diff(truth.wanted.indptr)

    def total(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(row, weight, minlength=users), np.float64)

    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])  # of 0..10 wanted items at the top
    first = np.full(users, np.inf)
    np.minimum.at(first, row, rank.astype(np.float64))
    gain = np.where(rank <= 10, 1 / np.log2(rank + 1.0), 0.0)
    return {
        "recall@10": total((rank <= 10).astype(float)) / wanted,
        "recall@50": total((rank <= 50).astype(float)) / wanted,
        "ndcg@10": total(gain) / ideal[np.minimum(wanted, 10)],
        "hr@1": (first <= 1).astype(float),
        "hr@10": (first <= 10).astype(float),
        "mrr": 1 / first,
    }


def _shown(
    truth: Truth, row: npt.NDArray[np.int64], item: npt.NDArray[np.int64], rank: npt.NDArray[np.int64]
) -> sp.csr_matrix:
    top = rank <= COVERAGE_AT
    return sp.csr_matrix((np.ones(int(top.sum()), bool), (row[top], item[top])), shape=truth.wanted.shape)


def _member(matrix: sp.csr_matrix, row: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which (row, column) pairs are stored in `matrix`."""
    stored = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * np.int64(matrix.shape[1]) + matrix.indices
    return np.isin(row * np.int64(matrix.shape[1]) + column, stored)


def _check(system: str, row: npt.NDArray[np.int64], item: npt.NDArray[np.int64], truth: Truth) -> None:
    pair = row * np.int64(truth.wanted.shape[1]) + item
    if len(np.unique(pair)) != len(pair):
        raise DataError(
            f"{system}: an item stands twice in one user's slate", do="judge one arm and one date at a time"
        )


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One array; text of any Arrow kind (dictionary, large) as plain strings."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_text = pa.types.is_dictionary(array.type) or pa.types.is_large_string(array.type)
    return array.cast(pa.string()) if is_text else array
