"""Measures how often the A/B decision names the truly better arm, in a simulation where the better arm is known.

python -m benchmarks.decisions --seeds 0 1 2 --check

Two arms rank the same candidates by scores with errors of different size, through Plackett-Luce. B's slates have
`effect` more expected clicks than A's. For each effect, many populations of users are tested in four ways:

    outcomes      what users consumed on their own, nDCG@10 of both arms, sign-flip test: what `jobs.evaluate` uses
    interleaved   the same outcomes, credited by team draft, sign test
    off-policy    clicks on A's slates alone, self-normalised RIPS for B, against A's own clicks
    A/B           half of the users see A, half B; clicks, Welch's test: the online experiment as the control

`right`: the test found B better, `wrong`: A better, `open`: neither. At effect 0 both arms are one policy with
different draws, so every finding is false. At the 5% level their share must be 4 to 6% over all seeds (the bar, at
1,000 comparisons a seed). At 2% the share of `right` must be within 5 points of `statistical_power` at the true
difference (the bar).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp
from scipy import stats

import rayrec.slates  # noqa: F401  (registers the policies)
from benchmarks.simulator import Slates, World, error_for
from rayrec.evaluation.ab_decision import decide
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.metrics import RelevantItems, UserMetrics, user_metrics
from rayrec.evaluation.off_policy.estimates import confidence_interval
from rayrec.evaluation.off_policy.interleaving import interleaving
from rayrec.evaluation.off_policy.slate_estimators import conditional_weights, sn_rips
from rayrec.evaluation.significance import welch_p
from rayrec.slates.policies import POLICIES, SlatePolicy

EFFECTS = (0.0, 0.01, 0.02, 0.05, 0.10)
TESTS = ("outcomes", "interleaved", "off-policy", "A/B")
USERS, SIZE, CONSUMED, BASE_ERROR = 1000, 10, 10, 1.0
SHARED = 0.95  # correlation of the arms' errors: they share retrievers and histories
REFERENCE = 20_000  # users for planting the effect and for the true difference of the metric
LEVEL, BAR_FALSE, BAR_POWER = 0.05, (0.04, 0.06), 0.05

Ints = npt.NDArray[np.int64]


def statistical_power(difference: float, standard_error: float, level: float) -> float:
    """The probability that a two-sided test at `level` finds a true `difference`."""
    if standard_error <= 0:
        return 1.0 if difference else level
    shift, bound = abs(difference) / standard_error, stats.norm.ppf(1 - level / 2)
    return float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))


@dataclass(frozen=True)
class TestResults:
    """Results of one comparison: 1 if a test finds B better, -1 if A, 0 if neither; and the metric's difference."""

    by_test: tuple[int, ...]
    difference: float


@cache
def policy() -> SlatePolicy:
    return POLICIES["plackett_luce"](POLICIES.settings("plackett_luce", {"temperature": 0.5}))


@cache
def error_of_b(effect: float, world_seed: int) -> float:
    if not effect:
        return BASE_ERROR
    return error_for(World.make(world_seed, users=4_000), BASE_ERROR, effect, policy(), SIZE, world_seed)


def compare_once(effect: float, world_seed: int, population: int) -> TestResults:
    """One population of users, compared by every test."""
    world = World.make(world_seed, users=USERS, population=population)
    seed = world_seed * 1_000_003 + population
    a = world.slates(world.scores(BASE_ERROR, seed), policy(), SIZE, 2 * seed)
    b = world.slates(_beliefs_of_b(world, effect, world_seed, seed), policy(), SIZE, 2 * seed + 1)
    metrics_by_arm, truth = _user_metrics(world, a, b, seed)
    table = compare(metrics_by_arm, seed=seed, baselines=["A"], metrics=["ndcg@10"], resamples=100)
    decision = decide(table, "A", ["A", "B"], "ndcg@10")
    assert decision is not None
    (conclusion,) = decision.conclusions
    (row,) = interleaving(metrics_by_arm, truth.matrix, "A", seed).to_pylist()
    results = (
        {"better": 1, "worse": -1, "inconclusive": 0}[conclusion.conclusion],
        _sign(row["wins"] - row["losses"], row["p"]),
        _off_policy(world, a, b, seed),
        _ab_test(world, a, b, seed),
    )
    return TestResults(results, conclusion.difference)


def _beliefs_of_b(world: World, effect: float, world_seed: int, seed: int) -> npt.NDArray[np.float32]:
    return world.scores(error_of_b(effect, world_seed), seed, own=1 if effect else 0, shared=SHARED)


def _user_metrics(world: World, a: Slates, b: Slates, seed: int) -> tuple[list[UserMetrics], RelevantItems]:
    users, items = world.wanted.shape
    consumed = world.consumed(CONSUMED, seed)
    item_id = a.scored.items.ids
    wanted = sp.csr_matrix(
        (np.ones(consumed.size, bool), (np.repeat(np.arange(users), CONSUMED), consumed.ravel())), (users, items)
    )
    truth = RelevantItems(world.user_ids, item_id, wanted)
    return [user_metrics(name, _table(world, slates), truth) for name, slates in (("A", a), ("B", b))], truth


def _table(world: World, slates: Slates) -> pa.Table:
    users, size = slates.items.shape
    columns = {
        "user_id": world.user_ids.take(pa.array(np.repeat(np.arange(users), size))),
        "rank": pa.array(np.tile(np.arange(1, size + 1), users)),
        "item_id": slates.scored.items.ids.take(pa.array(slates.items.ravel())),
    }
    return pa.table({name: pa.chunked_array([column]) for name, column in columns.items()})


def _off_policy(world: World, a: Slates, b: Slates, seed: int) -> int:
    clicks, mask = world.clicks(a.items, seed), np.ones(a.items.shape, bool)
    target = a.under(b, policy(), 2 * seed + 1)
    found = sn_rips(clicks, conditional_weights(target, a.propensity, mask), mask)
    own = clicks.sum(axis=1)
    influence = found.influence - (own - own.mean())
    error = float(influence.std(ddof=1) / np.sqrt(len(own)))
    difference = confidence_interval(found).value - float(own.mean())
    return int(np.sign(difference)) if abs(difference) > max(1.96 * error, 1e-9) else 0


def _ab_test(world: World, a: Slates, b: Slates, seed: int) -> int:
    half = np.random.default_rng([seed, 9]).permutation(len(a.items)) < len(a.items) // 2
    one, other = (world.clicks(slates.items, seed + 1).sum(axis=1) for slates in (a, b))
    return _sign(other[~half].mean() - one[half].mean(), welch_p(other[~half], one[half]))


def _sign(difference: float, p: float) -> int:
    return int(np.sign(difference)) if p < LEVEL else 0


def stated_power(effect: float, world_seed: int) -> float:
    """Of `outcomes` with USERS users, at the true difference: that of a population of REFERENCE users."""
    world = World.make(world_seed, users=REFERENCE, population=1_000_000)
    a = world.slates(world.scores(BASE_ERROR, world_seed), policy(), SIZE, 1)
    b = world.slates(_beliefs_of_b(world, effect, world_seed, world_seed), policy(), SIZE, 2)
    (one, other), _ = _user_metrics(world, a, b, world_seed)
    difference = other.values["ndcg@10"] - one.values["ndcg@10"]
    return statistical_power(float(difference.mean()), float(difference.std() / np.sqrt(USERS)), LEVEL)


def _many(task: tuple[float, int, int, int]) -> list[TestResults]:
    effect, seed, first, count = task
    return [compare_once(effect, seed, population) for population in range(first, first + count)]


def run(seeds: list[int], comparisons: int) -> dict[float, list[TestResults]]:
    """Comparisons a seed: all of them at effects 0 and 2%, where the bars are, a fifth elsewhere."""
    step = 50
    tasks = []
    for effect in EFFECTS:
        count = comparisons if effect in (0.0, 0.02) else max(comparisons // 5, step)
        tasks += [(effect, seed, first, min(step, count - first)) for seed in seeds for first in range(0, count, step)]
    found: dict[float, list[TestResults]] = {effect: [] for effect in EFFECTS}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for task, results in zip(tasks, pool.map(_many, tasks), strict=True):
            found[task[0]] += results
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one catalogue each")
    parser.add_argument("--comparisons", type=int, default=1000, help="a seed, at the effects with a bar")
    parser.add_argument("--check", action="store_true", help="exit status 1 below the bar")
    arguments = parser.parse_args()
    started = time.monotonic()
    found = run(arguments.seeds, arguments.comparisons)
    power = float(np.mean([stated_power(0.02, seed) for seed in arguments.seeds]))
    print(f"{USERS} users a comparison, slates of {SIZE}, {CONSUMED} items consumed; share of comparisons that found\n")
    print(f"{'effect':>7} {'test':<12} {'right':>7} {'wrong':>7} {'open':>7} {'comparisons':>12}")
    for effect, results in found.items():
        by_test = np.array([one.by_test for one in results])
        for test, column in zip(TESTS, by_test.T, strict=True):
            right, wrong, neither = ((column == word).mean() for word in (1, -1, 0))
            print(f"{effect:>7.0%} {test:<12} {right:>7.1%} {wrong:>7.1%} {neither:>7.1%} {len(column):>12,}")
    false = np.mean([one.by_test[0] != 0 for one in found[0.0]])
    right = np.mean([one.by_test[0] == 1 for one in found[0.02]])
    passed = BAR_FALSE[0] <= false <= BAR_FALSE[1] and abs(right - power) <= BAR_POWER
    print(
        f"decisions: {'passed' if passed else 'FAILED'}; identical arms called different in {false:.1%} (bar 4-6%), "
        f"a planted +2% found in {right:.1%} where the stated power is {power:.1%}, {time.monotonic() - started:.0f} s"
    )
    return 1 if arguments.check and not passed else 0


if __name__ == "__main__":
    sys.exit(main())
