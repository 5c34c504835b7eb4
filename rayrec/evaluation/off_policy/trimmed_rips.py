"""Trimmed RIPS with bounds: an interval that holds although the logging arm cannot show all of the target.

A rank's prefix weight counts up to a cap, the root of the number of showings (Ionides 2008). What the weights then miss
of the target, 1 - mean capped weight, is what was trimmed and what the logging arm never shows. Its rewards are not
known, but lie between the smallest and the largest reward that was logged. So the target's value lies between two
estimates that put either there (partial identification; Manski 1990). The interval goes from the lower 95% limit of one
to the upper limit of the other. It is as wide as the missing part is large. The value is that of the part that can be
seen, self-normalised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rayrec.evaluation.off_policy.arm_estimator import ArmEstimator, TargetLog, minus_own, register
from rayrec.evaluation.off_policy.estimates import Contributions, Estimate, confidence_interval
from rayrec.numerics.types import Float64s


@register
class TrimmedRips(ArmEstimator):
    """Needs no support; says how little is known without it."""

    name = "trimmed_rips"
    needs_support = False

    def weights(self, log: TargetLog) -> Float64s:
        return np.asarray(np.minimum(log.prefix, np.sqrt(max(len(log.user), 1))))

    def contributions(self, log: TargetLog) -> Contributions:
        """The value: rewards by capped weights, each rank over the sum of its weights."""
        weight = self.weights(log)
        total = np.where(weight.sum(axis=0) > 0, weight, 1.0)  # a rank without weight adds nothing
        return Contributions(self.name, weight * np.where(log.mask, log.reward, 0.0), total, weight)

    def bound(self, log: TargetLog, reward: float) -> Contributions:
        """The target's value if what the weights miss had this reward."""
        weight = self.weights(log)
        known = weight * np.where(log.mask, log.reward, 0.0)
        missing = np.where(log.mask, 1 - weight, 0.0) * reward
        return Contributions(self.name, known + missing, np.ones_like(weight), weight)

    def estimate(self, log: TargetLog) -> Estimate:
        return self._between(log, self.contributions(log).value, lambda found: found)

    def difference(self, log: TargetLog) -> Estimate:
        value = minus_own(self.contributions(log), log).value
        return self._between(log, value, lambda found: minus_own(found, log))

    def _between(self, log: TargetLog, value: float, changed: Callable[[Contributions], Contributions]) -> Estimate:
        rewards = log.reward[log.mask]
        ends = [float(rewards.min(initial=0)), float(rewards.max(initial=0))]
        bounds = [confidence_interval(changed(self.bound(log, end)), log.user) for end in ends]
        low, high = min(each.low for each in bounds), max(each.high for each in bounds)
        error = max(each.standard_error for each in bounds)
        return replace(bounds[0], value=float(np.clip(value, low, high)), low=low, high=high, standard_error=error)
