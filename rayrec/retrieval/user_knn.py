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
from rayrec.numerics.sparse_products import largest_of_product
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.item_item import ItemItemRetriever
from rayrec.retrieval.retriever import RETRIEVERS

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
        fresh = data.age_days < _MAX_HALF_LIVES * settings.half_life_days
        decayed = (data.weight[fresh] * np.exp2(-data.age_days[fresh] / settings.half_life_days)).astype(np.float32)
        recent = sp.csr_matrix((decayed, (data.user[fresh], data.item[fresh])), shape=(users, items))
        seen_by = np.bincount(data.matrix.indices, minlength=items)
        idf = np.log(1 + users / (seen_by + 1.0)).astype(np.float32)
        weighted = data.matrix.multiply(idf[None, :]).tocsr()
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1), np.float64).ravel()) + settings.shrink
        active = np.diff(recent.indptr) > 0
        similar = (sp.diags((1 / np.maximum(norm, 1e-9)).astype(np.float32)[active]) @ weighted[active]).T.tocsr()
        neighbours = settings.neighbours or max(1, _MAX_CELLS // max(1, items))
        weights = largest_of_product(similar, recent[active], neighbours)
        weights.data *= np.repeat(idf, np.diff(weights.indptr))
        return cls(weights, settings)
