"""Slate policies that leave something to chance, with the exact probability of what they chose.

The propensity at each rank is P(this item at this rank | the ranks above): a slate's probability is their product.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, padded_rows
from rayrec.slates.policies import (
    POLICIES,
    PolicySlates,
    SlatePolicy,
    given_slate_blocks,
    is_greedy_choice,
    uniform_draws,
)
from rayrec.slates.scored_candidates import Bools, Floats, Ints, ScoredCandidates

_TINY = np.finfo(np.float32).tiny  # what a propensity may not fall below: the contract says above 0


class PlackettLuceSettings(MethodSettings):
    temperature: float = Field(1.0, gt=0)
    """Scores are divided by it, above 0: the lower, the greedier."""


@POLICIES.register
class PlackettLuce(SlatePolicy):
    """Rank by rank without replacement, P proportional to exp(score / temperature): by Gumbel noise and one sort.

    The candidates with the highest score / temperature + Gumbel noise, in that order, are such a sample (Yellott 1977).
    """

    name = "plackett_luce"
    settings_class = PlackettLuceSettings
    explores = True
    settings: PlackettLuceSettings

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        logits = self._logits(scored)
        noise = -np.log(-np.log(uniform_draws(seed, scored.user_ids, scored.scores.lengths)[0]))
        places = best(scored.scores.like((logits + noise).astype(np.float32)), size)
        return PolicySlates(places, self.probability(scored, places, size, seed))

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Floats:
        """In logarithms, and the mass of what is left summed from the last rank up: no small difference of large
        numbers, and nothing vanishes at low temperatures."""
        logits = self._logits(scored)
        others = np.ones(len(logits), np.bool_)
        others[given.values[given.values >= 0]] = False
        rest = _log_mass(scored.scores.like(logits), others)
        result = np.zeros(len(given.values), np.float32)
        for block in padded_rows(given.offsets):
            place = np.where(block.mask, given.values[block.take], -1)
            own = np.where(place >= 0, logits[place] if len(logits) else -np.inf, -np.inf)
            from_the_end = np.concatenate([rest[block.rows, None], own[:, ::-1]], axis=1)
            left = np.logaddexp.accumulate(from_the_end, axis=1)[:, :0:-1]
            real = (place >= 0) & (np.arange(place.shape[1]) < size)
            result[block.take[real]] = np.clip(np.exp(own[real] - left[real]), _TINY, 1)
        return result

    def _logits(self, scored: ScoredCandidates) -> npt.NDArray[np.float64]:
        """Scores over the temperature, the user's best at 0."""
        logits = scored.scores.values.astype(np.float64) / self.settings.temperature
        top = np.full(len(scored), -np.inf)
        np.maximum.at(top, scored.scores.rows, logits)
        return np.asarray(logits - top[scored.scores.rows])


class EpsilonGreedySettings(MethodSettings):
    epsilon: float = Field(0.1, ge=0, le=1)
    """The probability of a draw among all that is left, at each rank; 0 is greedy, 1 is chance alone."""


@POLICIES.register
class EpsilonGreedy(SlatePolicy):
    """At each rank the best candidate left, or with probability epsilon any of those left, all alike."""

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

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Floats:
        result = np.zeros(len(given.values), np.float32)
        for block in given_slate_blocks(scored, given, size):
            above: Ints = np.cumsum(block.real, axis=1) - block.real
            many = np.maximum(scored.scores.lengths[block.users, None] - above, 1)
            chosen = self._odds(many, is_greedy_choice(block.rank, block.real))
            result[block.at] = np.where(block.real, chosen, 0)[block.asked]
        return result

    def _odds(self, many: Ints, is_best: Bools) -> npt.NDArray[np.float64]:
        """The probability of one of the `many` left, by whether it is the best of them."""
        epsilon = self.settings.epsilon
        return np.asarray(epsilon / many + np.where(is_best, 1 - epsilon, 0))

    def _choose(
        self, draws: npt.NDArray[np.float64], many: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Which of the `many` left, best first, each user gets, and with what probability; draws [2, users]."""
        any_of_them = np.minimum((draws[1] * many).astype(np.int64), many - 1)
        chosen = np.where(draws[0] < self.settings.epsilon, any_of_them, 0)
        return chosen, self._odds(many, chosen == 0)


def _without(left: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows [users, n] with one place of each taken out; what comes after moves up, the last column stays as it was."""
    result = left.copy()
    moved = np.arange(left.shape[1] - 1)[None, :] >= chosen[:, None]
    result[:, :-1] = np.where(moved, left[:, 1:], left[:, :-1])
    return result


def _log_mass(logits: Ragged, counted: Bools) -> npt.NDArray[np.float64]:
    """log sum exp of each row's counted logits, [rows]; −inf where there are none."""
    rows, values = logits.rows[counted], logits.values[counted]
    top = np.full(len(logits), -np.inf)
    np.maximum.at(top, rows, values)
    mass = np.bincount(rows, np.exp(values - top[rows]), minlength=len(logits))
    return np.asarray(np.log(np.maximum(mass, 1)) + top)  # a row that counts any counts its top, exp(0)
