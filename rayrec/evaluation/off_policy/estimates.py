"""Off-policy estimates and their confidence intervals, common to all estimators.

An estimator returns the *contributions* of each observation: terms that are ratios of two sums over observations. The
estimate is the sum of the terms. IPS has one term, over the number of observations; SNIPS has one, over the sum of the
weights; self-normalised DR has two; a slate estimator has one per rank. So one interval serves all estimators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from rayrec.errors import DataError
from rayrec.numerics.types import Float64s, Int64s

_LEVEL = 0.95
_MIN_EFFECTIVE_SAMPLE_SIZE = 30
_MAX_GAP = 0.05  # of the mean importance weight from 1
_GAP_ERRORS = 3.0  # standard errors of the mean importance weight


@dataclass(frozen=True)
class Estimate:
    """A policy's value, in units of the reward, with its 95% interval."""

    name: str
    value: float
    low: float
    high: float
    standard_error: float
    observations: int
    effective_sample_size: float  # Kish's, of the weights; the smallest of several ranks


@dataclass(frozen=True)
class Contributions:
    """value = sum over terms t of (sum over i of numerator[i, t]) / (sum over i of denominator[i, t])."""

    name: str
    numerator: Float64s  # [n, T]
    denominator: Float64s  # [n, T]
    weight: Float64s  # [n, W]: the importance weights of the estimate; ones where it has none

    @property
    def terms(self) -> Float64s:
        """Values of the terms, [T]. Raises DataError if a denominator is 0: the target excludes all logged actions."""
        totals = self.denominator.sum(axis=0)
        if not len(self.numerator) or not np.all(totals > 0):
            raise DataError(
                f"{self.name} has no value: " + ("every weight is 0" if len(self.numerator) else "nothing was logged"),
                hint="call `support_problem` before estimating",
            )
        ratios: Float64s = self.numerator.sum(axis=0) / totals
        return ratios

    @property
    def value(self) -> float:
        return float(self.terms.sum())

    @property
    def influence(self) -> Float64s:
        """Each observation's influence on the value, [n], of mean 0: sum over t of (numerator - ratio x denominator) /
        mean denominator. The delta method for ratios; for SNIPS w (r - v) / mean w (Owen 2013, ch. 9)."""
        means = self.denominator.mean(axis=0)
        found: Float64s = self.numerator @ (1 / means) - self.denominator @ (self.terms / means)
        return found


def effective_sample_size(weight: Float64s) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965) of weights [n]; of weights [n, W] the smallest of a column; 0 if all are 0."""
    if not len(weight):
        return 0.0
    columns = weight.reshape(len(weight), -1)
    totals, squares = columns.sum(axis=0), (columns**2).sum(axis=0)
    sizes = np.divide(totals**2, squares, out=np.zeros_like(totals), where=squares > 0)
    return float(sizes.min())


def confidence_interval(contributions: Contributions, cluster: Int64s | None = None) -> Estimate:
    """The 95% interval of the influence function: value ± t x standard error, Student's t of (clusters - 1) degrees.

    `cluster` [n]: codes of the independent units, usually users; without it, every observation is independent.
    With heavy weights it is too narrow: coverage of 85 to 88% at an effective sample size of about 35.
    Raises DataError for fewer than two clusters.
    """
    name, value, observations = contributions.name, contributions.value, len(contributions.numerator)
    sums = contributions.influence
    if cluster is not None:
        sums = np.asarray(np.bincount(np.unique(cluster, return_inverse=True)[1], sums), np.float64)
    clusters = len(sums)
    if clusters < 2:
        raise DataError(f"{name} has no interval: it has {clusters} independent observation", hint="log more of them")
    error = float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / observations)
    half_width = float(stdtrit(clusters - 1, (1 + _LEVEL) / 2)) * error
    size = effective_sample_size(contributions.weight)
    return Estimate(name, value, value - half_width, value + half_width, error, observations, size)


def mean_weight(weight: Float64s, cluster: Int64s | None = None) -> Estimate:
    """The mean of importance weights [n] with its interval: 1 where the logging policy can do all that the target does.

    Below 1, the difference is the share of the target's choices that the logs cannot contain.
    """
    column = weight.reshape(-1, 1)
    return confidence_interval(Contributions("mean_weight", column, np.ones_like(column), column), cluster)


def mean_weight_problem(found: Estimate) -> str | None:
    """Why weights with this mean cannot be used, as text; None if they can.

    By the size of the gap as well as by its significance: heavy weights make the interval too narrow.
    """
    gap = found.value - 1
    if abs(gap) <= _MAX_GAP or abs(gap) <= _GAP_ERRORS * found.standard_error:
        return None
    return (
        f"the mean importance weight at rank 1 is {found.value:.2f} instead of 1: the arms do not show the same items"
    )


def support_problem(weight: Float64s, logging: Float64s) -> str | None:
    """Why these logs cannot evaluate the target policy, as text; None if they can.

    `weight` [n] or [n, K] as the estimator uses them, `logging`: the logged propensities of the same rows, any shape.
    A reason instead of an error, so that a table of many estimates can show it.
    """
    if not len(weight):
        return "nothing was logged"
    if not np.any(weight):
        return "every weight is 0: the target policy never does what was logged"
    if np.all(logging >= 1) and np.any(weight != 1):
        return "the logging policy is deterministic and differs from the target policy"
    size = effective_sample_size(weight)
    if size < _MIN_EFFECTIVE_SAMPLE_SIZE:
        return (
            f"the effective sample size is {size:.1f}, below {_MIN_EFFECTIVE_SAMPLE_SIZE:g}: a few heavy weights decide"
        )
    return None


def validated(**columns: Float64s) -> list[Float64s]:
    """The columns as float64. Raises DataError unless they are finite, of one shape, and weights are at least 0."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"columns of off-policy evaluation differ in shape: {listed}", hint="give columns of one shape")
    for name, array in arrays.items():
        wrong = ~np.isfinite(array) | ((array < 0) & ("weight" in name))
        if wrong.any():
            at = tuple(int(index) for index in np.argwhere(wrong)[0])
            what = f"{name} is {array[at]} for off-policy evaluation"
            raise DataError(what, where=f"observation {at}", hint="leave such rows out")
    return list(arrays.values())
