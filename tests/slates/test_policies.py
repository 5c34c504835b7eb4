"""Slate policies: the contract, and propensities that equal slate probabilities."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from scored_candidates import items, repeated, scored

from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.slates import POLICIES, PolicySlates, ScoredCandidates, SlatePolicy
from rayrec.slates.policies import Greedy, uniform_draws

CHANCE = tuple(name for name, kind in POLICIES.items() if kind.explores)


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> SlatePolicy:
    return POLICIES[request.param](POLICIES.settings(request.param))


def same(left: PolicySlates, right: PolicySlates) -> bool:
    return np.array_equal(left.places.values, right.places.values) and np.array_equal(left.propensity, right.propensity)


def test_only_the_greedy_policy_is_deterministic() -> None:
    assert set(CHANCE) == {"epsilon_greedy", "plackett_luce", "thompson"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 6), st.integers(0, 2**62))
def test_a_slate_has_each_candidate_once_and_logs_its_probability(lengths: list[int], size: int, seed: int) -> None:
    pool = scored(lengths)
    for kind in POLICIES.values():
        policy = kind(kind.settings_class())
        found = policy.order(pool, size, seed)
        assert found.places.lengths.tolist() == [min(n, size) for n in lengths]
        assert np.array_equal(pool.scores.rows[found.places.values], found.places.rows)
        assert len(set(found.places.values.tolist())) == len(found.places.values)
        assert found.propensity.dtype == np.float32
        assert ((found.propensity > 0) & (found.propensity <= 1)).all()
        again = policy.probability(pool, found.places, size, seed)
        assert again.dtype == np.float32
        assert np.array_equal(again, found.propensity)


def test_slates_do_not_depend_on_other_users_in_the_batch(policy: SlatePolicy) -> None:
    pool = scored([7, 0, 12, 3, 9, 70, 64, 150, 7, 150], known=items(width=64), past=90)
    together = policy.order(pool, 5, seed=11)
    for user in range(len(pool)):
        alone = policy.order(pool.take_users(np.array([user])), 5, seed=11)
        at = together.places.rows == user
        assert np.array_equal(alone.places.values + pool.scores.offsets[user], together.places.values[at])
        assert np.array_equal(alone.propensity, together.propensity[at])


def test_given_slate_probabilities_do_not_depend_on_other_users_in_the_batch(policy: SlatePolicy) -> None:
    pool = scored([7, 0, 12, 3, 9, 70], known=items(width=64), past=90)
    slates = Greedy().order(scored([7, 0, 12, 3, 9, 70], seed=1), 6, 0).places
    together = policy.probability(pool, slates, 5, seed=11)
    for user in range(len(pool)):
        own = Ragged.from_lengths(slates[user] - pool.scores.offsets[user], [len(slates[user])])
        alone = policy.probability(pool.take_users(np.array([user])), own, 5, seed=11)
        assert np.array_equal(alone, together[slates.rows == user])


def test_the_same_seed_gives_the_same_slate_and_another_seed_another() -> None:
    pool = scored([20] * 50)
    for name in CHANCE:
        policy = POLICIES[name](POLICIES.settings(name))
        assert same(policy.order(pool, 10, 1), policy.order(pool, 10, 1))
        assert not same(policy.order(pool, 10, 1), policy.order(pool, 10, 2))


def test_probabilities_of_all_possible_next_items_sum_to_one(policy: SlatePolicy) -> None:
    pool = scored([4])
    for above in ((), (2,), (3, 0), (1, 2, 0)):
        total = 0.0
        for item in set(range(4)) - set(above):
            slate = np.array([*above, item])
            total += policy.probability(pool, Ragged.from_lengths(slate, [len(slate)]), 4, seed=3)[-1]
        assert total == pytest.approx(1)


def test_an_item_that_is_no_candidate_has_probability_zero_and_changes_no_other(policy: SlatePolicy) -> None:
    pool = scored([6])
    slate, broken = np.array([4, 1, 5]), np.array([4, -1, 1, 5])
    whole = policy.probability(pool, Ragged.from_lengths(slate, [3]), 6, seed=3)
    found = policy.probability(pool, Ragged.from_lengths(broken, [4]), 6, seed=3)
    assert found[1] == 0
    assert np.array_equal(np.delete(found, 1), whole)
    short = policy.probability(pool, Ragged.from_lengths(slate, [3]), 2, seed=3)
    assert short.tolist() == [*whole[:2].tolist(), 0]
    nobody = policy.probability(scored([0]), Ragged.from_lengths(np.array([-1, -1]), [2]), 6, seed=3)
    assert nobody.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "given_settings"),
    [("plackett_luce", {"temperature": 0.7}), ("epsilon_greedy", {"epsilon": 0.4}), ("greedy", {})],
)
def test_slate_frequencies_match_their_propensities(name: str, given_settings: dict[str, float]) -> None:
    """40,000 users with the same four candidates, slates of two: chi-square against the exact probabilities."""
    many, size, policy = 40_000, 2, POLICIES[name](POLICIES.settings(name, given_settings))
    one = scored([4])
    pool = repeated(one, many)
    found = policy.order(pool, size, seed=5)
    slates = [tuple(row) for row in (found.places.values % 4).reshape(many, size).tolist()]
    said = dict(zip(slates, found.propensity.reshape(many, size).prod(1).tolist(), strict=True))
    everything = list(permutations(range(4), size))
    expected = {slate: exact(name, given_settings, one.scores.values.tolist(), slate) for slate in everything}
    assert sum(expected.values()) == pytest.approx(1)
    for slate, probability in said.items():
        assert probability == pytest.approx(expected[slate], rel=1e-5)
    assert_as_often(Counter(slates), expected, many)
    for slate in everything:
        found_odds = policy.probability(one, Ragged.from_lengths(np.array(slate), [size]), size, seed=5)
        assert found_odds.prod() == pytest.approx(expected[slate], rel=1e-5)


def assert_as_often(counts: Counter[Any], expected: dict[Any, float], many: int) -> None:
    possible = [outcome for outcome, probability in expected.items() if probability]
    assert set(counts) <= set(possible)
    if len(possible) > 1:
        observed = [counts[outcome] for outcome in possible]
        assert chisquare(observed, [many * expected[outcome] for outcome in possible]).pvalue > 1e-3


def exact(name: str, given_settings: dict[str, float], values: list[float], slate: tuple[int, ...]) -> float:
    """Probability of a slate, in plain Python."""
    left, probability = list(range(len(values))), 1.0
    for item in slate:
        top = max(left, key=lambda k: values[k])
        if name == "plackett_luce":
            odds = {k: np.exp(values[k] / given_settings["temperature"]) for k in left}
            probability *= odds[item] / sum(odds.values())
        else:
            epsilon = given_settings.get("epsilon", 0.0)
            probability *= epsilon / len(left) + (1 - epsilon) * (item == top)
        left.remove(item)
    return probability


@pytest.mark.parametrize(
    ("name", "given_settings"),
    [("plackett_luce", {"temperature": 1e-4}), ("epsilon_greedy", {"epsilon": 0}), ("thompson", {"scale": 0.0})],
)
def test_policies_without_randomness_are_greedy(name: str, given_settings: dict[str, float]) -> None:
    pool, policy = scored([30, 5, 0, 17]), POLICIES[name](POLICIES.settings(name, given_settings))
    assert same(policy.order(pool, 10, 3), Greedy().order(pool, 10, 3))
    other = Greedy().order(scored([30, 5, 0, 17], seed=9), 10, 3).places
    assert np.allclose(policy.probability(pool, other, 10, 3), Greedy().probability(pool, other, 10, 3))


def test_no_probability_underflows_at_low_temperatures() -> None:
    """exp of these logits underflows, but the last two candidates are equally likely."""
    codes, history = scored([3]).candidate, scored([3]).history
    scores = codes.like(np.array([1000.0, 0.0, 0.0], np.float32))
    pool = ScoredCandidates(pa.array(["u"]), scores, codes, history, items())
    policy = POLICIES["plackett_luce"](POLICIES.settings("plackett_luce", {"temperature": 0.1}))
    found = policy.probability(pool, Ragged.from_lengths(np.array([0, 2, 1]), [3]), 3, 0)
    assert found.tolist() == pytest.approx([1, 0.5, 1])


@pytest.mark.parametrize(
    ("name", "given_settings", "says"),
    [
        ("plackett_luce", {"temperature": 0.0}, "temperature.*greater than 0"),
        ("epsilon_greedy", {"epsilon": 1.5}, "less than or equal to 1"),
        ("greedy", {"epsilon": 0.1}, "epsilon: unknown key"),
        ("thompson", {"particles": 0}, "particles.*greater than or equal to 1"),
        ("thompson", {"scale": -1.0}, "scale.*greater than or equal to 0"),
    ],
)
def test_invalid_settings_are_an_error(name: str, given_settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        POLICIES[name](POLICIES.settings(name, given_settings))


def test_random_draws_are_uniform_and_independent_between_users_and_positions() -> None:
    users = pa.array([f"user {n}" for n in range(2_000)])
    draws = uniform_draws(7, users, np.full(2_000, 20), draws=2)
    assert draws.shape == (2, 40_000)
    assert ((draws > 0) & (draws < 1)).all()
    assert chisquare(np.histogram(draws, 50, (0, 1))[0]).pvalue > 1e-3
    table = draws[0].reshape(2_000, 20)
    assert np.abs(np.corrcoef(table, rowvar=False) - np.eye(20)).max() < 0.1
    assert abs(np.corrcoef(draws)[0, 1]) < 0.03
