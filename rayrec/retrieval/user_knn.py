"""Recent user-kNN: what users alike took lately, a popularity that is personal.

A user's score of item j is the sum, over all fitted users v, of the cosine between the two users' histories (items
weighted by inverse document frequency, norms shrunk) times v's events of j, each halved every half_life_days before the
date. The sum over users is linear in the history, so it is done once, at the fit: diag(idf) Xn' W, items by items. In a
large catalogue the largest cells of each row stay: of popular items' rows the rest is many cells and little weight.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.top_k import descending_keys, padded_rows, positions_of
from rayrec.retrieval.item_item import ItemItemRetriever
from rayrec.retrieval.retriever import RETRIEVERS, FitData

_FORGOTTEN = 10  # half-lives after which an event is left out (its weight is below 1/1000)
_KEPT_CELLS = 200_000_000  # in all, where `neighbours` is not given: 1.6 GB
_BLOCK_CELLS = 16_000_000  # products that are held at once, or those of one item


class UserKnnSettings(RetrieverSettings):
    half_life_days: float = Field(7.0, gt=0)
    """Days before the date after which what the others took counts half, above 0."""
    shrink: float = Field(3.0, ge=0)
    """Added to each user's norm: short histories are not trusted."""
    neighbours: int | None = Field(None, ge=1)
    """Cells kept of each item's row; `null`: as many as fit into 1.6 GB, all of them in a catalogue of up to 14,142
    items."""
    history_half_life_days: float | None = Field(None, gt=0)
    """Days after which an event of the user counts half, from the newest one back; `null`: all count alike. Scoring
    only: sources that differ in nothing else share one fit."""

    scoring_only = RetrieverSettings.scoring_only | {"history_half_life_days"}


@RETRIEVERS.register
class UserKnnRetriever(ItemItemRetriever):
    """What users alike took lately: a popularity that is personal."""

    name = "user_knn"
    settings_class = UserKnnSettings

    @classmethod
    def fit(cls, data: FitData, settings: UserKnnSettings) -> Self:
        users, items = data.matrix.shape
        fresh = data.age_days < _FORGOTTEN * settings.half_life_days
        faded = (data.weight[fresh] * np.exp2(-data.age_days[fresh] / settings.half_life_days)).astype(np.float32)
        recent = sp.csr_matrix((faded, (data.user[fresh], data.item[fresh])), shape=(users, items))
        seen_by = np.bincount(data.matrix.indices, minlength=items)
        idf = np.log(1 + users / (seen_by + 1.0)).astype(np.float32)
        weighted = data.matrix.multiply(idf[None, :]).tocsr()
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1), np.float64).ravel()) + settings.shrink
        active = np.diff(recent.indptr) > 0
        alike = (sp.diags((1 / np.maximum(norm, 1e-9)).astype(np.float32)[active]) @ weighted[active]).T.tocsr()
        neighbours = settings.neighbours or max(1, _KEPT_CELLS // max(1, items))
        weights = largest_of_product(alike, recent[active], neighbours)
        weights.data *= np.repeat(idf, np.diff(weights.indptr))
        return cls(weights, settings)


def largest_of_product(
    left: sp.csr_matrix, right: sp.csr_matrix, most: int, block_cells: int = _BLOCK_CELLS
) -> sp.csr_matrix:
    """float32 CSR left @ right, of each row the `most` largest cells; ties go to the lower column.

    Made a block of rows at a time, each of at most `block_cells` products, or of one row.
    """
    products = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices], dtype=np.int64)])
    until = products[left.indptr]  # [rows + 1]
    parts, start = [], 0
    while start < left.shape[0]:
        stop = max(start + 1, int(np.searchsorted(until, until[start] + block_cells, side="right")) - 1)
        block = (left[start:stop] @ right).tocsr()
        block.sort_indices()
        parts.append(_largest(block, most))
        start = stop
    return sp.vstack(parts, format="csr", dtype=np.float32) if parts else sp.csr_matrix((0, 0), dtype=np.float32)


def _largest(rows: sp.csr_matrix, most: int) -> sp.csr_matrix:
    """Of each row the `most` largest cells. Indices are sorted, before and after."""
    lengths = np.diff(rows.indptr)
    long = lengths > most
    if not long.any():
        return rows
    kept = np.repeat(~long, lengths)
    cells = np.flatnonzero(~kept)
    for block in padded_rows(np.concatenate([[0], np.cumsum(lengths[long])])):
        keys = descending_keys(rows.data[cells[block.take]], block.mask)
        largest = positions_of(np.partition(keys, most - 1, axis=1)[:, :most])
        kept[cells[np.take_along_axis(block.take, largest, axis=1)]] = True
    indptr = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    return sp.csr_matrix((rows.data[kept], rows.indices[kept], indptr), shape=rows.shape)
