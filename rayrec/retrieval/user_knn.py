"""Recent user-kNN: items that similar users consumed recently.

A user's score of item j is the sum, over all fitted users v, of the cosine between the two users' histories (items
weighted by inverse document frequency, norms shrunk) times v's events of j, with half-life half_life_days. The sum is
linear in the history, so the fit computes diag(idf) Xn' W, [items, items], once. Large catalogues store only the
largest cells of each row; the others have little weight.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.sparse_products import dense_product, largest_of_product
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.item_item import DENSE_FROM, ItemItemRetriever
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS, RETRIEVERS

_MAX_HALF_LIVES = 10  # older events are ignored (their weight is below 1/1000)
_MAX_CELLS = 200_000_000  # stored in total if `neighbours` is not set: 1.6 GB


class UserKnnSettings(RetrieverSettings):
    half_life_days: float = Field(7.0, gt=0)
    """Half-life of other users' events before the date, in days, above 0."""
    shrink: float = Field(3.0, ge=0)
    """Added to each user's norm: short histories are trusted less."""
    neighbours: int | None = Field(None, ge=1)
    """Cells stored per item; `null`: as many as fit into 1.6 GB, which is all for up to 14,142 items."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Half-life of the user's own events before the newest one, in days; `null`: no decay. Used in scoring only:
    sources that differ in nothing else share one fit."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days"}


@RETRIEVERS.register
class UserKnnRetriever(ItemItemRetriever):
    """Items that similar users consumed recently."""

    name = "user_knn"
    settings_class = UserKnnSettings

    @classmethod
    def fit(cls, data: FitData, settings: UserKnnSettings) -> Self:
        users, items = data.matrix.shape
        recent = _decayed(data, settings.half_life_days)
        seen_by = np.bincount(data.matrix.indices, minlength=items)
        idf = np.log(1 + users / (seen_by + 1.0)).astype(np.float32)
        squared = np.bincount(
            np.repeat(np.arange(users), np.diff(data.matrix.indptr)),
            np.square(data.matrix.data * idf[data.matrix.indices]),
            minlength=users,
        )
        scale = (1 / np.maximum(np.sqrt(squared) + settings.shrink, 1e-9)).astype(np.float32)
        similar = data.by_item.copy()
        similar.data *= np.repeat(idf, np.diff(similar.indptr))
        similar.data *= scale[similar.indices]
        neighbours = settings.neighbours or max(1, _MAX_CELLS // max(1, items))
        if items <= min(neighbours, MAX_DENSE_ITEMS) and _most_cells(similar, recent) >= DENSE_FROM * items**2:
            dense = dense_product(similar, recent)
            dense *= idf[:, None]
            return cls(dense if np.count_nonzero(dense) >= DENSE_FROM * items**2 else sp.csr_matrix(dense), settings)
        weights = largest_of_product(similar, recent, neighbours)
        weights.data *= np.repeat(idf, np.diff(weights.indptr))
        return cls(weights, settings)


def _decayed(data: FitData, half_life_days: float) -> sp.csr_matrix:
    """float32 CSR [users, items] of the events' decayed weights, without old events."""
    fresh = data.age_days < _MAX_HALF_LIVES * half_life_days
    decayed = (data.weight[fresh] * np.exp2(-data.age_days[fresh] / half_life_days)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(data.user[fresh], minlength=data.matrix.shape[0]))])
    index = np.int32 if offsets[-1] < np.iinfo(np.int32).max else np.int64
    item = data.item[fresh].astype(index, copy=False)
    recent = sp.csr_matrix((decayed, item, offsets.astype(index)), shape=data.matrix.shape)
    recent.sum_duplicates()
    return recent


def _most_cells(left: sp.csr_matrix, right: sp.csr_matrix) -> int:
    """An upper bound of the cells of left @ right."""
    products = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])[left.indptr]
    return int(np.minimum(np.diff(products), right.shape[1]).sum())
