"""EASE on neighbourhoods, compared with the closed form over all items."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from halves_shop import ITEMS, fit_data, profiles_of, two_halves
from pydantic import ValidationError

from rayrec.errors import ConfigError
from rayrec.retrieval import ease, sparse_ease
from rayrec.retrieval.ease import EaseRetriever, EaseSettings, regularised_inverse, weights_of
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.sparse_ease import neighbourhood_weights


def some_histories(users: int = 300, items: int = 60, seed: int = 0) -> sp.csr_matrix:
    """Users of six tastes; popular items first."""
    random = np.random.default_rng(seed)
    taste = random.integers(6, size=users)
    rows, columns = [], []
    for user in range(users):
        drawn = (random.random(random.integers(2, 12)) ** 2 * items).astype(int)
        drawn = np.where(random.random(len(drawn)) < 0.8, drawn // 6 * 6 + taste[user], drawn) % items
        rows += [user] * len(np.unique(drawn))
        columns += np.unique(drawn).tolist()
    return sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(users, items))


def test_where_all_items_are_neighbours_it_is_the_dense_solution() -> None:
    matrix = some_histories(users=1000, items=18)
    gram = (matrix.T @ matrix).toarray()
    assert (gram > 0).all()
    found = neighbourhood_weights(matrix, 7.0, 400).toarray()
    assert np.allclose(found, weights_of(regularised_inverse(gram, 7.0)), atol=1e-5)
    assert not np.diag(found).any()


def test_an_item_is_regressed_on_the_items_that_occur_with_it() -> None:
    matrix = some_histories(items=40)  # fewer than the least number of neighbours
    gram = (matrix.T @ matrix).toarray()
    expected = np.zeros_like(gram)
    for item in range(40):
        near = np.flatnonzero((gram[item] > 0) & (np.arange(40) != item))
        block = gram[np.ix_(near, near)] + 7 * np.eye(len(near))
        expected[near, item] = np.linalg.solve(block, gram[near, item])
    assert np.allclose(neighbourhood_weights(matrix, 7.0, 400).toarray(), expected, atol=1e-5)


def test_few_neighbours_are_the_strongest_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_ease, "LEAST_NEIGHBOURS", 3)
    found = neighbourhood_weights(some_histories(), 7.0, 10)
    assert np.diff(found.tocsc().indptr).max() == 10
    assert found.has_sorted_indices
    whole = neighbourhood_weights(some_histories(), 7.0, 1000)
    assert np.corrcoef(found.toarray().ravel(), whole.toarray().ravel())[0, 1] > 0.8


def test_block_size_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    before = neighbourhood_weights(some_histories(), 7.0, 20)
    monkeypatch.setattr(sparse_ease, "_BLOCK_WORK", 1)
    monkeypatch.setattr("rayrec.numerics.sparse_products._BLOCK_CELLS", 1)
    after = neighbourhood_weights(some_histories(), 7.0, 20)
    assert np.array_equal(before.toarray(), after.toarray())


def test_weak_regularization_of_incomplete_neighbourhoods_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_ease, "LEAST_NEIGHBOURS", 3)
    found = neighbourhood_weights(some_histories(), 1.0, 5).toarray()
    assert np.abs(found).max() < 2


def test_auto_takes_the_dense_solver_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fit_data(two_halves())
    assert "weights" in EaseRetriever.fit(data, EaseSettings()).arrays()
    monkeypatch.setattr(ease, "MAX_DENSE_ITEMS", ITEMS - 1)
    beyond = EaseRetriever.fit(data, EaseSettings())
    assert "indptr" in beyond.arrays()
    assert EaseRetriever.summary(beyond.arrays()).startswith("sparse solver, 40 items")
    with pytest.raises(ConfigError, match="dense solver takes up to 39 items, and 40"):
        EaseRetriever.fit(data, EaseSettings(solver="dense"))


def test_weights_are_the_exact_regression_on_the_neighbours_in_a_shop_with_long_baskets() -> None:
    """Where each item is bought with each other one, most pairs of an item's neighbours are not each other's."""
    items, neighbours, regularization = 60, 15, 20.0
    matrix = sp.random(200, items, 0.4, "csr", np.float32, random_state=1)
    matrix.data[:] = 1
    gram = (matrix.T @ matrix).toarray().astype(np.float64)
    square = gram.diagonal() + regularization
    weights = neighbourhood_weights(matrix, regularization, neighbours).toarray()
    for item in range(items):
        near = np.flatnonzero(weights[:, item])
        assert len(near) == neighbours
        exact = np.linalg.solve(gram[np.ix_(near, near)] + regularization * np.eye(neighbours), gram[near, item])
        assert np.allclose(weights[near, item], exact, atol=1e-5)
        others = np.setdiff1d(np.arange(items), [*near, item])
        assert (gram[near, item] / square[near]).min() >= (gram[others, item] / square[others]).max() - 1e-6


def test_a_sparse_model_proposes_the_items_of_the_users_half_and_survives_load_and_remap() -> None:
    data, profiles = fit_data(two_halves()), profiles_of(two_halves())
    model = EaseRetriever.fit(data, EaseSettings(solver="sparse", regularization=5.0))
    scores = all_item_scores(model, profiles)
    for user in range(60):
        assert scores[user, user % 2 :: 2].mean() > scores[user, 1 - user % 2 :: 2].mean()
    loaded = EaseRetriever.load(model.arrays(), model.settings)
    assert np.array_equal(all_item_scores(loaded, profiles), scores)
    codes = np.random.default_rng(0).permutation(ITEMS + 2)[:ITEMS]
    moved = model.remap(codes, ITEMS + 2)
    assert np.array_equal(np.sort(codes), moved.active)
    assert np.allclose(moved.weights.toarray()[np.ix_(codes, codes)], model.weights.toarray())


def test_an_inverse_of_the_sparse_solver_cannot_be_stored() -> None:
    with pytest.raises(ValidationError, match="store_inverse needs the dense solver"):
        EaseSettings(solver="sparse", store_inverse=True)
