"""A world small enough to enumerate: every slate of two Plackett-Luce policies, and its reward under a user model.

User models (Kiyohara et al. 2022): `independent`, an item's reward depends on its rank and itself alone;
`cascade`, also on the items above; `standard`, on all items of the slate. Rewards are Bernoulli.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MODELS = ("independent", "cascade", "standard")
EXAMINED = 0.85  # P(rank is examined | the rank above is)


@dataclass(frozen=True)
class Sample:
    """n slates drawn by the logging policy; all [n, K]."""

    reward: Floats
    weight: Floats  # of the item given the ranks above
    marginal_weight: Floats
    q: Floats
    v: Floats
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """X contexts, equally likely; all S slates of K out of A items. Probabilities of the logging and target policy."""

    slates: npt.NDArray[np.int64]  # [S, K]
    logging: Floats  # [X, S, K]: P(item | ranks above)
    target: Floats  # [X, S, K]
    logging_marginal: Floats  # [X, S, K]: P(this item at this rank), whatever is above
    target_marginal: Floats  # [X, S, K]
    mean: Floats  # [X, S, K] expected reward
    q: Floats  # [X, S, K]: a wrong model (too low by a quarter) of the rewards from this rank on
    v: Floats  # [X, S, K]: its expectation under the target, given the ranks above
    target_items: Floats  # [X, S, K, A]: P(each item | ranks above) of the target

    @property
    def truth(self) -> float:
        """The target's value."""
        return float((self.target.prod(axis=2) * self.mean.sum(axis=2)).sum() / len(self.mean))

    @property
    def every(self) -> tuple[Floats, Sample]:
        """Each (context, slate) once, with its probability under logging [X S]; rewards are their expectations."""
        chance = self.logging.prod(axis=2).ravel() / len(self.mean)
        return chance, self._sample(self.mean.reshape(-1, self.mean.shape[2]), np.arange(len(chance)))

    def draw(self, slates: int, rng: np.random.Generator) -> Sample:
        contexts, many, ranks = self.mean.shape
        cumulative = np.cumsum(self.logging.prod(axis=2), axis=1)
        context = rng.integers(contexts, size=slates)
        slate = (rng.random(slates)[:, None] > cumulative[context]).sum(axis=1).clip(max=many - 1)
        at = context * many + slate
        reward = rng.random((slates, ranks)) < self.mean.reshape(-1, ranks)[at]
        return self._sample(reward.astype(np.float64), at)

    def _sample(self, reward: Floats, at: npt.NDArray[np.int64]) -> Sample:
        ranks = self.mean.shape[2]
        ratios = (_ratio(self.target, self.logging), _ratio(self.target_marginal, self.logging_marginal))
        tables = (*ratios, self.q, self.v)
        weight, marginal, q, v = (table.reshape(-1, ranks)[at] for table in tables)
        return Sample(reward, weight, marginal, q, v, np.ones(reward.shape, bool))


def _ratio(target: Floats, logging: Floats) -> Floats:
    """0 where nothing is logged."""
    return np.asarray(np.divide(target, logging, out=np.zeros_like(target), where=logging > 0))


def make(
    model: str, seed: int, *, contexts: int = 8, items: int = 6, ranks: int = 4, never_logged: tuple[int, ...] = ()
) -> World:
    """`seed` draws scores and rewards; an item that the target likes reduces the rewards of its neighbours. Items
    `never_logged` have logging probability 0."""
    rng = np.random.default_rng([seed, 7])
    slates = np.array(list(permutations(range(items), ranks)))
    scores = rng.normal(size=(contexts, items))
    logged = 0.4 * scores
    logged[:, list(never_logged)] = -np.inf
    logging, target = _plackett_luce(logged, slates), _plackett_luce(scores, slates)
    base = rng.uniform(0.1, 0.5, size=(contexts, items))
    competition = 0.6 / (1 + np.exp(-2 * scores))  # share of another item's reward that an item takes
    mean = _rewards(model, base, competition, slates)
    everywhere = [_marginal(chance, slates, items) for chance in (logging, target)]
    q_items = 0.75 * _to_go(logging, mean, slates, items)
    left = _over_items(scores, slates)
    v = np.einsum("xska,xka->xsk", left, q_items)
    rank = np.arange(ranks)
    ours, theirs = (table[:, rank, slates] for table in everywhere)
    return World(slates, logging, target, ours, theirs, mean, q_items[:, rank, slates], v, left)


def _over_items(scores: Floats, slates: npt.NDArray[np.int64]) -> Floats:
    """P(item | ranks above) of every item, [X, S, K, A]; 0 for those above."""
    items = scores.shape[1]
    above = np.cumsum(np.eye(items)[slates], axis=1) - np.eye(items)[slates]  # [S, K, A]
    odds = np.exp(scores)[:, None, None, :] * (1 - above)
    chance: Floats = odds / odds.sum(axis=3, keepdims=True)
    return chance


def _plackett_luce(scores: Floats, slates: npt.NDArray[np.int64]) -> Floats:
    chance: Floats = np.take_along_axis(_over_items(scores, slates), slates[None, :, :, None], axis=3)[..., 0]
    return chance


def _marginal(chance: Floats, slates: npt.NDArray[np.int64], items: int) -> Floats:
    """[X, K, A]"""
    found: Floats = np.einsum("xs,ska->xka", chance.prod(axis=2), np.eye(items)[slates])
    return found


def _rewards(model: str, base: Floats, competition: Floats, slates: npt.NDArray[np.int64]) -> Floats:
    ranks = slates.shape[1]
    effect = competition[:, slates][..., None]  # [X, S, of rank, on rank]
    first, second = np.arange(ranks)[:, None], np.arange(ranks)[None, :]
    acting = {"independent": first < 0, "cascade": first < second, "standard": first != second}[model]
    factor = np.where(acting, 1 - effect, 1.0).prod(axis=2)  # [X, S, K]
    mean: Floats = np.clip(base[:, slates] * EXAMINED ** np.arange(ranks) * factor, 0, 1)
    return mean


def _to_go(chance: Floats, mean: Floats, slates: npt.NDArray[np.int64], items: int) -> Floats:
    """The expected rewards from a rank on, given its item, under the policy of `chance`: [X, K, A]."""
    to_go = np.cumsum(mean[:, :, ::-1], axis=2)[:, :, ::-1]
    there = np.eye(items)[slates]
    many = _marginal(chance, slates, items)
    sums: Floats = np.einsum("xs,xsk,ska->xka", chance.prod(axis=2), to_go, there)
    return np.divide(sums, many, out=np.zeros_like(sums), where=many > 0)
