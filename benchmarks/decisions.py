"""Measures how often decisions are right, in simulations in which the better arm is known.

python -m benchmarks.decisions --repetitions 1000 --check

Every arm ranks the same 40 items by scores with errors of its own (correlation .9), through Plackett-Luce. At effect 0
all arms are equally good and show different slates, so whatever a test finds is false. Otherwise the first arm is
better by an effect that gives about 80% power, the others are as good as the baseline. Tests:

    outcomes        what users consumed on their own, half of it from a slate of a production arm of the same house;
                    nDCG@10 of all arms for the same users (`assignment: all`)
    outcomes of A   the same where production is the baseline itself: its known advantage
    interleaved     the outcomes, credited by team draft, sign test
    split           users divided among the arms, who consume half from the slate of their arm; conversion, CUPED
    live            clicks on the arm's own slates in 7 days, with delays of a day and carry-over; reward, CUPED
    sequential      the live experiment looked at every day for 14 days, always-valid intervals: found at any look

Stated power: of the detectable effect that the comparison itself states, at the true difference: the mean over all
repetitions of a seed. Bars: false positives
4 to 6% (sequential: at most 5%; outcomes of A: none); with 1, 4 and 8 arms the found power of outcomes and live within
3 points of the stated one; simultaneous intervals of live cover in at least 93%. Off-policy tests: `offpolicy_arms`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from scipy import stats

import rayrec.slates  # noqa: F401  (registers the policies)
from rayrec.evaluation.ab_decision import decide
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.cuped import adjust
from rayrec.evaluation.live_experiment import live_experiment
from rayrec.evaluation.metrics import RelevantItems, UserMetrics, user_metrics
from rayrec.evaluation.off_policy.interleaving import interleaving
from rayrec.evaluation.significance import LEVEL, POWER, always_valid_interval
from rayrec.evaluation.simulation.simulated_arms import SimulatedArm, SimulatedSlates, error_for
from rayrec.evaluation.simulation.simulated_users import Behaviour, World
from rayrec.slates.policies import POLICIES, SlatePolicy

ITEMS, SIZE, CONSUMED, ERROR, SHARED, TEMPERATURE = 40, 10, 5, 1.5, 0.95, 0.5
PAIRED_USERS, SPLIT_USERS = 300, 300  # of all arms together; of each arm
DAYS, LOOKS, PAST_DAYS = 7, 14, 7
EFFECTS = {"outcomes": {1: 0.085, 4: 0.1, 8: 0.107}, "live": {1: 0.097, 4: 0.116, 8: 0.123}}  # of about 80% power
FALSE_BAR, POWER_BAR, COVERAGE_BAR = (0.04, 0.06), 0.03, 0.93
BEHAVIOUR = Behaviour(exposure_bias=0.5, delay_days=1.0, carry_over=0.2)
RARELY = replace(BEHAVIOUR, appeal=-4.5)  # of users who convert in half of the cases


@dataclass(frozen=True)
class Finding:
    """Of one comparison: 1 if the first arm was found better, −1 worse, 0 neither; whether any arm was found different;
    the first arm's difference, the standard error behind the stated detectable effect, the family's level, and all
    arms' simultaneous intervals, the first arm's first."""

    first: int
    any: bool
    difference: float = 0.0
    error: float = np.nan
    level: float = LEVEL
    intervals: tuple[tuple[float, float], ...] = ()

    def stated_power(self, difference: float) -> float:
        """At this true difference of the first arm."""
        z, shift = stats.norm.ppf(1 - self.level / 2), difference / self.error
        return float(stats.norm.sf(z - shift) + stats.norm.cdf(-z - shift))

    def covers(self, difference: float) -> bool:
        """Whether all intervals hold, where the other arms do not differ."""
        truths = ([difference] + [0.0] * len(self.intervals))[: len(self.intervals)]
        return all(low <= truth <= high for (low, high), truth in zip(self.intervals, truths, strict=True))


@cache
def policy() -> SlatePolicy:
    return POLICIES["plackett_luce"](POLICIES.settings("plackett_luce", {"temperature": TEMPERATURE}))


def world_of(seed: int, population: int, users: int, behaviour: Behaviour = BEHAVIOUR) -> World:
    return World.make(seed, users=users, items=ITEMS, population=population, behaviour=behaviour)


def arm_of(world: World, name: str, number: int, effect: float, seed: int, draw: int) -> SimulatedArm:
    """Arm `number` of a house; the first one is better by `effect`."""
    error = error_of(effect, seed) if number == 1 else ERROR
    scores = world.scores(error, draw, own=number + 1, shared=SHARED)
    return SimulatedArm(name, world, scores, policy(), np.arange(ITEMS), SIZE)


@cache
def error_of(effect: float, seed: int) -> float:
    if not effect:
        return ERROR
    world = world_of(seed, 2_000_000, 10_000)
    base = SimulatedArm("base", world, world.scores(ERROR, seed), policy(), np.arange(ITEMS), SIZE)
    return error_for(base, ERROR, effect, seed)


def outcomes(arms: int, effect: float, seed: int, draw: int, shown_by: int = 99) -> tuple[Finding, int]:
    """The finding, and the sign of interleaving's finding."""
    world = world_of(seed, draw, PAIRED_USERS)
    metrics, truth = paired(world, arms, effect, seed, draw, shown_by)
    table = compare(metrics, seed=draw, baselines=["0"], metrics=["ndcg@10"], resamples=2_000)
    finding = _finding(table, arms, "ndcg@10")
    (first, *_) = interleaving(metrics[:2], truth.matrix, "0", draw).to_pylist()
    return finding, int(np.sign(first["wins"] - first["losses"])) if first["p"] < LEVEL else 0


def paired(
    world: World, arms: int, effect: float, seed: int, draw: int, shown_by: int
) -> tuple[list[UserMetrics], RelevantItems]:
    slates = [arm_of(world, str(n), n, effect, seed, draw).slates(10 * draw + n) for n in range(arms + 1)]
    production = slates[0] if not shown_by else arm_of(world, "p", shown_by, 0, seed, draw).slates(10 * draw + 9)
    truth = relevant(world, world.consumed(CONSUMED, draw, production.items))
    return [user_metrics(made.arm.name, made.table(), truth) for made in slates], truth


def relevant(world: World, consumed: np.ndarray) -> RelevantItems:
    rows = np.repeat(np.arange(len(consumed)), consumed.shape[1])
    matrix = sp.csr_matrix((np.ones(consumed.size, bool), (rows, consumed.ravel())), world.wanted.shape)
    return RelevantItems(world.user_ids, world.catalogue.ids, matrix)


def split(arms: int, seed: int, draw: int) -> Finding:
    """Conversion: whether the user clicked anything on one showing of the arm's slate; adjusted for past clicks."""
    parts = [_Part.of(n, 0.0, seed, draw, 1, RARELY) for n in range(arms + 1)]
    converted = np.concatenate([(part.clicks.sum(axis=(0, 2)) > 0).astype(float) for part in parts])
    arm = np.repeat(np.arange(arms + 1), SPLIT_USERS)
    adjusted = adjust(converted, arm, np.concatenate([part.activity for part in parts]))
    top = np.full((SPLIT_USERS, 10), -1, np.int32)
    systems = [
        UserMetrics(str(n), {"conversion_cuped": adjusted[arm == n]}, top, 0, np.flatnonzero(arm == n))
        for n in range(arms + 1)
    ]
    table = compare(systems, seed=draw, baselines=["0"], metrics=["conversion_cuped"], resamples=2_000)
    return _finding(table, arms, "conversion_cuped")


@dataclass(frozen=True)
class _Part:
    """The users of one arm of a split."""

    slates: SimulatedSlates
    clicks: np.ndarray  # [days, users, size]
    arrival: np.ndarray  # the same: the day on which the reward is known
    activity: np.ndarray  # [users, covariates], of before

    @classmethod
    def of(
        cls, number: int, effect: float, seed: int, draw: int, days: int, behaviour: Behaviour, users: int = SPLIT_USERS
    ) -> _Part:
        world = world_of(seed, 100 * draw + number, users, behaviour)
        before = arm_of(world, "p", 99, 0, seed, 100 * draw + number).slates(draw).items
        past = sum(world.clicks(before, 1_000 * draw + 500 + day).sum(axis=1) for day in range(PAST_DAYS))
        slates = arm_of(world, str(number), number, effect, seed, 100 * draw + number).slates(100 * draw + number)
        seeds = [(100 * draw + number) * 100 + day for day in range(days)]
        clicks = [world.clicks(slates.items, s, slates.items if d else before) for d, s in enumerate(seeds)]
        arrival = [world.arrival(d, slates.items.shape, s) for d, s in enumerate(seeds)]
        return cls(slates, np.stack(clicks), np.stack(arrival), np.stack([past, np.log1p(past)], axis=1))

    def reward(self, days: int) -> np.ndarray:
        """What is known of each user after so many days, [users, size]."""
        return np.asarray((self.clicks[:days] * (self.arrival[:days] < days)).sum(axis=0))


def live(arms: int, effect: float, seed: int, draw: int) -> Finding:
    parts = [_Part.of(n, effect, seed, draw, DAYS, BEHAVIOUR) for n in range(arms + 1)]
    exposed, activity = [], {}
    for number, part in enumerate(parts):
        users = pa.array([f"{number}-{user}" for user in range(SPLIT_USERS)])
        row = pa.array(np.repeat(np.arange(SPLIT_USERS), SIZE))
        columns = [users.take(row), pa.repeat(pa.scalar(str(number)), len(row)), pa.array(part.reward(DAYS).ravel())]
        exposed.append(pa.table(columns, names=["user_id", "arm", "reward"]))
        activity |= dict(zip(users.to_pylist(), part.activity.tolist(), strict=True))
    shares = {str(number): 1.0 for number in range(arms + 1)}
    found = live_experiment(pa.concat_tables(exposed), activity, shares, "0", draw, resamples=1000)
    assert found is not None
    return _finding(found.comparison, arms, "reward_cuped")


def sequential(seed: int, draw: int) -> Finding:
    parts = [_Part.of(n, 0.0, seed, draw, LOOKS, BEHAVIOUR) for n in (0, 1)]
    activity, arm = np.concatenate([part.activity for part in parts]), np.repeat([0, 1], SPLIT_USERS)
    found = False
    for look in range(1, LOOKS + 1):
        reward = np.concatenate([part.reward(look).sum(axis=1) for part in parts])
        adjusted = adjust(reward, arm, activity)
        _, low, high = always_valid_interval(adjusted[arm == 1], adjusted[arm == 0])
        found |= not low <= 0 <= high
    return Finding(0, found)


def _finding(table: pa.Table, arms: int, metric: str) -> Finding:
    decision = decide(table, "0", [str(n) for n in range(1, arms + 1)], metric)
    assert decision is not None
    words = {"better": 1, "worse": -1, "inconclusive": 0}
    signs = {one.arm: words[one.conclusion] for one in decision.conclusions}
    rows = [row for row in table.to_pylist() if row["metric"] == metric and row["baseline"] == "0"]
    first = next(row for row in rows if row["system"] == "1")
    level = LEVEL / arms
    error = first["min_detectable_effect"] / (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(POWER))
    intervals = tuple((row["low"], row["high"]) for row in sorted(rows, key=lambda row: row["system"]))
    return Finding(signs["1"], any(signs.values()), first["value"], float(error), level, intervals)


def run(seeds: list[int], repetitions: int, parts: list[str]) -> Iterator[tuple[str, list[Finding]]]:
    cases: list[tuple[str, Any]] = [
        ("A/A outcomes", lambda seed, draw: outcomes(1, 0.0, seed, draw)),
        ("A/A outcomes of A", lambda seed, draw: outcomes(1, 0.0, seed, draw, shown_by=0)[0]),
        ("A/A split", lambda seed, draw: split(1, seed, draw)),
        ("A/A live", lambda seed, draw: live(1, 0.0, seed, draw)),
        ("A/A sequential", sequential),
    ]
    for test, of in (("outcomes", outcomes), ("live", live)):
        for arms, effect in EFFECTS[test].items():
            name = f"{test}, {arms} arm{'s' if arms > 1 else ''}, {effect:+.1%}"
            cases.append((name, lambda seed, draw, of=of, arms=arms, effect=effect: of(arms, effect, seed, draw)))
    for name, case in cases:
        if not any(name.startswith(part) for part in parts):
            continue
        found: dict[str, list[Finding]] = defaultdict(list)
        for seed in seeds:
            for repetition in range(repetitions):
                result = case(seed, 10_000 * seed + repetition)
                if isinstance(result, tuple):
                    result, sign = result
                    if name.startswith("A/A"):
                        found["A/A interleaved"].append(Finding(sign, sign != 0))
                found[name].append(result)
        yield from found.items()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one catalogue each")
    parser.add_argument("--repetitions", type=int, default=1000, help="populations of users a seed")
    parser.add_argument("--parts", nargs="+", default=["A/A", "outcomes", "live"], help="beginnings of the rows' names")
    parser.add_argument("--check", action="store_true", help="exit status 1 below a bar")
    given = parser.parse_args()
    started, missed = time.monotonic(), []
    print(f"{'test':<28}{'right':>8}{'wrong':>8}{'any':>8}{'stated':>8}{'coverage':>10}{'runs':>7}")
    for name, rows in run(given.seeds, given.repetitions, given.parts):
        right, wrong = (float(np.mean([row.first == sign for row in rows])) for sign in (1, -1))
        false = float(np.mean([row.any for row in rows]))
        truth = 0.0 if name.startswith("A/A") else float(np.mean([row.difference for row in rows]))
        stated = float(np.mean([row.stated_power(truth) for row in rows]))
        covered = float(np.mean([row.covers(truth) for row in rows]))
        problem = _problem(name, right, false, stated, covered)
        shown = f"{right:>8.1%}{wrong:>8.1%}{false:>8.1%}{stated:>8.1%}{covered:>10.1%}{len(rows):>7,}"
        print(f"{name:<28}{shown}  {problem}".rstrip(), flush=True)
        missed += [f"{name}: {problem}"] if problem else []
    outcome = "ok" if not missed else "BELOW THE BAR: " + "; ".join(missed)
    print(f"decisions: {outcome}; {time.monotonic() - started:.0f} s")
    return 1 if given.check and missed else 0


def _problem(name: str, right: float, false: float, stated: float, covered: float) -> str:
    if name == "A/A sequential":
        return "" if false <= LEVEL else "false positives"
    if name == "A/A outcomes of A":
        return ""
    if name.startswith("A/A"):
        return "" if FALSE_BAR[0] <= false <= FALSE_BAR[1] else "false positives"
    found = [] if abs(right - stated) <= POWER_BAR else ["power"]
    return ", ".join(found + ([] if covered >= COVERAGE_BAR else ["coverage"]))


if __name__ == "__main__":
    sys.exit(main())
