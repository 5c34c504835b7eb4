"""Item-kNN: cosine between items over the users who took both, shrunk, the best neighbours of each item kept."""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.retrieval.item_item import ItemItemRetriever
from rayrec.retrieval.retriever import RETRIEVERS, FitData

_BLOCK = 1024  # items whose similarities are held at once


class ItemKnnSettings(RetrieverSettings):
    neighbours: int = Field(200, ge=1)
    """Kept of each item, the nearest."""
    shrink: float = Field(10.0, ge=0)
    """Added to the cosine's denominator: pairs seen together rarely are not trusted."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Days after which an event of the user counts half, from the newest one back; `null`: all count alike. Scoring
    only: sources that differ in nothing else share one fit."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days"}


@RETRIEVERS.register
class ItemKnnRetriever(ItemItemRetriever):
    """Items like those of the history, by the users who took both."""

    name = "item_knn"
    settings_class = ItemKnnSettings

    @classmethod
    def fit(cls, data: FitData, settings: ItemKnnSettings) -> Self:
        return cls(cosine_neighbours(data.matrix, settings.neighbours, settings.shrink), settings)


def cosine_neighbours(matrix: sp.csr_matrix, neighbours: int, shrink: float) -> sp.csr_matrix:
    """float32 CSR [items, items]: for each item, its best neighbours by x_i'x_j / (|x_i| |x_j| + shrink).

    Ties go to the lower item code. Memory is bounded by a block of items, whatever the size of the catalogue.
    """
    transposed = matrix.T.tocsr()
    norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(0), np.float64).ravel())
    parts = []
    for start in range(0, matrix.shape[1], _BLOCK):
        block = (transposed[start : start + _BLOCK] @ matrix).tocoo()
        row, column = block.row, block.col
        other = row + start != column
        row, column, together = row[other], column[other], block.data[other].astype(np.float64)
        cosine = (together / (norm[row + start] * norm[column] + shrink)).astype(np.float32)
        order = np.lexsort((column, -cosine, row))
        row, column, cosine = row[order], column[order], cosine[order]
        nearest = np.arange(len(row)) - np.searchsorted(row, row, side="left") < neighbours
        shape = (min(_BLOCK, matrix.shape[1] - start), matrix.shape[1])
        parts.append(sp.csr_matrix((cosine[nearest], (row[nearest], column[nearest])), shape=shape))
    similarity = sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, 0), dtype=np.float32)
    similarity.sort_indices()
    return similarity
