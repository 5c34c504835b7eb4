"""Thompson sampling: the posterior equals the ridge posterior, and propensities are shares of particles."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.special import ndtri
from scored_candidates import items, repeated, scored

from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.slates import POLICIES, CatalogueItems, ScoredCandidates
from rayrec.slates.policies import uniform_draws
from rayrec.slates.thompson import Thompson


def policy(**settings: float) -> Thompson:
    return Thompson(POLICIES.settings(Thompson.name, settings))


def doubts(pool: ScoredCandidates, seed: int, particles: int, regularization: float) -> list[np.ndarray]:
    """v_j' L^-T z of each user, [particles, candidates], user by user in float64."""
    vectors, found = pool.items.vectors.astype(np.float64), []
    for user in range(len(pool)):
        past = vectors[pool.history[user]]
        width = vectors.shape[1]
        lower = np.linalg.cholesky(regularization * np.eye(width) + past.T @ past)
        draws = uniform_draws(seed, pool.user_ids[user : user + 1], np.array([particles * width]))[0]
        theta = np.linalg.solve(lower.T, ndtri(draws).reshape(particles, width).T)
        found.append((vectors[pool.candidate[user]] @ theta).T)
    return found


def test_propensities_equal_the_shares_of_particles_counted_in_plain_python() -> None:
    pool, seed, particles = scored([7, 5, 0, 12, 70], past=20), 4, 32
    thompson = policy(particles=particles, scale=0.8, regularization=2.0)
    found = thompson.order(pool, 6, seed)
    for user, doubt in enumerate(doubts(pool, seed, particles, 2.0)):
        total = pool.scores[user] + 0.8 * doubt
        shown: list[int] = []
        own = found.places[user] - pool.scores.offsets[user]
        for item, propensity in zip(own, found.propensity[found.places.rows == user], strict=True):
            open_to = total.copy()
            open_to[:, shown] = -np.inf
            assert propensity == pytest.approx((open_to.argmax(1) == item).mean())
            shown.append(int(item))


def test_posterior_draws_have_the_covariance_of_the_ridge_posterior() -> None:
    pool = scored([6], past=9)
    vectors = pool.items.vectors.astype(np.float64)
    past, own = vectors[pool.history[0]], vectors[pool.candidate[0]]
    expected = own @ np.linalg.inv(3 * np.eye(vectors.shape[1]) + past.T @ past) @ own.T
    found = np.cov(doubts(pool, 1, 100_000, 3.0)[0], rowvar=False)
    assert np.abs(found - expected).max() < 0.02 * expected.max()


def test_mean_slate_frequencies_match_mean_propensities() -> None:
    """Each user has other particles: over users, slate frequencies equal mean probabilities."""
    many, size, one = 4_000, 2, scored([4])
    pool, thompson = repeated(one, many), policy(particles=8, scale=3.0)
    found = thompson.order(pool, size, seed=5)
    counts = Counter(tuple(row) for row in (found.places.values % 4).reshape(many, size).tolist())
    starts = pool.scores.offsets[:-1, None]
    total = 0.0
    for slate in permutations(range(4), size):
        given = Ragged.from_lengths((starts + np.array(slate)).ravel(), np.full(many, size))
        each = thompson.probability(pool, given, size, seed=5).reshape(many, size).prod(1).astype(np.float64)
        spread = np.sqrt((each * (1 - each)).sum())
        assert abs(counts[slate] - each.sum()) < 4 * spread + 1e-9
        total += each.sum()
    assert total == pytest.approx(many)


def test_propensities_are_at_least_the_share_of_one_particle() -> None:
    found = policy(particles=16, scale=5.0).order(scored([40] * 30), 10, seed=0)
    assert found.propensity.min() >= 1 / 16
    assert np.allclose(found.propensity * 16, np.rint(found.propensity * 16))


def test_users_without_history_explore_most() -> None:
    one = scored([12])
    lengths = [0, 2, 30]
    codes = np.random.default_rng(0).integers(0, len(one.items.ids), sum(lengths)).astype(np.int32)
    surprise = []
    for number, length in enumerate(lengths):
        history = Ragged.from_lengths(codes[sum(lengths[:number]) :][:length], [length])
        pool = repeated(ScoredCandidates(one.user_ids, one.scores, one.candidate, history, one.items), 400)
        found = policy(scale=2.0, regularization=1.0).order(pool, 5, seed=1)
        surprise.append(-np.log(found.propensity).mean())
    assert surprise[0] > surprise[1] > surprise[2]


def test_scores_of_items_without_factors_have_no_variance() -> None:
    known = items(width=3)
    still = CatalogueItems(known.ids, known.category, known.available, np.zeros_like(known.vectors))
    found = policy(scale=10.0).order(scored([9] * 20, known=still), 4, seed=1)
    assert set(found.propensity.tolist()) == {1.0}


def test_the_error_without_factors_names_the_remedy() -> None:
    known = items()
    bare = CatalogueItems(known.ids, known.category, known.available)
    with pytest.raises(ConfigError, match=r"need 'ials\.factors'"):
        policy().order(scored([3], known=bare), 2, seed=0)
