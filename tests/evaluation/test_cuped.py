"""Adjustment of outcomes for past activity: known variance, and no bias."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.evaluation.cuped import adjust


def test_the_variance_falls_by_the_explained_share_and_the_difference_stays() -> None:
    rng = np.random.default_rng(0)
    activity, arm = rng.normal(size=(20_000, 2)), rng.integers(0, 2, 20_000)
    outcome = activity @ [1.0, 0.5] + rng.normal(size=20_000) + 0.3 * arm
    found = adjust(outcome, arm, activity)
    assert found[arm == 0].var() / outcome[arm == 0].var() == pytest.approx(1 / 2.25, abs=0.02)
    assert found[arm == 1].mean() - found[arm == 0].mean() == pytest.approx(0.3, abs=0.05)
    assert found.mean() == pytest.approx(outcome.mean())


def test_activity_that_says_nothing_or_does_not_vary_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    outcome, arm = rng.normal(size=500), rng.integers(0, 2, 500)
    assert adjust(outcome, arm, np.ones((500, 3))) == pytest.approx(outcome)
    noise = adjust(outcome, arm, rng.normal(size=(500, 1)))
    assert noise.var() == pytest.approx(outcome.var(), rel=0.02)
