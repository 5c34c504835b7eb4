"""A bound on what the LLM's opinion may do: how many places it may lift an item above the retrievers' order.

An item's text is the seller's, and in the ways that read texts it speaks to the LLM. With b the blend's score without
the LLM, r the rank by it (ties in the order of the candidates) and B(k) the k-th highest b, the score of each item is
held between two of them that depend on the retrievers alone:

    score' = clip(score, B(r + down), B(r - up)),    up + down = lift

So two items further apart than `lift` never change places, and nobody ends more than `lift` ranks above r, whatever
score the LLM gives to anybody. A score' reads one LLM score, its own: nothing that an item does to its own changes
another's score', or the order of two others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import descending_keys, padded_rows, positions_of, reassign_scores

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def cap_promotion(free: Ragged, scores: Floats, read: Bools, max_promotion: int) -> Floats:
    """score', float32 [candidates]. `free`: b, a row a user; `scores`: with the LLM, on the same scale; `read`
    [candidates]: what the LLM scored. The rest is as low as it may be."""
    down = max_promotion // 2
    result: Floats = scores.copy()
    for block in padded_rows(free.offsets):
        values, many = free.values[block.take], block.mask.sum(axis=1)[:, None]
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
        result[at] = np.where(read[at], np.clip(scores[at], np.where(end, -np.inf, low), high), low)
    return result


def _ladder(falling: Floats, many: npt.NDArray[np.int64], up: int, down: int) -> Floats:
    """B(1 - up) .. B(n + down), [b, up + n + down], from each row's scores [b, n], of which `many` [b, 1] are real.

    So wide because the best item looks `up` places above itself and the last one `down` places below.
    Strictly falling: equal scores are parted by the smallest step. Above the best there is no bound; below the last
    come unit steps, so that what was not read keeps its order there.
    """
    rows, width = falling.shape
    rank = np.arange(width + down)
    below = np.take_along_axis(falling, many - 1, axis=1) - np.maximum(rank + 1 - many, 0)
    real = rank[:width] < many
    parted = reassign_scores(falling, real, np.full(rows, -np.inf, np.float32))
    inner = np.where(real, parted, below[:, :width])
    ladder: Floats = np.concatenate([np.full((rows, up), np.inf), inner, below[:, width:]], axis=1).astype(np.float32)
    return ladder
