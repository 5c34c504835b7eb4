"""Each retriever, compared with a plain implementation of its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from halves_shop import CUT, ITEMS, fit_data, history_table, profiles_of, two_halves
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.schemas import MICROSECONDS_PER_DAY, TS
from rayrec.errors import ConfigError, DataError
from rayrec.retrieval import RETRIEVERS
from rayrec.retrieval.ease import EaseRetriever, regularised_inverse, weights_of
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.item_knn import ItemKnnRetriever
from rayrec.retrieval.item_statistics import NAMES, item_statistics, unseen_item_features
from rayrec.retrieval.popularity import PopularityRetriever, RecentPopularityRetriever
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.user_histories import UserHistories
from rayrec.retrieval.user_knn import UserKnnRetriever


def dense(table: object, items: int = ITEMS) -> np.ndarray:
    return profiles_of(table, items).matrix().toarray().astype(np.float64)


def test_ease_is_the_closed_form_with_a_zero_diagonal() -> None:
    data = fit_data(two_halves())
    x = data.matrix.toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + 7 * np.eye(ITEMS))
    expected = np.eye(ITEMS) - p / np.diag(p)
    assert np.allclose(weights_of(regularised_inverse(data.gram, 7.0)), expected, atol=1e-6)
    assert not np.diag(weights_of(regularised_inverse(data.gram, 7.0))).any()
    table = two_halves()
    assert np.allclose(
        all_item_scores(EaseRetriever.fit(data, EaseRetriever.settings_class(regularization=7.0)), profiles_of(table)),
        dense(table) @ expected,
        atol=1e-5,
    )


def test_ease_beyond_its_memory_is_solved_in_float32_to_a_checked_residual() -> None:
    gram = fit_data(two_halves()).gram
    assert np.allclose(
        weights_of(regularised_inverse(gram, 7.0, memory_gb=1e-9)),
        weights_of(regularised_inverse(gram, 7.0)),
        atol=1e-4,
    )


def test_insufficient_float32_precision_in_ease_is_an_error() -> None:
    gram = np.full((30, 30), 1e7, np.float32)
    with pytest.raises(DataError, match=r"float32|positive definite"):
        regularised_inverse(gram, 1e-4, memory_gb=1e-9)


def test_rare_items_are_not_in_ease_and_score_zero() -> None:
    table = history_table({f"u{n}": [(n % 3, 2.0, 0), (3, 1.0, 0)] for n in range(9)} | {"rare": [(7, 1.0, 0)]})
    model = EaseRetriever.fit(fit_data(table), EaseRetriever.settings_class(min_users=2))
    assert model.active.tolist() == [0, 1, 2, 3]
    scores = all_item_scores(model, profiles_of(table))
    assert scores[:9, :3].any()
    assert not scores[:, 4:].any()
    assert not scores[9].any()


def test_recent_history_counts_by_the_distance_from_the_users_newest_event() -> None:
    table = history_table({"u": [(1, 30.0, 0), (2, 20.0, 0), (2, 10.0, 0)]})
    matrix = profiles_of(table).matrix(half_life_days=10.0).toarray()
    assert matrix[0, 1] == pytest.approx(0.25)
    assert matrix[0, 2] == 1  # 1 + 1/2, at most 1


def test_item_knn_is_the_shrunk_cosine_of_its_nearest_items() -> None:
    data = fit_data(two_halves())
    x = data.matrix.toarray().astype(np.float64)
    norm = np.sqrt((x**2).sum(0))
    cosine = (x.T @ x) / (np.outer(norm, norm) + 3)
    np.fill_diagonal(cosine, 0)
    whole = ItemKnnRetriever.fit(data, ItemKnnRetriever.settings_class(neighbours=1000, shrink=3.0))
    assert np.allclose(whole.weights.toarray(), cosine, atol=1e-6)
    nearest = ItemKnnRetriever.fit(data, ItemKnnRetriever.settings_class(neighbours=5, shrink=3.0)).weights
    assert np.diff(nearest.indptr).max() <= 5
    for item in range(ITEMS):
        kept = nearest[item].toarray()[0]
        assert kept.sum() == pytest.approx(np.sort(cosine[item])[-5:].sum(), abs=1e-5)


def test_user_knn_is_the_similarity_weighted_sum_of_recent_events() -> None:
    table = two_halves()
    data = fit_data(table)
    x = data.matrix.toarray().astype(np.float64)
    recent = np.zeros_like(x)
    np.add.at(recent, (data.user, data.item), 2.0 ** -((CUT - data.ts) / MICROSECONDS_PER_DAY / 7))
    idf = np.log(1 + len(x) / (x.sum(0) + 1))
    weighted = x * idf
    unit = weighted / (np.linalg.norm(weighted, axis=1, keepdims=True) + 3)
    expected = (dense(table) * idf) @ unit.T @ recent
    assert np.allclose(
        all_item_scores(
            UserKnnRetriever.fit(data, UserKnnRetriever.settings_class(half_life_days=7.0)), profiles_of(table)
        ),
        expected,
        atol=1e-2,
    )


def test_user_knn_stores_the_largest_cells_of_each_item() -> None:
    data = fit_data(two_halves())
    whole = UserKnnRetriever.fit(data, UserKnnRetriever.settings_class()).weights.toarray()
    assert (whole > 0).sum(1).min() > 5
    kept = UserKnnRetriever.fit(data, UserKnnRetriever.settings_class(neighbours=5)).weights
    for item in range(ITEMS):
        largest = np.argsort(-whole[item], kind="stable")[:5]
        assert np.array_equal(kept[item].indices, np.sort(largest))
        assert np.array_equal(kept[item].data, whole[item, np.sort(largest)])


def test_user_knn_of_a_large_catalogue_stores_a_bounded_number_of_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    data = fit_data(two_halves())
    monkeypatch.setattr("rayrec.retrieval.user_knn._MAX_CELLS", 3 * ITEMS + 1)
    weights = UserKnnRetriever.fit(data, UserKnnRetriever.settings_class()).weights
    assert np.array_equal(
        weights.toarray(), UserKnnRetriever.fit(data, UserKnnRetriever.settings_class(neighbours=3)).weights.toarray()
    )
    assert np.diff(weights.indptr).max() == 3


def test_popularity_counts_events_and_recent_popularity_decays_them() -> None:
    table = history_table({"a": [(1, 14.0, 0), (2, 7.0, 0)], "b": [(1, 7.0, 0), (3, 1.0, 1)]})
    data = fit_data(table)
    count = PopularityRetriever.fit(data, PopularityRetriever.settings_class()).score
    assert count[[1, 2, 3]].tolist() == [2, 1, 0]  # event 1 is evidence against: it counts for nobody
    faded = RecentPopularityRetriever.fit(data, RecentPopularityRetriever.settings_class(half_life_days=7.0)).score
    assert faded[[1, 2, 3]] == pytest.approx([0.75, 0.5, 0])
    with pytest.raises(ConfigError, match=r"half_life_days.*greater than 0"):
        RETRIEVERS.settings("recent_popularity", {"half_life_days": 0})


def test_item_features_are_logs_of_decayed_counts_and_ages() -> None:
    data = fit_data(history_table({"a": [(1, 16.0, 0), (1, 8.0, 0)]}))
    features = dict(zip(NAMES, item_statistics(data)[1], strict=True))
    assert features["log_decayed_8d"] == pytest.approx(np.log(0.75 + 0.2), abs=1e-5)
    assert features["log_count"] == pytest.approx(np.log(3))
    assert features["log_age"] == pytest.approx(np.log1p(16))
    assert features["log_last"] == pytest.approx(np.log1p(8))
    assert np.array_equal(item_statistics(data)[5], unseen_item_features())


def test_what_is_known_of_an_item_without_events_is_its_launch() -> None:
    data = fit_data(history_table({"a": [(0, 5.0, 0)]}))
    launches: list[int | None] = [CUT + day * MICROSECONDS_PER_DAY for day in (-50, 3, -7)]
    launches += [None] * (ITEMS - 3)
    found = replace(data, catalogue=pa.table({"available_from": pa.array(launches, TS)}))
    columns = dict(zip(NAMES, item_statistics(found).T, strict=True))
    np.testing.assert_allclose(columns["log_until_launch"][:4], np.log1p([0, 3, 0, 0]), rtol=1e-6)
    np.testing.assert_allclose(columns["log_unsold"][:4], np.log1p([0, 0, 7, 0]), rtol=1e-6)  # item 0 has been sold


@settings(max_examples=25, deadline=None)
@given(
    history=st.lists(st.integers(0, 19), min_size=1, max_size=40),
    alpha=st.sampled_from([0.5, 10.0]),
    seed=st.integers(0, 5),
)
def test_ials_folds_a_user_in_exactly(history: list[int], alpha: float, seed: int) -> None:
    factors = np.random.default_rng(seed).normal(size=(20, 6)).astype(np.float32)
    model = IalsRetriever(factors, IalsSettings(factors=6, regularization=2.0, alpha=alpha))
    table = history_table({"u": [(item, 1.0, 0) for item in history]})
    taken = np.unique(history)
    v = factors.astype(np.float64)
    confidence = 1 + alpha
    block = 2 * np.eye(6) + v.T @ v + (confidence - 1) * v[taken].T @ v[taken]
    expected = v @ np.linalg.solve(block, confidence * v[taken].sum(0))
    assert np.allclose(all_item_scores(model, profiles_of(table, 20))[0], expected, atol=2e-5)


def test_ials_fits_are_deterministic() -> None:
    data = fit_data(two_halves())
    first, second = (IalsRetriever.fit(data, IalsRetriever.settings_class(factors=8)).factors for _ in range(2))
    assert np.array_equal(first, second)


def test_slicing_user_histories_selects_the_same_users() -> None:
    user_histories = profiles_of(two_halves())
    part: UserHistories = user_histories[10:20]
    assert np.array_equal(part.matrix().toarray(), user_histories.matrix().toarray()[10:20])
