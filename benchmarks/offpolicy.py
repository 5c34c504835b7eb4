"""Measures off-policy estimates, against the target policy's own click rate: on real logs and in a simulation.

    python -m benchmarks.offpolicy --data obd-small --root DIR --seeds 0 1 2 --check

Open Bandit Data (Saito et al. 2020): logs of a uniformly random policy evaluate the Thompson sampling policy (bts), and
the reverse, for two campaigns. The reward is a click, one row an impression.

random from bts' log: the weight is exact, (1 / items) / propensity_score. The logged propensities are shares of 200,000
simulated draws, so a propensity below 1 / 200,000 belongs to an item that no draw chose. It is no probability, and its
weight of 21,739 would dominate. Such rows are reported separately; with them the estimate is refused.

bts from random's log: the target's probabilities change every few minutes (by up to a factor of 600) and are only
logged for chosen items, hence mostly when high: averages of them sum to about 2. The plain frequency of the item in the
bts log is an unbiased estimate of their mean over a period; it is used by day and position. It misses changes within a
day that coincide with changes of the click rate. The frequencies have about 480 rows each, so both logs are resampled
together for the interval (percentiles), and q_target is computed anew each time.

The model q is the click rate of (item, position), shrunk to the mean, in two folds: a row's q is fitted without it.
Seeds draw folds and resamples. The simulation (benchmarks/offpolicy_coverage.py) repeats 1,000 times a seed.

Bars: the target policy's own click rate within the interval of SNIPS and of DR, for every seed, unless support is
refused; coverage of the 95% intervals within 93..97% for every estimator that theory calls unbiased there, over the
repetitions of all seeds; variance rising from IIPS to RIPS to SIPS and falling from RIPS to cascade-DR.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.enumerated_world import MODELS
from benchmarks.offpolicy_coverage import Coverage, coverages, order_holds
from rayrec.evaluation.off_policy.action_estimators import (
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    on_policy,
    self_normalised_dr,
    snips,
    switch_dr,
)
from rayrec.evaluation.off_policy.estimates import (
    Contributions,
    Estimate,
    confidence_interval,
    effective_sample_size,
    support_problem,
)
from rayrec.numerics.types import Float64s as Floats

CAMPAIGNS, POSITIONS = ("men", "women"), 3
CAP = 100.0  # root of the number of rows (Ionides 2008), for clipping and for switching
SHRINKAGE = 100.0  # rows of mean click rate added to each (item, position)
DRAWS = 200_000  # by which bts propensities were simulated
RESAMPLES = 500
HELD = ("snips", "dr")
COVERAGE_BAR = (0.93, 0.97)

Estimator = Callable[["Log"], Contributions]
ESTIMATORS: dict[str, Estimator] = {
    "ips": lambda log: ips(log.reward, log.weight),
    "clipped_ips": lambda log: clipped_ips(log.reward, log.weight, CAP),
    "snips": lambda log: snips(log.reward, log.weight),
    "direct": lambda log: direct_method(log.q_target),
    "dr": lambda log: doubly_robust(log.reward, log.weight, log.q_logged, log.q_target),
    "self_normalised_dr": lambda log: self_normalised_dr(log.reward, log.weight, log.q_logged, log.q_target),
    "switch_dr": lambda log: switch_dr(log.reward, log.weight, log.q_logged, log.q_target, CAP),
}


@dataclass(frozen=True)
class Log:
    """Columns [n] of pointwise estimators."""

    reward: Floats
    weight: Floats
    q_logged: Floats
    q_target: Floats


@dataclass(frozen=True)
class Impressions:
    """One policy's log of one campaign; codes from 0."""

    item: np.ndarray
    position: np.ndarray
    cell: np.ndarray  # day x position
    click: Floats
    propensity: Floats
    items: int

    def rows(self, at: np.ndarray) -> Impressions:
        columns = (self.item, self.position, self.cell, self.click, self.propensity)
        return Impressions(*(column[at] for column in columns), self.items)


@dataclass(frozen=True)
class Row:
    case: str
    estimate: Estimate | None
    name: str
    truth: Estimate
    size: float
    inside: int  # of `seeds`
    seeds: int
    refused: str = ""


def read(root: Path, campaign: str, policy: str) -> Impressions:
    columns = ["timestamp", "item_id", "position", "click", "propensity_score"]
    table = pd.read_csv(root / policy / campaign / f"{campaign}.csv", usecols=columns)
    day = pd.to_datetime(table["timestamp"], format="ISO8601").dt.strftime("%j").astype(int).to_numpy()
    position = table["position"].to_numpy() - 1
    items = len(pd.read_csv(root / policy / campaign / "item_context.csv"))
    cell = (day - day.min()) * POSITIONS + position
    click, propensity = (table[name].to_numpy(np.float64) for name in ("click", "propensity_score"))
    return Impressions(table["item_id"].to_numpy(), position, cell, click, propensity, items)


def frequencies(log: Impressions, cells: int) -> Floats:
    """How often each item was shown in each day and position, [cells, items]; rows sum to 1, or to 0 where empty."""
    counts = np.bincount(log.cell * log.items + log.item, minlength=cells * log.items).reshape(cells, log.items)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def cross_fitted(log: Impressions, seed: int) -> Floats:
    """q of every item at each row's position, by the other fold: [n, items]."""
    fold = np.random.default_rng([seed, 1]).integers(2, size=len(log.item))
    q = np.empty((len(fold), log.items))
    key, cells = log.position * log.items + log.item, POSITIONS * log.items
    for its in (0, 1):
        other = fold != its
        shown, clicks = np.bincount(key[other], minlength=cells), np.bincount(key[other], log.click[other], cells)
        rate = (clicks + SHRINKAGE * log.click[other].mean()) / (shown + SHRINKAGE)
        q[~other] = rate.reshape(POSITIONS, log.items)[log.position[~other]]
    return q


def by_frequencies(log: Impressions, target: Floats, q: Floats) -> Log:
    """A log of the random policy with the weights of a target given as [cells, items]."""
    row = np.arange(len(log.item))
    weight = target[log.cell, log.item] * log.items
    return Log(log.click, weight, q[row, log.item], np.einsum("na,na->n", target[log.cell], q))


def bts_from_random(random: Impressions, bts: Impressions, seed: int) -> Iterator[Estimate]:
    """Intervals from resamples of both logs at once."""
    cells = int(max(random.cell.max(), bts.cell.max())) + 1
    q = cross_fitted(random, seed)
    log = by_frequencies(random, frequencies(bts, cells), q)
    drawn: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    rng = np.random.default_rng([seed, 2])
    for _ in range(RESAMPLES):
        ours, theirs = (rng.integers(len(each.item), size=len(each.item)) for each in (random, bts))
        again = by_frequencies(random.rows(ours), frequencies(bts.rows(theirs), cells), q[ours])
        for name, estimator in ESTIMATORS.items():
            drawn[name].append(estimator(again).value)
    for name, estimator in ESTIMATORS.items():
        found = estimator(log)
        low, high = (float(end) for end in np.percentile(drawn[name], [2.5, 97.5]))
        size = effective_sample_size(found.weight)
        yield Estimate(name, found.value, low, high, float(np.std(drawn[name])), len(log.reward), size)


def random_from_bts(bts: Impressions, seed: int) -> Log:
    q = cross_fitted(bts, seed)
    weight = 1 / bts.items / bts.propensity
    return Log(bts.click, weight, q[np.arange(len(q)), bts.item], q.mean(axis=1))


def evaluate_policies(root: Path, seeds: Sequence[int]) -> Iterator[Row]:
    for campaign in CAMPAIGNS:
        random, bts = (read(root, campaign, policy) for policy in ("random", "bts"))
        earned = confidence_interval(on_policy(bts.click))
        found = [list(bts_from_random(random, bts, seed)) for seed in seeds]
        yield from rows(f"{campaign}: bts from random's log", found, earned)
        earned = confidence_interval(on_policy(random.click))
        title, problem = f"{campaign}: random from bts' log", support_problem(1 / bts.propensity, bts.propensity)
        if problem:
            size = effective_sample_size(1 / bts.propensity)
            yield Row(title, None, "all", earned, size, 0, len(seeds), problem)
            resolved = bts.propensity >= 1 / DRAWS
            title += f" (without {int((~resolved).sum())} unresolved row)"
            bts = bts.rows(np.flatnonzero(resolved))
        logs = [random_from_bts(bts, seed) for seed in seeds]
        found = [[confidence_interval(estimator(log)) for estimator in ESTIMATORS.values()] for log in logs]
        mean = confidence_interval(on_policy(logs[0].weight))
        yield from rows(f"{title}, mean weight {mean.value:.2f} ({mean.low:.2f}..{mean.high:.2f})", found, earned)


def rows(case: str, found: Sequence[Sequence[Estimate]], earned: Estimate) -> Iterator[Row]:
    """One row an estimator: the first seed's, and in how many seeds the truth was inside."""
    for of_seeds in zip(*found, strict=True):
        inside = sum(each.low <= earned.value <= each.high for each in of_seeds)
        first = of_seeds[0]
        yield Row(case, first, first.name, earned, first.effective_sample_size, inside, len(of_seeds))


def report_real(table: Sequence[Row]) -> list[str]:
    """Print it; returns what misses the bar."""
    missed = []
    print(f"\nclick rates in %, 95% intervals\n{'':20}{'value':>8}{'interval':>16}{'truth inside':>14}{'ESS':>8}")
    case = ""
    for row in table:
        if row.case != case:
            case, truth = row.case, row.truth
            print(f"{case}\n  {'on-policy truth':18}{100 * truth.value:8.3f}{_ends(truth):>16}")
        if row.estimate is None:
            print(f"  refused: {row.refused}")
            continue
        inside = f"{row.inside} of {row.seeds}"
        print(f"  {row.name:18}{100 * row.estimate.value:8.3f}{_ends(row.estimate):>16}{inside:>14}{row.size:8,.0f}")
        if row.name in HELD and row.inside < row.seeds:
            missed.append(f"{row.name}, {case}")
    return missed


def report_simulated(table: Sequence[Coverage]) -> list[str]:
    """Print it; returns what misses the bar."""
    missed = []
    print(
        f"\n{'user model':14}{'estimator':20}{'truth':>8}{'bias':>9}{'spread':>9}{'error':>9}{'coverage':>10}{'ESS':>7}"
    )
    for row in table:
        low, high = COVERAGE_BAR
        good = low <= row.coverage <= high
        word = "biased here" if not row.unbiased else "" if good else "OUTSIDE"
        numbers = f"{row.truth:8.4f}{row.bias:+9.4f}{row.spread:9.4f}{row.standard_error:9.4f}{row.coverage:10.1%}"
        print(f"{row.world:14}{row.estimator:20}{numbers}{row.size:7.0f}  {word}".rstrip())
        if row.unbiased and not good:
            missed.append(f"coverage of {row.estimator} ({row.world})")
    return missed


def _ends(estimate: Estimate) -> str:
    return f"{100 * estimate.low:.3f}..{100 * estimate.high:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["obd-small"], required=True)
    parser.add_argument("--root", required=True, help="the data set's folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repetitions", type=int, default=1000, help="of the simulation, a seed")
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    simulated = coverages(given.seeds, given.repetitions)
    print("simulation done", file=sys.stderr)
    real = list(evaluate_policies(Path(given.root), given.seeds))
    missed = report_simulated(simulated) + report_real(real)
    missed += [f"order of variances ({model})" for model in MODELS if not order_holds(simulated, model)]
    held = [row.coverage for row in simulated if row.unbiased]
    inside = [row.inside == row.seeds for row in real if row.name in HELD]
    print(
        f"offpolicy: other policy's value within SNIPS and DR in {sum(inside)} of {len(inside)} cases, "
        f"coverage of unbiased estimators {min(held):.1%}..{max(held):.1%} (bar 93%..97%): "
        + ("ok" if not missed else f"BELOW THE BAR: {'; '.join(missed)}")
    )
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
