"""Simulation of users with planted tastes, position bias and noise, in which the better of two arms is known.

The probability that a user wants an item is the logistic function of a taste (an inner product) and an appeal that is
the same for all users. Rank k of a slate is examined with probability k^-bias; an examined item that is wanted is
clicked (the position-based model, Craswell et al. 2008). What users consume without any slate is drawn by these
probabilities, except for a share of noise that is drawn uniformly from all items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.numerics.ragged import Ragged
from rayrec.slates.policies import PolicySlates, SlatePolicy
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """One population of users before one catalogue."""

    wanted: Floats  # [users, items]: P(click | examined)
    bias: float  # 0: all ranks are examined
    noise: float  # share of what users consume on their own that is random

    @classmethod
    def make(
        cls,
        seed: int,
        *,
        users: int,
        items: int = 100,
        width: int = 8,
        bias: float = 1.0,
        noise: float = 0.2,
        population: int = 0,
    ) -> World:
        """`seed` draws the items; `population` draws the users, so that two of them share one catalogue."""
        things, people = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, population])
        item, appeal = things.normal(size=(items, width)), things.normal(size=items)
        logits = people.normal(size=(users, width)) @ item.T * (1.5 / np.sqrt(width)) + appeal - 2.5
        return cls(1 / (1 + np.exp(-logits)), bias, noise)

    @cached_property
    def user_ids(self) -> pa.Array:
        return pa.array([f"user-{number}" for number in range(len(self.wanted))])

    def scores(self, error: float, seed: int, own: int = 0, shared: float = 1.0) -> npt.NDArray[np.float32]:
        """A ranker's scores, [users, items]: the truth's logit, and a normal error of this size (0: none).

        Rankers of one `seed` make errors of correlation `shared` with the ranker `own` = 0, as arms of one house do.
        """
        belief = np.log(self.wanted / (1 - self.wanted))
        wrong = np.random.default_rng([seed, 2]).normal(size=belief.shape)
        if own:
            mine = np.random.default_rng([seed, 2, own]).normal(size=belief.shape)
            wrong = shared * wrong + np.sqrt(1 - shared**2) * mine
        return (belief + error * wrong).astype(np.float32)

    def scored(self, scores: npt.NDArray[np.float32]) -> ScoredCandidates:
        """All items as every user's candidates."""
        users, items = scores.shape
        flat = Ragged.from_lengths(scores.ravel(), np.full(users, items))
        nobody = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(users, np.int64))
        ids = pa.array([f"item-{number:05d}" for number in range(items)])
        catalogue = CatalogueItems(ids, np.full(items, -1, np.int32), np.ones(items, bool))
        return ScoredCandidates(
            self.user_ids, flat, flat.like(np.tile(np.arange(items, dtype=np.int32), users)), nobody, catalogue
        )

    def slates(self, scores: npt.NDArray[np.float32], policy: SlatePolicy, size: int, seed: int) -> Slates:
        """Every user's slate, as an arm would publish it."""
        scored = self.scored(scores)
        ordered = policy.order(scored, size, seed)
        return Slates(
            scored, ordered, scored.candidate.values[ordered.places.values].reshape(-1, size).astype(np.int64)
        )

    def examination(self, size: int) -> Floats:
        """P(rank is examined), [size]."""
        return np.asarray(np.arange(1, size + 1) ** -self.bias)

    def value(self, items: Codes) -> Floats:
        """Expected clicks of each user's slate [users, size], [users]: the online truth."""
        clicked = np.take_along_axis(self.wanted, items, axis=1) * self.examination(items.shape[1])
        return np.asarray(clicked.sum(axis=1))

    def clicks(self, items: Codes, seed: int) -> Floats:
        """One showing of slates [users, size]: 1 where clicked."""
        chance = np.take_along_axis(self.wanted, items, axis=1) * self.examination(items.shape[1])
        return (np.random.default_rng([seed, 3]).random(items.shape) < chance).astype(np.float64)

    def consumed(self, count: int, seed: int) -> Codes:
        """What each user consumes without a slate, [users, count] distinct items: by preference, or as noise."""
        rng = np.random.default_rng([seed, 4])
        users, items = self.wanted.shape
        odds = self.wanted / self.wanted.sum(axis=1, keepdims=True)
        mixed = (1 - self.noise) * odds + self.noise / items
        keys = np.log(mixed) + rng.gumbel(size=(users, items))
        return np.asarray(np.argpartition(-keys, count, axis=1)[:, :count])


@dataclass(frozen=True)
class Slates:
    """What a policy made of every user's candidates."""

    scored: ScoredCandidates
    ordered: PolicySlates
    items: Codes  # [users, size]

    @property
    def propensity(self) -> Floats:
        """P(item here | ranks above) of the policy that made them, [users, size]."""
        return self.ordered.propensity.reshape(self.items.shape).astype(np.float64)

    def under(self, other: Slates, policy: SlatePolicy, seed: int) -> Floats:
        """The same of another arm's policy and scores for these slates, [users, size]: what it would have done."""
        size = self.items.shape[1]
        found = policy.probability(other.scored, self.ordered.places, size, seed)
        return found.reshape(self.items.shape).astype(np.float64)


def error_for(world: World, base: float, gain: float, policy: SlatePolicy, size: int, seed: int) -> float:
    """The error of a ranker whose slates are worth `gain` (a share, like 0.02) more online than one of error `base`.

    By bisection, on the same draw of errors, to 1e-4 of the gain. Raises ValueError where no ranker is that good.
    """

    def worth(error: float) -> float:
        return float(world.value(world.slates(world.scores(error, seed), policy, size, seed).items).mean())

    aim, low, high = worth(base) * (1 + gain), 0.0, base
    if worth(low) < aim:
        raise ValueError(f"no ranker gains {gain:.1%} over an error of {base}")
    while high - low > 1e-4 * base:
        middle = (low + high) / 2
        low, high = (middle, high) if worth(middle) > aim else (low, middle)
    return (low + high) / 2
