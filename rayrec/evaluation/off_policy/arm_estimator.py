"""What an off-policy estimator of arms is: one class, registered in its own file.

An estimator sees the slates of one logging arm with the propensities of one target arm (`TargetLog`), and gives the
target's expected sum of the rewards of a slate's first ranks, with its interval.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rayrec.evaluation.off_policy.estimates import Contributions, Estimate, confidence_interval
from rayrec.evaluation.off_policy.slate_estimators import conditional_weights, prefix_weights
from rayrec.numerics.types import Bools, Float64s, Int64s

FOLDS = 2  # of users, for models that may not have seen the rows that they predict
ItemHashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class TargetLog:
    """Showings of slates of one logging arm, [n, K], with the propensities of one target arm."""

    user: Int64s  # [n]: clusters of the intervals
    fold: Int64s  # [n] in [0, FOLDS)
    reward: Float64s
    logging: Float64s  # P(item here | ranks above)
    target: Float64s  # the same of the target
    mask: Bools  # false past a slate's end
    item: ItemHashes  # what was shown
    drawn: ItemHashes  # [n, K, draws]: items that the target would show here, drawn given the ranks above
    has_drawn: Bools  # [n, K]: false where the target shows nothing, or nothing was stored
    logging_marginal: Float64s  # P(item here), whatever is above; NaN where it is not known
    target_marginal: Float64s  # the same of the target

    @cached_property
    def weight(self) -> Float64s:
        """Of each item given the ranks above, [n, K]."""
        return conditional_weights(self.target, self.logging, self.mask)

    @cached_property
    def prefix(self) -> Float64s:
        return prefix_weights(self.weight, self.mask)


class ArmEstimator(ABC):
    """One way to estimate a target arm's value."""

    name: ClassVar[str]
    needs_support: ClassVar[bool] = True  # false: its interval allows for what the logging arm cannot show

    @abstractmethod
    def contributions(self, log: TargetLog) -> Contributions:
        """The estimate as sums over showings."""

    def weights(self, log: TargetLog) -> Float64s:
        """The importance weights [n, W] that the estimate rests on."""
        return log.prefix

    def problem(self, log: TargetLog) -> str | None:
        """What the log lacks for this estimator, as text; None if nothing."""
        return None

    def estimate(self, log: TargetLog) -> Estimate:
        """The estimate with its 95% interval, clustered by user."""
        return confidence_interval(self.contributions(log), log.user)

    def difference(self, log: TargetLog) -> Estimate:
        """The target's value minus the logging arm's own on the same showings, with its 95% interval."""
        return confidence_interval(minus_own(self.contributions(log), log), log.user)


ARM_ESTIMATORS: dict[str, type[ArmEstimator]] = {}
"""Estimators by name, in the order of their rows."""


def register(estimator: type[ArmEstimator]) -> type[ArmEstimator]:
    """Decorator of an estimator's class."""
    ARM_ESTIMATORS[estimator.name] = estimator
    return estimator


def minus_own(contributions: Contributions, log: TargetLog) -> Contributions:
    """The estimate minus the mean reward of what was shown."""
    own = np.where(log.mask, log.reward, 0.0).sum(axis=1, keepdims=True)
    return Contributions(
        contributions.name,
        np.hstack([contributions.numerator, -own]),
        np.hstack([contributions.denominator, np.ones_like(own)]),
        contributions.weight,
    )


def mean_reward_to_go(log: TargetLog) -> Float64s:
    """The mean reward from each rank on in the other folds, [n, K]; 0 past a slate's end.

    Slates that end above a rank are not counted there. It does not depend on the item, so its expectation is the same
    under any target.
    """
    to_go = np.cumsum(log.reward[:, ::-1], axis=1)[:, ::-1]
    return out_of_fold(log, to_go)


def out_of_fold(log: TargetLog, values: Float64s) -> Float64s:
    """The mean of `values` [n, K] at each rank in the other folds, [n, K]; 0 past a slate's end."""
    found = np.zeros_like(values)
    for fold in range(FOLDS):
        other = log.fold != fold
        there = log.mask[other]
        sums, counts = np.where(there, values[other], 0).sum(axis=0), there.sum(axis=0)
        found[~other] = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return np.where(log.mask, found, 0.0)
