"""New items by their texts: candidates among items with few or no events, similar to those of the history.

The weight of an item i of the history for a new item j is cosine(i, j) of their character 4-grams, where i is one of
the nearest neighbours of j among the items with events, times j's prior: the decayed popularity of these neighbours,
averaged with the cosines as weights, which halves with every half-life since the launch. With `affinity: factors` the
cosine is that of iALS factors instead, those of the new item mapped from its text (`factor_map`).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.data.item_content import item_content
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.sparse_products import largest_of_product
from rayrec.numerics.types import Bools, Float64s
from rayrec.retrieval.factor_map import mapped_factors, nearest_by_factors
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.item_item import ItemItemRetriever
from rayrec.retrieval.retriever import RETRIEVERS

_VIEW = "char"
_LEAST_PRIOR = 0.2  # events


class ItemTextSettings(RetrieverSettings):
    max_events: int = Field(0, ge=0)
    """Items with more positive events than this are not new."""
    neighbours: int = Field(50, ge=1)
    """Similar items with events that a new item borrows from."""
    half_life_days: float = Field(60.0, gt=0)
    """Half-life of the neighbours' events before the date and of the time since the launch, days."""
    affinity: Literal["text", "factors"] = "text"
    """Similarity of a new item to others: `text`, the cosine of their texts; `factors`, the cosine of their iALS
    factors, which a ridge regression maps from the new item's text."""
    factors: int = Field(64, ge=1, le=1024)
    """Dimension of the factors with `affinity: factors`, 1 to 1,024."""
    regularization: float = Field(1.0, gt=0)
    """Ridge of that regression, above 0."""
    prior_power: float = Field(0.5, ge=0)
    """Exponent of the prior; 0: similarity alone."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Half-life of the user's own events before the newest one, in days; `null`: no decay. Used in scoring only."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days"}


@RETRIEVERS.register
class ItemTextRetriever(ItemItemRetriever):
    """Items with few or no events whose titles are similar to those of the history. Needs no model of language."""

    name = "item_text"
    settings_class = ItemTextSettings

    @classmethod
    def fit(cls, data: FitData, settings: ItemTextSettings) -> Self:
        items = data.matrix.shape[1]
        if data.catalogue is None:
            return cls(sp.csr_matrix((items, items), dtype=np.float32), settings)
        events = np.bincount(data.item, minlength=items)
        vectors = item_content(data.catalogue, [_VIEW])[_VIEW]
        new, known = events <= settings.max_events, events > 0
        if settings.affinity == "factors":
            learned = IalsRetriever.fit(data, IalsSettings(factors=settings.factors)).factors
            factors = mapped_factors(vectors, learned, events.astype(float), new, settings.regularization)
            similar = nearest_by_factors(factors, new, known, settings.neighbours)
        else:
            similar = neighbours_of(vectors, new, known, settings.neighbours)
        decayed = np.bincount(data.item, np.exp2(-data.age_days / settings.half_life_days), minlength=items).astype(
            float
        )
        launched = data.catalogue["available_from"].cast("int64").to_numpy()  # NaN: unknown
        age = np.nan_to_num((data.cutoff - launched) / MICROSECONDS_PER_DAY)
        prior = borrowed_popularity(similar, decayed) * np.exp2(-np.maximum(age, 0) / settings.half_life_days)
        scale = (_LEAST_PRIOR + prior) ** settings.prior_power
        return cls(sp.csr_matrix((sp.diags(scale) @ similar).T, dtype=np.float32), settings)


def neighbours_of(vectors: sp.csr_matrix, new: Bools, known: Bools, neighbours: int) -> sp.csr_matrix:
    """float32 CSR [items, items]: in the row of each new item, the cosines of its nearest known items, not itself.

    `vectors`: float32 CSR [items, terms], rows of length 1 or 0.
    """
    items, codes = vectors.shape[0], np.flatnonzero(new)
    candidates = sp.csr_matrix(sp.diags(known.astype(np.float32)) @ vectors)
    candidates.eliminate_zeros()
    limits = neighbours + known[codes].astype(np.int64)  # the item itself is its nearest
    nearest = largest_of_product(vectors[codes], candidates.T.tocsr(), limits).tocoo()
    row, others = codes[nearest.row], codes[nearest.row] != nearest.col
    cells = (nearest.data[others], (row[others], nearest.col[others]))
    return sp.csr_matrix(cells, shape=(items, items), dtype=np.float32)


def borrowed_popularity(similar: sp.csr_matrix, popularity: Float64s) -> Float64s:
    """The mean popularity of each item's neighbours, by their cosines, [items]; 0 without neighbours."""
    total = np.asarray(similar.sum(1), np.float64).ravel()
    result: Float64s = (similar @ popularity) / np.maximum(total, 1e-12)
    return result
