"""How sure one is of a difference: resamples of users, permutation tests, correction for many arms, power.

Users are the unit: a slate's ranks are not independent. With more than GROUPS users, users are first put together into
that many random groups, and groups are resampled; the mean over many users is then as well known as it gets, and a
million users cost no more than ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

GROUPS = 10_000
RESAMPLES = 1000
PERMUTATIONS = 9_999
POWER = 0.8  # of `detectable`
_CELLS = 2_000_000  # resample weights held at once: 16 MB

Floats = npt.NDArray[np.float64]


def bootstrap_groups(users: int, seed: int) -> npt.NDArray[np.int64]:
    """The group of each user, [users] in [0, min(users, GROUPS)): groups of equal size, up to one."""
    if users <= GROUPS:
        return np.arange(users)
    return np.random.default_rng(seed).permutation(users) % GROUPS


def bootstrap_weights(groups: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """How often each group is drawn: [some resamples, groups], `resamples` in all (Efron & Tibshirani 1993, ch. 13)."""
    rng = np.random.default_rng(seed)
    for rows in _chunks(resamples, groups):
        drawn = rng.integers(groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        yield np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)


def sign_flip_p(differences: Floats, seed: int, permutations: int = PERMUTATIONS) -> Floats:
    """Two-sided p of a mean of zero, [columns], from paired differences [users or groups, columns].

    If the two systems were one, each user's difference could as well have the other sign (Smucker et al. 2007). The
    observed signs count as one of the permutations, so p is never 0 and the level is exact.
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


def welch_p(one: Floats, other: Floats) -> float:
    """Two-sided p that two groups of different users have one mean (Welch's t-test); 1 where there is no spread."""
    if min(len(one), len(other)) < 2 or max(np.ptp(one), np.ptp(other)) < 1e-12:
        return 1.0
    moments = (value for group in (one, other) for value in (group.mean(), group.std(ddof=1), len(group)))
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def holm(p: npt.ArrayLike) -> Floats:
    """p values corrected so that the chance of any false finding among them stays at the level (Holm 1979), [tests]."""
    given = np.asarray(p, np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def min_detectable_effect(standard_error: float, level: float = 0.05, power: float = POWER) -> float:
    """The least true difference that a two-sided test at `level` finds with probability `power`."""
    return float((stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) * standard_error)


def statistical_power(difference: float, standard_error: float, level: float = 0.05) -> float:
    """The probability that a two-sided test at `level` finds a true `difference`."""
    if standard_error <= 0:
        return 1.0 if difference else level
    shift, bound = abs(difference) / standard_error, stats.norm.ppf(1 - level / 2)
    return float(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift))


def sample_ratio_min_p(users: npt.ArrayLike, shares: npt.ArrayLike) -> float:
    """Chi-square p that users [arms] were assigned by the shares [arms]: a small one says that some went missing.

    The custom is to stop at p < 0.001 (Fabijan et al. 2019): a broken split biases every comparison.
    """
    counted, share = np.asarray(users, np.float64), np.asarray(shares, np.float64)
    if len(counted) < 2 or not counted.sum():
        return 1.0
    return float(stats.chisquare(counted, counted.sum() * share / share.sum()).pvalue)


def _chunks(rows: int, width: int) -> Iterator[int]:
    at_once = max(1, _CELLS // max(width, 1))
    for first in range(0, rows, at_once):
        yield min(at_once, rows - first)
