"""Measures off-policy estimates of arms where the truth is known: coverage, refusals, and false differences.

python -m benchmarks.offpolicy_arms --repetitions 1000 --check

Two arms of one house (errors of correlation .95, equal quality, so their values are equal) rank 40 items through
Plackett-Luce. The clicks on A's slates estimate B by `estimate_arms`, the code of `jobs.evaluate`, with B's weights.
Each repetition is another population of users. The worlds:

    supported    A can show all that B can; one showing of five ranks to each of 1,000 users
    three days   the same with three showings to each of 500 users, of which the users' rewards are not independent
    deep         ten ranks, 3,000 users: heavier weights
    floor        A lacks 10 of B's 40 items and has an exploration floor of .3; 8,000 users
    missing      A lacks 10 of B's 40 items
    few missing  A lacks 3 of B's 40 items

Bars: coverage of B's true value 93 to 97% wherever an estimate is given, by every estimator that gives a value (bounds
of `trimmed_rips`: at least 95%); A/A false positives (a difference whose interval leaves out 0) 4 to 6%; refusal in at
most 5% of the worlds with support and in at least 95% of those without.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

import rayrec.slates  # noqa: F401  (registers the policies)
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.simulation.simulated_arms import SimulatedArm
from rayrec.evaluation.simulation.simulated_users import World
from rayrec.slates.exploration_floor import ExplorationFloor
from rayrec.slates.policies import POLICIES, SlatePolicy

ITEMS, SHARED, ERROR, TEMPERATURE = 40, 0.95, 1.0, 1.0
REFERENCE = 100_000  # users for the truth
COVERAGE_BAR, FALSE_BAR = (0.93, 0.97), (0.04, 0.06)
MAX_REFUSED, MIN_REFUSED = 0.05, 0.95
BOUNDS = "trimmed_rips"  # its interval is a bound: it covers at least 95%, and finds no difference that it cannot show


@dataclass(frozen=True)
class Case:
    """`missing`: items that the logging arm lacks; `supported`: whether an estimate should be given."""

    name: str
    users: int = 1000
    ranks: int = 5
    showings: int = 1
    missing: int = 0
    floor: float = 0.0

    @property
    def supported(self) -> bool:
        return not self.missing or self.floor > 0


CASES = (
    Case("supported"),
    Case("three days", users=500, showings=3),
    Case("deep", users=3000, ranks=10),
    Case("floor", users=8000, missing=10, floor=0.3),
    Case("missing", missing=10),
    Case("few missing", missing=3),
)


def policy() -> SlatePolicy:
    return POLICIES["plackett_luce"](POLICIES.settings("plackett_luce", {"temperature": TEMPERATURE}))


def arms(case: Case, seed: int, population: int, users: int) -> tuple[SimulatedArm, SimulatedArm]:
    world = World.make(seed, users=users, items=ITEMS, population=population)
    every = np.arange(ITEMS)
    target = SimulatedArm(
        "b", world, world.scores(ERROR, population, own=1, shared=SHARED), policy(), every, case.ranks
    )
    own = policy() if not case.floor else ExplorationFloor(policy(), case.floor)
    logging = replace(target, name="a", scores=world.scores(ERROR, population), policy=own)
    return replace(logging, candidates=every[case.missing :]), target


def truth(case: Case, seed: int) -> float:
    """The target's value in a population of REFERENCE users."""
    blocks = range(10)
    targets = [arms(case, seed, 1_000_000 + block, REFERENCE // len(blocks))[1] for block in blocks]
    return float(np.mean([b.world.value(b.slates(n).items).mean() for n, b in enumerate(targets)]))


def estimates(case: Case, seed: int, population: int) -> list[dict[str, Any]]:
    logging, target = arms(case, seed, population, case.users)
    matched, counterfactuals = [], []
    for day in range(case.showings):
        slates = logging.slates(1_000 * population + day)
        prefix = pa.scalar(f"{day}-")

        def named(table: pa.Table, prefix: pa.Scalar = prefix) -> pa.Table:
            ids = pa.compute.binary_join_element_wise(prefix, table["slate_id"], "")
            return table.set_column(0, table.schema.field(0), ids)

        matched.append(named(slates.matched(logging.world.clicks(slates.items, 1_000 * population + day))))
        counterfactuals.append(named(slates.counterfactuals(target, 1_000 * population + day)))
    table = estimate_arms(pa.concat_tables(matched), pa.concat_tables(counterfactuals), case.ranks)
    return [row for row in table.to_pylist() if row["target_arm"] == "b"]


def measure(case: Case, seeds: list[int], repetitions: int) -> dict[str, np.ndarray]:
    """By estimator [repetitions, 4]: refused, covered, difference found, effective sample size."""
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for seed in seeds:
        value = truth(case, seed)
        for population in range(repetitions):
            for row in estimates(case, seed, seed * 100_000 + population):
                known = row["value"] is not None
                covered = row["low"] <= value <= row["high"] if known else np.nan
                other = not row["difference_low"] <= 0 <= row["difference_high"] if known else np.nan
                found[row["estimator"]].append((not known, covered, other, row["effective_sample_size"]))
    return {name: np.array(rows, float) for name, rows in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000, help="populations a seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="catalogues")
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--check", action="store_true", help="exit status 1 below a bar")
    given = parser.parse_args()
    missed = []
    print(f"{'world':<13}{'estimator':<17}{'refused':>9}{'coverage':>10}{'false':>8}{'ESS':>8}")
    started = time.monotonic()
    for case in (case for case in CASES if case.name in given.cases):
        for name, rows in measure(case, given.seeds, given.repetitions).items():
            refused = float(rows[:, 0].mean())
            given_rows = rows[rows[:, 0] == 0]
            covered, false = (given_rows[:, 1:3].mean(axis=0)) if len(given_rows) else (np.nan, np.nan)
            wrong = _misses(case, name, refused, covered, false)
            shown = f"{refused:>9.1%}{covered:>10.1%}{false:>8.1%}{rows[:, 3].mean():>8.0f}"
            print(f"{case.name:<13}{name:<17}{shown}  {wrong}".rstrip(), flush=True)
            missed += [f"{case.name}, {name}: {wrong}"] if wrong else []
    outcome = "ok" if not missed else "BELOW THE BAR: " + "; ".join(missed)
    print(f"offpolicy_arms: {outcome}; {time.monotonic() - started:.0f} s")
    return 1 if given.check and missed else 0


def _misses(case: Case, name: str, refused: float, covered: float, false: float) -> str:
    if name == BOUNDS:
        return "" if covered >= COVERAGE_BAR[0] else "coverage"
    if not case.supported:
        return "" if refused >= MIN_REFUSED else "refusal"
    found = ["refusal"] if refused > MAX_REFUSED else []
    if refused < 1:
        found += [] if COVERAGE_BAR[0] <= covered <= COVERAGE_BAR[1] else ["coverage"]
        equal = not case.floor  # a floor makes the logging arm worse
        found += [] if not equal or FALSE_BAR[0] <= false <= FALSE_BAR[1] else ["false positives"]
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
