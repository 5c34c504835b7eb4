"""Marginal propensities against the enumeration of every slate."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scored_candidates import repeated, scored

from rayrec.numerics.ragged import Ragged
from rayrec.slates import POLICIES, ScoredCandidates, SlatePolicy
from rayrec.slates.exploration_floor import ExplorationFloor
from rayrec.slates.marginal_propensities import DRAWS

EXACT = [
    ("plackett_luce", {"temperature": 0.7}),
    ("plackett_luce", {"temperature": 0.05}),
    ("epsilon_greedy", {"epsilon": 0.4}),
    ("epsilon_greedy", {"epsilon": 1.0}),
    ("greedy", {}),
]


def enumerated(policy: SlatePolicy, pool: ScoredCandidates, ranks: int) -> np.ndarray:
    """P(item at rank) [ranks, items] of one user: the sum over all slates of their probabilities."""
    items = len(pool.scores.values)
    found = np.zeros((ranks, items))
    for slate in permutations(range(items), ranks):
        given = Ragged.from_lengths(np.array(slate), [ranks])
        found[np.arange(ranks), slate] += policy.probability(pool, given, ranks, 3).astype(np.float64).prod()
    return found


@pytest.mark.parametrize(("items", "ranks"), [(6, 4), (4, 4), (7, 2)])
@pytest.mark.parametrize(("name", "settings"), EXACT)
def test_marginal_propensities_are_those_of_all_slates(
    name: str, settings: dict[str, float], items: int, ranks: int
) -> None:
    policy, pool = POLICIES[name](POLICIES.settings(name, settings)), scored([items])
    expected = enumerated(policy, pool, ranks)
    for slate in list(permutations(range(items), ranks))[::7]:
        found = policy.marginal(pool, Ragged.from_lengths(np.array(slate), [ranks]), 3)
        assert found == pytest.approx(expected[np.arange(ranks), slate], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["plackett_luce", "epsilon_greedy", "greedy"])
def test_an_exploration_floor_has_sampled_marginals_of_two_arms_candidates(name: str) -> None:
    """The mean over 400 users with the same candidates, each with random numbers of their own."""
    floor = ExplorationFloor(POLICIES[name](POLICIES.settings(name)), 0.3)
    one, users = scored([6]), 400
    others = np.array([False] * 4 + [True] * 2)
    slate = np.array([3, 4, 0, 1])
    expected = enumerated(floor, replace(one, others=others), 4)[np.arange(4), slate]
    pool = replace(repeated(one, users), others=np.tile(others, users))
    given = Ragged.from_lengths((slate + 6 * np.arange(users)[:, None]).ravel(), np.full(users, 4))
    found = floor.marginal(pool, given, 3)
    assert found is not None
    found = found.reshape(users, 4)
    assert found[:, 0] == pytest.approx(expected[0])
    assert found.mean(axis=0) == pytest.approx(expected, abs=5 / np.sqrt(DRAWS * users))
    assert (found.std(axis=0) <= np.sqrt(expected / DRAWS)).all()
    assert np.array_equal(found.ravel(), floor.marginal(pool, given, 3))


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("name", ["plackett_luce", "epsilon_greedy", "greedy"])
def test_marginals_depend_on_the_user_alone_and_are_zero_for_what_is_no_candidate(name: str, floor: float) -> None:
    policy: SlatePolicy = POLICIES[name](POLICIES.settings(name))
    policy = ExplorationFloor(policy, floor) if floor else policy
    pool = scored([7, 0, 12, 3, 70])
    places = np.array([2, -1, 0, -1, -1, -1, 7 + 11, 7 + 2, 7 + 5, 19, 20, 21, 22 + 60, 22 + 3, -1])
    given = Ragged.from_lengths(places, [3, 3, 3, 3, 3])
    together = policy.marginal(pool, given, 5)
    assert together is not None
    assert (together[places < 0] == 0).all()
    for user in range(5):
        mine = given[user]
        alone = policy.marginal(
            pool.take_users(np.array([user])),
            Ragged.from_lengths(np.where(mine >= 0, mine - pool.scores.offsets[user], -1), [3]),
            5,
        )
        assert np.array_equal(alone, together[given.rows == user])


def test_thompson_sampling_has_no_marginals() -> None:
    policy = POLICIES["thompson"](POLICIES.settings("thompson"))
    given = Ragged.from_lengths(np.array([0, 1]), [2])
    assert policy.marginal(scored([4]), given, 1) is None
    assert ExplorationFloor(policy, 0.1).marginal(scored([4]), given, 1) is None
