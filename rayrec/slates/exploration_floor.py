"""Exploration floor: at each of the first ranks, with probability epsilon an item of any arm's candidates.

Arms that differ in retrieval, denoising or rules have different candidates. An arm with a floor can show all of them,
so its feedback supports off-policy estimates of the other arms. The floor wraps any policy: at each of the first
FLOOR_RANKS ranks, the item is drawn uniformly from the remaining candidates of all arms with probability epsilon, else
by the policy from the arm's own. Lower ranks are the policy's alone, because no feedback on them counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import padded_rows
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s
from rayrec.slates.marginal_propensities import mixture_marginals
from rayrec.slates.policies import PolicySlates, SlatePolicy, uniform_draws
from rayrec.slates.scored_candidates import ScoredCandidates

FLOOR_RANKS = 20  # feedback.depth is at most this
EXPLORATION = "exploration"  # the source of an item that only other arms have as a candidate


class ExplorationFloor(SlatePolicy):
    """`policy`, mixed at each rank with a uniform draw from the arm's own candidates and `ScoredCandidates.others`."""

    name = "exploration_floor"
    explores = True

    def __init__(self, policy: SlatePolicy, epsilon: float) -> None:
        super().__init__(policy.settings)
        self.policy, self.epsilon = policy, epsilon

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        """As the base class. The policy's choice is drawn from `first_choice` of what is left; below FLOOR_RANKS its
        own `order` of what is left follows."""
        many = np.minimum(scored.scores.lengths, min(size, FLOOR_RANKS))
        draws = uniform_draws(derive_seed(seed, EXPLORATION), scored.user_ids, many, draws=3)
        head = Ragged.from_lengths(np.empty(many.sum(), np.int64), many)
        left = np.ones(len(scored.candidate.values), np.bool_)
        for rank in range(int(many.max(initial=0))):
            users = np.flatnonzero(many > rank)
            at = head.offsets[users] + rank
            chosen = self._draw(scored, left, users, draws[:, at], seed)
            head.values[at], left[chosen] = chosen, False
        places = head
        if size > FLOOR_RANKS:
            own = left & ~scored.from_others
            rest = self.policy.order(scored.filter(own), size - FLOOR_RANKS, seed).places
            places = head.joined(rest.like(np.flatnonzero(own)[rest.values]))
        return PolicySlates(places, self.probability(scored, places, size, seed))

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        own = ~scored.from_others
        real = given.values >= 0
        mine = real & np.append(own, False)[given.values]
        place = np.where(mine, np.append(np.cumsum(own) - 1, -1)[given.values], -1)
        by_policy = self.policy.probability(scored.filter(own), given.like(place), size, seed).astype(np.float64)
        rank = np.arange(len(given.values)) - given.offsets[given.rows]
        left = scored.scores.lengths[given.rows] - _above(given, real)
        own_left = np.bincount(scored.scores.rows[own], minlength=len(scored))[given.rows] - _above(given, mine)
        mixed = self._mixed(by_policy, left, own_left)
        inside = real & (rank < size)
        found = np.where(inside, np.where(rank < FLOOR_RANKS, mixed, by_policy), 0.0)
        return np.asarray(found, np.float32)

    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        own, lengths = ~scored.from_others, scored.scores.lengths
        chance = np.zeros(len(own))
        chance[own] = self.policy.first_choice(scored.filter(own), seed)
        own_left = np.bincount(scored.scores.rows[own], minlength=len(scored))
        rows = scored.scores.rows
        return self._mixed(chance, lengths[rows], own_left[rows]).astype(np.float32)

    def marginal(self, scored: ScoredCandidates, given: Ragged, seed: int) -> Float64s | None:
        """Sampled: see `mixture_marginals`. Of the first FLOOR_RANKS ranks alone."""
        own = ~scored.from_others
        mixture = self.policy.mixture(scored.filter(own))
        if mixture is None:
            return None
        weight = np.full(len(own), -np.inf)
        weight[own] = mixture[1]
        states = splitmix64(hash_strings(scored.user_ids) ^ np.uint64(derive_seed(seed, "marginal")))
        return mixture_marginals(scored.scores, own, weight, mixture[0], self.epsilon, given, states)

    def _mixed(self, by_policy: Float64s, left: Int64s, own_left: Int64s) -> Float64s:
        """Probability of a candidate; where the policy has none left, the draw is uniform."""
        uniform = 1 / np.maximum(left, 1)
        return np.where(own_left > 0, (1 - self.epsilon) * by_policy + self.epsilon * uniform, uniform)

    def _draw(self, scored: ScoredCandidates, left: Bools, users: Int64s, draws: Float64s, seed: int) -> Int64s:
        """The flat place of one remaining candidate of each of these users; draws [3, users]."""
        own = left & ~scored.from_others
        pool = scored.filter(own)
        chance = np.zeros(len(own))
        chance[own] = self.policy.first_choice(pool, seed)
        anywhere = (draws[0] < self.epsilon) | (pool.scores.lengths[users] == 0)
        by_policy = drawn_places(scored.scores.like(chance), users, draws[1][:, None])[:, 0]
        uniform = drawn_places(scored.scores.like(left.astype(np.float64)), users, draws[2][:, None])[:, 0]
        return np.where(anywhere, uniform, by_policy)


def drawn_places(weight: Ragged, users: Int64s, uniform: Float64s) -> Int64s:
    """The flat place [users, draws] in each user's row at these uniform numbers in (0, 1), in proportion to `weight`.

    Each user's places depend on that row alone, to the last bit. Rows without weight give 0.
    """
    found = np.zeros(uniform.shape, np.int64)
    row = np.full(len(weight), -1, np.int64)
    row[users] = np.arange(len(users))
    for block in padded_rows(weight.offsets):
        wanted = row[block.rows] >= 0
        mine, first = row[block.rows][wanted], weight.offsets[:-1][block.rows][wanted]
        values = np.where(block.mask, weight.values[block.take], 0.0)[wanted]
        cumulative = np.cumsum(values, axis=1)
        last = values.shape[1] - 1 - np.argmax(values[:, ::-1] > 0, axis=1)  # rounding may not pass the last weight
        for draw in range(uniform.shape[1]):
            below = (cumulative <= uniform[mine, draw, None] * cumulative[:, -1:]).sum(axis=1)
            found[mine, draw] = first + np.minimum(below, last)
    return found


def with_other_candidates(scored: ScoredCandidates, others: Sequence[ScoredCandidates], admitted: Bools) -> Ragged:
    """Item codes [ragged int32, one row per user of `scored`] that only the other arms have as candidates, ascending.

    `admitted`: mask [items] of what the arm may show at all.
    """
    keys = [np.zeros(0, np.int64)]
    for other in others:
        row = pc.index_in(other.user_ids, value_set=scored.user_ids).fill_null(-1).to_numpy().astype(np.int64)
        key = row[other.scores.rows] << 32 | other.candidate.values
        keys.append(key[(row[other.scores.rows] >= 0) & admitted[other.candidate.values]])
    own = scored.scores.rows << 32 | scored.candidate.values
    new = np.setdiff1d(np.concatenate(keys), own)
    lengths = np.bincount(new >> 32, minlength=len(scored))
    return Ragged.from_lengths((new & 0xFFFFFFFF).astype(np.int32), lengths)


def extended(scored: ScoredCandidates, new: Ragged) -> ScoredCandidates:
    """The candidates with those of other arms, `new`, behind each user's own; their score is 0 and never read."""
    own = scored.scores.like(scored.from_others)
    scores = scored.scores.joined(new.like(np.zeros(len(new.values), np.float32)))
    others = own.joined(new.like(np.ones(len(new.values), np.bool_)))
    return replace(scored, scores=scores, candidate=scored.candidate.joined(new), others=others.values)


def _above(given: Ragged, counted: Bools) -> Int64s:
    """How many of the row's `counted` cells are above each cell, [cells]."""
    before: Int64s = np.cumsum(counted) - counted
    start: Int64s = before[given.offsets[:-1][given.lengths > 0]]
    return np.asarray(before - np.repeat(start, given.lengths[given.lengths > 0]), np.int64)
