"""Systems side by side on the same users: means with bootstrap 95% intervals, and paired differences.

Percentile bootstrap over users (Efron & Tibshirani 1993, ch. 13). One set of resamples, from one seed, serves every
system, so that differences are paired. Coverage is no mean: a resample always misses users, hence items, so its
resamples are first moved by their bias, mean of resamples − value (ch. 10), and clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.evaluation.metrics import COVERAGE_AT, Judged

RESAMPLES = 1000
_CELLS = 4_000_000  # resample weights held at once: 16 MB
COVERAGE = f"coverage@{COVERAGE_AT}"

COMPARISON = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("against", pa.string()),  # null: the value itself; else value − value of this system
        pa.field("metric", pa.string(), nullable=False),
        pa.field("users", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
    ]
)


def compare(
    systems: Sequence[Judged], *, seed: int, against: str | None = None, resamples: int = RESAMPLES
) -> pa.Table:
    """COMPARISON rows of systems judged on the same users in the same order.

    With `against` (a system's name), also the paired differences of every other system from it. No users: no rows.
    """
    if not systems or not len(systems[0]):
        return COMPARISON.empty_table()
    users, metrics = len(systems[0]), list(systems[0].values)
    values = np.stack([np.stack([system.values[name] for name in metrics], 1) for system in systems], 1)
    means, covered = _resampled(values, systems, seed, resamples)
    rows: list[dict[str, object]] = []
    base = next((n for n, system in enumerate(systems) if system.system == against), None)
    for n, system in enumerate(systems):
        for m, metric in enumerate(metrics):
            value, drawn = float(values[:, n, m].mean()), means[:, n, m]
            rows.append(_row(system.system, None, metric, users, value, _percentiles(drawn)))
            if base is not None and n != base:
                difference = float((values[:, n, m] - values[:, base, m]).mean())
                interval = _percentiles(drawn - means[:, base, m])
                rows.append(_row(system.system, against, metric, users, difference, interval))
        whole = system.coverage()
        interval = _percentiles(np.clip(covered[:, n] - covered[:, n].mean() + whole, 0, 1))
        rows.append(_row(system.system, None, COVERAGE, users, whole, interval))
    return pa.Table.from_pylist(rows, COMPARISON)


def _resampled(
    values: npt.NDArray[np.float64], systems: Sequence[Judged], seed: int, resamples: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means [resamples, systems, metrics] and coverage [resamples, systems]."""
    users = len(values)
    flat = values.reshape(users, -1)
    seen_by = [system.shown.T.tocsr().astype(np.float32) for system in systems]
    means, covered = [], []
    for weights in _weights(users, seed, resamples):
        means.append(weights @ flat / users)
        covered.append(np.stack([((items @ weights.T) > 0).mean(axis=0) for items in seen_by], 1))
    return np.concatenate(means).reshape(resamples, *values.shape[1:]), np.concatenate(covered)


def _weights(users: int, seed: int, resamples: int) -> Iterator[npt.NDArray[np.float32]]:
    """How often each user is drawn: float32 [some resamples, users], resamples in all."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // users)
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        drawn = rng.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float32)


def _percentiles(drawn: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _row(
    system: str, against: str | None, metric: str, users: int, value: float, interval: tuple[float, float]
) -> dict[str, object]:
    low, high = interval
    named = {"system": system, "against": against, "metric": metric, "users": users}
    return {**named, "value": value, "low": low, "high": high}
