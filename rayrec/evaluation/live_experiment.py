"""Live experiment: the arms compared on the logged rewards of the users who saw them.

Each user who saw one arm counts once: all rewards of the user's slates are summed, so ranks and slates of one user are
never taken for independent. Users who saw several arms are left out, and counted. `reward_per_impression` is a ratio of
two sums over users; its values are linearised (the delta method; Deng, Knoblich & Lu 2018), so that means and tests of
the linearised values are those of the ratio. `reward_cuped` is the reward per user adjusted for past activity.

jobs.evaluate may run every day on the same experiment. An interval of a fixed sample is then too narrow: looking often
finds something. The always-valid interval holds at all looks together (`always_valid_interval`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.evaluation.ab_decision import Decision, decide
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.cuped import adjust
from rayrec.evaluation.metrics import COVERAGE_AT, UserMetrics
from rayrec.evaluation.significance import LEVEL, RESAMPLES, always_valid_interval
from rayrec.experiments.sample_ratio import sample_ratio_p
from rayrec.numerics.types import Float64s, Int64s

REWARD, CUPED, PER_IMPRESSION = "reward", "reward_cuped", "reward_per_impression"


@dataclass(frozen=True)
class AlwaysValid:
    """The difference of one arm from the baseline in CUPED, with an interval that holds at every look."""

    arm: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class LiveExperiment:
    """`comparison`: COMPARISON rows of the arms on the three metrics."""

    comparison: pa.Table
    decision: Decision
    always_valid: tuple[AlwaysValid, ...]
    users: int
    left_out: int  # users who saw several arms

    def to_dict(self) -> dict[str, Any]:
        """JSON content."""
        return {
            "users": self.users,
            "users_who_saw_several_arms": self.left_out,
            "decision": asdict(self.decision),
            "always_valid": [asdict(row) for row in self.always_valid],
            "differences": [row for row in self.comparison.to_pylist() if row["baseline"] is not None],
        }

    @property
    def sentences(self) -> list[str]:
        """What the experiment says, as text."""
        counted = f"Live experiment on the rewards of {self.users:,} users who saw one arm"
        counted += f" ({self.left_out:,} saw several and are left out)." if self.left_out else "."
        valid = [
            f"{row.arm}: {row.difference:+.4f} reward per user, always-valid {1 - LEVEL:.0%} interval "
            f"{row.low:+.4f} … {row.high:+.4f}; it may be looked at every day."
            for row in self.always_valid
        ]
        return [counted, self.decision.recommendation, *(c.sentence for c in self.decision.conclusions), *valid]


def live_experiment(
    exposed: pa.Table,
    activity: Mapping[str, Sequence[float]],
    shares: Mapping[str, float],
    baseline: str,
    seed: int,
    resamples: int = RESAMPLES,
) -> LiveExperiment | None:
    """Compare the arms on feedback rows `exposed` (user_id, arm, reward); None unless two arms have users of their own.

    `activity`: covariates of each user before the date; users without them have zeros. `shares`: of the arms in the
    split, empty where every user has a slate of every arm: then no sample ratio is expected.
    """
    users, arm, names, left_out = _users(exposed)
    if len(users) < 4 or len(names) < 2 or baseline not in names:
        return None
    reward, shown = _sums(exposed, users)
    covariates = _covariates(users, activity)
    values = {CUPED: adjust(reward, arm, covariates), REWARD: reward, PER_IMPRESSION: _linearised(reward, shown, arm)}
    systems = [_metrics(name, values, np.flatnonzero(arm == code)) for code, name in enumerate(names)]
    comparison = compare(systems, seed=seed, baselines=[baseline], metrics=list(values), resamples=resamples)
    p = sample_ratio_p([len(one) for one in systems], [shares[name] for name in names]) if shares else 1.0
    decision = decide(comparison, baseline, [name for name in names if name != baseline], CUPED, p)
    if decision is None:
        return None
    level = LEVEL / (len(names) - 1)
    base = next(system for system in systems if system.system == baseline)
    valid = [_always_valid(one, base, level) for one in systems if one is not base]
    return LiveExperiment(comparison, decision, tuple(valid), len(users), left_out)


def _users(exposed: pa.Table) -> tuple[pa.Array, Int64s, list[str], int]:
    """Users of one arm, sorted; the code of their arm; the arms' names; and how many users saw several arms."""
    pairs = exposed.select(["user_id", "arm"]).group_by(["user_id", "arm"]).aggregate([])
    arms = pairs.group_by("user_id").aggregate([("arm", "count"), ("arm", "min")]).sort_by("user_id")
    one = pc.equal(arms["arm_count"], 1)
    kept = arms.filter(one).combine_chunks()
    encoded = kept["arm_min"].combine_chunks().dictionary_encode()
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    return kept["user_id"].combine_chunks(), encoded.indices.to_numpy().astype(np.int64), names, len(arms) - len(kept)


def _sums(exposed: pa.Table, users: pa.Array) -> tuple[Float64s, Float64s]:
    """Sum of the rewards and number of items shown of each user, [users]."""
    row = pc.index_in(exposed["user_id"], users).combine_chunks()
    known = row.is_valid().to_numpy(zero_copy_only=False)
    of = row.drop_null().to_numpy()
    reward = exposed["reward"].to_numpy().astype(np.float64)[known]
    total, shown = (np.bincount(of, weight, minlength=len(users)) for weight in (reward, np.ones(len(reward))))
    return np.asarray(total, np.float64), np.asarray(shown, np.float64)


def _covariates(users: pa.Array, activity: Mapping[str, Sequence[float]]) -> Float64s:
    width = max((len(row) for row in activity.values()), default=1)
    nothing = (0.0,) * width
    return np.array([activity.get(user, nothing) for user in users.to_pylist()], np.float64)


def _linearised(reward: Float64s, shown: Float64s, arm: Int64s) -> Float64s:
    """Values whose mean over an arm is its sum of rewards over its impressions, and whose variance is the ratio's."""
    result = np.empty_like(reward)
    for code in np.unique(arm):
        mine = arm == code
        ratio = reward[mine].sum() / shown[mine].sum()
        result[mine] = ratio + (reward[mine] - ratio * shown[mine]) / shown[mine].mean()
    return result


def _metrics(name: str, values: Mapping[str, Float64s], rows: Int64s) -> UserMetrics:
    top = np.full((len(rows), COVERAGE_AT), -1, np.int32)
    return UserMetrics(name, {metric: column[rows] for metric, column in values.items()}, top, 0, rows)


def _always_valid(one: UserMetrics, base: UserMetrics, level: float) -> AlwaysValid:
    difference, low, high = always_valid_interval(one.values[CUPED], base.values[CUPED], level)
    return AlwaysValid(one.system, difference, low, high)
