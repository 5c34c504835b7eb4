"""Comparison of systems: means with 95% bootstrap intervals, and differences with tests and simultaneous intervals.

Every system uses the same resamples of the users, so differences are paired where two systems have the same users.
Where they have different users (a split experiment), the difference is that of two groups. Differences from one
baseline are a family: p values are corrected by Holm; intervals and detectable effects are those of level 5% / family
(Bonferroni), so that all intervals of a family hold together with probability 95%. Coverage is not a mean: a resample
misses users, hence items. Its resamples are corrected for this bias, mean of resamples − value (Efron & Tibshirani
1993, ch. 10), and clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from rayrec.evaluation.metrics import COVERAGE_AT, UserMetrics
from rayrec.evaluation.significance import (
    LEVEL,
    RESAMPLES,
    SMALL,
    bootstrap_groups,
    bootstrap_t_interval,
    bootstrap_weights,
    holm,
    min_detectable_effect,
    percentile_interval,
    sign_flip_p,
    standard_error,
    t_interval,
    welch_degrees,
    welch_p,
)
from rayrec.numerics.types import Float64s, Int64s

COVERAGE = f"coverage@{COVERAGE_AT}"
ALL_USERS = ""  # the segment of all users
_COVERAGE_COST = 1_000_000_000  # max (group, item) pairs over all resamples
_COVERAGE_RESAMPLES = 1_000

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
        pa.field(
            "min_detectable_effect", pa.float64()
        ),  # with 80% power at this number of users and the family's level
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
    family: int | None = None,
) -> pa.Table:
    """Compute COMPARISON rows of systems whose `rows` index the same users.

    For each name in `baselines`, also the differences of every other system from it. `metrics`: only these, without
    coverage. `family`: the number of differences that are judged together; by default all systems but the baseline.
    Systems without users have no rows.
    """
    systems = [system for system in systems if len(system)]
    if not systems:
        return COMPARISON.empty_table()
    users = 1 + max(int(system.rows.max()) for system in systems)
    drawn = _Resampled(bootstrap_groups(users, seed), seed, resamples)
    chosen = list(metrics if metrics is not None else systems[0].values)
    rows: list[Row] = []
    covered: dict[str, Float64s] = {}
    for system in systems:
        rows += _values(system, chosen, drawn, segment)
        if metrics is None:
            covered[system.system] = _coverage_resamples(system, drawn)
            interval = percentile_interval(covered[system.system])
            rows.append(_row(system.system, None, COVERAGE, segment, len(system), system.coverage(), interval))
    named = {system.system: system for system in systems}
    level = LEVEL / max(family if family is not None else len(systems) - 1, 1)
    for base in (named[name] for name in baselines if name in named):
        others = [system for system in systems if system is not base]
        differences = [_difference(system, base, chosen, drawn, segment, level) for system in others]
        rows += holm_adjusted([row for of_one in differences for row in of_one])
        if metrics is None:
            rows += [_coverage_difference(system, base, covered, segment, level) for system in others]
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
            if len(known) < SMALL:
                interval = _within_range(bootstrap_t_interval(known, drawn.seed), known)
            else:
                interval = percentile_interval(resampled[:, m])
            found.append(_row(system.system, None, metric, segment, len(known), float(known.mean()), interval))
    return found


def _difference(
    system: UserMetrics, base: UserMetrics, metrics: Sequence[str], drawn: _Resampled, segment: str, level: float
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
        pair = _Pair(a, b, paired, ours[:, m], base_means[:, m], level)
        row = _row(system.system, base.system, metric, segment, pair.users, pair.value, pair.interval())
        effect = min_detectable_effect(pair.error, level)
        found.append({**row, **pair.relative(), "p": float(p[m]), "min_detectable_effect": effect})
    return found


@dataclass(frozen=True)
class _Pair:
    """The values of two systems on one metric, [users] each without NaN, and their resampled means."""

    one: Float64s
    other: Float64s
    paired: bool  # the same users in both
    ours: Float64s  # [resamples]
    theirs: Float64s
    level: float

    @property
    def users(self) -> int:
        return len(self.one) if self.paired else len(self.one) + len(self.other)

    @property
    def value(self) -> float:
        return float(self.one.mean() - self.other.mean())

    @property
    def error(self) -> float:
        return self._error_of(self.one, self.other)

    def interval(self) -> tuple[float, float]:
        if self._few:
            return t_interval(self.value, self.error, self._degrees, self.level)
        return percentile_interval(self.ours - self.theirs, self.level)

    def relative(self) -> Row:
        """The difference as a share of the other's mean, where it is above 0; few users: the delta method on logs."""
        mine, base = float(self.one.mean()), float(self.other.mean())
        if base <= 0 or (not self._few and np.nanmin(self.theirs) <= 0):
            return {}
        if not self._few:
            low, high = percentile_interval(self.ours / self.theirs - 1, self.level)
        elif mine > 0:
            error = self._error_of(self.one / mine, self.other / base)
            low, high = np.expm1(t_interval(float(np.log(mine / base)), error, self._degrees, self.level))
        else:
            low, high = np.array(self.interval()) / base
        return {"relative": self.value / base, "relative_low": float(low), "relative_high": float(high)}

    @property
    def _few(self) -> bool:
        return min(len(self.one), len(self.other)) < SMALL

    @property
    def _degrees(self) -> float:
        return len(self.one) - 1.0 if self.paired else welch_degrees(self.one, self.other)

    def _error_of(self, one: Float64s, other: Float64s) -> float:
        if self.paired:
            return standard_error(one - other)
        return float(np.hypot(standard_error(one), standard_error(other)))


def _within_range(interval: tuple[float, float], values: Float64s) -> tuple[float, float]:
    """Keep the interval of values that are shares in [0, 1], or at least 0, in that range."""
    low = max(interval[0], 0.0) if values.min() >= 0 else interval[0]
    high = min(interval[1], 1.0) if values.max() <= 1 and values.min() >= 0 else interval[1]
    return low, high


def _coverage_resamples(system: UserMetrics, drawn: _Resampled) -> Float64s:
    """Coverage in every resample, corrected for its bias, [some resamples]."""
    user, place = np.nonzero(system.top >= 0)
    item, group = system.top[user, place], drawn.group[system.rows[user]]
    shown = sp.csr_matrix((np.ones(len(item), np.float32), (item, group)), (system.items, drawn.groups))
    shown.sum_duplicates()
    resamples = int(np.clip(_COVERAGE_COST // max(shown.nnz, 1), 100, min(drawn.resamples, _COVERAGE_RESAMPLES)))
    weights = bootstrap_weights(drawn.groups, drawn.seed, resamples)
    covered = np.concatenate([((shown @ w.T.astype(np.float32)) > 0).mean(axis=0) for w in weights])
    return np.asarray(np.clip(covered - covered.mean() + system.coverage(), 0, 1), np.float64)


def _coverage_difference(
    system: UserMetrics, base: UserMetrics, covered: dict[str, Float64s], segment: str, level: float
) -> Row:
    """Without a test: coverage is not a mean over users."""
    ours, theirs = (covered[one.system][: min(map(len, covered.values()))] for one in (system, base))
    value, users = system.coverage() - base.coverage(), min(len(system), len(base))
    row = _row(system.system, base.system, COVERAGE, segment, users, value, percentile_interval(ours - theirs, level))
    if theirs.min() > 0:
        low, high = percentile_interval(ours / theirs - 1, level)
        row |= {"relative": value / base.coverage(), "relative_low": low, "relative_high": high}
    return row


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
