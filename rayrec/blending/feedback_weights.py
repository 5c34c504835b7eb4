"""Importance weights of rewarded items: logged rewards as if every candidate had been shown, and examined, once.

A policy draws the ranks of a slate one after the other, item i_k with its propensity p_k = P(i_k | ranks above). For
any f, each f(i_1) + ... + f(i_(k-1)) + f(i_k) / p_k is unbiased for the sum of f over all candidates that the policy
can show (Des Raj 1956). The mean over a slate's K ranks gives the item at rank k the weight (1 / p_k + K - k) / K. A
reward needs that its rank is examined (position-based model, Craswell et al. 2008), so it is divided by that
probability (Joachims, Swaminathan & Schnabel 2017).

With f(i) = -reward(i) log P(i | candidates), the weighted rewards are targets of the same conditional logit that is
fitted on consumption, and the fit is that of a log without exposure or position bias, whatever the policy knew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from rayrec.numerics.types import Bools, Float64s, Int64s

MIN_REWARDS = 100  # rewarded items from which examination is estimated; with fewer, every rank counts as examined
_LEAST_EXAMINED = 0.05  # bounds how much one reward at a deep rank can count
_FIXED = 1 - 1e-6  # propensity of what a policy did not draw: greedy arms, pins


@dataclass(frozen=True)
class Showings:
    """Items of showings, [n], those of one showing together and in the order of their ranks."""

    showing: Int64s  # number of the showing, from 0, ascending
    rank: Int64s  # from 1
    propensity: Float64s  # P(this item here | the ranks above)
    reward: Float64s  # at least 0

    def drawn(self) -> Bools:
        """Which items [n] a policy has drawn. Nothing corrects the others."""
        return np.asarray(self.propensity < _FIXED)

    def filter(self, rows: Bools) -> Showings:
        return Showings(self.showing[rows], self.rank[rows], self.propensity[rows], self.reward[rows])


def importance_weights(shown: Showings, examination: Float64s) -> Float64s:
    """The weight of each drawn item, [n]. `examination`: by rank; the last one holds for all deeper ranks."""
    above, size = _places(shown.showing)
    exposure = (1 / shown.propensity + size - 1 - above) / size
    return np.asarray(exposure / _at_rank(examination, shown.rank))


def reward_targets(shown: Showings, examination: Float64s, clip: float) -> Float64s:
    """Each drawn item's weight as a target [n]: reward times importance weight, which is clipped at `clip` times its
    mean and self-normalised, so that the targets sum to the rewards."""
    weight = importance_weights(shown, examination)
    if not len(weight):
        return weight
    target = np.asarray(shown.reward * np.minimum(weight, clip * weight.mean()), np.float64)
    total = float(target.sum())
    return np.asarray(target * (shown.reward.sum() / total)) if total > 0 else target


def effective_size(targets: Float64s) -> float:
    """Number of equally weighted targets that would be worth as much (Kish 1965)."""
    square = float((targets * targets).sum())
    return float(targets.sum()) ** 2 / square if square > 0 else 0.0


def estimated_examination(shown: Showings) -> Float64s:
    """P(rank is examined) over that of rank 1, by rank, from what a policy has drawn at random.

    reward / p of rank k is unbiased for examination(k) times the rewards of all items that are not above it; those of
    all items are known from rank 1, and those above from their own rewards. Self-normalised by 1 / p. An intervention
    by the policy's own draws (cf. intervention harvesting, Agarwal et al. 2019), without a model of relevance. Falls
    with the rank (isotonic regression), by at most a factor of 20. All 1 with fewer than MIN_REWARDS rewarded items.
    """
    depth = int(shown.rank.max(initial=1))
    found, known = np.ones(depth), np.zeros(depth)
    if np.count_nonzero(shown.reward) < MIN_REWARDS:
        return found
    showings = int(shown.showing.max()) + 1
    inverse, reward = (np.full((showings, depth), np.nan) for _ in range(2))
    at = shown.showing, shown.rank - 1
    inverse[at], reward[at] = 1 / shown.propensity, shown.reward
    above = np.zeros(showings)  # rewards of the ranks above, were they all examined
    for column in range(depth):
        both = np.isfinite(inverse[:, column]) & np.isfinite(inverse[:, 0])
        if both.any():
            first, here = inverse[both, 0], inverse[both, column]
            items, lost = float(first.mean()), (np.isfinite(inverse[both, :column])).sum(1).mean()
            left = items * _mean(reward[both, 0], first) - float(above[both].mean())
            left /= max(items - lost, 1.0)
            if column and left > 0:
                found[column] = _mean(reward[both, column], here) / left
            known[column] = np.count_nonzero(reward[both, column])
            found[column] = np.clip(found[column], _LEAST_EXAMINED, 1)
        above += np.nan_to_num(reward[:, column]) / found[column]
    falling = isotonic_regression(found, weights=known + 1, increasing=False).x
    return np.asarray(falling / falling[0], np.float64)


def _mean(values: Float64s, weight: Float64s) -> float:
    return float((values * weight).sum() / weight.sum())


def _places(showing: Int64s) -> tuple[Int64s, Int64s]:
    """How many items of its showing stand above each, and how many its showing has."""
    first = np.flatnonzero(np.diff(showing, prepend=-1))
    size = np.diff(np.append(first, len(showing)))
    return np.arange(len(showing)) - np.repeat(first, size), np.repeat(size, size)


def _at_rank(examination: Float64s, rank: Int64s) -> Float64s:
    return np.asarray(examination[np.minimum(rank, len(examination)) - 1])
