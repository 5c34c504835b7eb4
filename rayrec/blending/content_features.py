"""Content features: how close each candidate is to the user's history in what the catalogue says about both.

    <view>       sum over the history of w(h) * cosine(h, candidate): the mean, because a user's scale cancels out
    <view>_best  the largest w(h) * cosine(h, candidate)

with w(h) = 2^(-(number of newer events) / 100). Views: see `rayrec.data.item_content`. The blender standardises each
feature over the user's candidates (`blend_features.content_feature`). A user's values depend on nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rayrec.config.scoring_sections import BEST
from rayrec.data.schemas import CONTENT
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s

_HALF_LIFE_EVENTS = 100.0
_BEST_OF = 50  # newest events that are compared one by one
_BLOCK_CELLS = 4 << 20  # cells of a block's dense user profiles, or of its candidates' terms


def with_content(table: pa.Table, content: Mapping[str, sp.csr_matrix], features: Sequence[str]) -> pa.Table:
    """Append the columns `content.<feature>` to candidate_schema rows.

    `content`: float32 CSR [items, terms] by view, rows of length 1 or 0.
    """
    item, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
    weight = _recency_weights(item)
    for feature in features:
        vectors = content[feature.removesuffix(BEST)]
        affinity = _best if feature.endswith(BEST) else _mean
        values = candidate.like(affinity(item, weight, candidate, vectors))
        table = table.append_column(
            pa.field(f"{CONTENT}{feature}", pa.list_(pa.float32())), values.to_arrow(pa.float32())
        )
    return table


def _recency_weights(item: Ragged) -> Float32s:
    newer = item.offsets[1:][item.rows] - 1 - np.arange(len(item.values))
    return np.exp2(-newer / _HALF_LIFE_EVENTS).astype(np.float32)


def _mean(item: Ragged, weight: Float32s, candidate: Ragged, vectors: sp.csr_matrix) -> Float32s:
    """x_c . sum_h w(h) x_h, [candidates]."""
    terms = vectors.shape[1]
    result = np.zeros(len(candidate.values), np.float32)
    if not vectors.nnz:
        return result
    history = sp.csr_matrix((weight, item.values, item.offsets), shape=(len(item), vectors.shape[0]))
    lengths = np.diff(vectors.indptr)
    for users in _blocks(candidate, lengths, max(1, _BLOCK_CELLS // terms)):
        profile = (history[users] @ vectors).toarray()
        at = slice(int(candidate.offsets[users.start]), int(candidate.offsets[users.stop]))
        chosen = vectors[candidate.values[at]]
        row = np.repeat(candidate.rows[at] - users.start, lengths[candidate.values[at]])
        products = profile[row, chosen.indices] * chosen.data
        some = np.flatnonzero(np.diff(chosen.indptr))
        if len(some):
            result[at.start + some] = np.add.reduceat(products, chosen.indptr[some])
    return result


def _best(item: Ragged, weight: Float32s, candidate: Ragged, vectors: sp.csr_matrix) -> Float32s:
    """max_h w(h) x_c . x_h over the newest events, [candidates]."""
    result = np.zeros(len(candidate.values), np.float32)
    for user in range(len(item)):
        at = slice(int(candidate.offsets[user]), int(candidate.offsets[user + 1]))
        newest = slice(
            max(int(item.offsets[user]), int(item.offsets[user + 1]) - _BEST_OF), int(item.offsets[user + 1])
        )
        if at.start < at.stop and newest.start < newest.stop:
            events = sp.diags(weight[newest]) @ vectors[item.values[newest]]
            similar = vectors[candidate.values[at]] @ events.T
            result[at] = similar.max(axis=1).toarray().ravel()
    return result


def _blocks(candidate: Ragged, terms: np.ndarray, most_users: int) -> Iterator[slice]:
    """Consecutive users whose profiles and candidates' terms fit into a block; at least one user each."""
    cells = np.concatenate([[0], np.cumsum(terms[candidate.values])])[candidate.offsets]
    start = 0
    while start < len(candidate):
        fitting = int(np.searchsorted(cells, cells[start] + _BLOCK_CELLS, side="right")) - 1
        stop = min(max(start + 1, fitting), start + most_users, len(candidate))
        yield slice(start, stop)
        start = stop
