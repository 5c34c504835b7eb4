"""Estimators of whole slates: n slates of up to K ranks, each item with a reward of its own.

Columns are float64 [n, K]: `reward`; `weight` = P(item here | ranks above, target) / the same of logging; `mask`, bool,
false past a slate's end, where no other column is read. The value is the expected sum of a slate's rewards, and has one
term a rank (`at_rank`). Which weight a rank needs depends on what its reward depends on:

    sips  all of the slate    the whole slate's weight: always unbiased, the most variance
    rips  the ranks above     the prefix's weight: unbiased where users look from the top down (cascade)
    iips  nothing else        the rank's own marginal weight: unbiased where ranks do not interact, the least variance

Self-normalised ones divide each rank by the sum of its own weights: consistent under the same assumptions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.estimates import Contributions, Floats, validated

Mask = npt.NDArray[np.bool_]


def conditional_weights(target: Floats, logging: Floats, mask: Mask) -> Floats:
    """target / logging of propensities [n, K] given the ranks above; 1 past the end.

    Raises DataError where logging is not in (0, 1] or the target is not in [0, 1].
    """
    above, below = (np.where(mask, np.asarray(column, np.float64), 1.0) for column in (target, logging))
    wrong = ~((below > 0) & (below <= 1) & (above >= 0) & (above <= 1))
    if wrong.any():
        row, rank = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"impossible propensities: {below[row, rank]} of logging, {above[row, rank]} of the target",
            where=f"slate {row}, rank {rank + 1}",
            hint="what was logged has a propensity in (0, 1], the target's is in [0, 1]",
        )
    weights: Floats = above / below
    return weights


def prefix_weights(weight: Floats, mask: Mask) -> Floats:
    """The weight of each rank together with all above it, [n, K]: running products; past the end the whole slate's."""
    running: Floats = np.cumprod(np.where(mask, weight, 1.0), axis=1)
    return running


def sips(reward: Floats, weight: Floats, mask: Mask) -> Contributions:
    """Slate IPS: every rank has the whole slate's weight ("IPS" of Swaminathan et al. 2017)."""
    reward, weight = _within(reward, weight, mask)
    return _weighted("sips", reward, _whole(weight, mask))


def sn_sips(reward: Floats, weight: Floats, mask: Mask) -> Contributions:
    """Self-normalised SIPS ("weighted IPS" of Swaminathan et al. 2017)."""
    reward, weight = _within(reward, weight, mask)
    return _normalised("sn_sips", reward, _whole(weight, mask))


def rips(reward: Floats, weight: Floats, mask: Mask) -> Contributions:
    """Reward-interaction IPS: a rank has the weight of the prefix that ends there (McInerney et al. 2020)."""
    reward, weight = _within(reward, weight, mask)
    return _weighted("rips", reward, prefix_weights(weight, mask))


def sn_rips(reward: Floats, weight: Floats, mask: Mask) -> Contributions:
    """RIPS, each rank normalised by the sum of its prefixes' weights (McInerney et al. 2020)."""
    reward, weight = _within(reward, weight, mask)
    return _normalised("sn_rips", reward, prefix_weights(weight, mask))


def iips(reward: Floats, marginal_weight: Floats, mask: Mask) -> Contributions:
    """Independent IPS (Li et al. 2018): weights are P(item at this rank) of the target / of logging, whatever is above.

    They are marginals: propensities given the ranks above do not give them.
    """
    reward, marginal_weight = _within(reward, marginal_weight, mask)
    return _weighted("iips", reward, np.where(mask, marginal_weight, 1.0))


def sn_iips(reward: Floats, marginal_weight: Floats, mask: Mask) -> Contributions:
    """IIPS, each rank normalised by the sum of its weights."""
    reward, marginal_weight = _within(reward, marginal_weight, mask)
    return _normalised("sn_iips", reward, np.where(mask, marginal_weight, 1.0))


def cascade_dr(reward: Floats, weight: Floats, q: Floats, v: Floats, mask: Mask) -> Contributions:
    """Cascade doubly robust (Kiyohara et al. 2022): the sum over ranks of w_{<k} v_k + w_{<=k} (r_k - q_k).

    `q`: what a model expects of the logged item, given the ranks above; `v`: the expectation of the same q under the
    target. Unbiased under the cascade for any q, rank by rank; the least variance has a q of the rewards from this rank
    on. With q = v = 0 it is RIPS.
    """
    reward, weight = _within(reward, weight, mask)
    q, v = (np.where(mask, column, 0.0) for column in validated(q=np.where(mask, q, 0.0), v=np.where(mask, v, 0.0)))
    prefix = prefix_weights(weight, mask)
    above = np.hstack([np.ones((len(prefix), 1)), prefix[:, :-1]])
    return Contributions("cascade_dr", above * v + prefix * (reward - q), np.ones_like(prefix), prefix)


def at_rank(contributions: Contributions, rank: int) -> Contributions:
    """The expected reward at one rank (from 1) alone, by the same estimator."""
    column = slice(rank - 1, rank)
    name = f"{contributions.name}@{rank}"
    parts = (contributions.numerator, contributions.denominator, contributions.weight)
    return Contributions(name, *(part[:, column] for part in parts))


def _within(reward: Floats, weight: Floats, mask: Mask) -> tuple[Floats, Floats]:
    """Both columns checked; past the end the reward is 0 and the weight 1. Raises DataError for slates with holes."""
    if np.any(mask[:, 1:] & ~mask[:, :-1]):
        row = int(np.argwhere((mask[:, 1:] & ~mask[:, :-1]).any(axis=1))[0, 0])
        raise DataError("a slate has a hole: a rank without the one above", where=f"slate {row}", hint="leave it out")
    reward, weight = validated(reward=np.where(mask, reward, 0.0), weight=np.where(mask, weight, 1.0))
    return reward, weight


def _whole(weight: Floats, mask: Mask) -> Floats:
    last = prefix_weights(weight, mask)[:, -1:]
    return np.repeat(last, weight.shape[1], axis=1)


def _weighted(name: str, reward: Floats, weight: Floats) -> Contributions:
    return Contributions(name, weight * reward, np.ones_like(weight), weight)


def _normalised(name: str, reward: Floats, weight: Floats) -> Contributions:
    return Contributions(name, weight * reward, weight, weight)
