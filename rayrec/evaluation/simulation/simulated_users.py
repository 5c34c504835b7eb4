"""Simulated users with planted tastes, in which the value of every slate is known.

The probability that a user wants an item is the logistic function of a taste (an inner product) and an appeal that is
the same for all users. Rank k of a slate is examined with probability k^-bias; an examined item that is wanted is
clicked (the position-based model, Craswell et al. 2008). On later days an item that was shown the day before is wanted
less by the share `carry_over`. The reward of a click arrives after an exponential delay. What users consume without a
slate is drawn by what they want, except for a share of noise, and a share that is drawn from what a slate showed
(exposure bias).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float32s, Float64s, Int64s
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates


@dataclass(frozen=True)
class Behaviour:
    """How users react."""

    position_bias: float = 1.0  # 0: all ranks are examined
    noise: float = 0.2  # share of what users consume on their own that is random
    exposure_bias: float = 0.0  # share of what users consume on their own that is from the slate they were shown
    delay_days: float = 0.0  # mean delay of a reward
    carry_over: float = 0.0  # share by which an item is wanted less the day after it was shown
    appeal: float = -2.5  # mean log odds that a user wants an item


@dataclass(frozen=True)
class World:
    """One population of users before one catalogue."""

    wanted: Float64s  # [users, items]: P(click | examined)
    behaviour: Behaviour = field(default_factory=Behaviour)

    @classmethod
    def make(
        cls,
        seed: int,
        *,
        users: int,
        items: int = 100,
        width: int = 8,
        population: int = 0,
        behaviour: Behaviour | None = None,
    ) -> World:
        """`seed` draws the items; `population` draws the users, so that two of them share one catalogue."""
        behaviour = behaviour or Behaviour()
        things, people = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1, population])
        item, appeal = things.normal(size=(items, width)), things.normal(size=items)
        tastes = people.normal(size=(users, width)) @ item.T * (1.5 / np.sqrt(width))
        return cls(1 / (1 + np.exp(-(tastes + appeal + behaviour.appeal))), behaviour)

    @cached_property
    def user_ids(self) -> pa.Array:
        return pa.array([f"user-{number}" for number in range(len(self.wanted))])

    @cached_property
    def catalogue(self) -> CatalogueItems:
        items = self.wanted.shape[1]
        ids = pa.array([f"item-{number:05d}" for number in range(items)])
        return CatalogueItems(ids, np.full(items, -1, np.int32), np.ones(items, np.bool_))

    def scores(self, error: float, seed: int, own: int = 0, shared: float = 1.0) -> Float32s:
        """A ranker's scores, [users, items]: the truth's logit, and a normal error of this size (0: none).

        Rankers of one `seed` make errors of correlation `shared` with the ranker `own` = 0, as arms of one house do.
        """
        belief = np.log(self.wanted / (1 - self.wanted))
        wrong = np.random.default_rng([seed, 2]).normal(size=belief.shape)
        if own:
            mine = np.random.default_rng([seed, 2, own]).normal(size=belief.shape)
            wrong = shared * wrong + np.sqrt(1 - shared**2) * mine
        return (belief + error * wrong).astype(np.float32)

    def scored(self, scores: Float32s, candidates: Int64s) -> ScoredCandidates:
        """The item codes `candidates`, ascending, as every user's candidates."""
        users = len(scores)
        flat = Ragged.from_lengths(scores[:, candidates].ravel(), np.full(users, len(candidates)))
        nobody = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(users, np.int64))
        codes = flat.like(np.tile(candidates.astype(np.int32), users))
        return ScoredCandidates(self.user_ids, flat, codes, nobody, self.catalogue)

    def examination(self, size: int) -> Float64s:
        """P(rank is examined), [size]."""
        return np.asarray(np.arange(1, size + 1) ** -self.behaviour.position_bias)

    def value(self, items: Int64s) -> Float64s:
        """Expected clicks of each user's slate [users, size] on a first day, [users]: the online truth."""
        clicked = np.take_along_axis(self.wanted, items, axis=1) * self.examination(items.shape[1])
        return np.asarray(clicked.sum(axis=1))

    def clicks(self, items: Int64s, seed: int, before: Int64s | None = None) -> Float64s:
        """One showing of slates [users, size]: 1 where clicked. `before`: the slates of the day before."""
        chance = np.take_along_axis(self.wanted, items, axis=1) * self.examination(items.shape[1])
        if before is not None and self.behaviour.carry_over:
            shown = np.zeros(self.wanted.shape, np.bool_)
            np.put_along_axis(shown, before, True, axis=1)
            chance *= 1 - self.behaviour.carry_over * np.take_along_axis(shown, items, axis=1)
        return (np.random.default_rng([seed, 3]).random(items.shape) < chance).astype(np.float64)

    def arrival(self, day: int, shape: tuple[int, ...], seed: int) -> Float64s:
        """Days after the start at which rewards of showings on `day` arrive."""
        delay = np.random.default_rng([seed, 5]).exponential(1.0, shape) * self.behaviour.delay_days
        return day + np.asarray(delay, np.float64)

    def consumed(self, count: int, seed: int, shown: Int64s | None = None) -> Int64s:
        """What each user consumes on his own, [users, count] distinct items. `shown`: the slates [users, size] that
        users see meanwhile."""
        rng = np.random.default_rng([seed, 4])
        users, items = self.wanted.shape
        mixed = (1 - self.behaviour.noise) * _shares(self.wanted) + self.behaviour.noise / items
        if shown is not None and self.behaviour.exposure_bias:
            seen = np.zeros((users, items))
            examined = np.take_along_axis(self.wanted, shown, axis=1) * self.examination(shown.shape[1])
            np.put_along_axis(seen, shown, examined, axis=1)
            mixed = (1 - self.behaviour.exposure_bias) * mixed + self.behaviour.exposure_bias * _shares(seen)
        keys = np.log(np.maximum(mixed, np.finfo(np.float64).tiny)) + rng.gumbel(size=(users, items))
        return np.asarray(np.argpartition(-keys, count, axis=1)[:, :count])


def _shares(values: Float64s) -> Float64s:
    return np.asarray(values / values.sum(axis=1, keepdims=True))
