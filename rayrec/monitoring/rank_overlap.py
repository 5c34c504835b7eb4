"""Rank-biased overlap (RBO) of two rankings per user."""

from __future__ import annotations

import numpy as np

from rayrec.numerics.types import Float64s, Int64s

_PERSISTENCE = 0.9  # 86% of the weight is on the top 10 (Webber et al. 2010, eq. 21)


def rank_biased_overlap(first: Int64s, second: Int64s, p: float = _PERSISTENCE) -> Float64s:
    """Extrapolated RBO of each row's two rankings, [users] in [0, 1] (Webber et al. 2010, eq. 32, equal depths).

    Rankings are int64 [users, depth] item codes, best first, −1 past the end of a short list.
    """
    depth = first.shape[1]
    agreement = shared_by_depth(first, second) / np.arange(1, depth + 1)
    weights = (1 - p) * p ** np.arange(depth)
    return np.asarray(agreement @ weights + agreement[:, -1] * p**depth)


def shared_by_depth(first: Int64s, second: Int64s) -> Float64s:
    """Number of items that the top d of both rankings share, for d = 1..depth: [users, depth]."""
    users, depth = first.shape
    span = max(int(first.max(initial=0)), int(second.max(initial=0))) + 1
    base = np.arange(users)[:, None] * span
    one, other = (np.flatnonzero(ranking.ravel() >= 0) for ranking in (first, second))
    keys_one, keys_other = ((base + ranking).ravel()[at] for ranking, at in ((first, one), (second, other)))
    _, left, right = np.intersect1d(keys_one, keys_other, assume_unique=True, return_indices=True)
    met = np.maximum(one[left] % depth, other[right] % depth)  # depth at which both rankings contain the item
    shared = np.bincount(one[left] // depth * depth + met, minlength=users * depth).reshape(users, depth)
    return np.asarray(np.cumsum(shared, axis=1), np.float64)
