"""Cascade doubly robust with a reward model of rank and item.

q of an item at a rank is its expected reward there plus the mean reward of the ranks below. The expected reward is the
rank's mean times the item's attraction: its rewards over those expected at the ranks where it was shown, shrunk to 1. q
is fitted on other users. Its expectation under the target is the mean over items that were drawn from the target, given
the ranks above, when the slate was made; draws are unbiased, so the estimate is as well, for any q.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rayrec.evaluation.off_policy.arm_estimator import (
    FOLDS,
    ArmEstimator,
    ItemHashes,
    TargetLog,
    mean_reward_to_go,
    out_of_fold,
    register,
)
from rayrec.evaluation.off_policy.estimates import Contributions
from rayrec.evaluation.off_policy.slate_estimators import cascade_dr
from rayrec.numerics.types import Bools, Float64s

_SHRINKAGE = 20.0  # showings of mean attraction added to each item's own


@register
class ItemCascadeDr(ArmEstimator):
    """Less variance than `cascade_dr` where items differ in reward."""

    name = "cascade_dr_item"

    def problem(self, log: TargetLog) -> str | None:
        """Draws are stored for the first ranks alone; a target that shows nothing at a rank has weight 0 there."""
        needed = log.mask & (log.target > 0)
        if not log.drawn.shape[2] or np.any(needed & ~log.has_drawn):
            return "no items were drawn from the target at all ranks: reduce feedback.depth to 10"
        return None

    def contributions(self, log: TargetLog) -> Contributions:
        mean, to_go = out_of_fold(log, log.reward), mean_reward_to_go(log)
        q, v = np.zeros_like(mean), np.zeros_like(mean)
        for fold in range(FOLDS):
            mine = log.fold == fold
            of_item = _Attraction(log, ~mine)
            below = to_go[mine] - mean[mine]
            q[mine] = mean[mine] * of_item(log.item[mine]) + below
            drawn = of_item(log.drawn[mine]).mean(axis=2)
            v[mine] = np.where(log.has_drawn[mine], mean[mine] * drawn + below, 0.0)
        found = cascade_dr(log.reward, log.weight, q, v, log.mask)
        return replace(found, name=self.name)


class _Attraction:
    """Rewards of an item over those expected at its ranks, from the showings in `used` [n]; 1 for unknown items."""

    def __init__(self, log: TargetLog, used: Bools) -> None:
        there = log.mask & used[:, None]
        counts = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, log.reward, 0).sum(axis=0) / counts
        self._items, row = np.unique(log.item[there], return_inverse=True)
        expected = np.bincount(row, np.broadcast_to(mean, there.shape)[there], minlength=len(self._items))
        observed = np.bincount(row, log.reward[there], minlength=len(self._items))
        prior = _SHRINKAGE * float(mean.mean())
        total = expected + prior
        ones = np.ones(len(self._items))
        self._value = np.divide(observed + prior, total, out=ones, where=np.abs(total) > 1e-12)

    def __call__(self, item: ItemHashes) -> Float64s:
        if not len(self._items):
            return np.ones(item.shape)
        at = np.minimum(np.searchsorted(self._items, item), len(self._items) - 1)
        return np.where(self._items[at] == item, self._value[at], 1.0)
