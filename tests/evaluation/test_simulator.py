"""The simulator, compared with its own formulas."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulator import World, error_for
from rayrec import slates

WORLD = World.make(0, users=300, items=40)
GREEDY = slates.POLICIES["greedy"](slates.POLICIES.settings("greedy"))
SOFT = slates.POLICIES["plackett_luce"](slates.POLICIES.settings("plackett_luce", {"temperature": 1.0}))


def test_mean_clicks_equal_the_simulators_expected_reward() -> None:
    items = WORLD.slates(WORLD.scores(0.5, 1), GREEDY, 5, 0).items
    shown = np.mean([WORLD.clicks(items, seed).sum(axis=1) for seed in range(400)], axis=0)
    assert np.abs(shown - WORLD.value(items)).max() < 0.25
    assert shown.mean() == pytest.approx(WORLD.value(items).mean(), rel=0.01)


def test_a_ranker_without_error_has_the_optimal_slate() -> None:
    best = WORLD.value(WORLD.slates(WORLD.scores(0.0, 0), GREEDY, 5, 0).items)
    by_want = np.argsort(-WORLD.wanted, axis=1)[:, :5]
    np.testing.assert_allclose(best, WORLD.value(by_want))
    worse = WORLD.value(WORLD.slates(WORLD.scores(2.0, 0), GREEDY, 5, 0).items)
    assert np.all(worse <= best + 1e-12)


def test_rank_one_is_always_examined_and_without_position_bias_all_ranks_are() -> None:
    assert WORLD.examination(3).tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert World.make(0, users=1, bias=0.0).examination(4).tolist() == [1, 1, 1, 1]


def test_consumed_items_follow_preferences_except_for_noise() -> None:
    noisy = World.make(0, users=300, items=40, noise=1.0)
    wanted = {
        noise: np.take_along_axis(world.wanted, world.consumed(3, 5), axis=1).mean()
        for noise, world in ((0.2, WORLD), (1.0, noisy))
    }
    assert wanted[1.0] == pytest.approx(WORLD.wanted.mean(), rel=0.15)
    assert wanted[0.2] > 1.5 * wanted[1.0]
    assert all(len(set(row)) == 3 for row in WORLD.consumed(3, 5).tolist())


def test_an_arm_under_its_own_policy_has_its_logged_propensities() -> None:
    made = WORLD.slates(WORLD.scores(1.0, 0), SOFT, 5, seed=4)
    np.testing.assert_allclose(made.under(made, SOFT, seed=4), made.propensity, rtol=1e-5)


def test_a_simulated_gain_is_measured_with_its_size() -> None:
    error = error_for(WORLD, 1.0, 0.05, SOFT, 5, seed=3)
    one, other = (WORLD.value(WORLD.slates(WORLD.scores(e, 3), SOFT, 5, 3).items).mean() for e in (1.0, error))
    assert other / one - 1 == pytest.approx(0.05, abs=2e-3)
    with pytest.raises(ValueError, match="no ranker gains"):
        error_for(WORLD, 0.1, 5.0, SOFT, 5, seed=3)


def test_rankers_of_one_family_have_correlated_errors() -> None:
    belief = np.log(WORLD.wanted / (1 - WORLD.wanted))
    one, other = (WORLD.scores(1.0, 0, own, shared=0.9) - belief for own in (0, 1))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(0.9, abs=0.02)
    assert other.std() == pytest.approx(1, abs=0.02)
