"""Slate policies that leave something to chance, with the exact probability of what they chose.

The propensity at each rank is P(this item at this rank | the ranks above): a slate's probability is their product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.ordering import best, padded_rows
from rayrec.settings import read_settings, require
from rayrec.slates.policies import Ordered, SlatePolicy, chance, register

_TINY = np.finfo(np.float32).tiny  # what a propensity may not fall below: the contract says above 0


@dataclass(frozen=True)
class PlackettLuceSettings:
    temperature: float = 1.0  # scores are divided by it: the lower, the greedier

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature must be above 0")


@register
class PlackettLuce(SlatePolicy):
    """Rank by rank without replacement, P proportional to exp(score / temperature): by Gumbel noise and one sort.

    The candidates with the highest score / temperature + Gumbel noise, in that order, are such a sample (Yellott 1977).
    """

    name = "plackett_luce"

    def __init__(self, settings: PlackettLuceSettings) -> None:
        self.settings = settings

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        return cls(read_settings(PlackettLuceSettings, settings, "slate.settings (plackett_luce)"))

    def order(self, scores: Ragged, user_ids: pa.Array, size: int, seed: int) -> Ordered:
        logits = scores.values.astype(np.float64) / self.settings.temperature
        if not len(logits):
            return Ordered(best(scores, size), np.empty(0, np.float32))
        top = np.full(len(scores), -np.inf)
        np.maximum.at(top, scores.rows, logits)
        logits -= top[scores.rows]
        noise = -np.log(-np.log(chance(seed, user_ids, scores.lengths)[0]))
        everything = best(scores.like((logits + noise).astype(np.float32)), int(scores.lengths.max()))
        # The mass of what is left at each rank, summed from the last one up: no small difference of large numbers.
        odds = np.exp(logits[everything.values])
        left = _sums_from_the_end(everything.like(odds))
        kept = np.arange(len(odds)) - everything.offsets[everything.rows] < size
        places = everything.filter(kept)
        propensity = np.divide(odds, left, out=np.ones_like(odds), where=left > 0)[kept]
        return Ordered(places, np.clip(propensity, _TINY, 1).astype(np.float32))


@dataclass(frozen=True)
class EpsilonSettings:
    epsilon: float = 0.1  # the probability of a draw among all that is left, at each rank

    def __post_init__(self) -> None:
        require(0 <= self.epsilon <= 1, "epsilon must be between 0 and 1")


@register
class Epsilon(SlatePolicy):
    """At each rank the best candidate left, or with probability epsilon any of those left, all alike."""

    name = "epsilon"

    def __init__(self, settings: EpsilonSettings) -> None:
        self.settings = settings

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        return cls(read_settings(EpsilonSettings, settings, "slate.settings (epsilon)"))

    def order(self, scores: Ragged, user_ids: pa.Array, size: int, seed: int) -> Ordered:
        sizes = np.minimum(scores.lengths, size)
        ranked = best(scores, int(scores.lengths.max(initial=0)))
        draws = chance(seed, user_ids, sizes, draws=2)
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
        return Ordered(Ragged.from_lengths(places, sizes), propensity)

    def _choose(
        self, draws: npt.NDArray[np.float64], many: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Which of the `many` left, best first, each user gets, and with what probability; draws [2, users]."""
        epsilon = self.settings.epsilon
        any_of_them = np.minimum((draws[1] * many).astype(np.int64), many - 1)
        chosen = np.where(draws[0] < epsilon, any_of_them, 0)
        return chosen, epsilon / many + np.where(chosen == 0, 1 - epsilon, 0)


def _without(left: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows [users, n] with one place of each taken out; what comes after moves up, the last column stays as it was."""
    result = left.copy()
    moved = np.arange(left.shape[1] - 1)[None, :] >= chosen[:, None]
    result[:, :-1] = np.where(moved, left[:, 1:], left[:, :-1])
    return result


def _sums_from_the_end(values: Ragged) -> npt.NDArray[np.float64]:
    """Of each row, the sum of each value and all after it."""
    result = np.empty(len(values.values))
    for block in padded_rows(values.offsets):
        padded = np.where(block.mask, values.values[block.take], 0.0)
        sums = np.cumsum(padded[:, ::-1], axis=1)[:, ::-1]
        result[block.take[block.mask]] = sums[block.mask]
    return result
