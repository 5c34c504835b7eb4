"""Effect of an arm by day since the start of an experiment, with a test for a trend (novelty wearing off, learning).

A user is observed on several days. The trend is the weighted sum of the days' differences with weights (day - mean) /
sum (day - mean)^2: the slope of a straight line through them. Its variance adds up each user's influence over all days,
so that days of one user are never taken for independent (cluster-robust; Liang & Zeger 1986).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from rayrec.evaluation.significance import t_interval, welch_degrees
from rayrec.numerics.types import Float64s, Int64s

MIN_DAYS = 3  # of a trend
_MIN_USERS = 30  # of an arm on a day


@dataclass(frozen=True)
class Observations:
    """Values of one arm, [n]: user codes, days since the start."""

    user: Int64s
    day: Int64s
    value: Float64s

    def on(self, day: int) -> Observations:
        mine = self.day == day
        return Observations(self.user[mine], self.day[mine], self.value[mine])


@dataclass(frozen=True)
class DayEffect:
    """An arm minus the baseline on one day, with its 95% interval."""

    day: int
    users: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Trend:
    """Change of the difference a day, with its 95% interval and the p value of no change."""

    slope: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class EffectByDay:
    arm: str
    days: tuple[DayEffect, ...]
    trend: Trend | None  # None for fewer than MIN_DAYS days

    @property
    def sentence(self) -> str:
        """What the trend says, as text."""
        if self.trend is None:
            return f"{self.arm}: {len(self.days)} days with enough users are too few for a trend of the effect."
        change = "changes" if self.trend.p < 0.05 else "is not found to change"
        ends = f"{self.trend.slope:+.4f} a day ({self.trend.low:+.4f} … {self.trend.high:+.4f}), p = {self.trend.p:.3f}"
        return f"{self.arm}: the effect {change} over {self.days[-1].day - self.days[0].day + 1} days: {ends}."


def effect_by_day(arm: str, one: Observations, other: Observations, paired: bool) -> EffectByDay:
    """`one` minus `other`, the baseline. `paired`: both have the same users on each day, and are subtracted by user.

    A user has at most one value a day. Days with fewer than 30 users in an arm are left out.
    """
    days, effects = np.intersect1d(one.day, other.day), []
    groups: list[tuple[Observations, float]] = [(one, 1.0), (other, -1.0)]
    if paired:
        groups = [(_subtracted(one, other), 1.0)]
    for day in days.tolist():
        today = [(each.on(day), sign) for each, sign in groups]
        if min(len(each.value) for each, _ in today) < _MIN_USERS:
            continue
        value = sum(sign * float(each.value.mean()) for each, sign in today)
        error = float(np.sqrt(sum(each.value.var(ddof=1) / len(each.value) for each, _ in today)))
        values = [each.value for each, _ in today]
        degrees = welch_degrees(*values) if len(values) == 2 else len(values[0]) - 1.0
        low, high = t_interval(value, error, degrees)
        effects.append(DayEffect(int(day), sum(len(v) for v in values), value, low, high))
    return EffectByDay(arm, tuple(effects), _trend([effect.day for effect in effects], groups))


def _trend(days: list[int], groups: list[tuple[Observations, float]]) -> Trend | None:
    if len(days) < MIN_DAYS:
        return None
    centred = np.array(days) - np.mean(days)
    weights = centred / (centred**2).sum()
    slope, variance, users = 0.0, 0.0, 0
    for each, sign in groups:
        codes = np.unique(each.user)
        influence = np.zeros(len(codes))
        for day, weight in zip(days, weights.tolist(), strict=True):
            today = each.on(day)
            mean = float(today.value.mean())
            slope += sign * weight * mean
            np.add.at(influence, np.searchsorted(codes, today.user), weight * (today.value - mean) / len(today.value))
        variance += float((influence**2).sum()) * len(codes) / max(len(codes) - 1, 1)
        users += len(codes)
    error, degrees = float(np.sqrt(variance)), float(users - len(groups))
    low, high = t_interval(slope, error, degrees)
    p = 1.0 if error <= 0 else float(2 * stats.t.sf(abs(slope) / error, max(degrees, 1.0)))
    return Trend(slope, low, high, p)


def _subtracted(one: Observations, other: Observations) -> Observations:
    """Differences of the (user, day) pairs that both have."""
    keys, base = ((each.user.astype(np.int64) << 32) | each.day.astype(np.int64) for each in (one, other))
    _, mine, theirs = np.intersect1d(keys, base, assume_unique=True, return_indices=True)
    return Observations(one.user[mine], one.day[mine], one.value[mine] - other.value[theirs])
