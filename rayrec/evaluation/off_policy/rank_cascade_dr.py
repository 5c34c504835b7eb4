"""Cascade doubly robust with a reward model of the rank alone: the mean reward from that rank on."""

from __future__ import annotations

from rayrec.evaluation.off_policy.arm_estimator import ArmEstimator, TargetLog, mean_reward_to_go, register
from rayrec.evaluation.off_policy.estimates import Contributions
from rayrec.evaluation.off_policy.slate_estimators import cascade_dr


@register
class RankCascadeDr(ArmEstimator):
    """The model's expectation is the same under any target: it only reduces the variance of the weights."""

    name = "cascade_dr"

    def contributions(self, log: TargetLog) -> Contributions:
        q = mean_reward_to_go(log)
        return cascade_dr(log.reward, log.weight, q, q, log.mask)
