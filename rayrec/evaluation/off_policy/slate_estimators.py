"""Off-policy estimators of slates: n slates of up to K ranks with a reward per item.

Columns are float64 [n, K]: `reward`; `weight` = P(item here | ranks above, target) / the same of logging; `mask`, bool,
false past a slate's end, where no other column is read. The value is the expected sum of a slate's rewards, with one
term per rank. The weight of a rank depends on what its reward depends on:

    sips  the whole slate     the whole slate's weight: always unbiased, the most variance
    rips  the ranks above     the prefix's weight: unbiased where users look from the top down (cascade)
    iips  the rank alone      the rank's marginal weight: unbiased where ranks do not interact, the least variance

Self-normalised estimators divide each rank by the sum of its weights: consistent under the same assumptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.estimates import Contributions, validated
from rayrec.numerics.types import Bools, Float64s

_Combined: TypeAlias = Callable[[Float64s, Bools], Float64s]


def conditional_weights(target: Float64s, logging: Float64s, mask: Bools) -> Float64s:
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
            hint="logged propensities are in (0, 1], those of the target in [0, 1]",
        )
    weights: Float64s = above / below
    return weights


def prefix_weights(weight: Float64s, mask: Bools) -> Float64s:
    """The weight of each rank together with all above it, [n, K]: running products; past the end the whole slate's."""
    running: Float64s = np.cumprod(np.where(mask, weight, 1.0), axis=1)
    return running


def sips(reward: Float64s, weight: Float64s, mask: Bools) -> Contributions:
    """Slate IPS: every rank has the whole slate's weight ("IPS" of Swaminathan et al. 2017)."""
    return _contributions("sips", reward, weight, mask, _whole)


def sn_sips(reward: Float64s, weight: Float64s, mask: Bools) -> Contributions:
    """Self-normalised SIPS ("weighted IPS" of Swaminathan et al. 2017)."""
    return _contributions("sn_sips", reward, weight, mask, _whole)


def rips(reward: Float64s, weight: Float64s, mask: Bools) -> Contributions:
    """Reward-interaction IPS: a rank has the weight of the prefix that ends there (McInerney et al. 2020)."""
    return _contributions("rips", reward, weight, mask, prefix_weights)


def sn_rips(reward: Float64s, weight: Float64s, mask: Bools) -> Contributions:
    """RIPS, each rank normalised by the sum of its prefixes' weights (McInerney et al. 2020)."""
    return _contributions("sn_rips", reward, weight, mask, prefix_weights)


def iips(reward: Float64s, marginal_weight: Float64s, mask: Bools) -> Contributions:
    """Independent IPS (Li et al. 2018): weights are the ratios of the marginal P(item at this rank), target / logging.

    Propensities given the ranks above are not marginal propensities.
    """
    return _contributions("iips", reward, marginal_weight, mask)


def sn_iips(reward: Float64s, marginal_weight: Float64s, mask: Bools) -> Contributions:
    """IIPS, each rank normalised by the sum of its weights."""
    return _contributions("sn_iips", reward, marginal_weight, mask)


def cascade_dr(reward: Float64s, weight: Float64s, q: Float64s, v: Float64s, mask: Bools) -> Contributions:
    """Cascade doubly robust (Kiyohara et al. 2022): the sum over ranks of w_{<k} v_k + w_{<=k} (r_k - q_k).

    `q`: a model's prediction for the logged item, given the ranks above; `v`: the expectation of the same q under the
    target. Unbiased under the cascade assumption for any q; a q of the rewards from this rank on has the least
    variance. With q = v = 0 it is RIPS.
    """
    reward, weight = _within(reward, weight, mask)
    q, v = (np.where(mask, column, 0.0) for column in validated(q=np.where(mask, q, 0.0), v=np.where(mask, v, 0.0)))
    prefix = prefix_weights(weight, mask)
    above = np.hstack([np.ones((len(prefix), 1)), prefix[:, :-1]])
    return Contributions("cascade_dr", above * v + prefix * (reward - q), np.ones_like(prefix), prefix)


def _within(reward: Float64s, weight: Float64s, mask: Bools) -> tuple[Float64s, Float64s]:
    """Both columns validated; past the end the reward is 0 and the weight 1. Raises DataError for slates with gaps."""
    if np.any(mask[:, 1:] & ~mask[:, :-1]):
        row = int(np.argwhere((mask[:, 1:] & ~mask[:, :-1]).any(axis=1))[0, 0])
        raise DataError("a slate has a gap: a rank without the one above", where=f"slate {row}", hint="leave it out")
    reward, weight = validated(reward=np.where(mask, reward, 0.0), weight=np.where(mask, weight, 1.0))
    return reward, weight


def _whole(weight: Float64s, mask: Bools) -> Float64s:
    last = prefix_weights(weight, mask)[:, -1:]
    return np.repeat(last, weight.shape[1], axis=1)


def _contributions(
    name: str, reward: Float64s, weight: Float64s, mask: Bools, combined: _Combined = lambda weight, _: weight
) -> Contributions:
    """`combined`: the weight of each rank from those of all ranks. Estimators named sn_... are self-normalised."""
    reward, weight = _within(reward, weight, mask)
    weight = combined(weight, mask)
    return Contributions(name, weight * reward, weight if name.startswith("sn_") else np.ones_like(weight), weight)
