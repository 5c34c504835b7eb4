"""Factors of new items, mapped from their texts: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from halves_shop import ITEMS, fit_data, profiles_of, two_halves

from rayrec.retrieval import factor_map
from rayrec.retrieval.factor_map import mapped_factors, nearest_by_factors
from rayrec.retrieval.item_text import ItemTextRetriever, ItemTextSettings
from rayrec.retrieval.retriever import all_item_scores

RNG = np.random.default_rng(0)
TEXTS = sp.csr_matrix(RNG.normal(size=(30, 6)).astype(np.float32))
LINEAR = RNG.normal(size=(6, 3)).astype(np.float32)
NEW = np.arange(30) >= 24
EVENTS = np.where(NEW, 0, 30.0 - np.arange(30))


def test_a_linear_relation_is_found_again() -> None:
    factors = np.where(NEW[:, None], 99, TEXTS @ LINEAR).astype(np.float32)
    mapped = mapped_factors(TEXTS, factors, EVENTS, NEW, 1e-6)
    np.testing.assert_allclose(mapped[NEW], (TEXTS @ LINEAR)[NEW], atol=1e-3)
    np.testing.assert_array_equal(mapped[~NEW], factors[~NEW])


def test_it_is_ridge_regression_in_its_usual_form() -> None:
    factors, known = RNG.normal(size=(30, 3)).astype(np.float32), TEXTS[~NEW].toarray().astype(float)
    usual = np.linalg.solve(known.T @ known + 2.5 * np.eye(6), known.T @ factors[~NEW])
    np.testing.assert_allclose(mapped_factors(TEXTS, factors, EVENTS, NEW, 2.5)[NEW], TEXTS[NEW] @ usual, atol=1e-4)


def test_the_items_with_the_most_events_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factor_map, "MAX_KNOWN", 10)
    factors = RNG.normal(size=(30, 3)).astype(np.float32)
    first = mapped_factors(TEXTS, factors, EVENTS, NEW, 1.0)
    factors[10:24] += 1
    np.testing.assert_array_equal(mapped_factors(TEXTS, factors, EVENTS, NEW, 1.0)[NEW], first[NEW])


def test_without_known_or_new_items_there_is_nothing_to_map() -> None:
    factors = np.ones((30, 3), np.float32)
    assert not mapped_factors(TEXTS, factors, np.zeros(30), NEW, 1.0)[NEW].any()
    np.testing.assert_array_equal(mapped_factors(TEXTS, factors, EVENTS, np.zeros(30, bool), 1.0), factors)


def test_nearest_known_items_by_cosine() -> None:
    factors = np.array([[2, 0], [0, 3], [1, 1], [5, 1], [-1, 0], [0, 0]], np.float32)
    new, known = np.array([0, 0, 0, 1, 0, 1], bool), np.array([1, 1, 1, 1, 1, 0], bool)
    found = nearest_by_factors(factors, new, known, 2).toarray()
    assert np.flatnonzero(found[3]).tolist() == [0, 2]
    assert found[3, 0] == pytest.approx(5 / np.sqrt(26))
    assert not found[[0, 1, 2, 4, 5]].any()


def test_users_are_proposed_the_new_item_of_their_half() -> None:
    """Items 40 and 41 have no events; their titles name their halves."""
    settings = ItemTextSettings(affinity="factors", factors=8)
    retriever = ItemTextRetriever.fit(fit_data(two_halves(), ITEMS + 2), settings)
    scores = all_item_scores(retriever, profiles_of(two_halves(), ITEMS + 2))
    assert (scores[::2, 40] > scores[::2, 41]).all()
    assert (scores[1::2, 41] > scores[1::2, 40]).all()
    assert not scores[:, :40].any()
