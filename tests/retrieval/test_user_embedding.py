"""Multi-interest user embeddings: the clusters, the scores, and equivalence to iALS with one interest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from halves_shop import CUT, ITEMS, fit_data, history_table, profiles_of, two_halves
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.errors import ConfigError
from rayrec.retrieval import RETRIEVERS, item_model
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.source_specs import SourceSpec
from rayrec.retrieval.user_embedding import UserEmbeddingRetriever, spherical_kmeans

FIT = {"factors": 4, "regularization": 1.0}


def random_model(items: int, interests: int, seed: int = 0) -> UserEmbeddingRetriever:
    factors = np.random.default_rng(seed).normal(size=(items, 6)).astype(np.float32)
    return UserEmbeddingRetriever(IalsRetriever(factors, IalsSettings(factors=6, regularization=2.0)), interests)


def clusters_of(lines: np.ndarray, clusters: int) -> np.ndarray:
    """Spherical k-means of unit vectors [n, d], for one user."""
    centres = [lines[np.argmax(lines @ lines.sum(0))]]
    for _ in range(clusters - 1):
        centres.append(lines[np.argmin(np.max(lines @ np.array(centres).T, axis=1))])
    centre = np.array(centres)
    for _ in range(10):
        label = np.argmax(lines @ centre.T, axis=1)
        sums = np.array([lines[label == k].sum(0) for k in range(clusters)])
        filled = np.isin(np.arange(clusters), label)
        centre[filled] = sums[filled] / np.linalg.norm(sums[filled], axis=1, keepdims=True)
    return np.argmax(lines @ centre.T, axis=1)


@settings(max_examples=25, deadline=None)
@given(
    histories=st.lists(st.lists(st.integers(0, 49), max_size=30, unique=True), min_size=1, max_size=6),
    interests=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_the_score_of_an_item_is_the_maximum_over_interests(
    histories: list[list[int]], interests: int, seed: int
) -> None:
    retriever = random_model(50, interests, seed)
    found = all_item_scores(
        retriever, profiles_of(history_table({f"u{n}": [(i, 1.0, 0) for i in h] for n, h in enumerate(histories)}), 50)
    )
    unit = retriever.model.factors / np.linalg.norm(retriever.model.factors, axis=1, keepdims=True)
    for row, history in zip(found, histories, strict=True):
        taken = np.sort(np.array(history, np.int64))
        if not len(taken):
            assert not row.any()
            continue
        label = clusters_of(unit[taken].astype(np.float64), interests)
        parts = {f"{k}": [(int(i), 1.0, 0) for i in taken[label == k]] for k in np.unique(label)}
        expected = all_item_scores(retriever.model, profiles_of(history_table(parts), 50)).max(0)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_one_interest_is_bit_identical_to_ials() -> None:
    data, user_histories = fit_data(two_halves()), profiles_of(two_halves())
    alone = UserEmbeddingRetriever.fit(data, UserEmbeddingRetriever.settings_class(**{**FIT, "interests": 1}))
    assert np.array_equal(
        all_item_scores(alone, user_histories),
        all_item_scores(IalsRetriever.fit(data, IalsRetriever.settings_class(**FIT)), user_histories),
    )
    assert not np.array_equal(
        all_item_scores(UserEmbeddingRetriever.fit(data, UserEmbeddingRetriever.settings_class(**FIT)), user_histories),
        all_item_scores(alone, user_histories),
    )


def test_two_tastes_in_one_history_become_two_interests() -> None:
    retriever = UserEmbeddingRetriever.fit(
        fit_data(two_halves()), UserEmbeddingRetriever.settings_class(**{**FIT, "interests": 2})
    )
    both = {
        "both": [(item, 9.0, 0) for item in (0, 1, 2, 3, 4, 5, 7, 9)],
        "even": [(item, 9.0, 0) for item in (0, 2, 4)],
    }
    user_histories = profiles_of(history_table(both))
    vectors, offsets = retriever.vectors(user_histories)
    pure = retriever.model.fold_in(
        profiles_of(
            history_table({"even": [(i, 1.0, 0) for i in (0, 2, 4)], "odd": [(i, 1.0, 0) for i in (1, 3, 5, 7, 9)]})
        ).matrix()
    )
    assert offsets[1] == 2
    nearest = (vectors[:2] @ pure.T).argmax(1)
    assert sorted(nearest) == [0, 1]
    np.testing.assert_allclose(vectors[:2], pure[nearest], atol=1e-6)


def test_items_without_factors_form_no_interest() -> None:
    retriever = random_model(30, 3)
    retriever.model.factors[20:] = 0
    retriever = UserEmbeddingRetriever(IalsRetriever(retriever.model.factors, retriever.model.settings), 3)
    known, unknown = [(1, 3.0, 0), (2, 2.0, 0)], [(item, 1.0, 0) for item in range(20, 30)]
    table = history_table({"known": known, "more": [*known, *unknown], "unknown": unknown})
    scores = all_item_scores(retriever, profiles_of(table, 30))
    assert np.array_equal(scores[0], scores[1])
    assert not scores[2].any()
    assert not scores[:, 20:].any()


def test_long_and_short_histories_in_one_batch_do_not_affect_each_other() -> None:
    random = np.random.default_rng(5)
    lengths = random.integers(0, 150, 80)
    histories = {f"u{n}": [(int(i), 1.0, 0) for i in random.integers(200, size=size)] for n, size in enumerate(lengths)}
    user_histories, retriever = profiles_of(history_table(histories), 200), random_model(200, 4)
    together = all_item_scores(retriever, user_histories)
    for start, stop in ((0, 1), (41, 42), (3, 50), (79, 80)):
        assert np.array_equal(all_item_scores(retriever, user_histories[start:stop]), together[start:stop])


def test_identical_items_are_one_cluster() -> None:
    line = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, 2.0]]))
    lines = torch.stack([line.expand(4, 3), torch.cat([line, -line, line, torch.zeros(1, 3)])])
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    labels = spherical_kmeans(lines, mask, 3)
    assert len(set(labels[0].tolist())) == 1
    assert labels[1, 0] == labels[1, 2] != labels[1, 1]


def test_it_shares_the_fit_of_ials_with_the_same_settings() -> None:
    several = SourceSpec.of("user_embedding", "user_embedding", 50, **{**FIT, "interests": 3})
    one, other = SourceSpec.of("ials", "ials", 50, **FIT), SourceSpec.of("wide", "user_embedding", 50, factors=8)
    required_sources = item_model.required_sources([(several, one)], factors=True)
    assert [spec.key for spec in required_sources] == [several.key] == [one.key]
    assert other.key != one.key
    ids = pa.array([f"i{n}" for n in range(ITEMS)])
    model = item_model.fit([two_halves()], ids, [several], [1.0, -1.0], CUT, 10**6)
    user_histories = profiles_of(two_halves())
    assert np.array_equal(
        all_item_scores(model.retriever(several), user_histories),
        all_item_scores(UserEmbeddingRetriever.fit(fit_data(two_halves()), several.settings), user_histories),
    )
    factors = model.factors([several])
    assert factors is not None
    assert factors is model.denoiser_arrays([several])["ials.factors"]
    moved = model.for_catalogue(ids[::-1])
    expected = all_item_scores(model.retriever(one), user_histories)[:, ::-1]
    backwards = two_halves()
    item = backwards["item"].combine_chunks()
    flipped = pa.ListArray.from_arrays(item.offsets, pa.array(ITEMS - 1 - item.values.to_numpy(), pa.int32()))
    turned = profiles_of(backwards.set_column(1, "item", flipped))
    np.testing.assert_allclose(all_item_scores(moved.retriever(one), turned), expected, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"interests": 0}, {"interests": 65}, {"regularization": 0.0}, {"interest": 3}])
def test_invalid_settings_are_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RETRIEVERS.settings(UserEmbeddingRetriever.name, wrong)
