"""Conditional logit (McFadden 1974), the listwise softmax: P(item | user's candidates) is proportional to exp(z'w).

The loss is convex and has few weights, so Newton's method with a backtracking line search converges in about ten steps,
to the same weights on every machine. Not scipy's trust-exact: the same optimum with 1 to 3 more evaluations, but scores
differ by 4e-5; a test compares them.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from rayrec.numerics.types import Float32s, Float64s, Int64s

_STEPS = 50
_TOLERANCE = 1e-9  # of the expected decrease of the loss
_CHUNK_CELLS = 1 << 18  # feature cells turned to float64 at once: they stay in the cache


def fit_conditional_logit(features: Float32s, offsets: Int64s, consumed: Float32s, l2: float) -> Float64s:
    """Weights [f] on standardised features that minimise the mean cross-entropy + l2 * |w|^2.

    features [candidates, f]; candidates of user u are offsets[u]:offsets[u+1]; consumed [candidates] >= 0 is the weight
    of each candidate as a target, 0 for what was not consumed. Leave out users who consumed no candidate. Computes in
    float64.
    """
    # One BLAS thread: the products are small, and their bits must not depend on the number of cores.
    with threadpool_limits(1, "blas"):
        return _newton(features, offsets, consumed, l2)


def _newton(features: Float32s, offsets: Int64s, consumed: Float32s, l2: float) -> Float64s:
    mean, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-9
    weights = np.zeros(features.shape[1])
    loss, gradient, hessian = _derivatives(features, mean, spread, offsets, consumed, weights, l2)
    for _ in range(_STEPS):
        step = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE:
            break
        size = 1.0
        while size > 1e-6:
            found = _derivatives(features, mean, spread, offsets, consumed, weights - size * step, l2)
            if found[0] <= loss - 1e-4 * size * decrease:
                break
            size /= 2
        else:
            break  # no further decrease within rounding
        weights = weights - size * step
        loss, gradient, hessian = found
    raw: Float64s = weights / spread
    return raw


def _derivatives(
    features: Float32s,
    mean: Float64s,
    spread: Float64s,
    offsets: Int64s,
    consumed: Float32s,
    weights: Float64s,
    l2: float,
) -> tuple[float, Float64s, Float64s]:
    """Loss, gradient [f] and Hessian [f, f], summed over chunks of whole users."""
    width = len(weights)
    loss, gradient, hessian = 0.0, np.zeros(width), np.zeros((width, width))
    users = len(offsets) - 1
    step = max(1, int(_CHUNK_CELLS // max(1, width * (offsets[-1] // max(1, users) + 1))))
    for start in range(0, users, step):
        bounds = offsets[start : min(start + step, users) + 1]
        rows = slice(int(bounds[0]), int(bounds[-1]))
        z = (features[rows].astype(np.float64) - mean) / spread
        target = consumed[rows].astype(np.float64)
        first, lengths = bounds[:-1] - bounds[0], np.diff(bounds)
        score = z @ weights
        score -= np.repeat(np.maximum.reduceat(score, first), lengths)
        odds = np.exp(score)
        total = np.add.reduceat(odds, first)
        probability = odds / np.repeat(total, lengths)
        mass = np.add.reduceat(target, first)
        loss += float(mass @ np.log(total) - target @ score)
        expected = np.add.reduceat(probability[:, None] * z, first, axis=0)
        gradient += mass @ expected - target @ z
        hessian += (z * (probability * np.repeat(mass, lengths))[:, None]).T @ z - (
            expected * mass[:, None]
        ).T @ expected
    scale = 1 / max(float(consumed.sum(dtype=np.float64)), 1e-12)
    penalty = l2 * float(weights @ weights)
    return loss * scale + penalty, gradient * scale + 2 * l2 * weights, hessian * scale + 2 * l2 * np.eye(width)
