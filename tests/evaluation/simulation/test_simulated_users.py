"""Simulated users and arms, compared with their own formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from rayrec import slates
from rayrec.evaluation.off_policy.arm_estimates import estimate_arms
from rayrec.evaluation.simulation.simulated_arms import SimulatedArm, error_for
from rayrec.evaluation.simulation.simulated_users import Behaviour, World
from rayrec.slates.exploration_floor import ExplorationFloor

WORLD = World.make(0, users=300, items=40)
GREEDY = slates.POLICIES["greedy"](slates.POLICIES.settings("greedy"))
SOFT = slates.POLICIES["plackett_luce"](slates.POLICIES.settings("plackett_luce", {"temperature": 1.0}))
EVERY = np.arange(40)


def arm(error: float, seed: int, policy: slates.SlatePolicy = GREEDY, **changed: object) -> SimulatedArm:
    return replace(SimulatedArm("a", WORLD, WORLD.scores(error, seed), policy, EVERY, 5), **changed)  # type: ignore[arg-type]


def test_mean_clicks_equal_the_simulators_expected_reward() -> None:
    items = arm(0.5, 1).slates(0).items
    shown = np.mean([WORLD.clicks(items, seed).sum(axis=1) for seed in range(400)], axis=0)
    assert np.abs(shown - WORLD.value(items)).max() < 0.25
    assert shown.mean() == pytest.approx(WORLD.value(items).mean(), rel=0.01)


def test_a_ranker_without_error_has_the_optimal_slate() -> None:
    best = WORLD.value(arm(0.0, 0).slates(0).items)
    by_want = np.argsort(-WORLD.wanted, axis=1)[:, :5]
    np.testing.assert_allclose(best, WORLD.value(by_want))
    worse = WORLD.value(arm(2.0, 0).slates(0).items)
    assert np.all(worse <= best + 1e-12)


def test_rank_one_is_always_examined_and_without_position_bias_all_ranks_are() -> None:
    assert WORLD.examination(3).tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    flat = World.make(0, users=1, behaviour=Behaviour(position_bias=0.0))
    assert flat.examination(4).tolist() == [1, 1, 1, 1]


def test_consumed_items_follow_preferences_except_for_noise() -> None:
    noisy = World.make(0, users=300, items=40, behaviour=Behaviour(noise=1.0))
    wanted = {
        noise: np.take_along_axis(world.wanted, world.consumed(3, 5), axis=1).mean()
        for noise, world in ((0.2, WORLD), (1.0, noisy))
    }
    assert wanted[1.0] == pytest.approx(WORLD.wanted.mean(), rel=0.15)
    assert wanted[0.2] > 1.5 * wanted[1.0]
    assert all(len(set(row)) == 3 for row in WORLD.consumed(3, 5).tolist())


def test_with_exposure_bias_users_consume_what_they_were_shown() -> None:
    shown = arm(1.0, 0).slates(0).items
    hits = []
    for share in (0.0, 0.5, 1.0):
        world = World(WORLD.wanted, Behaviour(exposure_bias=share))
        consumed = world.consumed(2, 5, shown)
        hits.append(np.mean([np.isin(mine, own).mean() for mine, own in zip(consumed, shown, strict=True)]))
    assert hits[0] < hits[1] < hits[2] == 1


def test_items_of_the_day_before_are_wanted_less_by_the_carry_over() -> None:
    world = World(WORLD.wanted, Behaviour(carry_over=0.4))
    items = arm(0.5, 1).slates(0).items
    fresh, again = (np.mean([world.clicks(items, seed, before) for seed in range(300)]) for before in (None, items))
    assert again == pytest.approx(0.6 * fresh, rel=0.03)


def test_rewards_arrive_late_by_the_mean_delay() -> None:
    late = World(WORLD.wanted, Behaviour(delay_days=2.0)).arrival(3, (20_000,), 1)
    assert late.min() >= 3
    assert late.mean() == pytest.approx(5, rel=0.03)
    assert (WORLD.arrival(3, (5,), 1) == 3).all()


def test_an_arm_under_its_own_policy_has_its_logged_propensities() -> None:
    own = arm(1.0, 0, SOFT)
    made = own.slates(4)
    np.testing.assert_allclose(made.under(own, seed=4), made.propensity, rtol=1e-5)


def test_a_simulated_gain_is_measured_with_its_size() -> None:
    base = arm(1.0, 3, SOFT)
    error = error_for(base, 1.0, 0.05, seed=3)
    one, other = (WORLD.value(arm(e, 3, SOFT).slates(3).items).mean() for e in (1.0, error))
    assert other / one - 1 == pytest.approx(0.05, abs=2e-3)
    with pytest.raises(ValueError, match="no ranker gains"):
        error_for(base, 0.1, 5.0, seed=3)


def test_rankers_of_one_family_have_correlated_errors() -> None:
    belief = np.log(WORLD.wanted / (1 - WORLD.wanted))
    one, other = (WORLD.scores(1.0, 0, own, shared=0.9) - belief for own in (0, 1))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(0.9, abs=0.02)
    assert other.std() == pytest.approx(1, abs=0.02)


def test_feedback_of_simulated_arms_is_estimated_as_that_of_a_run() -> None:
    """Without the target's best items the estimate is refused; an exploration floor makes them known."""
    target = arm(0.5, 1, SOFT, name="b", scores=WORLD.scores(0.5, 1, own=1, shared=0.9))
    few = np.setdiff1d(EVERY, np.argsort(-WORLD.wanted.mean(axis=0))[:8])
    cases = {
        "whole": arm(0.5, 1, SOFT),
        "few": arm(0.5, 1, SOFT, candidates=few),
        "floor": arm(0.5, 1, ExplorationFloor(SOFT, 0.5), candidates=few),
    }
    unsupported = {}
    for name, logging in cases.items():
        made = logging.slates(7)
        table = estimate_arms(made.matched(WORLD.clicks(made.items, 1)), made.counterfactuals(target, 7))
        rows = {row["estimator"]: row for row in table.filter(pc.equal(table["target_arm"], "b")).to_pylist()}
        unsupported[name] = rows["sn_rips"]["unsupported"]
        if name == "whole":
            assert all(row["value"] is not None for row in rows.values())
        if name == "few":
            assert "never shows" in rows["cascade_dr_item"]["no_estimate_reason"]
            assert rows["trimmed_rips"]["value"] is not None
    assert unsupported["whole"] == unsupported["floor"] == 0
    assert unsupported["few"] > 0.1
