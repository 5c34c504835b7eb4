"""Self-normalised importance weighting of slates: by the whole slate (SIPS) and by its prefixes (RIPS)."""

from __future__ import annotations

from rayrec.evaluation.off_policy.arm_estimator import ArmEstimator, TargetLog, register
from rayrec.evaluation.off_policy.estimates import Contributions
from rayrec.evaluation.off_policy.slate_estimators import sn_rips, sn_sips
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
