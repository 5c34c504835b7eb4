"""Rankings from retained events: refitted iALS and EASE, their nDCG@10 and Recall@20 over items new to the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rayrec.denoising import Histories
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, all_item_scores
from rayrec.retrieval.user_histories import UserHistories, clipped_matrix

BLOCK = 512  # users scored at once

Floats = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Scores = Callable[[Int], npt.NDArray[np.float32]]  # users -> [users, items]; -inf: cannot be ranked


@dataclass(frozen=True)
class RetainedEvents:
    """The positive events of every user that a decision retains, oldest first; ragged members share their offsets."""

    item: Ragged  # int32
    ts: Ragged  # int64
    weight: Ragged  # float32: event weight times keep weight, > 0
    keep_weight: Ragged  # float32 > 0
    items: int

    @classmethod
    def of(cls, histories: Histories, keep: npt.NDArray[np.float32], items: int) -> RetainedEvents:
        stays = (histories.weight.values > 0) & (keep > 0)
        item = histories.item.filter(stays)
        weight = (histories.weight.values * keep)[stays].astype(np.float32)
        return cls(item, item.like(histories.ts.values[stays]), item.like(weight), item.like(keep[stays]), items)

    def fit_data(self, cutoff: int) -> FitData:
        matrix = clipped_matrix(self.weight.values, self.item.values, self.item.offsets, self.items)
        rows = self.item.rows.astype(np.int32)
        return FitData(matrix, rows, self.item.values, self.ts.values, self.weight.values, cutoff)

    def user_histories(self, users: Int) -> UserHistories:
        return UserHistories(self.item.take(users), self.ts.take(users), self.weight.take(users), self.items)


def refitted(method: str, retained: RetainedEvents, cutoff: int, settings: dict[str, float]) -> Retriever:
    return RETRIEVERS[method].fit(retained.fit_data(cutoff), RETRIEVERS.settings(method, settings))


def scores_of(retriever: Retriever, retained: RetainedEvents) -> Scores:
    return lambda users: all_item_scores(retriever, retained.user_histories(users))


def ranking_metrics(scores: Scores, seen: sp.csr_matrix, wanted: Ragged) -> dict[str, Floats]:
    """nDCG@10 and Recall@20 [evaluated users]: those with a row in `wanted`. `seen` [users, items] is never ranked."""
    users = np.flatnonzero(wanted.lengths > 0)
    parts = [_block(scores(some), seen[some], wanted.take(some)) for some in np.array_split(users, _blocks(users))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _blocks(users: Int) -> int:
    return -(-len(users) // BLOCK)


def _block(scores: npt.NDArray[np.float32], seen: sp.csr_matrix, wanted: Ragged) -> dict[str, Floats]:
    ranked = np.array(scores, np.float32)
    ranked[np.repeat(np.arange(len(ranked)), np.diff(seen.indptr)), seen.indices] = -np.inf
    top = np.argsort(-ranked, axis=1, kind="stable")[:, :20]
    finite = np.isfinite(np.take_along_axis(ranked, top, axis=1))
    cells = np.arange(len(ranked))[:, None] * ranked.shape[1] + top
    hit = np.isin(cells, wanted.rows * ranked.shape[1] + wanted.values) & finite
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.cumsum(discount)[np.minimum(wanted.lengths, 10) - 1]
    return {"ndcg@10": (hit[:, :10] @ discount) / ideal, "recall@20": hit.sum(1) / wanted.lengths}
