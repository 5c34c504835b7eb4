"""Users' scores, compared with a dense row over all items: the same best items, ties included, the same scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.numerics import user_scores
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.user_scores import (
    AllowedItems,
    DenseScores,
    FactorScores,
    SharedScores,
    SparseScores,
    UserScores,
)

ITEMS = 13
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Kind = Callable[[np.random.Generator, int], tuple[UserScores, np.ndarray]]


def sparse(random: np.random.Generator, users: int) -> tuple[UserScores, np.ndarray]:
    history, weights = small(random, (users, ITEMS), 0.3), small(random, (ITEMS, ITEMS), 0.4)
    return SparseScores(sp.csr_matrix(history), sp.csr_matrix(weights)), history @ weights


def dense(random: np.random.Generator, users: int) -> tuple[UserScores, np.ndarray]:
    active = np.flatnonzero(random.random(ITEMS) < 0.7).astype(np.int32)
    history, weights = small(random, (users, len(active)), 0.3), small(random, (len(active),) * 2, 0.9)
    slot = np.full(ITEMS, -1, np.int64)
    slot[active] = np.arange(len(active))
    expected = np.zeros((users, ITEMS), np.float32)
    expected[:, active] = history @ weights
    return DenseScores(sp.csr_matrix(history), weights, active, slot), expected


def factors(random: np.random.Generator, users: int) -> tuple[UserScores, np.ndarray]:
    lengths = random.integers(0, 3, users)
    vectors, items = small(random, (lengths.sum(), 4), 0.8), small(random, (ITEMS, 4), 0.8)
    bias, known = small(random, (ITEMS,), 0.5), random.random(ITEMS) < 0.8
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    expected = np.zeros((users, ITEMS), np.float32)
    for user in range(users):
        own = vectors[offsets[user] : offsets[user + 1]]
        if len(own):
            expected[user] = ((own @ items.T).max(0) + bias) * known
    return FactorScores(vectors, offsets, torch.from_numpy(items), bias, known), expected


def dense_on_a_device(random: np.random.Generator, users: int) -> tuple[UserScores, np.ndarray]:
    scores, expected = dense(random, users)
    assert isinstance(scores, DenseScores)
    return replace(scores, on_device=torch.from_numpy(scores.weights).to(DEVICE)), expected


def factors_on_a_device(random: np.random.Generator, users: int) -> tuple[UserScores, np.ndarray]:
    scores, expected = factors(random, users)
    assert isinstance(scores, FactorScores)
    return replace(scores, on_device=scores.items.to(DEVICE)), expected


def small(random: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    """Small whole numbers: sums are exact and tie often."""
    return (random.integers(-1, 3, shape) * (random.random(shape) < density)).astype(np.float32)


@pytest.mark.parametrize("kind", [sparse, dense, factors, dense_on_a_device, factors_on_a_device])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), users=st.integers(0, 4), count=st.integers(1, 15), block=st.sampled_from([3, 50]))
def test_top_and_pairs_equal_those_of_a_dense_row(kind: Kind, seed: int, users: int, count: int, block: int) -> None:
    random = np.random.default_rng(seed)
    scores, expected = kind(random, users)
    allowed, seen = some_allowed(random, users)
    candidate = Ragged.from_lengths(np.tile(np.arange(ITEMS, dtype=np.int32), users), np.full(users, ITEMS))
    assert np.array_equal(scores.at(candidate).reshape(users, ITEMS), expected)  # before anything was proposed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_scores, "FACTOR_BLOCK", block)
        top = scores.top(allowed, count)
    for user in range(users):
        order = np.argsort(-expected[user], kind="stable")
        best = [i for i in order if allowed.available[i] and i not in seen[user] and expected[user, i] > 0]
        assert sorted(top[user]) == sorted(best[:count])
    assert np.array_equal(scores.at(candidate).reshape(users, ITEMS), expected)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), users=st.integers(0, 4), count=st.integers(1, 15))
def test_shared_scores_propose_the_first_allowed_items_of_the_order(seed: int, users: int, count: int) -> None:
    random = np.random.default_rng(seed)
    score = small(random, (ITEMS,), 0.6)
    order = np.argsort(-score, kind="stable")
    allowed, seen = some_allowed(random, users)
    top = SharedScores(score, order).top(allowed, count)
    for user in range(users):
        assert top[user].tolist() == [i for i in order if allowed.available[i] and i not in seen[user]][:count]
    assert np.array_equal(SharedScores(score, order).at(top), score[top.values])


def some_allowed(random: np.random.Generator, users: int) -> tuple[AllowedItems, list[set[int]]]:
    lengths = random.integers(0, 6, users)
    excluded = Ragged.from_lengths(random.integers(0, ITEMS, lengths.sum()).astype(np.int32), lengths)
    available = random.random(ITEMS) < 0.8
    return AllowedItems(available, excluded), [set(excluded[user].tolist()) for user in range(users)]
