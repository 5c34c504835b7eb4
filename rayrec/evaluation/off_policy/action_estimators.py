"""Off-policy estimators of single actions (or one rank of a slate): IPS, SNIPS, the direct method, doubly robust.

Columns are float64 [n]: `reward`; `weight` = P(logged action | target) / P(logged action | logging); `q_logged`, a
model's reward of the logged action; `q_target`, the model's reward expected under the target. Cross-fit the
model: it must not have seen the rows that it predicts, and intervals treat it as fixed. The value is the expected
reward of one action.
"""

from __future__ import annotations

import numpy as np

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.estimates import Contributions, validated
from rayrec.numerics.types import Float64s


def on_policy(reward: Float64s) -> Contributions:
    """The logging policy's own value: the mean reward."""
    (reward,) = validated(reward=reward)
    return _mean("on_policy", reward, np.ones_like(reward))


def ips(reward: Float64s, weight: Float64s) -> Contributions:
    """Inverse propensity scores: mean of w r (Horvitz & Thompson 1952). Unbiased where logging supports the target."""
    reward, weight = validated(reward=reward, weight=weight)
    return _mean("ips", weight * reward, weight)


def clipped_ips(reward: Float64s, weight: Float64s, cap: float) -> Contributions:
    """Mean of min(w, cap) r (Ionides 2008): less variance, biased towards 0."""
    reward, weight = validated(reward=reward, weight=weight)
    clipped = np.minimum(weight, _positive(cap, "cap"))
    return _mean("clipped_ips", clipped * reward, clipped)


def snips(reward: Float64s, weight: Float64s) -> Contributions:
    """Self-normalised IPS: sum w r / sum w (Swaminathan & Joachims 2015). Consistent, never beyond the rewards."""
    reward, weight = validated(reward=reward, weight=weight)
    return Contributions("snips", (weight * reward)[:, None], weight[:, None], weight[:, None])


def direct_method(q_target: Float64s) -> Contributions:
    """The direct method: the mean prediction of the model. Its interval does not include the model's bias."""
    (q_target,) = validated(q_target=q_target)
    return _mean("direct", q_target, np.ones_like(q_target))


def doubly_robust(reward: Float64s, weight: Float64s, q_logged: Float64s, q_target: Float64s) -> Contributions:
    """Doubly robust: mean of q_target + w (r - q_logged) (Dudik, Langford & Li 2011)."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    return _mean("dr", q_target + weight * (reward - q_logged), weight)


def self_normalised_dr(reward: Float64s, weight: Float64s, q_logged: Float64s, q_target: Float64s) -> Contributions:
    """mean q_target + sum w (r - q_logged) / sum w (Thomas & Brunskill 2016, "weighted DR")."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    numerator = np.stack([q_target, weight * (reward - q_logged)], axis=1)
    denominator = np.stack([np.ones_like(weight), weight], axis=1)
    return Contributions("self_normalised_dr", numerator, denominator, weight[:, None])


def switch_dr(
    reward: Float64s, weight: Float64s, q_logged: Float64s, q_target: Float64s, threshold: float
) -> Contributions:
    """DR, but where a weight is above `threshold` only the model counts (Wang, Agarwal & Dudik 2017)."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    trusted = np.where(weight <= _positive(threshold, "threshold"), weight, 0.0)
    return _mean("switch_dr", q_target + trusted * (reward - q_logged), trusted)


def _mean(name: str, terms: Float64s, weight: Float64s) -> Contributions:
    return Contributions(name, terms[:, None], np.ones((len(terms), 1)), weight[:, None])


def _positive(number: float, name: str) -> float:
    if not number > 0:
        what = f"the {name} of the weights is {number}"
        raise DataError(what, hint="give a number above 0; infinity changes nothing")
    return number
