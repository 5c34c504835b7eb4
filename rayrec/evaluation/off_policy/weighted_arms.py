"""Self-normalised importance weighting of slates: by the whole slate (SIPS), by prefixes (RIPS), or by rank (IIPS)."""

from __future__ import annotations

import numpy as np

from rayrec.evaluation.off_policy.arm_estimator import ArmEstimator, TargetLog, register
from rayrec.evaluation.off_policy.estimates import Contributions
from rayrec.evaluation.off_policy.slate_estimators import conditional_weights, sn_iips, sn_rips, sn_sips
from rayrec.numerics.types import Float64s


@register
class SelfNormalisedSips(ArmEstimator):
    """Right whatever users do, with the most variance."""

    name = "sn_sips"

    def contributions(self, log: TargetLog) -> Contributions:
        return sn_sips(log.reward, log.weight, log.mask)

    def weights(self, log: TargetLog) -> Float64s:
        return log.prefix[:, -1:]


@register
class SelfNormalisedRips(ArmEstimator):
    """Right where users look from the top down."""

    name = "sn_rips"

    def contributions(self, log: TargetLog) -> Contributions:
        return sn_rips(log.reward, log.weight, log.mask)


@register
class SelfNormalisedIips(ArmEstimator):
    """Right where a click depends on the item and its rank alone (the item-position model, Li et al. 2018); the least
    variance. Its weights are ratios of marginal propensities."""

    name = "sn_iips"

    def problem(self, log: TargetLog) -> str | None:
        unknown = np.isnan(log.logging_marginal) | np.isnan(log.target_marginal)
        if not np.any(log.mask & unknown):
            return None
        return "no marginal propensities: a policy without them (thompson), or feedback.depth is above 10"

    def contributions(self, log: TargetLog) -> Contributions:
        return sn_iips(log.reward, self.weights(log), log.mask)

    def weights(self, log: TargetLog) -> Float64s:
        known = log.mask & ~np.isnan(log.logging_marginal) & ~np.isnan(log.target_marginal)
        return conditional_weights(log.target_marginal, log.logging_marginal, known)
