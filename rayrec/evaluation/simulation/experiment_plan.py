"""Plan of an experiment: how many users, how many days, and which estimator find an effect, by simulation.

Two arms of one house are simulated, the second better by the effect. Each design's standard error comes from the same
code that judges real feedback. The designs:

    split            users divided among the arms; reward per user, adjusted for past activity
    split, any time  the same, looked at every day with an always-valid interval
    off-policy: NAME the baseline alone is shown, and its feedback estimates the other arm

Off-policy estimates are of a first showing: carry-over makes those of several days a little wrong, and their stated
difference is the effect itself. At most SIMULATED_USERS are simulated; standard errors are scaled to the number of
users. Off-policy errors of several days follow from those of one and of SHOWINGS days: a variance between users, and
one between the showings of a user.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from rayrec.errors import DataError
from rayrec.evaluation.cuped import adjust
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.significance import LEVEL, POWER, always_valid_factor, standard_error
from rayrec.evaluation.simulation.simulated_arms import SimulatedArm, error_for
from rayrec.evaluation.simulation.simulated_users import Behaviour, World
from rayrec.numerics.types import Float64s, Int64s
from rayrec.slates.exploration_floor import ExplorationFloor
from rayrec.slates.policies import POLICIES, SlatePolicy

SIMULATED_USERS, SHOWINGS, REPETITIONS = 2_000, 3, 10
_ERROR, _SHARED, _PAST_DAYS = 1.5, 0.95, 7
_BOUNDS = "trimmed_rips"  # gives bounds, which no number of users narrows
_CALIBRATION_USERS = 4_000


@dataclass(frozen=True)
class PlannedExperiment:
    """What is planned."""

    users: int  # of the whole experiment, each shown one slate a day
    effect: float  # relative gain of the better arm in reward per slate
    arms: int = 1  # beside the baseline
    days: tuple[int, ...] = (1, 3, 7, 14, 28)
    ranks: int = 10
    items: int = 50  # candidates of a user
    clicks: float = 0.3  # mean reward of a slate of the baseline
    temperature: float = 0.5  # of the Plackett-Luce policy of all arms
    missing: int = 0  # items that the baseline lacks
    exploration_floor: float = 0.0  # of the baseline
    behaviour: Behaviour = field(default_factory=Behaviour)
    seed: int = 0


@dataclass(frozen=True)
class PlanRow:
    """One design after some days. Shares are of the baseline's reward."""

    design: str
    days: int  # 0: any, where there is no estimate
    reward: float = np.nan  # of the baseline a user, as far as it has arrived
    difference: float = np.nan  # relative, as far as it has arrived
    detectable: float = np.nan  # relative, with 80% power
    power: float = np.nan  # at the difference
    users_needed: float = np.nan  # for 80% power
    refused: str = ""  # why there is no estimate


def plan(experiment: PlannedExperiment) -> list[PlanRow]:
    """Rows by design and days; a design without an estimate has one row. Raises DataError for an effect that no ranker
    reaches."""
    experiment = replace(experiment, behaviour=calibrated(experiment))
    baseline = _arm(experiment, _world(experiment, 0, _CALIBRATION_USERS), 0, _ERROR)
    try:
        error = error_for(baseline, _ERROR, experiment.effect, 0)
    except ValueError:
        what = f"no simulated ranker is better by {experiment.effect:.1%}"
        raise DataError(what, where="--effect", hint="give a smaller effect, or more --items") from None
    return [*_split_rows(experiment, error), *_off_policy_rows(experiment, error)]


def shortest(rows: list[PlanRow]) -> str:
    """The design that needs the fewest days for 80% power, as a sentence."""
    enough = [row for row in rows if not row.refused and row.power >= POWER]
    if enough:
        best = min(enough, key=lambda row: (row.days, row.users_needed))
        days = "1 day" if best.days == 1 else f"{best.days} days"
        return f"Shortest with at least {POWER:.0%} power: {best.design}, {days}, {best.power:.0%} power."
    known = [row for row in rows if not row.refused and np.isfinite(row.users_needed)]
    if not known:
        return "No design gives an estimate."
    best = min(known, key=lambda row: row.users_needed)
    needs = f"{best.design} for {best.days} days, {best.users_needed:,.0f}"
    return f"No design has {POWER:.0%} power; the one that needs the fewest users: {needs}."


def calibrated(experiment: PlannedExperiment) -> Behaviour:
    """The behaviour with the appeal at which the baseline's slates have `clicks` clicks, by bisection."""

    def clicks(appeal: float) -> float:
        changed = replace(experiment, behaviour=replace(experiment.behaviour, appeal=appeal))
        arm = _arm(changed, _world(changed, 0, _CALIBRATION_USERS // 4), 0, _ERROR)
        return float(arm.world.value(arm.slates(0).items).mean())

    low, high = -12.0, 6.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if clicks(middle) < experiment.clicks else (low, middle)
    return replace(experiment.behaviour, appeal=(low + high) / 2)


def _world(experiment: PlannedExperiment, population: int, users: int) -> World:
    return World.make(
        experiment.seed, users=users, items=experiment.items, population=population, behaviour=experiment.behaviour
    )


def _arm(experiment: PlannedExperiment, world: World, number: int, error: float) -> SimulatedArm:
    """The baseline (0) or the better arm (1)."""
    policy: SlatePolicy = POLICIES["plackett_luce"](
        POLICIES.settings("plackett_luce", {"temperature": experiment.temperature})
    )
    candidates = np.arange(experiment.items)
    if not number:
        candidates = candidates[experiment.missing :]
        if experiment.exploration_floor:
            policy = ExplorationFloor(policy, experiment.exploration_floor)
    scores = world.scores(error, experiment.seed, own=number + 1, shared=_SHARED)
    return SimulatedArm("ab"[number], world, scores, policy, candidates, experiment.ranks)


def _split_rows(experiment: PlannedExperiment, error: float) -> Iterator[PlanRow]:
    each = max(2, experiment.users // (experiment.arms + 1))
    simulated = min(each, SIMULATED_USERS)
    measured: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    arm = np.repeat([0, 1], simulated)
    for repetition in range(REPETITIONS):
        one, other = (
            _rewards(experiment, number, of_arm, repetition, simulated)  # the same users: less noise in the difference
            for number, of_arm in ((0, _ERROR), (1, error))
        )
        activity = np.concatenate([one.activity, other.activity])
        for days in experiment.days:
            adjusted = adjust(np.concatenate([one.known[days], other.known[days]]), arm, activity)
            found = math.hypot(*(standard_error(adjusted[arm == code]) for code in (0, 1)))
            measured[days].append((one.known[days].mean(), other.known[days].mean(), found))
    any_time = always_valid_factor(2 * each, LEVEL / experiment.arms)
    for days, rows in measured.items():
        base, better, found = (float(np.mean(column)) for column in zip(*rows, strict=True))
        scaled = found * np.sqrt(simulated / each)
        yield _row(experiment, "split", days, base, better - base, scaled)
        yield _row(experiment, "split, any time", days, base, better - base, scaled, any_time)


@dataclass(frozen=True)
class _Rewards:
    known: dict[int, Float64s]  # by days: what is known of each user's reward then, [users]
    activity: Float64s  # [users, 2], of before


def _rewards(experiment: PlannedExperiment, number: int, error: float, population: int, users: int) -> _Rewards:
    world = _world(experiment, 1 + population, users)
    past = _arm(experiment, world, 0, _ERROR).slates(population).items
    arm, before = _arm(experiment, world, number, error), past
    activity = np.zeros(users)
    for day in range(_PAST_DAYS):
        activity += world.clicks(past, 1_000 * population + 500 + day).sum(axis=1)
    known = {days: np.zeros(users) for days in experiment.days}
    for day in range(max(experiment.days)):
        seed = 1_000 * population + day
        items = arm.slates(seed).items
        clicks, arrival = world.clicks(items, seed, before), world.arrival(day, items.shape, seed)
        for days in experiment.days:
            if day < days:
                known[days] += (clicks * (arrival < days)).sum(axis=1)
        before = items
    return _Rewards(known, np.stack([activity, np.log1p(activity)], axis=1))


def _off_policy_rows(experiment: PlannedExperiment, error: float) -> Iterator[PlanRow]:
    users = min(experiment.users, SIMULATED_USERS)
    found: dict[str, dict[int, list[_Estimate]]] = defaultdict(lambda: {1: [], SHOWINGS: []})
    for repetition in range(max(REPETITIONS // 2, 1)):
        world = _world(experiment, 100 + repetition, users)
        logging, target = (_arm(experiment, world, number, e) for number, e in ((0, _ERROR), (1, error)))
        for showings in (1, SHOWINGS):
            for row in _estimates(logging, target, showings, 1_000 * repetition):
                found[row.estimator][showings].append(row)
    for name, by_showings in found.items():
        design, rows = f"off-policy: {name}", [*by_showings[1], *by_showings[SHOWINGS]]
        reasons = [row.refused for row in rows if row.refused]
        known = {showings: [row for row in each if not row.refused] for showings, each in by_showings.items()}
        if len(reasons) > len(rows) // 2 or not all(known.values()):
            yield PlanRow(design, 0, refused=reasons[0])
            continue
        one, several = (float(np.mean([row.error**2 for row in known[showings]])) for showings in (1, SHOWINGS))
        within = max(one - several, 0.0) * SHOWINGS / (SHOWINGS - 1)
        between = max(one - within, 0.0)
        base = float(np.mean([row.own for row in known[1]]))
        for days in experiment.days:
            scaled = np.sqrt((between + within / days) * users / experiment.users)
            yield _row(experiment, design, days, base, experiment.effect * base, scaled)


@dataclass(frozen=True)
class _Estimate:
    estimator: str
    refused: str
    own: float = np.nan  # the logging arm's value
    error: float = np.nan  # of the difference from it


def _estimates(logging: SimulatedArm, target: SimulatedArm, showings: int, seed: int) -> Iterator[_Estimate]:
    """Estimates of the target from some showings of the logging arm to every user."""
    matched, counterfactuals = [], []
    before: Int64s | None = None
    for day in range(showings):
        slates, prefix = logging.slates(seed + day), f"{day}-"
        clicks = logging.world.clicks(slates.items, seed + day, before)
        matched.append(_renamed(slates.matched(clicks), prefix))
        counterfactuals.append(_renamed(slates.counterfactuals(target, seed + day, draws=logging.size <= 10), prefix))
        before = slates.items
    table = estimate_arms(pa.concat_tables(matched), pa.concat_tables(counterfactuals), logging.size).to_pylist()
    own = next(row["value"] for row in table if row["estimator"] == "on_policy")
    for row in table:
        if row["target_arm"] != target.name or row["estimator"] == _BOUNDS:
            continue
        if row["no_estimate_reason"]:
            yield _Estimate(row["estimator"], row["no_estimate_reason"])
        else:
            half = (row["difference_high"] - row["difference_low"]) / 2
            error = half / stats.norm.ppf(1 - LEVEL / 2)
            yield _Estimate(row["estimator"], "", own, float(error))


def _renamed(table: pa.Table, prefix: str) -> pa.Table:
    """The rows with other slate ids."""
    ids = pc.binary_join_element_wise(prefix, table["slate_id"], "")
    return table.set_column(0, table.schema.field(0), ids)


def _row(
    experiment: PlannedExperiment,
    design: str,
    days: int,
    base: float,
    difference: float,
    error: float,
    bound: float | None = None,
) -> PlanRow:
    """`error`: the standard error of the difference with all users; `bound`: of the test, in standard errors."""
    bound = float(stats.norm.ppf(1 - LEVEL / experiment.arms / 2)) if bound is None else bound
    reach = (bound + float(stats.norm.ppf(POWER))) * error
    shift = abs(difference) / error if error > 0 else 0.0
    power = float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))
    needed = experiment.users * (reach / abs(difference)) ** 2 if difference else np.inf
    share = base if base > 0 else np.nan
    return PlanRow(design, days, base, difference / share, reach / share, power, float(needed))
