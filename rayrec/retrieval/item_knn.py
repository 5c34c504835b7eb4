"""Item-kNN: shrunk cosine similarity of items over the users who consumed both; the nearest neighbours of each item."""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.sparse_products import largest_of_product, largest_of_rows
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.item_item import ItemItemRetriever
from rayrec.retrieval.retriever import RETRIEVERS


class ItemKnnSettings(RetrieverSettings):
    neighbours: int = Field(200, ge=1)
    """Nearest neighbours stored per item."""
    shrink: float = Field(10.0, ge=0)
    """Added to the cosine's denominator: rare pairs are trusted less."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Half-life of the user's own events before the newest one, in days; `null`: no decay. Used in scoring only:
    sources that differ in nothing else share one fit."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days"}


@RETRIEVERS.register
class ItemKnnRetriever(ItemItemRetriever):
    """Items similar to those of the history, by the users who consumed both."""

    name = "item_knn"
    settings_class = ItemKnnSettings

    @classmethod
    def fit(cls, data: FitData, settings: ItemKnnSettings) -> Self:
        return cls(cosine_neighbours(data, settings.neighbours, settings.shrink), settings)


def cosine_neighbours(data: FitData, neighbours: int, shrink: float) -> sp.csr_matrix:
    """float32 CSR [items, items]: for each item, its nearest neighbours by x_i'x_j / (|x_i| |x_j| + shrink).

    Ties go to the lower item code. Memory is bounded by the result, and by X'X where another fit has computed it.
    """
    matrix = data.matrix
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(0), np.float64).ravel())
    if "gram" in vars(data):
        return largest_of_rows(data.gram, neighbours, row_scale=norm, column_scale=norm, shrink=shrink)
    return largest_of_product(
        data.by_item,
        matrix,
        neighbours,
        row_scale=norm,
        column_scale=norm,
        shrink=shrink,
        without_diagonal=True,
    )
