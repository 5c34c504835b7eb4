"""What every off-policy estimator is before and after its interval.

An estimator gives each observation's *contributions*: terms whose value is a ratio of two sums over observations, the
estimate being the sum of the terms. IPS is one term over the number of observations, SNIPS one over the sum of the
weights, self-normalised DR is two terms, an estimator of slates has one a rank. So one interval serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from rayrec.errors import DataError

RESAMPLES = 1000
_LEVEL = 0.95
_CELLS = 4_000_000  # resampled observations held at once: 32 MB

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A policy's value, in units of the reward, with its 95% interval."""

    name: str
    value: float
    low: float
    high: float
    standard_error: float
    observations: int
    effective_sample_size: float  # Kish, of the weights; of several ranks the least

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class Contributions:
    """value = sum over terms t of (sum over i of numerator[i, t]) / (sum over i of denominator[i, t])."""

    name: str
    numerator: Floats  # [n, T]
    denominator: Floats  # [n, T]
    weight: Floats  # [n, W]: the importance weights that take part; ones where there are none

    @property
    def terms(self) -> Floats:
        """[T]. Raises DataError where a denominator is 0: nothing that was logged can happen under the target."""
        totals = self.denominator.sum(axis=0)
        if not len(self.numerator) or not np.all(totals > 0):
            raise DataError(
                f"{self.name} has no value: " + ("every weight is 0" if len(self.numerator) else "nothing was logged"),
                hint="ask `rayrec.evaluation.off_policy.diagnostics.support_problem` before estimating",
            )
        ratios: Floats = self.numerator.sum(axis=0) / totals
        return ratios

    @property
    def value(self) -> float:
        return float(self.terms.sum())

    @property
    def influence(self) -> Floats:
        """Each observation's influence on the value, [n], of mean 0: sum over t of (numerator - ratio x denominator) /
        mean denominator. The delta method for ratios; for SNIPS w (r - v) / mean w (Owen 2013, ch. 9)."""
        means = self.denominator.mean(axis=0)
        found: Floats = self.numerator @ (1 / means) - self.denominator @ (self.terms / means)
        return found


def effective_sample_size(weight: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965) of weights [n]; of weights [n, W] the least of a column; 0 if all are 0."""
    if not len(weight):
        return 0.0
    columns = weight.reshape(len(weight), -1)
    totals, squares = columns.sum(axis=0), (columns**2).sum(axis=0)
    sizes = np.divide(totals**2, squares, out=np.zeros_like(totals), where=squares > 0)
    return float(sizes.min())


def interval(contributions: Contributions, cluster: Codes | None = None) -> Estimate:
    """The 95% interval by the influence function: value ± t x standard error, Student's t with (clusters - 1) degrees.

    `cluster` [n]: codes of what is drawn independently, most often the user; without it, every observation.
    Raises DataError for fewer than two clusters.
    """
    value, sums = contributions.value, _clustered(contributions.influence[:, None], cluster)[:, 0]
    error = _standard_error(sums, len(contributions.numerator), contributions.name)
    reach = float(stdtrit(len(sums) - 1, (1 + _LEVEL) / 2)) * error
    return _estimate(contributions, value, (value - reach, value + reach), error)


def bootstrap(
    contributions: Contributions, *, seed: int, cluster: Codes | None = None, resamples: int = RESAMPLES
) -> Estimate:
    """The 95% interval by the studentised bootstrap over clusters (Efron & Tibshirani 1993, ch. 12.5).

    For heavy weights: it follows the skew, which `interval`, being symmetric, cannot. Resamples in which nothing varies
    have no standard error and are left out. Raises DataError for fewer than two clusters.
    """
    value, whole = contributions.value, contributions.influence[:, None]
    error = _standard_error(_clustered(whole, cluster)[:, 0], len(whole), contributions.name)
    ones = np.ones((len(whole), 1))
    sums = _clustered(np.hstack([contributions.numerator, contributions.denominator, ones]), cluster)
    terms = contributions.numerator.shape[1]
    found = [_studentised(drawn, sums, terms, value) for drawn in _drawn(len(sums), seed, resamples)]
    t = np.concatenate(found)
    low, high = np.percentile(t[np.isfinite(t)], [100 * (1 + _LEVEL) / 2, 100 * (1 - _LEVEL) / 2]) if error else (0, 0)
    return _estimate(contributions, value, (value - float(low) * error, value - float(high) * error), error)


def validated(**columns: Floats) -> list[Floats]:
    """The columns as float64. Raises DataError unless they are finite and of one shape, weights nowhere below 0."""
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"columns of off-policy evaluation differ in shape: {listed}", hint="align them")
    for name, array in arrays.items():
        wrong = ~np.isfinite(array) | ((array < 0) & ("weight" in name))
        if wrong.any():
            at = tuple(int(index) for index in np.argwhere(wrong)[0])
            raise DataError(
                f"{name} is {array[at]} for off-policy evaluation",
                where=f"observation {at}",
                hint="leave such rows out",
            )
    return list(arrays.values())


def _clustered(columns: Floats, cluster: Codes | None) -> Floats:
    """Sums over each cluster, [clusters, columns]."""
    if cluster is None:
        return columns
    _, codes = np.unique(cluster, return_inverse=True)
    sums = [np.bincount(codes, column) for column in columns.T]
    return np.stack(sums, axis=1)


def _standard_error(sums: Floats, observations: int, name: str) -> float:
    """Of a mean of influences, from their sums over independent clusters."""
    clusters = len(sums)
    if clusters < 2:
        raise DataError(
            f"{name} has no interval: it rests on {clusters} independent observation", hint="log more of them"
        )
    return float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / observations)


def _drawn(clusters: int, seed: int, resamples: int) -> Iterator[Floats]:
    """How often each cluster is drawn, [some resamples, clusters]."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // clusters)
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        picks = rng.integers(clusters, size=(rows, clusters)) + np.arange(rows)[:, None] * clusters
        yield np.bincount(picks.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)


def _studentised(drawn: Floats, sums: Floats, terms: int, value: float) -> Floats:
    """(value - the whole's) / standard error of each resample, NaN where it has none. `sums`: numerators, denominators,
    observations of each cluster."""
    numerator, denominator, size = sums[:, :terms], sums[:, terms:-1], sums[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        below = drawn @ denominator  # [resamples, T]
        ratios = (drawn @ numerator) / below
        observed = drawn @ size
        influence = (numerator @ (1 / below).T - denominator @ (ratios / below).T).T * observed[:, None]
        error = np.sqrt(len(sums) / (len(sums) - 1) * (drawn * influence**2).sum(axis=1)) / observed
        t: Floats = np.where(error > 0, (ratios.sum(axis=1) - value) / error, np.nan)
    return t


def _estimate(contributions: Contributions, value: float, ends: tuple[float, float], error: float) -> Estimate:
    size = effective_sample_size(contributions.weight)
    return Estimate(contributions.name, value, *ends, error, len(contributions.numerator), size)
