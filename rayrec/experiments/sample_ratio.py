"""Sample-ratio check: whether the arms of a split experiment have the expected numbers of users."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import stats

from rayrec.errors import PublicationError
from rayrec.experiments.arm_plan import ArmPlan


def sample_ratio_p(users: npt.ArrayLike, shares: npt.ArrayLike) -> float:
    """Chi-square p of the users [arms] under the shares [arms]; a small p means a sample-ratio mismatch."""
    counted, share = np.asarray(users, np.float64), np.asarray(shares, np.float64)
    if len(counted) < 2 or not counted.sum():
        return 1.0
    return float(stats.chisquare(counted, counted.sum() * share / share.sum()).pvalue)


def require_sample_ratio(plan: ArmPlan, users: Mapping[str, float], min_p: float) -> None:
    """Raise PublicationError if `users` by arm have a p below `min_p`: a sample-ratio mismatch biases every comparison.

    The convention is p < 0.001 (Fabijan et al. 2019). Only a split experiment is checked.
    """
    if plan.assignment != "split" or len(plan.paths) < 2 or not min_p:
        return
    served = [users.get(arm, 0.0) for arm in plan.names]
    p = sample_ratio_p(served, plan.shares)
    if p >= min_p:
        return
    total = float(np.sum(served))
    rows = zip(plan.names, served, plan.shares, strict=True)
    listed = ", ".join(f"{arm} {count:,.0f} (expected {share * total:,.0f})" for arm, count, share in rows)
    raise PublicationError(
        f"sample-ratio mismatch, arms do not have the users of their shares: {listed}; p = {p:.1g}, minimum {min_p:g}",
        where="arms.sample_ratio_min_p",
        hint="look in quarantine/ and at min_events for users that one arm lost; a new arms.salt assigns users anew",
    )
