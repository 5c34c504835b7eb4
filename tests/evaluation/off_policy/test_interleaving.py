"""Team-draft interleaving: hand-computed values, fairness, independence of users."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.interleaving import Interleaved, sign_test, team_credit, team_draft


def seeds(users: int, start: int = 0) -> np.ndarray:
    return np.random.default_rng(start).integers(0, 2**63, users).astype(np.uint64)


def plainly(first: list[int], second: list[int], coins: list[int]) -> tuple[list[int], list[int]]:
    """The paper's algorithm for one user, step by step; `coins`: which ranking is first in each round."""
    merged: list[int] = []
    teams: list[int] = []
    rankings, flips = (first, second), iter(coins)
    while len(merged) < len(first) and all(any(i >= 0 and i not in merged for i in r) for r in rankings):
        behind = teams.count(0) - teams.count(1)
        turn = next(flips) if behind == 0 else int(behind > 0)
        merged.append(next(i for i in rankings[turn] if i >= 0 and i not in merged))
        teams.append(turn)
    return merged, teams


rankings = st.integers(1, 6).flatmap(
    lambda depth: st.tuples(*(st.tuples(st.permutations(range(8)), st.integers(0, depth)) for _ in range(2))).map(
        lambda pair: [(items[:length] + [-1] * depth)[:depth] for items, length in pair]
    )
)


@given(rankings, st.integers(0, 2**32))
def test_team_draft_equals_the_papers_algorithm_for_some_coins(pair: list[list[int]], seed: int) -> None:
    first, second = pair
    depth = len(first)
    found = team_draft(np.array([first]), np.array([second]), seeds(1, seed))
    merged = [item for item in found.item[0].tolist() if item >= 0]
    teams = found.team[0].tolist()[: len(merged)]
    assert any(plainly(first, second, list(coins)) == (merged, teams) for coins in product((0, 1), repeat=depth))


def test_each_user_depends_on_its_own_seed_only() -> None:
    rng = np.random.default_rng(0)
    first, second = (np.stack([rng.permutation(20)[:8] for _ in range(50)]) for _ in range(2))
    own = seeds(50)
    together = team_draft(first, second, own)
    for user in range(50):
        rows = slice(user, user + 1)
        alone = team_draft(first[rows], second[rows], own[rows])
        assert np.array_equal(alone.item[0], together.item[user])
        assert np.array_equal(alone.team[0], together.team[user])
    assert not np.array_equal(team_draft(first, second, seeds(50, 1)).team, together.team)


def test_both_rankings_have_each_rank_equally_often() -> None:
    users = 20_000
    first, second = np.tile(np.arange(6), (users, 1)), np.tile(np.arange(10, 16), (users, 1))
    found = team_draft(first, second, np.arange(users).astype(np.uint64))
    for place in range(6):
        assert binomtest(int(found.team[:, place].sum()), users).pvalue > 1e-3
    opening, after = found.team[:, 0], found.team[:, 2]
    assert abs(np.corrcoef(opening, after)[0, 1]) < 0.03
    assert (found.team[:, 0] != found.team[:, 1]).all()


def test_identical_rankings_are_unchanged_and_win_equally_often() -> None:
    users = 20_000
    ranking = np.tile(np.arange(5), (users, 1))
    lists = team_draft(ranking, ranking, np.arange(users).astype(np.uint64))
    assert np.array_equal(lists.item, ranking)
    rng = np.random.default_rng(1)
    user, item = rng.integers(users, size=users), rng.choice(5, size=users, p=[0.6, 0.2, 0.1, 0.05, 0.05])
    found = sign_test(team_credit(lists, user, item))
    assert found.p_value > 1e-3
    assert abs(found.first - found.second) < 0.04 * (found.first + found.second + found.ties)


def test_the_ranking_that_users_follow_is_preferred() -> None:
    users = 300
    rng = np.random.default_rng(2)
    first = np.stack([rng.permutation(30)[:5] for _ in range(users)])
    second = np.stack([rng.permutation(np.arange(30, 60))[:5] for _ in range(users)])
    lists = team_draft(first, second, seeds(users))
    user = np.arange(users)
    liked = np.where(rng.random(users) < 0.7, first[:, 0], second[:, 0])
    found = sign_test(team_credit(lists, user, liked))
    assert found.first > found.second
    assert found.p_value < 1e-6
    assert found.p_value == binomtest(found.first, found.first + found.second).pvalue


def test_each_consumed_item_of_the_list_counts_once() -> None:
    lists = Interleaved(np.array([[3, 5, 7], [2, -1, -1]]), np.array([[0, 1, 0], [1, -1, -1]], np.int8))
    user, item = np.array([0, 0, 0, 0, 1, 1, 0]), np.array([3, 3, 7, 9, 5, 2, 2])
    points = team_credit(lists, user, item)
    assert points.tolist() == [[2, 0], [0, 1]]
    found = sign_test(points)
    assert (found.first, found.second, found.ties, found.p_value) == (1, 1, 0, 1.0)


def test_users_without_consumed_items_are_ties() -> None:
    found = sign_test(np.zeros((4, 2), np.int64))
    assert (found.ties, found.p_value) == (4, 1.0)
    nothing = np.zeros(0, np.int64)
    assert team_credit(Interleaved(np.full((2, 3), -1), np.full((2, 3), -1, np.int8)), nothing, nothing).sum() == 0
    assert sign_test(np.zeros((0, 2), np.int64)).p_value == 1.0


def test_rankings_of_different_shapes_are_an_error() -> None:
    with pytest.raises(DataError, match="cannot be interleaved"):
        team_draft(np.zeros((2, 3), np.int64), np.zeros((2, 4), np.int64), seeds(2))
