"""Epsilon-greedy slate policy: at each rank the best remaining candidate, or a random one with probability epsilon."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, padded_rows
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s
from rayrec.slates.policies import (
    POLICIES,
    PolicySlates,
    SlatePolicy,
    best_first_marginals,
    given_slate_blocks,
    greedy_first_choice,
    is_greedy_choice,
    uniform_draws,
)
from rayrec.slates.scored_candidates import ScoredCandidates


class EpsilonGreedySettings(MethodSettings):
    epsilon: float = Field(0.1, ge=0, le=1)
    """Probability of a uniform draw among the remaining candidates at each rank; 0 is greedy, 1 is uniform."""


@POLICIES.register
class EpsilonGreedy(SlatePolicy):
    """At each rank the best remaining candidate, or with probability epsilon a uniform draw among those remaining."""

    name = "epsilon_greedy"
    settings_class = EpsilonGreedySettings
    explores = True
    settings: EpsilonGreedySettings

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        scores = scored.scores
        sizes = np.minimum(scores.lengths, size)
        ranked = best(scores, int(scores.lengths.max(initial=0)))
        draws = uniform_draws(seed, scored.user_ids, sizes, draws=2)
        first = np.cumsum(sizes) - sizes
        places, propensity = np.empty(sizes.sum(), np.int64), np.empty(sizes.sum(), np.float32)
        for block in padded_rows(ranked.offsets):
            left, many = ranked.values[block.take], ranked.lengths[block.rows]
            for rank in range(int(sizes[block.rows].max(initial=0))):
                going = np.flatnonzero(sizes[block.rows] > rank)
                at = first[block.rows][going] + rank
                chosen, propensity[at] = self._choose(draws[:, at], many[going] - rank)
                places[at] = left[going, chosen]
                left[going] = _without(left[going], chosen)
        return PolicySlates(Ragged.from_lengths(places, sizes), propensity)

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        result = np.zeros(len(given.values), np.float32)
        for block in given_slate_blocks(scored, given, size):
            above: Int64s = np.cumsum(block.real, axis=1) - block.real
            many = np.maximum(scored.scores.lengths[block.users, None] - above, 1)
            chosen = self._odds(many, is_greedy_choice(block.rank, block.real))
            result[block.at] = np.where(block.real, chosen, 0)[block.within]
        return result

    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        many = scored.scores.lengths[scored.scores.rows]
        return self._odds(many, greedy_first_choice(scored) > 0).astype(np.float32)

    def marginal(self, scored: ScoredCandidates, given: Ragged, seed: int) -> Float64s:
        return best_first_marginals(scored, given, self.settings.epsilon)

    def mixture(self, scored: ScoredCandidates) -> tuple[float, Float64s]:
        return 1 - self.settings.epsilon, np.zeros(len(scored.scores.values))

    def _odds(self, many: Int64s, is_best: Bools) -> Float64s:
        """Probability of one of the `many` remaining candidates, by whether it is the best of them."""
        epsilon = self.settings.epsilon
        return np.asarray(epsilon / many + np.where(is_best, 1 - epsilon, 0))

    def _choose(self, draws: Float64s, many: Int64s) -> tuple[Int64s, Float64s]:
        """Position among the `many` remaining candidates, best first, and its probability; draws [2, users]."""
        any_of_them = np.minimum((draws[1] * many).astype(np.int64), many - 1)
        chosen = np.where(draws[0] < self.settings.epsilon, any_of_them, 0)
        return chosen, self._odds(many, chosen == 0)


def _without(left: Int64s, chosen: Int64s) -> Int64s:
    """Remove one position from each row [users, n]; later ones move up, the last column stays."""
    result = left.copy()
    moved = np.arange(left.shape[1] - 1)[None, :] >= chosen[:, None]
    result[:, :-1] = np.where(moved, left[:, 1:], left[:, :-1])
    return result
