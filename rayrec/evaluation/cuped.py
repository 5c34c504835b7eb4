"""CUPED: outcomes of a split experiment adjusted for what users did before it (Deng, Xu, Kohavi & Walker 2013).

The adjusted outcome y - (x - mean x) theta has the same expected difference between the arms, because x is of before
the assignment, and less variance by the share that x explains. theta is the pooled least-squares slope within the arms.
"""

from __future__ import annotations

import numpy as np

from rayrec.numerics.types import Float64s, Int64s

_WINDOWS = (np.inf, 90.0, 28.0, 7.0)  # days before the date
_USERS_PER_COVARIATE = 10  # with fewer, the slopes fit noise


def covariates(user: Int64s, age: Float64s, users: int) -> Float64s:
    """Past activity [users, 16]: numbers of events and of active days in four windows, and their logarithms.

    `user` [events]: the row of each event's user; `age` [events]: days before the date. Logarithms explain whether a
    user acts at all, the numbers themselves how much (online-retail, items in 7 days: 6% of the variance by logarithms
    of events alone, 26% by all).
    """
    day = np.unique(np.stack([user, np.floor(age).astype(np.int64)]), axis=1)
    counts = []
    for window in _WINDOWS:
        counts.append(np.bincount(user[age <= window], minlength=users))
        counts.append(np.bincount(day[0, day[1] < window], minlength=users))
    found = np.stack(counts, axis=1).astype(np.float64)
    return np.hstack([found, np.log1p(found)])


def adjust(outcome: Float64s, arm: Int64s, activity: Float64s) -> Float64s:
    """Adjusted outcomes, [users]; `arm` [users]: codes; `activity` [users, covariates] of before the experiment.

    Unchanged where there are fewer than 10 users a covariate.
    """
    if len(outcome) < _USERS_PER_COVARIATE * activity.shape[1]:
        return outcome
    centred = activity - activity.mean(axis=0)
    slope = np.linalg.lstsq(_within(activity, arm), _within(outcome[:, None], arm)[:, 0], rcond=None)[0]
    adjusted: Float64s = outcome - centred @ slope
    return adjusted


def _within(values: Float64s, arm: Int64s) -> Float64s:
    """Values [users, columns] minus the mean of the user's arm."""
    _, code = np.unique(arm, return_inverse=True)
    many = np.bincount(code)
    means = np.stack([np.bincount(code, column) / many for column in values.T], axis=1)
    return np.asarray(values - means[code])
