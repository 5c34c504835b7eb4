"""Rank-promotion cap: how many ranks the LLM may move an item up from the order without the LLM.

It limits what sellers can gain by writing item texts for the LLM. With b the blended score without the LLM, r the
rank by it (ties in the order of the candidates) and B(k) the k-th highest b, the score of each item is clipped between
two bounds that do not depend on the LLM:

    score' = clip(score, B(r + down), B(r - up)),    up + down = max_promotion

So two items further apart than `max_promotion` keep their order, and no item ends more than `max_promotion` ranks
above r, whatever the LLM scores are. score' depends only on the item's own LLM score: a changed score of one item
changes neither the score' of other items nor their order.
"""

from __future__ import annotations

import numpy as np

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import descending_keys, padded_rows, positions_of, reassign_scores
from rayrec.numerics.types import Bools, Float32s, Int64s


def cap_promotion(base: Ragged, scores: Float32s, scored: Bools, max_promotion: int) -> Float32s:
    """Compute score', float32 [candidates].

    `base`: b, one row per user; `scores`: with the LLM, on the same scale; `scored` [candidates]: candidates with an
    LLM score. All others get their lower bound.
    """
    down = max_promotion // 2
    result: Float32s = scores.copy()
    for block in padded_rows(base.offsets):
        values, many = base.values[block.take], block.mask.sum(axis=1)[:, None]
        order = positions_of(np.sort(descending_keys(values, block.mask), axis=1))
        ladder = _ladder(np.take_along_axis(values, order, axis=1), many, max_promotion - down, down)
        rank = np.arange(values.shape[1])
        above, below = ladder[:, : len(rank)], ladder[:, max_promotion:]  # of each rank r: B(r - up), B(r + down)
        low, high, end = np.empty_like(values), np.empty_like(values), np.empty_like(block.mask)
        np.put_along_axis(high, order, above, axis=1)
        np.put_along_axis(low, order, below, axis=1)
        np.put_along_axis(end, order, rank + down >= many, axis=1)
        at = block.take[block.mask]
        low, high, end = low[block.mask], high[block.mask], end[block.mask]
        result[at] = np.where(scored[at], np.clip(scores[at], np.where(end, -np.inf, low), high), low)
    return result


def _ladder(falling: Float32s, many: Int64s, up: int, down: int) -> Float32s:
    """Compute B(1 - up) .. B(n + down), [b, up + n + down], from scores [b, n], the first `many` [b, 1] real.

    The width covers `up` ranks above the best item and `down` ranks below the last one. The values decrease strictly:
    equal scores differ by the smallest step. Ranks above the best have no bound; ranks below the last follow in unit
    steps, which keep the order of candidates without an LLM score.
    """
    rows, width = falling.shape
    rank = np.arange(width + down)
    below = np.take_along_axis(falling, many - 1, axis=1) - np.maximum(rank + 1 - many, 0)
    real = rank[:width] < many
    distinct = reassign_scores(falling, real, np.full(rows, -np.inf, np.float32))
    inner = np.where(real, distinct, below[:, :width])
    ladder: Float32s = np.concatenate([np.full((rows, up), np.inf), inner, below[:, width:]], axis=1).astype(np.float32)
    return ladder
