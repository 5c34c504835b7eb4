"""Simulated arms: slates of a ranker and a policy, their feedback, and the tables that a published run would have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY
from rayrec.evaluation.off_policy.feedback_evaluation import MATCHED
from rayrec.evaluation.simulation.simulated_users import World
from rayrec.numerics.hashing import hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Float64s, Int64s
from rayrec.slates.exploration_floor import ExplorationFloor, drawn_places, extended
from rayrec.slates.policies import PolicySlates, SlatePolicy
from rayrec.slates.scored_candidates import ScoredCandidates

DRAWS = 4


@dataclass(frozen=True)
class SimulatedArm:
    """A ranker's scores of all items, the policy, and the items that it has as candidates."""

    name: str
    world: World
    scores: Float32s  # [users, items]
    policy: SlatePolicy
    candidates: Int64s  # ascending item codes
    size: int

    @cached_property
    def scored(self) -> ScoredCandidates:
        """The candidates; with an exploration floor also all other items of the world."""
        own = self.world.scored(self.scores, self.candidates)
        if not isinstance(self.policy, ExplorationFloor):
            return own
        others = np.setdiff1d(np.arange(self.world.wanted.shape[1]), self.candidates).astype(np.int32)
        users = len(self.scores)
        return extended(own, Ragged.from_lengths(np.tile(others, users), np.full(users, len(others))))

    def slates(self, seed: int) -> SimulatedSlates:
        """Every user's slate, as the arm would publish it."""
        return SimulatedSlates(self, self.policy.order(self.scored, self.size, seed))

    def unsupported(self, logging: SimulatedArm, seed: int) -> Float64s:
        """Share of this arm's first choice on items that `logging` never shows first, [users]."""
        shown = np.zeros(self.world.wanted.shape, np.bool_)
        possible = logging.policy.first_choice(logging.scored, seed) > 0
        shown[logging.scored.scores.rows[possible], logging.scored.candidate.values[possible]] = True
        rows, items = self.scored.scores.rows, self.scored.candidate.values
        chance = np.where(shown[rows, items], 0, self.policy.first_choice(self.scored, seed))
        return np.asarray(np.bincount(rows, chance, minlength=len(self.scores)))


@dataclass(frozen=True)
class SimulatedSlates:
    """What an arm made of every user's candidates."""

    arm: SimulatedArm
    ordered: PolicySlates

    @cached_property
    def items(self) -> Int64s:
        """Item codes, [users, size]."""
        codes = self.arm.scored.candidate.values[self.ordered.places.values]
        return np.asarray(codes.reshape(-1, self.arm.size), np.int64)

    @property
    def propensity(self) -> Float64s:
        """P(item here | ranks above) of the arm, [users, size]."""
        return self.ordered.propensity.reshape(self.items.shape).astype(np.float64)

    def places_in(self, other: SimulatedArm) -> Int64s:
        """The items' places among another arm's candidates, [users, size]; −1 if it has them not."""
        users = len(self.items)
        place = np.full(other.world.wanted.shape, -1, np.int64)
        place[other.scored.scores.rows, other.scored.candidate.values] = np.arange(len(other.scored.candidate.values))
        return np.asarray(place[np.arange(users)[:, None], self.items])

    def under(self, other: SimulatedArm, seed: int) -> Float64s:
        """P(item here | ranks above) of another arm for these slates, [users, size]."""
        users, size = self.items.shape
        given = Ragged.from_lengths(self.places_in(other).ravel(), np.full(users, size))
        return other.policy.probability(other.scored, given, size, seed).reshape(users, size).astype(np.float64)

    def marginal(self, of: SimulatedArm, seed: int) -> Float64s:
        """P(item here), whatever is above, of an arm for these slates, [users, size]; NaN where its policy has none."""
        given = Ragged.from_lengths(self.places_in(of).ravel(), np.full(len(self.items), self.items.shape[1]))
        found = of.policy.marginal(of.scored, given, seed)
        return np.full(self.items.shape, np.nan) if found is None else found.reshape(self.items.shape)

    def drawn(self, other: SimulatedArm, seed: int) -> Int64s:
        """Items that another arm would show at each rank, drawn given the ranks above, [users, size, DRAWS]."""
        users, size = self.items.shape
        uniform = np.random.default_rng([seed, 6]).random((users, size))
        left = np.ones(len(other.scored.candidate.values), np.bool_)
        place, found = self.places_in(other), np.empty((users, size, DRAWS), np.int64)
        for rank in range(size):
            chance = np.zeros(len(left))
            chance[left] = other.policy.first_choice(other.scored.filter(left), seed)
            points = (uniform[:, rank, None] + np.arange(DRAWS)) / DRAWS
            places = drawn_places(other.scored.scores.like(chance), np.arange(users), points)
            found[:, rank] = other.scored.candidate.values[places]
            shown = place[:, rank]
            left[shown[shown >= 0]] = False
        return found

    def table(self) -> pa.Table:
        """user_id, rank, item_id, as `user_metrics` reads them."""
        users, size = self.items.shape
        columns = {
            "user_id": self.arm.world.user_ids.take(pa.array(np.repeat(np.arange(users), size))),
            "rank": pa.array(np.tile(np.arange(1, size + 1), users)),
            "item_id": self.arm.world.catalogue.ids.take(pa.array(self.items.ravel())),
        }
        return pa.table({name: pa.chunked_array([column]) for name, column in columns.items()})

    def matched(self, reward: Float64s, impression: str = "") -> pa.Table:
        """MATCHED rows of one showing of every slate; `reward` [users, size]."""
        users, size = self.items.shape
        row = pa.array(np.repeat(np.arange(users), size))
        columns = {
            "slate_id": self.slate_ids.take(row),
            "impression_id": pa.repeat(pa.scalar(impression), users * size),
            "rank": pa.array(np.tile(np.arange(1, size + 1), users).astype(np.int16)),
            "item_id": self.arm.world.catalogue.ids.take(pa.array(self.items.ravel())),
            "reward": pa.array(reward.ravel()),
            "propensity": pa.array(self.ordered.propensity),
            "user_id": self.arm.world.user_ids.take(row),
            "arm": pa.repeat(pa.scalar(self.arm.name), users * size),
        }
        return pa.table([columns[name.name].cast(name.type) for name in MATCHED], schema=MATCHED)

    def counterfactuals(self, target: SimulatedArm, seed: int, draws: bool = True) -> pa.Table:
        """COUNTERFACTUAL_PROPENSITY of these slates under another arm."""
        users, size = self.items.shape
        row = np.repeat(np.arange(users), size)
        names = pa.repeat(pa.scalar(target.name), users * size).dictionary_encode()
        kind = COUNTERFACTUAL_PROPENSITY.field("drawn").type
        drawn: pa.Array = pa.nulls(users * size, kind)
        if draws:
            hashes = hash_strings(self.arm.world.catalogue.ids)[self.drawn(target, seed).reshape(-1)]
            drawn = Ragged.from_lengths(hashes, np.full(users * size, DRAWS)).to_arrow(pa.uint64())
        columns = [
            self.slate_ids.take(pa.array(row)),
            pa.array(np.tile(np.arange(1, size + 1), users).astype(np.int16)),
            names.cast(COUNTERFACTUAL_PROPENSITY.field("target_arm").type),
            pa.array(self.under(target, seed).ravel().astype(np.float32)),
            pa.array(target.unsupported(self.arm, seed)[row].astype(np.float32)),
            drawn,
            *(_known(self.marginal(of, seed)) for of in (target, self.arm)),
        ]
        return pa.table(columns, schema=COUNTERFACTUAL_PROPENSITY)

    @property
    def slate_ids(self) -> pa.Array:
        return pa.array([f"{self.arm.name}-{number}" for number in range(len(self.items))])


def _known(values: Float64s) -> pa.Array:
    return pa.array(values.ravel().astype(np.float32), mask=np.isnan(values.ravel()))


def error_for(arm: SimulatedArm, base: float, gain: float, seed: int) -> float:
    """The error of a ranker whose slates are worth `gain` (a share, like 0.02) more online than one of error `base`.

    `arm`: any arm with the policy and candidates. By bisection, on the same draw of errors, to 1e-4 of the error.
    Raises ValueError where no ranker is that good.
    """

    def worth(error: float) -> float:
        ranker = replace(arm, scores=arm.world.scores(error, seed))
        return float(arm.world.value(ranker.slates(seed).items).mean())

    aim, low, high = worth(base) * (1 + gain), 0.0, base
    if worth(low) < aim:
        raise ValueError(f"no ranker gains {gain:.1%} over an error of {base}")
    while high - low > 1e-4 * base:
        middle = (low + high) / 2
        low, high = (middle, high) if worth(middle) > aim else (low, middle)
    return (low + high) / 2
