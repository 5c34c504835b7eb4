"""CUPED: outcomes of a split experiment adjusted for what users did before it (Deng, Xu, Kohavi & Walker 2013).

The adjusted outcome y - (x - mean x) theta has the same expected difference between the arms, because x is of before
the assignment, and less variance by the share that x explains. theta is the pooled least-squares slope within the arms.
"""

from __future__ import annotations

import numpy as np

from rayrec.numerics.types import Float64s, Int64s


def adjust(outcome: Float64s, arm: Int64s, activity: Float64s) -> Float64s:
    """Adjusted outcomes, [users]; `arm` [users]: codes; `activity` [users, covariates] of before the experiment."""
    if len(outcome) < 3:
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
