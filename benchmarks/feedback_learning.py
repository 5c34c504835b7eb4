"""Measures what the blender learns from feedback where the logging policy knows what its features do not.

    python -m benchmarks.feedback_learning --seeds 0 1 2 3 4 5 6 7 8 9 --check

Simulated users want an item by three features and by something that no feature shows (a confounder, such as what an
editor knows). A Plackett-Luce policy shows slates by both, some features in the wrong direction, so that items without
good features are shown where the hidden part is good (the setting of DeconfoundLM). Ranks are examined with
probability 1 / rank. The clicks of several days are learned from by the code of `blend.feedback`:

    naive        a click is a target among all candidates, whatever was shown
    position     divided by the examination of its rank
    within       the same, among the items of its slate: right where the features are all that the policy knows
    weighted     among all candidates, divided by propensities (clipped, self-normalised), as `blend.feedback` does

Controls are the logit fitted to what every user wants of all items (the planted truth), and the same methods where the
policy does not know the hidden part. Columns: distance of the weights from the truth's, over the truth's length; clicks
of greedy slates by the learned weights, over those of the truth's; bias of each weight. The bars: the weighted distance
is at most 0.1 and at most a third of that of every other method.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa

from rayrec.blending.conditional_logit import LogitData, fit_logit
from rayrec.config.feedback_learning_section import FeedbackLearning
from rayrec.evaluation.simulation.simulated_arms import SimulatedArm
from rayrec.evaluation.simulation.simulated_users import Behaviour, World
from rayrec.monitoring.feedback_learning import RANK
from rayrec.numerics.types import Float64s
from rayrec.pipeline.feedback_targets import targets_of
from rayrec.slates.policies import POLICIES

ITEMS, RANKS, DAYS = 40, 5, 10
WANTS, SHOWS = np.array([0.8, -0.5, 0.3]), np.array([0.8, 0.5, -0.3])  # weights of the features: users', policy's
HIDDEN_WANT, HIDDEN_SHOWN = 1.0, 1.5
FARTHEST, SHARE = 0.1, 1 / 3
METHODS = ("naive", "position", "within", "weighted")


@dataclass(frozen=True)
class Case:
    """What is shown to users whose wants are known."""

    world: World
    features: Float64s  # [users, items, 3]
    shown: pa.Table  # MATCHED with `date`
    items: Float64s  # item codes of the rows of `shown`
    users: Float64s

    @classmethod
    def make(cls, seed: int, users: int, confounded: bool) -> Case:
        rng = np.random.default_rng([seed, 8])
        features, hidden = rng.normal(size=(users, ITEMS, 3)), rng.normal(size=(users, ITEMS))
        wanted = 1 / (1 + np.exp(3.0 - features @ WANTS - HIDDEN_WANT * hidden))
        world = World(wanted, Behaviour(position_bias=1.0))
        scores = (features @ SHOWS + HIDDEN_SHOWN * confounded * hidden).astype(np.float32)
        policy = POLICIES["plackett_luce"](POLICIES.settings("plackett_luce", {"temperature": 1.0}))
        arm = SimulatedArm("logging", world, scores, policy, np.arange(ITEMS), RANKS)
        tables, items = [], []
        for day in range(DAYS):
            slates = arm.slates(100 * seed + day)
            table = slates.matched(world.clicks(slates.items, 100 * seed + day))
            dates = pa.array([date(2026, 1, 1) + timedelta(day)] * table.num_rows, pa.date32())
            tables.append(table.append_column("date", dates))
            items.append(slates.items.ravel())
        user = np.tile(np.repeat(np.arange(users), RANKS), DAYS)
        return cls(world, features, pa.concat_tables(tables), np.concatenate(items), user)

    def fit(self, targets: Float64s) -> Float64s:
        """The logit's weights, fitted to targets [users, items]."""
        some = targets.sum(axis=1) > 0
        flat = self.features[some].reshape(-1, 3).astype(np.float32)
        offsets = np.arange(int(some.sum()) + 1) * ITEMS
        return fit_logit(LogitData(flat, offsets, targets[some].ravel().astype(np.float32)), np.full(3, 1e-6)).raw

    def within_slates(self) -> Float64s:
        """The logit's weights among the items of each slate with a click; clicks over examination are the targets."""
        target = (self.shown["reward"].to_numpy() * self.shown["rank"].to_numpy()).reshape(-1, RANKS)
        some = np.repeat(target.sum(axis=1) > 0, RANKS)
        flat = self.features[self.users[some], self.items[some]].astype(np.float32)
        offsets = np.arange(len(flat) // RANKS + 1) * RANKS
        return fit_logit(LogitData(flat, offsets, target.ravel()[some].astype(np.float32)), np.full(3, 1e-6)).raw

    def learned(self, method: str) -> Float64s:
        """The weights that a method learns."""
        if method == "within":
            return self.within_slates()
        table = self.shown
        if method != "weighted":  # as if every propensity were the same
            equal = pa.array(np.full(table.num_rows, 0.5), pa.float32())
            table = table.set_column(table.column_names.index("propensity"), "propensity", equal)
        by_rank = tuple(1 / np.arange(1, RANKS + 1))
        examination = {"naive": "none", "position": by_rank, "weighted": "estimated"}[method]
        targets, _ = targets_of(table, FeedbackLearning(examination=examination))
        found = np.zeros(self.world.wanted.shape)
        np.add.at(found, (self.users, self.items), targets)
        return self.fit(found)

    def examination(self) -> Float64s:
        """P(rank is examined) over that of rank 1 as the weighted method estimates it."""
        counts = targets_of(self.shown, FeedbackLearning())[1]
        return np.array([counts[f"{RANK}{rank}"] for rank in range(1, RANKS + 1)])

    def clicks(self, weights: Float64s) -> float:
        """Expected clicks of greedy slates by these weights."""
        best = np.argsort(-(self.features @ weights), axis=1)[:, :RANKS]
        return float(self.world.value(best).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    given = parser.parse_args()
    distance, bias, value = (defaultdict[str, list[Float64s]](list) for _ in range(3))
    ranks: list[Float64s] = []
    for seed in given.seeds:
        for confounded in (True, False):
            case = Case.make(seed, given.users, confounded)
            truth = case.fit(case.world.wanted)
            best = case.clicks(truth)
            for method in METHODS:
                name, weights = f"{method}{'' if confounded else ', unconfounded'}", case.learned(method)
                distance[name].append(np.linalg.norm(weights - truth) / np.linalg.norm(truth))
                bias[name].append(weights - truth)
                value[name].append(case.clicks(weights) / best)
            ranks.append(case.examination())
    examined = np.mean(ranks, axis=0)
    print(f"{'':<24}{'distance':>10}{'clicks':>9}   bias of each weight")
    for name, found in distance.items():
        each = " ".join(f"{mean:+.3f}" for mean in np.mean(bias[name], axis=0))
        print(f"{name:<24}{np.mean(found):>10.3f}{np.mean(value[name]):>9.3f}   {each}")
    print(f"examination by rank: {' '.join(f'{share:.3f}' for share in examined)}; planted 1 / rank")
    weighted = float(np.mean(distance["weighted"]))
    other = min(float(np.mean(distance[name])) for name in METHODS if name != "weighted")
    met = weighted <= FARTHEST and weighted <= SHARE * other
    print(
        f"feedback learning: under confounded exposure {weighted:.3f} from the planted weights, the best other "
        f"{other:.3f} (bars {FARTHEST}, a third of it) {'met' if met else 'NOT MET'}"
    )
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
