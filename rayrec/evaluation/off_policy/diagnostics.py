"""Whether logs can say anything about a target: look here before believing an estimate.

A wrong propensity, or a target that does what logging never did, shows in the mean weight, which must be 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.action_estimators import clipped_ips, on_policy
from rayrec.evaluation.off_policy.estimates import Codes, Estimate, Floats, effective_sample_size, interval, validated

MIN_EFFECTIVE_SAMPLE_SIZE = 30.0


@dataclass(frozen=True)
class Diagnosis:
    """Of the weights [n] of one estimator."""

    observations: int
    effective_sample_size: float
    largest_share: float  # of the sum of all weights
    zero_share: float  # of observations that the target could not have made
    mean_weight: Estimate
    p_value: float  # of E[weight] = 1, two-sided t-test; small: a propensity is wrong, or support is missing


def diagnose(weight: Floats, cluster: Codes | None = None) -> Diagnosis:
    """`cluster` [n] as in `interval`. Heavy weights make the test too sure: the great ones may not have come yet."""
    (weight,) = validated(weight=weight)
    mean = interval(on_policy(weight), cluster)
    total, clusters = weight.sum(), len(weight) if cluster is None else len(np.unique(cluster))
    if mean.standard_error:
        p_value = 2 * float(stdtr(clusters - 1, -abs(mean.value - 1) / mean.standard_error))
    else:
        p_value = float(mean.value == 1)
    share = float(weight.max() / total) if total else 0.0
    return Diagnosis(
        len(weight), effective_sample_size(weight), share, float(np.equal(weight, 0).mean()), mean, p_value
    )


def clipping_sensitivity(
    reward: Floats, weight: Floats, caps: Sequence[float], cluster: Codes | None = None
) -> list[Estimate]:
    """Clipped IPS at each cap: a value that moves much with the cap rests on few observations."""
    return [interval(clipped_ips(reward, weight, cap), cluster) for cap in caps]


def unsupported_mass(target: Floats, logging: Floats) -> float:
    """The share of the target's probability on actions that logging never takes; propensities of all actions [n, A].

    IPS loses exactly this mass; no reweighting brings it back.
    """
    target, logging = validated(target=target, logging=logging)
    total = target.sum()
    if not total > 0:
        raise DataError("the target has no probability on any action", hint="give the propensities of all actions")
    return float(target[logging <= 0].sum() / total)


def support_problem(weight: Floats, logging: Floats, least: float = MIN_EFFECTIVE_SAMPLE_SIZE) -> str | None:
    """Why these logs cannot judge the target, in words; None where they can.

    `weight` [n] or [n, K] as the estimator uses them, `logging` the logged propensities of the same rows (any shape).
    A reason rather than an error: a table of many estimates says it in its row and goes on.
    """
    if not len(weight):
        return "nothing was logged"
    if not np.any(weight):
        return "every weight is 0: the target never does what was logged"
    if np.all(logging >= 1) and np.any(weight != 1):
        return "logging left nothing to chance, and the target does otherwise"
    size = effective_sample_size(weight)
    if size < least:
        return f"the effective sample size is {size:.1f}, below {least:g}: a few heavy weights decide"
    return None
