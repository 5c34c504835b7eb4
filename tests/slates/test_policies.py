"""Slate policies: what each promises, and that propensities are the probabilities with which slates come about."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rayrec.contracts.ragged import Ragged
from rayrec.errors import ConfigError
from rayrec.slates import POLICIES, Ordered, SlatePolicy
from rayrec.slates.policies import Greedy, chance

CHANCE = ("epsilon", "plackett_luce")


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> SlatePolicy:
    return POLICIES[request.param].read({})


def scored(lengths: list[int], seed: int = 0) -> tuple[Ragged, pa.Array]:
    values = np.random.default_rng(seed).normal(size=sum(lengths)).astype(np.float32)
    return Ragged.from_lengths(values, lengths), pa.array([f"user {n}" for n in range(len(lengths))])


def same(left: Ordered, right: Ordered) -> bool:
    return np.array_equal(left.places.values, right.places.values) and np.array_equal(left.propensity, right.propensity)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 6), st.integers(0, 2**62))
def test_each_slate_holds_its_own_candidates_once_with_a_propensity(lengths: list[int], size: int, seed: int) -> None:
    scores, users = scored(lengths)
    for kind in POLICIES.values():
        found = kind.read({}).order(scores, users, size, seed)
        assert found.places.lengths.tolist() == [min(n, size) for n in lengths]
        assert np.array_equal(scores.rows[found.places.values], found.places.rows)
        assert len(set(found.places.values.tolist())) == len(found.places.values)
        assert found.propensity.dtype == np.float32
        assert ((found.propensity > 0) & (found.propensity <= 1)).all()


def test_a_slate_never_depends_on_who_shares_the_batch(policy: SlatePolicy) -> None:
    scores, users = scored([7, 0, 12, 3, 9])
    together = policy.order(scores, users, 5, seed=11)
    for user in range(5):
        alone = policy.order(Ragged.from_lengths(scores[user], [len(scores[user])]), users[user : user + 1], 5, seed=11)
        at = together.places.rows == user
        assert np.array_equal(alone.places.values + scores.offsets[user], together.places.values[at])
        assert np.array_equal(alone.propensity, together.propensity[at])


def test_the_same_seed_gives_the_same_slate_and_another_seed_another() -> None:
    scores, users = scored([20] * 50)
    for name in CHANCE:
        policy = POLICIES[name].read({})
        assert same(policy.order(scores, users, 10, 1), policy.order(scores, users, 10, 1))
        assert not same(policy.order(scores, users, 10, 1), policy.order(scores, users, 10, 2))


@pytest.mark.parametrize(("name", "settings"), [("plackett_luce", {"temperature": 0.7}), ("epsilon", {"epsilon": 0.4})])
def test_slates_come_as_often_as_their_propensities_say(name: str, settings: dict[str, float]) -> None:
    """One user's four candidates, slates of two, 40,000 users: chi-square against the exact probabilities."""
    many, size = 40_000, 2
    values = np.array([0.3, 1.1, -0.4, 0.9], np.float32)
    scores = Ragged.from_lengths(np.tile(values, many), [4] * many)
    users = pa.array([f"user {n}" for n in range(many)])
    found = POLICIES[name].read(settings).order(scores, users, size, seed=5)
    slates = [tuple(row) for row in (found.places.values % 4).reshape(many, size).tolist()]
    said = dict(zip(slates, found.propensity.reshape(many, size).prod(1).tolist(), strict=True))
    expected = {slate: exact(name, settings, values.tolist(), slate) for slate in permutations(range(4), size)}
    assert sum(expected.values()) == pytest.approx(1)
    for slate, probability in said.items():
        assert probability == pytest.approx(expected[slate], rel=1e-5)
    counts = Counter(slates)
    observed = [counts[slate] for slate in expected]
    assert chisquare(observed, [many * probability for probability in expected.values()]).pvalue > 1e-3


def exact(name: str, settings: dict[str, float], values: list[float], slate: tuple[int, ...]) -> float:
    """The probability of a slate, in plain Python."""
    left, probability = list(range(len(values))), 1.0
    for item in slate:
        if name == "plackett_luce":
            odds = {k: np.exp(values[k] / settings["temperature"]) for k in left}
            probability *= odds[item] / sum(odds.values())
        else:
            top = max(left, key=lambda k: values[k])
            probability *= settings["epsilon"] / len(left) + (1 - settings["epsilon"]) * (item == top)
        left.remove(item)
    return probability


@pytest.mark.parametrize(("name", "settings"), [("plackett_luce", {"temperature": 1e-4}), ("epsilon", {"epsilon": 0})])
def test_without_chance_they_are_greedy(name: str, settings: dict[str, float]) -> None:
    scores, users = scored([30, 5, 0, 17])
    found = POLICIES[name].read(settings).order(scores, users, 10, 3)
    assert same(found, Greedy().order(scores, users, 10, 3))


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("plackett_luce", {"temperature": 0.0}, "temperature must be above 0"),
        ("epsilon", {"epsilon": 1.5}, "between 0 and 1"),
        ("greedy", {"epsilon": 0.1}, "unknown setting 'epsilon'"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        POLICIES[name].read(settings)


def test_chance_is_uniform_and_unrelated_between_users_and_places() -> None:
    users = pa.array([f"user {n}" for n in range(2_000)])
    draws = chance(7, users, np.full(2_000, 20), draws=2)
    assert draws.shape == (2, 40_000)
    assert ((draws > 0) & (draws < 1)).all()
    assert chisquare(np.histogram(draws, 50, (0, 1))[0]).pvalue > 1e-3
    table = draws[0].reshape(2_000, 20)
    assert np.abs(np.corrcoef(table, rowvar=False) - np.eye(20)).max() < 0.1
    assert abs(np.corrcoef(draws)[0, 1]) < 0.03
