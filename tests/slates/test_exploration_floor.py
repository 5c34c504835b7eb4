"""Exploration floor: exact propensities by enumeration, frequencies, and slates of whole arms."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations

import numpy as np
import pyarrow.compute as pc
import pytest
from made_slates import stage
from scipy.stats import chisquare
from scored_candidates import candidates, items, repeated, scored

from rayrec.numerics.ragged import Ragged
from rayrec.slates import POLICIES, ScoredCandidates
from rayrec.slates.counterfactual_propensities import first_items, slate_probabilities, unsupported_share
from rayrec.slates.exploration_floor import EXPLORATION, FLOOR_RANKS, ExplorationFloor, extended

EPSILON, OWN, ADDED, SIZE = 0.3, 3, 2, 4


def floor(name: str = "plackett_luce", epsilon: float = EPSILON) -> ExplorationFloor:
    return ExplorationFloor(POLICIES[name](POLICIES.settings(name)), epsilon)


def with_added(lengths: list[int], added: int) -> ScoredCandidates:
    """Users with so many candidates, and `added` of other arms each."""
    own = scored(lengths, known=items(width=4))
    free = [np.setdiff1d(np.arange(200), own.candidate[user])[:added] for user in range(len(own))]
    return extended(own, Ragged.from_lengths(np.concatenate(free).astype(np.int32), [added] * len(own)))


def enumerated(policy: ExplorationFloor, pool: ScoredCandidates, slate: tuple[int, ...]) -> float:
    """Probability of a slate of the first user, choice by choice: the policy on its own remaining candidates."""
    base, left, probability = policy.policy, list(range(OWN + ADDED)), 1.0
    for item in slate:
        own = [place for place in left if place < OWN]
        by_policy = 0.0
        if item in own:
            chance = base.first_choice(pool.filter(np.isin(np.arange(OWN + ADDED), own)), seed=5)
            by_policy = float(chance[own.index(item)])
        uniform = 1 / len(left)
        probability *= (1 - EPSILON) * by_policy + EPSILON * uniform if own else uniform
        left.remove(item)
    return probability


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_propensities_are_those_of_all_slates_enumerated(name: str) -> None:
    pool, policy = with_added([OWN], ADDED), floor(name)
    total = 0.0
    for slate in permutations(range(OWN + ADDED), SIZE):
        found = policy.probability(pool, Ragged.from_lengths(np.array(slate), [SIZE]), SIZE, seed=5)
        expected = enumerated(policy, pool, slate)
        assert found.astype(float).prod() == pytest.approx(expected, abs=1e-6)
        total += expected
    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["plackett_luce", "epsilon_greedy", "greedy"])
def test_slates_are_drawn_as_often_as_their_propensities_say(name: str) -> None:
    many, policy = 20_000, floor(name)
    one = with_added([OWN], ADDED)
    pool = replace(repeated(one, many), others=np.tile(one.from_others, many))
    found = policy.order(pool, 2, seed=5)
    slates = Counter(tuple(row) for row in (found.places.values % (OWN + ADDED)).reshape(many, 2).tolist())
    expected = {slate: enumerated(policy, one, slate) for slate in permutations(range(OWN + ADDED), 2)}
    possible = [slate for slate, probability in expected.items() if probability]
    observed = [slates[slate] for slate in possible]
    assert chisquare(observed, [many * expected[slate] for slate in possible]).pvalue > 1e-3


def test_a_slate_does_not_depend_on_the_batch_and_logs_its_probability() -> None:
    pool = with_added([7, 0, 30, 3, 1, 25], 12)
    for name in POLICIES:
        policy = floor(name)
        together = policy.order(pool, 30, seed=3)
        again = policy.probability(pool, together.places, 30, seed=3)
        assert np.array_equal(again, together.propensity)
        assert (again > 0).all()
        assert len(set(together.places.values.tolist())) == len(together.places.values)
        for user in range(len(pool)):
            alone = policy.order(pool.take_users(np.array([user])), 30, seed=3)
            at = together.places.rows == user
            assert np.array_equal(alone.places.values + pool.scores.offsets[user], together.places.values[at])
            assert np.array_equal(alone.propensity, together.propensity[at])


def test_lower_ranks_are_the_policy_s_alone() -> None:
    pool = with_added([60] * 30, 10)
    found = floor("greedy", 0.9).order(pool, 40, seed=1)
    rank = np.arange(len(found.places.values)) - found.places.offsets[found.places.rows]
    assert pool.from_others[found.places.values][rank < FLOOR_RANKS].any()
    assert not pool.from_others[found.places.values][rank >= FLOOR_RANKS].any()
    assert (found.propensity[rank >= FLOOR_RANKS] == 1).all()
    assert found.places.lengths.tolist() == [40] * 30


def test_an_arm_with_a_floor_supports_an_arm_with_other_candidates() -> None:
    """The cap of the logging arm hides items of the target; with a floor they are shown, and none is unsupported."""
    table, target = candidates(), stage(policy="plackett_luce")
    whole = target.apply_rules(target.candidate_pool(table))
    blocked = {"max_per_category": 1, "blocked": ["item 007"]}
    shares = {}
    for epsilon in (0.0, 0.5):
        logged = stage(policy="plackett_luce", rules=blocked, exploration_floor=epsilon)
        pool = logged.with_others(logged.apply_rules(logged.candidate_pool(table)), [whole])
        chosen = logged.select(pool, "a")
        assert np.array_equal(slate_probabilities(logged, "a", pool, chosen.code), chosen.propensity)
        shares[epsilon] = unsupported_share(target, "b", whole.scored, first_items(logged, "a", pool.scored))
        slates = logged.to_slates(pool, chosen, "a")
        explored = slates.filter(pc.equal(slates["source"], EXPLORATION))
        assert bool(explored.num_rows) == (epsilon > 0)
        assert not pc.sum(explored["score"]).as_py()
        assert "item 007" not in slates["item_id"].to_pylist()
    blocks = whole.scored.candidate.values == 7
    chance = target.policy.first_choice(whole.scored, 0) * blocks
    expected = np.bincount(whole.scored.scores.rows, chance, minlength=len(whole.scored))
    assert shares[0.5] == pytest.approx(expected, abs=1e-6)
    assert shares[0.0].mean() > 0.1
