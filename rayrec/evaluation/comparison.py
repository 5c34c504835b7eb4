"""Comparison of systems: means with 95% bootstrap intervals, and differences with tests.

Every system uses the same resamples of the users, so differences are paired where two systems have the same users.
Where they have different users (a split experiment), the difference is that of two groups. Coverage is not a mean: a
resample misses users, hence items. Its resamples are corrected for this bias, mean of resamples − value (Efron &
Tibshirani 1993, ch. 10), and clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rayrec.evaluation.metrics import COVERAGE_AT, UserMetrics
from rayrec.evaluation.significance import (
    RESAMPLES,
    bootstrap_groups,
    bootstrap_weights,
    holm,
    min_detectable_effect,
    sign_flip_p,
    welch_p,
)
from rayrec.numerics.types import Float64s, Int64s

COVERAGE = f"coverage@{COVERAGE_AT}"
ALL_USERS = ""  # the segment of all users
_COVERAGE_COST = 1_000_000_000  # max (group, item) pairs over all resamples

COMPARISON = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("baseline", pa.string()),  # null: the value itself; else value − value of this system
        pa.field("metric", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),  # ALL_USERS or a segment
        pa.field("users", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("relative", pa.float64()),  # a difference as a share of the other system's value
        pa.field("relative_low", pa.float64()),
        pa.field("relative_high", pa.float64()),
        pa.field("p", pa.float64()),  # of no difference: sign flips where paired, Welch where not
        pa.field("p_adjusted", pa.float64()),  # Holm, over the systems (or segments) compared with one baseline
        pa.field("min_detectable_effect", pa.float64()),  # with 80% power at this number of users
    ]
)

Row = dict[str, object]


@dataclass(frozen=True)
class _Resampled:
    """Sums over groups of users, resampled by group."""

    group: Int64s  # [users]
    seed: int
    resamples: int

    @property
    def groups(self) -> int:
        return int(self.group.max(initial=-1)) + 1

    def means(self, rows: Int64s, values: Float64s) -> Float64s:
        """Means of values [users, columns] of the users `rows` in every resample without NaN: [resamples, columns].

        A resample without any of the users gives NaN.
        """
        sums, counts = self.sums(rows, values)
        stacked = np.hstack([sums, counts])
        drawn = np.concatenate([w @ stacked for w in bootstrap_weights(self.groups, self.seed, self.resamples)])
        total, many = np.split(drawn, 2, axis=1)
        return np.asarray(np.divide(total, many, out=np.full_like(total, np.nan), where=many > 0))

    def sums(self, rows: Int64s, values: Float64s) -> tuple[Float64s, Float64s]:
        """Sums and numbers of the values by group: [groups, columns] each."""
        there = sp.csr_matrix((np.ones(len(rows)), (self.group[rows], np.arange(len(rows)))), (self.groups, len(rows)))
        return there @ np.nan_to_num(values), there @ (~np.isnan(values)).astype(np.float64)


def compare(
    systems: Sequence[UserMetrics],
    *,
    seed: int,
    baselines: Sequence[str] = (),
    resamples: int = RESAMPLES,
    segment: str = ALL_USERS,
    metrics: Sequence[str] | None = None,
) -> pa.Table:
    """Compute COMPARISON rows of systems whose `rows` index the same users.

    For each name in `baselines`, also the differences of every other system from it. `metrics`: only these, without
    coverage. Systems without users have no rows.
    """
    systems = [system for system in systems if len(system)]
    if not systems:
        return COMPARISON.empty_table()
    users = 1 + max(int(system.rows.max()) for system in systems)
    drawn = _Resampled(bootstrap_groups(users, seed), seed, resamples)
    chosen = list(metrics if metrics is not None else systems[0].values)
    rows: list[Row] = []
    for system in systems:
        rows += _values(system, chosen, drawn, segment)
        if metrics is None:
            rows.append(_coverage(system, drawn, segment))
    named = {system.system: system for system in systems}
    for base in (named[name] for name in baselines if name in named):
        differences = [_difference(system, base, chosen, drawn, segment) for system in systems if system is not base]
        rows += holm_adjusted([row for of_one in differences for row in of_one])
    return pa.Table.from_pylist(rows, COMPARISON)


def holm_adjusted(differences: list[Row]) -> list[Row]:
    """Add Holm-corrected p values over the rows of each metric."""
    corrected: list[Row] = []
    for metric in dict.fromkeys(row["metric"] for row in differences):
        family = [row for row in differences if row["metric"] == metric]
        found = holm([float(str(row["p"])) for row in family])
        corrected += [{**row, "p_adjusted": float(p)} for row, p in zip(family, found, strict=True)]
    return corrected


def _values(system: UserMetrics, metrics: Sequence[str], drawn: _Resampled, segment: str) -> list[Row]:
    values = system.matrix(metrics)
    resampled = drawn.means(system.rows, values)
    found = []
    for m, metric in enumerate(metrics):
        known = values[:, m][~np.isnan(values[:, m])]
        if len(known):
            interval = _interval(resampled[:, m])
            found.append(_row(system.system, None, metric, segment, len(known), float(known.mean()), interval))
    return found


def _difference(
    system: UserMetrics, base: UserMetrics, metrics: Sequence[str], drawn: _Resampled, segment: str
) -> list[Row]:
    one, other = system.matrix(metrics), base.matrix(metrics)
    _, mine, theirs = np.intersect1d(system.rows, base.rows, assume_unique=True, return_indices=True)
    paired = len(mine) > 0
    if paired:
        one, other, rows = one[mine], other[theirs], system.rows[mine]
        unknown = np.isnan(one) | np.isnan(other)
        one, other = (np.where(unknown, np.nan, values) for values in (one, other))
        ours, base_means = drawn.means(rows, one), drawn.means(rows, other)
        p = sign_flip_p(drawn.sums(rows, one - other)[0], drawn.seed)
    else:
        ours, base_means = drawn.means(system.rows, one), drawn.means(base.rows, other)
        p = np.array([welch_p(*(v[:, m][~np.isnan(v[:, m])] for v in (one, other))) for m in range(len(metrics))])
    found = []
    for m, metric in enumerate(metrics):
        a, b = (values[:, m][~np.isnan(values[:, m])] for values in (one, other))
        if not len(a) or not len(b):
            continue
        value, users = float(a.mean() - b.mean()), len(a) if paired else len(a) + len(b)
        error = _standard_error(a - b) if paired else float(np.hypot(_standard_error(a), _standard_error(b)))
        interval = _interval(ours[:, m] - base_means[:, m])
        row = _row(system.system, base.system, metric, segment, users, value, interval)
        relative = _relative(value, float(b.mean()), ours[:, m], base_means[:, m])
        found.append({**row, **relative, "p": float(p[m]), "min_detectable_effect": min_detectable_effect(error)})
    return found


def _relative(value: float, base: float, ours: Float64s, theirs: Float64s) -> Row:
    if base <= 0 or np.nanmin(theirs) <= 0:
        return {}
    low, high = _interval(ours / theirs - 1)
    return {"relative": value / base, "relative_low": low, "relative_high": high}


def _coverage(system: UserMetrics, drawn: _Resampled, segment: str) -> Row:
    whole = system.coverage()
    user, place = np.nonzero(system.top >= 0)
    item, group = system.top[user, place], drawn.group[system.rows[user]]
    shown = sp.csr_matrix((np.ones(len(item), np.float32), (item, group)), (system.items, drawn.groups))
    shown.sum_duplicates()
    resamples = int(np.clip(_COVERAGE_COST // max(shown.nnz, 1), 100, drawn.resamples))
    weights = bootstrap_weights(drawn.groups, drawn.seed, resamples)
    covered = np.concatenate([((shown @ w.T.astype(np.float32)) > 0).mean(axis=0) for w in weights])
    interval = _interval(np.clip(covered - covered.mean() + whole, 0, 1))
    return _row(system.system, None, COVERAGE, segment, len(system), whole, interval)


def _interval(drawn: Float64s) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _standard_error(values: Float64s) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _row(
    system: str,
    baseline: str | None,
    metric: str,
    segment: str,
    users: int,
    value: float,
    interval: tuple[float, float],
) -> Row:
    named = {"system": system, "baseline": baseline, "metric": metric, "segment": segment, "users": users}
    return {**named, "value": value, "low": interval[0], "high": interval[1]}
