"""Estimators of one action (or one rank of a slate): its reward, and how likely the target was to do the same.

Columns are float64 [n]: `reward`; `weight` = P(logged action | target) / P(logged action | logging); `q_logged`, a
model's reward of the logged action; `q_target`, the model's reward expected under the target. A model must not have
seen the rows it judges (cross-fit it): intervals take it as given. The value is the expected reward of one action.
"""

from __future__ import annotations

import numpy as np

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.estimates import Contributions, Floats, validated


def on_policy(reward: Floats) -> Contributions:
    """The logging policy's own value: the mean reward."""
    (reward,) = validated(reward=reward)
    return _mean("on_policy", reward, np.ones_like(reward))


def ips(reward: Floats, weight: Floats) -> Contributions:
    """Inverse propensity scores: mean of w r (Horvitz & Thompson 1952). Unbiased where logging supports the target."""
    reward, weight = validated(reward=reward, weight=weight)
    return _mean("ips", weight * reward, weight)


def clipped_ips(reward: Floats, weight: Floats, cap: float) -> Contributions:
    """Mean of min(w, cap) r (Ionides 2008): less variance, biased towards 0."""
    reward, weight = validated(reward=reward, weight=weight)
    clipped = np.minimum(weight, _positive(cap, "cap"))
    return _mean("clipped_ips", clipped * reward, clipped)


def snips(reward: Floats, weight: Floats) -> Contributions:
    """Self-normalised IPS: sum w r / sum w (Swaminathan & Joachims 2015). Consistent, never beyond the rewards."""
    reward, weight = validated(reward=reward, weight=weight)
    return Contributions("snips", (weight * reward)[:, None], weight[:, None], weight[:, None])


def direct_method(q_target: Floats) -> Contributions:
    """The direct method: what the model expects. Its interval knows nothing of the model's bias."""
    (q_target,) = validated(q_target=q_target)
    return _mean("direct", q_target, np.ones_like(q_target))


def doubly_robust(reward: Floats, weight: Floats, q_logged: Floats, q_target: Floats) -> Contributions:
    """Doubly robust: mean of q_target + w (r - q_logged) (Dudik, Langford & Li 2011)."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    return _mean("dr", q_target + weight * (reward - q_logged), weight)


def self_normalised_dr(reward: Floats, weight: Floats, q_logged: Floats, q_target: Floats) -> Contributions:
    """mean q_target + sum w (r - q_logged) / sum w (Thomas & Brunskill 2016, "weighted DR")."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    numerator = np.stack([q_target, weight * (reward - q_logged)], axis=1)
    denominator = np.stack([np.ones_like(weight), weight], axis=1)
    return Contributions("self_normalised_dr", numerator, denominator, weight[:, None])


def switch_dr(reward: Floats, weight: Floats, q_logged: Floats, q_target: Floats, threshold: float) -> Contributions:
    """DR, but where a weight is above `threshold` the model alone is heard (Wang, Agarwal & Dudik 2017)."""
    columns = validated(reward=reward, weight=weight, q_logged=q_logged, q_target=q_target)
    reward, weight, q_logged, q_target = columns
    heard = np.where(weight <= _positive(threshold, "threshold"), weight, 0.0)
    return _mean("switch_dr", q_target + heard * (reward - q_logged), heard)


def _mean(name: str, terms: Floats, weight: Floats) -> Contributions:
    return Contributions(name, terms[:, None], np.ones((len(terms), 1)), weight[:, None])


def _positive(number: float, name: str) -> float:
    if not number > 0:
        raise DataError(f"the {name} of the weights is {number}", hint="give a number above 0; infinity cuts nothing")
    return number
