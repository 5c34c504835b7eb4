"""Significance of differences: bootstrap over users, permutation test, Holm correction, minimum detectable effect.

Users are the unit of resampling, because the ranks of a slate are not independent. More than GROUPS users are assigned
to that many random groups, and the groups are resampled: the cost does not grow with the number of users.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

from rayrec.numerics.types import Float64s, Int64s

GROUPS = 10_000
RESAMPLES = 1000
PERMUTATIONS = 9_999
POWER = 0.8  # of `min_detectable_effect`
_CELLS = 2_000_000  # resample weights held at once: 16 MB


def bootstrap_groups(users: int, seed: int) -> Int64s:
    """The group of each user, [users] in [0, min(users, GROUPS)); group sizes differ by at most one."""
    if users <= GROUPS:
        return np.arange(users)
    return np.random.default_rng(seed).permutation(users) % GROUPS


def bootstrap_weights(groups: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Float64s]:
    """How often each group is drawn: [some resamples, groups], `resamples` in all (Efron & Tibshirani 1993, ch. 13)."""
    rng = np.random.default_rng(seed)
    for rows in _chunks(resamples, groups):
        drawn = rng.integers(groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def sign_flip_p(differences: Float64s, seed: int, permutations: int = PERMUTATIONS) -> Float64s:
    """Two-sided p of a mean of zero, [columns], from paired differences [users or groups, columns].

    Under the null hypothesis each difference has a random sign (Smucker et al. 2007). The observed signs count as one
    permutation, so p is never 0 and the level is exact. Not scipy's permutation_test: 55 times slower at 10,000 groups
    x 8 columns than one matrix product.
    """
    if not len(differences):
        return np.ones(differences.shape[1])
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    reached = np.ones(differences.shape[1])
    for rows in _chunks(permutations, len(differences)):
        sign = rng.integers(0, 2, size=(rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(sign @ differences) >= observed - 1e-12 * (1 + observed)).sum(axis=0)
    return np.asarray(reached / (permutations + 1))


def welch_p(one: Float64s, other: Float64s) -> float:
    """Two-sided p of equal means of two groups of users (Welch's t-test); 1 where the values do not vary."""
    if min(len(one), len(other)) < 2 or max(np.ptp(one), np.ptp(other)) < 1e-12:
        return 1.0
    moments = (value for group in (one, other) for value in (group.mean(), group.std(ddof=1), len(group)))
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def holm(p: npt.ArrayLike) -> Float64s:
    """p values [tests] corrected to control the family-wise error rate (Holm 1979)."""
    given = np.asarray(p, np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def min_detectable_effect(standard_error: float, level: float = 0.05, power: float = POWER) -> float:
    """The smallest true difference that a two-sided test at `level` detects with probability `power`."""
    return float((stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * standard_error)


def _chunks(rows: int, width: int) -> Iterator[int]:
    at_once = max(1, _CELLS // max(width, 1))
    for first in range(0, rows, at_once):
        yield min(at_once, rows - first)
