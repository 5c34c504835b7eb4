"""Known answers: every slate of a small world, as often as the policy shows it, with its expected rewards."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.blending.conditional_logit import LogitData, fit_logit
from rayrec.blending.feedback_weights import (
    MIN_REWARDS,
    Showings,
    effective_size,
    estimated_examination,
    importance_weights,
    reward_targets,
)
from rayrec.numerics.types import Float64s, Int64s

EXAMINED = np.array([1.0, 0.6, 0.25])
USERS, ITEMS, RANKS = 40, 5, 3


@dataclass(frozen=True)
class World:
    """Every slate of every user once: items [n] and chance [n] of its slate. The policy's scores know a confounder."""

    features: Float64s  # [users, items, 2]
    reward: Float64s  # [users, items] expected, were the item examined
    shown: Showings  # rewards are expectations
    user: Int64s
    item: Int64s
    chance: Float64s

    def targets(self, weight: Float64s) -> Float64s:
        """The expected sum of the weighted rewards of each item, [users, items]."""
        found = np.zeros(self.reward.shape)
        np.add.at(found, (self.user, self.item), self.chance * self.shown.reward * weight)
        return found

    def fit(self, targets: Float64s) -> Float64s:
        """The weights of the logit, fitted to these targets [users, items]."""
        flat = self.features.reshape(-1, 2).astype(np.float32)
        data = LogitData(flat, np.arange(USERS + 1) * ITEMS, targets.ravel().astype(np.float32))
        return fit_logit(data, np.full(2, 1e-9)).raw


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    features, hidden = rng.normal(size=(USERS, ITEMS, 2)), rng.normal(size=(USERS, ITEMS))
    reward = 0.1 * np.exp(features @ [0.8, -0.5] + hidden) / np.exp(2)
    odds = np.exp(features @ [1.0, 1.0] + 1.5 * hidden)
    rows = []
    for user in range(USERS):
        for slate in permutations(range(ITEMS), RANKS):
            left, chance, drawn = odds[user].sum(), 1.0, []
            for item in slate:
                drawn.append(odds[user, item] / left)
                left -= odds[user, item]
                chance *= drawn[-1]
            rows += [(user, item, rank, drawn[rank], chance) for rank, item in enumerate(slate)]
    user, item, rank, propensity, chance = (np.array(column) for column in zip(*rows, strict=True))
    showing = np.arange(len(user)) // RANKS
    shown = Showings(showing, rank + 1, propensity, reward[user, item] * EXAMINED[rank])
    return World(features, reward, shown, user, item, chance)


def test_weighted_rewards_are_those_of_all_items_whatever_the_policy_shows(world: World) -> None:
    found = world.targets(importance_weights(world.shown, EXAMINED))
    np.testing.assert_allclose(found, world.reward, rtol=1e-9)


def test_the_weighted_fit_is_that_without_confounding_and_the_naive_one_is_not(world: World) -> None:
    truth = world.fit(world.reward)
    weighted = world.fit(world.targets(importance_weights(world.shown, EXAMINED)))
    np.testing.assert_allclose(weighted, truth, atol=1e-4)
    naive = world.fit(world.targets(np.ones(len(world.user))))
    assert np.abs(naive - truth).max() > 0.3
    exposure_alone = world.fit(world.targets(importance_weights(world.shown, np.ones(1))))
    assert np.abs(exposure_alone - truth).max() > 0.03


def integer_policy() -> Iterator[tuple[tuple[int, ...], int, list[float]]]:
    """Slates of items of odds 1, 2 and 3: 360 draws have each as often as it is likely."""
    for slate in permutations((1, 2, 3), 2):
        first, second = slate
        propensity = [first / 6, second / (6 - first)]
        yield slate, round(360 * propensity[0] * propensity[1]), propensity


def drawn_by_the_integer_policy(copies: int = 1) -> Showings:
    rows = []
    for slate, often, propensity in integer_policy():
        for _ in range(often * copies):
            # a wanted item has high odds: without weights, rank 1 would seem to be examined more than it is
            rows += [(propensity[rank], 0.1 * item**2 * (1.0, 0.4)[rank]) for rank, item in enumerate(slate)]
    propensity, reward = np.array(rows).T
    return Showings(np.arange(len(rows)) // 2, np.tile([1, 2], len(rows) // 2), propensity, reward)


def test_examination_is_estimated_without_a_model_of_relevance() -> None:
    np.testing.assert_allclose(estimated_examination(drawn_by_the_integer_policy()), [1, 0.4], rtol=1e-9)


def test_few_rewards_say_nothing_about_examination() -> None:
    shown = drawn_by_the_integer_policy()
    few = shown.filter(shown.showing < MIN_REWARDS // 2 - 1)
    np.testing.assert_array_equal(estimated_examination(few), [1, 1])


def test_deeper_ranks_than_are_named_are_examined_as_the_last() -> None:
    shown = Showings(np.zeros(3, int), np.arange(1, 4), np.full(3, 0.5), np.ones(3))
    np.testing.assert_allclose(importance_weights(shown, np.array([1.0, 0.5])), [4 / 3, 2 * 3 / 3, 2 * 2 / 3])


def test_what_no_policy_has_drawn_is_told_apart() -> None:
    shown = Showings(np.zeros(3, int), np.arange(1, 4), np.array([1.0, 0.2, 0.9]), np.ones(3))
    assert shown.drawn().tolist() == [False, True, True]
    assert shown.filter(shown.drawn()).rank.tolist() == [2, 3]


@settings(max_examples=50)
@given(st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=30), st.floats(1.01, 1000))
def test_targets_sum_to_the_rewards_and_no_weight_is_above_the_clip(propensity: list[float], clip: float) -> None:
    n = len(propensity)
    shown = Showings(np.arange(n), np.ones(n, int), np.array(propensity), np.ones(n))
    weight, target = importance_weights(shown, np.ones(1)), reward_targets(shown, np.ones(1), clip)
    assert target.sum() == pytest.approx(n)
    clipped = np.minimum(weight, clip * weight.mean())
    np.testing.assert_allclose(target / target[0], clipped / clipped[0], rtol=1e-9)
    assert 1 - 1e-9 <= effective_size(target) <= n + 1e-9


def test_no_feedback_gives_no_targets() -> None:
    nothing = Showings(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0))
    assert not len(reward_targets(nothing, np.ones(1), 10.0))
    assert effective_size(np.zeros(0)) == 0
    assert estimated_examination(nothing).tolist() == [1]
