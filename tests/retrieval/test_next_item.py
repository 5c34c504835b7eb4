"""The next-item model: negative sampling, learning, and consistency of scores and gradients."""

from __future__ import annotations

import numpy as np
import pytest
from halves_shop import ITEMS, fit_data, profiles_of, two_halves
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.numerics.next_item_model import recency_rows
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.next_item import NextItemExamples, NextItemRetriever, NextItemSettings, inclusion, train
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.user_histories import clipped_matrix


@settings(max_examples=60, deadline=None)
@given(
    weight=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    number=st.integers(1, 30),
)
def test_items_are_sampled_in_proportion_to_their_weight_and_in_the_requested_number(
    weight: list[float], number: int
) -> None:
    given_ = np.where(np.array(weight) < 1e-6, 0, weight)
    chance = inclusion(given_, number)
    there = given_ > 0
    assert ((chance >= 0) & (chance <= 1)).all()
    assert np.array_equal(chance > 0, there)
    assert chance.sum() == pytest.approx(min(number, there.sum()))
    below = there & (chance < 1)
    ratio = chance[below] / given_[below]
    assert np.allclose(ratio, ratio[:1])
    if below.any() and (chance == 1).any():
        assert given_[chance == 1].min() >= given_[below].max()


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    window=st.integers(1, 5),
    decay=st.floats(0.1, 1.0),
)
def test_examples_contain_only_preceding_events(lengths: list[int], window: int, decay: float) -> None:
    """Training examples and gradients use the same context weights."""
    item = Ragged.from_lengths(np.arange(sum(lengths), dtype=np.int32), lengths)
    recency = NextItemSettings(window=window, decay=decay).recency
    examples = NextItemExamples.of(item, recency)
    assert np.array_equal(examples.target, item.values)
    for row in range(len(item)):
        weights = recency_rows(lengths[row], recency)
        for place, event in enumerate(range(item.offsets[row], item.offsets[row + 1])):
            bag = np.zeros(len(item.values))
            np.add.at(bag, examples.before[event], examples.share[event])
            own = bag[item.offsets[row] : item.offsets[row + 1]]
            assert np.allclose(own, weights[place], atol=1e-6)
            assert bag.sum() == pytest.approx(own.sum())
            assert bag.sum() == pytest.approx(1.0 if place else 0.0, abs=1e-5)


def test_a_model_of_all_items_gives_its_training_probabilities() -> None:
    data = fit_data(two_halves())
    fit = NextItemRetriever.fit(data, NextItemRetriever.settings_class(factors=4))
    assert np.array_equal(fit.model.negatives, np.arange(ITEMS))
    assert (fit.model.weight == 1).all()
    user_histories = profiles_of(two_halves())
    scores = all_item_scores(fit, user_histories)
    for user in (0, 5):
        row = np.append(user_histories.item[user], 0).astype(np.int32)
        gradients = fit.model.gradients(row[None], np.ones((1, len(row)), np.bool_), fit.model.checkpoints - 1)
        likely = gradients.delta.numpy()[0, -1] + (np.arange(ITEMS) == row[-1])
        expected = np.exp(scores[user] - scores[user].max())
        assert np.allclose(likely, expected / expected.sum(), atol=1e-6)


def chains(users: int = 400, items: int = 30, seed: int = 0) -> FitData:
    """Item k is always followed by k + 1."""
    start = np.random.default_rng(seed).integers(0, items, users)
    item = Ragged.from_lengths(((start[:, None] + np.arange(8)) % items).astype(np.int32).ravel(), np.full(users, 8))
    ones = np.ones(len(item.values), np.float32)
    matrix = clipped_matrix(ones, item.values, item.offsets, items)
    return FitData(matrix, item.rows.astype(np.int32), item.values, np.arange(len(ones)), ones, 10**9)


@pytest.mark.parametrize("negatives", [512, 8])
def test_the_order_of_events_is_learned_with_all_items_and_with_sampled_ones(negatives: int) -> None:
    data = chains()
    fit = NextItemRetriever.fit(
        data, NextItemRetriever.settings_class(factors=16, epochs=20, negatives=negatives, decay=0.5)
    )
    assert len(fit.model.negatives) <= 30
    table = two_halves(users=1)
    user_histories = profiles_of(table, 30)
    item = Ragged.from_lengths(np.array([3, 4, 5, 6], np.int32), [4])
    asked = type(user_histories)(item, item.like(np.arange(4)), item.like(np.ones(4, np.float32)), 30)
    assert int(all_item_scores(fit, asked)[0].argmax()) == 7


def test_the_same_data_gives_the_same_model_and_another_seed_another_one() -> None:
    data = chains(users=50)
    first, second, other = (
        NextItemRetriever.fit(data, NextItemRetriever.settings_class(epochs=4, negatives=10, seed=seed)).arrays()
        for seed in (0, 0, 1)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["source"], other["source"])


def test_whole_users_are_dropped_beyond_the_maximum_number_of_events() -> None:
    data = chains(users=50)
    whole = NextItemRetriever.fit(data, NextItemRetriever.settings_class(epochs=4, max_events=8 * 20 + 5))
    item = Ragged.from_lengths(data.item[: 8 * 20], np.full(20, 8))
    given_ = NextItemSettings(epochs=4, max_events=8 * 20 + 5)
    part = train(NextItemExamples.of(item, given_.recency), 30, given_)
    assert np.array_equal(whole.model.target, part.target)


def test_a_catalogue_of_one_item_is_valid() -> None:
    item = Ragged.from_lengths(np.zeros(5, np.int32), [2, 3])
    given_ = NextItemSettings(epochs=4)
    model = train(NextItemExamples.of(item, given_.recency), 3, given_)
    assert np.isfinite(model.source).all()
    assert np.isfinite(model.target).all()


def test_negatives_outside_the_new_catalogue_are_dropped() -> None:
    fit = NextItemRetriever.fit(chains(users=50), NextItemRetriever.settings_class(epochs=4, negatives=12))
    codes = np.where(np.arange(30) % 2, np.arange(30) // 2, -1)
    moved = fit.remap(codes, 15).model
    stay = fit.model.negatives % 2 == 1
    assert np.array_equal(moved.negatives, fit.model.negatives[stay] // 2)
    assert np.array_equal(moved.weight, fit.model.weight[stay])
    assert np.array_equal(moved.source, fit.model.source[:, 1::2])
