"""Several published dates judged together: each user counts once, with the mean over his dates.

Days of one user are not independent, and horizons of near dates overlap. So users are the unit of every test: their
values are averaged over their dates first, and all intervals and tests are over users. Users who had several arms are
left out, and counted. In a split the outcomes are adjusted for what the user did before the first of his dates.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date as Date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Config
from rayrec.errors import DataError
from rayrec.evaluation.ab_decision import Decision, decide
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.cuped import adjust
from rayrec.evaluation.effect_by_day import EffectByDay, Observations, effect_by_day
from rayrec.evaluation.evaluation_job import positive_interactions
from rayrec.evaluation.intent_metrics import INTENT_METRICS
from rayrec.evaluation.metrics import ADJUSTED, COVERAGE_AT, METRICS, OUTCOMES, UserMetrics
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.session_metrics import NUM, normalized_u_measure
from rayrec.evaluation.slate_evaluation import (
    PRIMARY_METRIC,
    SPLIT_METRIC,
    MeasuredDate,
    measure_date,
    resolve_baseline,
)
from rayrec.experiments.sample_ratio import sample_ratio_p
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.types import Float64s, Int64s


@dataclass(frozen=True)
class PooledEvaluation:
    """The arms over several dates. `comparison`: COMPARISON rows of users' means."""

    dates: tuple[Date, ...]
    horizon_days: int
    baseline: str
    metric: str
    comparison: pa.Table
    decision: Decision | None
    by_day: tuple[EffectByDay, ...]
    users: int
    observations: int  # (user, date) pairs
    left_out: int  # users of several arms

    @property
    def description(self) -> str:
        counted = f"{self.users:,} users on {len(self.dates)} dates from {self.dates[0]} to {self.dates[-1]}"
        out = f"; {self.left_out:,} users had several arms and are left out" if self.left_out else ""
        return f"{counted}, {self.observations:,} users' dates; each user counts once{out}."

    def to_json(self) -> bytes:
        """metrics.json of the pooled dates."""
        content = {
            "dates": [day.isoformat() for day in self.dates],
            "horizon_days": self.horizon_days,
            "baseline": self.baseline,
            "decision_metric": self.metric,
            "users": self.users,
            "observations": self.observations,
            "users_of_several_arms": self.left_out,
            "decision": None if self.decision is None else dataclasses.asdict(self.decision),
            "comparison": self.comparison.to_pylist(),
            "effect_by_day": [dataclasses.asdict(arm) for arm in self.by_day],
        }
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def pool_dates(
    config: Config, dates: Sequence[Date], horizon_days: int, baseline: str | None = None
) -> PooledEvaluation:
    """Judge published dates together, on the `horizon_days` after each. Raises DataError without a date, or where the
    dates do not have the same arms."""
    if not dates:
        raise DataError(
            "no date of the period is published", where="--from, --to", hint="publish dates with jobs.daily"
        )
    measured = [_measured(config, day, horizon_days) for day in dates]
    first = measured[0].published
    for day, one in zip(dates, measured, strict=True):
        if (one.published.manifest.arms, one.published.shares_users) != (first.manifest.arms, first.shares_users):
            what = f"{day} has other arms than {dates[0]}, or another assignment"
            raise DataError(what, where="--from, --to", hint="choose a period in which the arms stay the same")
    return _pooled(tuple(dates), measured, horizon_days, resolve_baseline(first.manifest.arms, baseline))


def _measured(config: Config, day: Date, horizon_days: int) -> MeasuredDate:
    relevant = positive_interactions(config, outcomes(config, day, horizon_days))
    return measure_date(config.output.root, day, relevant, min_events=max(1, config.data.min_events))


def _pooled(
    dates: tuple[Date, ...], measured: list[MeasuredDate], horizon_days: int, baseline: str
) -> PooledEvaluation:
    users = pc.unique(pa.concat_arrays([one.relevant.user_id for one in measured])).sort()
    code = [pc.index_in(one.relevant.user_id, users).to_numpy().astype(np.int64) for one in measured]
    shared = measured[0].published.shares_users
    names = (*(() if shared else OUTCOMES), *METRICS, *INTENT_METRICS)
    observed = {arm: _observations(arm, measured, code, dates, names) for arm in measured[0].published.manifest.arms}
    several = np.zeros(len(users), np.bool_)
    if not shared:
        arms_of = sum(np.bincount(np.unique(each.user), minlength=len(users)) for each in observed.values())
        several = np.asarray(arms_of) > 1
        observed = {arm: each.without(several) for arm, each in observed.items()}
    systems = _with_num([each.means(arm) for arm, each in observed.items()], measured, code, dates)
    p, metric, plain = 1.0, PRIMARY_METRIC, PRIMARY_METRIC
    if not shared:
        systems, metric, plain = _adjusted(systems, measured, code), SPLIT_METRIC, ADJUSTED[SPLIT_METRIC]
        settings = measured[0].published.arm_settings
        p = sample_ratio_p([len(one) for one in systems], [settings[arm].get("share", 1.0) for arm in observed])
    seed = derive_seed("pooled", *dates)
    comparison = compare(systems, seed=seed, baselines=[baseline], metrics=list(systems[0].values))
    decision = decide(comparison, baseline, list(observed), metric, p)
    base = observed[baseline].on_metric(plain)
    by_day = [effect_by_day(arm, o.on_metric(plain), base, shared) for arm, o in observed.items() if arm != baseline]
    pairs = {(u, d) for each in observed.values() for u, d in zip(each.user.tolist(), each.day.tolist(), strict=True)}
    counted = int((~several).sum())
    out = int(several.sum())
    return PooledEvaluation(
        dates, horizon_days, baseline, metric, comparison, decision, tuple(by_day), counted, len(pairs), out
    )


def _with_num(
    systems: list[UserMetrics], measured: list[MeasuredDate], code: list[Int64s], dates: tuple[Date, ...]
) -> list[UserMetrics]:
    """Add NUM over each user's slates: his dates are the session."""
    items = pc.unique(pa.concat_arrays([one.relevant.item_id for one in measured]))
    place = [pc.index_in(one.relevant.item_id, items).to_numpy().astype(np.int64) for one in measured]
    wanted = [one.relevant.matrix.tocoo() for one in measured]
    relevant_user = np.concatenate([codes[pairs.row] for codes, pairs in zip(code, wanted, strict=True)])
    relevant_item = np.concatenate([of[pairs.col] for of, pairs in zip(place, wanted, strict=True)])
    users, result = 1 + max(int(codes.max(initial=-1)) for codes in code), []
    for system in systems:
        user, when, top = [], [], []
        for one, codes, of, date in zip(measured, code, place, dates, strict=True):
            arm = next(each for each in one.arms if each.system == system.system)
            user.append(codes[arm.rows])
            when.append(np.full(len(arm), (date - dates[0]).days))
            top.append(np.where(arm.top >= 0, of[arm.top], -1))
        slates = (np.concatenate(user), np.concatenate(when), np.concatenate(top))
        values = normalized_u_measure(*slates, relevant_user, relevant_item, users)
        result.append(replace(system, values=system.values | {NUM: values[system.rows]}))
    return result


@dataclass(frozen=True)
class _Observed:
    """Values of one arm by user and date."""

    user: Int64s  # [n]
    day: Int64s  # since the first date
    values: dict[str, Float64s]

    def without(self, users: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> _Observed:
        kept = ~users[self.user]
        return _Observed(self.user[kept], self.day[kept], {name: v[kept] for name, v in self.values.items()})

    def on_metric(self, metric: str) -> Observations:
        known = ~np.isnan(self.values[metric])
        return Observations(self.user[known], self.day[known], self.values[metric][known])

    def means(self, arm: str) -> UserMetrics:
        """Each user's mean over his dates; NaN where no date has a value."""
        users, row = np.unique(self.user, return_inverse=True)
        values = {}
        for name, value in self.values.items():
            known = ~np.isnan(value)
            many = np.bincount(row[known], minlength=len(users)).astype(np.float64)
            total = np.bincount(row[known], value[known], minlength=len(users))
            values[name] = np.divide(total, many, out=np.full(len(users), np.nan), where=many > 0)
        return UserMetrics(arm, values, np.full((len(users), COVERAGE_AT), -1, np.int32), 0, users)


def _observations(
    arm: str, measured: list[MeasuredDate], code: list[Int64s], dates: tuple[Date, ...], names: Sequence[str]
) -> _Observed:
    user, day, values = [], [], []
    for one, codes, date in zip(measured, code, dates, strict=True):
        metrics = next(each for each in one.arms if each.system == arm)
        user.append(codes[metrics.rows])
        day.append(np.full(len(metrics), (date - dates[0]).days))
        values.append(metrics.matrix(names))
    columns = np.concatenate(values)
    return _Observed(np.concatenate(user), np.concatenate(day), dict(zip(names, columns.T, strict=True)))


def _adjusted(systems: list[UserMetrics], measured: list[MeasuredDate], code: list[Int64s]) -> list[UserMetrics]:
    """Add the outcomes adjusted for the activity before each user's first date."""
    width = measured[0].features.activity.shape[1]
    activity = np.zeros((max(int(c.max(initial=0)) for c in code) + 1, width))
    for one, codes in zip(reversed(measured), reversed(code), strict=True):
        activity[codes] = one.features.activity
    arm = np.repeat(np.arange(len(systems)), [len(one) for one in systems])
    rows = np.concatenate([one.rows for one in systems])
    for adjusted, outcome in reversed(ADJUSTED.items()):
        found = adjust(np.concatenate([one.values[outcome] for one in systems]), arm, activity[rows])
        parts = [found[arm == place] for place in range(len(systems))]
        systems = [replace(one, values={adjusted: own} | one.values) for one, own in zip(systems, parts, strict=True)]
    return systems
