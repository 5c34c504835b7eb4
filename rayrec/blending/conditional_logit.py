"""Conditional logit (McFadden 1974), the listwise softmax: P(item | user's candidates) is proportional to exp(z'w).

The loss is convex and has few weights, so Newton's method with a backtracking line search converges in about ten steps,
to the same weights on every machine. Not scipy's trust-exact: the same optimum with 1 to 3 more evaluations, but scores
differ by 4e-5; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from rayrec.numerics.types import Float32s, Float64s, Int64s

_STEPS = 50
_TOLERANCE = 1e-9  # of the expected decrease of the loss
_CHUNK_CELLS = 1 << 18  # feature cells turned to float64 at once: they stay in the cache
_FIRST_ROWS = 2000  # examples that the first steps are taken on: where they end, all examples need few more


class FeatureRows(Protocol):
    """Features [candidates, f] that an array holds, or that are computed where they are read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, candidates: Any, /) -> Float32s: ...


@dataclass(frozen=True)
class LogitFit:
    """Weights [f] of the standardised features z = (x - mean) / spread, and the Hessian [f, f] of the loss at them."""

    weights: Float64s
    hessian: Float64s
    mean: Float64s
    spread: Float64s

    @property
    def raw(self) -> Float64s:
        """The weights [f] of the features as they are."""
        return np.asarray(self.weights / self.spread, np.float64)

    def select(self, columns: Int64s) -> LogitFit:
        """These features alone, to begin another fit from."""
        hessian = self.hessian[np.ix_(columns, columns)]
        return LogitFit(self.weights[columns], hessian, self.mean[columns], self.spread[columns])


@dataclass(frozen=True)
class LogitData:
    """features [candidates, f]; candidates of row u are offsets[u]:offsets[u+1]; consumed [candidates] >= 0 is the
    weight of each candidate as a target, 0 for what was not consumed. Every row has a candidate that was consumed.
    `columns`: the features that count, in this order; None: all."""

    features: FeatureRows
    offsets: Int64s
    consumed: Float32s
    columns: Int64s | None = None

    @property
    def width(self) -> int:
        return self.features.shape[1] if self.columns is None else len(self.columns)

    def select(self, columns: Int64s) -> LogitData:
        """These features alone, without a copy."""
        return replace(self, columns=columns if self.columns is None else self.columns[columns])

    def cells(self, candidates: slice) -> Float64s:
        """The features [candidates, width] in float64."""
        cells = self.features[candidates]
        return (cells if self.columns is None else cells[:, self.columns]).astype(np.float64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: Int64s) -> LogitData:
        """Select these rows in this order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return LogitData(self.features[places], offsets, self.consumed[places], self.columns)


def fit_logit(data: LogitData, l2: Float64s, start: LogitFit | None = None) -> LogitFit:
    """Minimise the mean cross-entropy + sum_j l2[j] * w[j]^2 on standardised features. Computes in float64.

    `l2` [f]; `start`: a fit to begin from, whose mean and spread are used, too.
    """
    # One BLAS thread: the products are small, and their bits must not depend on the number of cores.
    with _blas().limit(limits=1, user_api="blas"):
        return _newton(data, l2, start)


def log_likelihoods(data: LogitData, fit: LogitFit, weights: Float64s) -> Float64s:
    """Log-likelihood [rows, k] of each row's targets, by standardised weights [f, k]."""
    parts = [np.zeros((0, weights.shape[1]))]
    with _blas().limit(limits=1, user_api="blas"):
        for rows, bounds in _chunks(data):
            z = (data.cells(rows) - fit.mean) / fit.spread
            target = data.consumed[rows].astype(np.float64)[:, None]
            first = bounds[:-1] - bounds[0]
            score = z @ weights
            score -= np.repeat(np.maximum.reduceat(score, first), np.diff(bounds), axis=0)
            total = np.log(np.add.reduceat(np.exp(score), first))
            parts.append(np.add.reduceat(target * score, first) - np.add.reduceat(target, first) * total)
    return np.concatenate(parts)


@cache
def _blas() -> Any:
    """The process's BLAS libraries; looking for them takes as long as a small fit."""
    return ThreadpoolController()


def _newton(data: LogitData, l2: Float64s, start: LogitFit | None) -> LogitFit:
    if start is None:
        mean, spread = _moments(data)
        weights = np.zeros(data.width)
        if len(data) > 2 * _FIRST_ROWS:
            some = data.take(np.linspace(0, len(data) - 1, _FIRST_ROWS).astype(np.int64))
            weights = _newton(some, l2, LogitFit(weights, np.zeros((0, 0)), mean, spread)).weights
    else:
        mean, spread, weights = start.mean, start.spread, start.weights
    loss, gradient, hessian = _derivatives(data, mean, spread, weights, l2)
    for _ in range(_STEPS):
        step = np.linalg.solve(hessian, gradient)
        decrease = float(gradient @ step)
        if decrease < _TOLERANCE:
            break
        size = 1.0
        while size > 1e-6:
            found = _derivatives(data, mean, spread, weights - size * step, l2)
            if found[0] <= loss - 1e-4 * size * decrease:
                break
            size /= 2
        else:
            break  # no further decrease within rounding
        weights = weights - size * step
        loss, gradient, hessian = found
    return LogitFit(weights, hessian, mean, spread)


def _derivatives(
    data: LogitData, mean: Float64s, spread: Float64s, weights: Float64s, l2: Float64s
) -> tuple[float, Float64s, Float64s]:
    """Loss, gradient [f] and Hessian [f, f], summed over chunks of whole rows."""
    width = len(weights)
    loss, gradient, hessian = 0.0, np.zeros(width), np.zeros((width, width))
    for rows, bounds in _chunks(data):
        z = data.cells(rows)
        z -= mean
        z /= spread
        target = data.consumed[rows].astype(np.float64)
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
        expected *= np.sqrt(mass)[:, None]
        z *= np.sqrt(probability * np.repeat(mass, lengths))[:, None]
        hessian += z.T @ z - expected.T @ expected  # of one array with itself: half of the work
    scale = 1 / max(float(data.consumed.sum(dtype=np.float64)), 1e-12)
    penalty = float(l2 @ (weights * weights))
    return loss * scale + penalty, gradient * scale + 2 * l2 * weights, hessian * scale + np.diag(2 * l2)


def _moments(data: LogitData) -> tuple[Float64s, Float64s]:
    """Mean [f] of the features, and their standard deviation + 1e-9."""
    count = max(1, data.features.shape[0])
    mean, square = np.zeros(data.width), np.zeros(data.width)
    for candidates, _ in _chunks(data):
        mean += data.cells(candidates).sum(0)
    mean /= count
    for candidates, _ in _chunks(data):
        cells = data.cells(candidates) - mean
        square += np.einsum("cf,cf->f", cells, cells)
    return mean, np.sqrt(square / count) + 1e-9


def _chunks(data: LogitData) -> Iterator[tuple[slice, Int64s]]:
    """Whole rows whose cells fit into the cache: their candidates, and their offsets."""
    offsets, rows = data.offsets, len(data)
    step = max(1, int(_CHUNK_CELLS // max(1, data.width * (offsets[-1] // max(1, rows) + 1))))
    for start in range(0, rows, step):
        bounds = offsets[start : min(start + step, rows) + 1]
        yield slice(int(bounds[0]), int(bounds[-1])), bounds
