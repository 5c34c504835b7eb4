"""Slate policies: choose slates from scored candidates, with the probability of each choice.

tests/slates/test_policies.py tests the contract of all policies.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings, NoSettings
from rayrec.numerics.hashing import hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, padded_rows, ranks
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s
from rayrec.slates.marginal_propensities import epsilon_greedy_marginals
from rayrec.slates.scored_candidates import ScoredCandidates


@dataclass(frozen=True)
class PolicySlates:
    """Slates as positions into the candidates' flat values: ragged int64, best first; propensity aligned."""

    places: Ragged
    propensity: Float32s  # P(this item at this rank | the ranks above)


class SlatePolicy(ABC):
    """Chooses slates from scored candidates. Randomness depends only on (run, arm, user); see `uniform_draws`."""

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]]  # of `slate.settings`
    explores: ClassVar[bool]  # whether it draws at random
    needs_factors: ClassVar[bool] = False  # whether it needs item factors

    def __init__(self, settings: Any) -> None:
        """`settings`: an instance of `settings_class`."""
        self.settings = settings

    @abstractmethod
    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        """Choose at most `size` candidates per user; each row depends only on that user, its scores and the seed."""

    @abstractmethod
    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        """P(this candidate at this rank | the ranks above) of given slates, aligned with `given.values`.

        `given`: ragged int64 positions into the candidates' flat values, one row per user, best first, without
        repetition; −1 for an item that is not a candidate: its probability is 0, and the ranks below ignore it. Ranks
        beyond `size` have probability 0. For the policy's own slates these are the propensities.
        """

    @abstractmethod
    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        """P(this candidate at the first rank), aligned with the candidates' flat values; each user's sum to 1."""

    def marginal(self, scored: ScoredCandidates, given: Ragged, seed: int) -> Float64s | None:
        """P(this candidate at this rank), whatever is above it, aligned with `given.values` (as `probability`, but the
        rank is the place in the row, also below an item that is not a candidate). None: not known for this policy."""
        return None

    def mixture(self, scored: ScoredCandidates) -> tuple[float, Float64s] | None:
        """The share of choices that are the best remaining candidate, and log weights [candidates] of all other
        choices; None for a policy that is no such mixture."""
        return None


POLICIES: Registry[type[SlatePolicy]] = Registry("slate.policy", "slate policy")


def uniform_draws(seed: int, user_ids: pa.Array, lengths: Int64s, draws: int = 1) -> Float64s:
    """Uniform numbers in (0, 1), [draws, sum(lengths)]: `lengths[u]` for each user, from (seed, user, place, draw).

    splitmix64 of the user's stable hash as a counter: stateless, so results do not depend on the batch.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = splitmix64(hash_strings(user_ids) ^ np.uint64(seed))[rows]
    counter = place.astype(np.uint64)[None, :] * np.uint64(draws) + np.arange(draws, dtype=np.uint64)[:, None]
    bits = splitmix64(start + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    uniform: Float64s = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return uniform


@POLICIES.register
class Greedy(SlatePolicy):
    """The best candidates first, ties in the order of the candidates; deterministic."""

    name = "greedy"
    settings_class = NoSettings
    explores = False

    def __init__(self, settings: NoSettings = NoSettings()) -> None:  # noqa: B008 (frozen)
        super().__init__(settings)

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        places = best(scored.scores, size)
        return PolicySlates(places, np.ones(len(places.values), np.float32))

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        result = np.zeros(len(given.values), np.float32)
        for block in given_slate_blocks(scored, given, size):
            result[block.at] = is_greedy_choice(block.rank, block.real)[block.within]
        return result

    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        return greedy_first_choice(scored)

    def marginal(self, scored: ScoredCandidates, given: Ragged, seed: int) -> Float64s:
        return best_first_marginals(scored, given, 0.0)

    def mixture(self, scored: ScoredCandidates) -> tuple[float, Float64s]:
        return 1.0, np.zeros(len(scored.scores.values))


def best_first_marginals(scored: ScoredCandidates, given: Ragged, epsilon: float) -> Float64s:
    """`SlatePolicy.marginal` of a policy that shows the best remaining candidate but for a share of epsilon."""
    standing = _standing(scored)
    real = given.values >= 0
    result, place = np.zeros(len(given.values)), given.values[real]
    rank, many = (np.arange(len(real)) - given.offsets[given.rows])[real], scored.scores.lengths[given.rows[real]]
    result[real] = epsilon_greedy_marginals(standing[place], many, rank, epsilon)
    return result


def greedy_first_choice(scored: ScoredCandidates) -> Float32s:
    """1 for each user's best candidate, 0 for all others, [candidates]."""
    result = np.zeros(len(scored.scores.values), np.float32)
    result[best(scored.scores, 1).values] = 1
    return result


@dataclass(frozen=True)
class GivenSlates:
    """Some users' given slates, padded to K ranks."""

    users: slice
    at: Int64s  # [within] positions in `given.values` of the cells `within`
    within: Bools  # [b, K]: a rank of the slate, below the size
    real: Bools  # [b, K]: also a candidate of the user
    place: Int64s  # [b, K] positions in the candidates' flat values; 0 where not real
    rank: Int64s  # [b, K] rank among the user's candidates by score, from 0; −1 where not real


def given_slate_blocks(scored: ScoredCandidates, given: Ragged, size: int) -> Iterator[GivenSlates]:
    """Iterate over given slates (see `SlatePolicy.probability`) in blocks."""
    standing = _standing(scored)
    for block in padded_rows(given.offsets):
        take, within = block.take[:, :size], block.mask[:, :size]
        place = np.where(within, given.values[take], -1)
        real = place >= 0
        # Without candidates there are no ranks to look up: every place is −1.
        rank = np.where(real, standing[np.maximum(place, 0)], -1) if len(standing) else place
        yield GivenSlates(block.rows, take[within], within, real, np.maximum(place, 0), rank)


def _standing(scored: ScoredCandidates) -> Int64s:
    """Rank of each candidate by score among the user's, from 0, [candidates]."""
    standing = np.empty(len(scored.scores.values), np.int64)
    for block in padded_rows(scored.scores.offsets):
        standing[block.take[block.mask]] = ranks(scored.scores.values[block.take], block.mask)[block.mask]
    return standing


def is_greedy_choice(rank: Int64s, real: Bools) -> Bools:
    """Whether a given slate shows the best remaining candidate, [b, K]: the `rank` better ones are all above it."""
    result = np.zeros(rank.shape, np.bool_)
    for place in range(rank.shape[1]):
        now = rank[:, place]
        better = (real[:, :place] & (rank[:, :place] < now[:, None])).sum(1)
        result[:, place] = real[:, place] & (better == now)
    return result
