"""Views: they depend only on past events of the user, and any text is valid input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_users import NOW, WEIGHTS, catalogue, events, histories, items, settings

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings import Embedder, Events
from rayrec.embeddings.rfm_features import FEATURES, features
from rayrec.embeddings.source_views import FIELDS, FeatureScaler, ViewBuilder
from rayrec.embeddings.user_events import attribute
from rayrec.embeddings.word_vocabulary import BUCKETS, HASHED, PAD, Vocabulary, bucket, words_of
from rayrec.numerics.ragged import Ragged


def viewer() -> ViewBuilder:
    given_ = settings(dislike_at_most=2.0)
    vocabulary = Vocabulary.learn(items().text, ["yes no"], FIELDS, items().item_id, 1)
    return ViewBuilder(given_, vocabulary, FeatureScaler.learn([events()], items()), items())


def test_events_at_or_after_now_are_not_used() -> None:
    table = histories()
    known = events(table)
    assert known.ts.max() < NOW
    assert len(known.ts) == (Ragged.from_arrow(table["ts"]).values < NOW).sum()
    later = Events.of(table, WEIGHTS, NOW + 20 * MICROSECONDS_PER_DAY)
    for name, view in viewer()(known).items():
        again = viewer()(later.filter(later.ts < NOW).take(np.arange(len(later))))
        assert (again[name].lengths == view.lengths).all()


def test_views_do_not_depend_on_other_users() -> None:
    make, whole = viewer(), events()
    together = make(whole)
    for user in (0, 7, 59):
        alone = make(whole.take(np.array([user])))
        for name, view in together.items():
            start = int(view.lengths[:user].sum())
            lines = slice(start, start + int(view.lengths[user]))
            np.testing.assert_array_equal(alone[name].words, view.words[lines])
            np.testing.assert_array_equal(alone[name].weight, view.weight[lines])


def test_a_source_without_lines_is_missing() -> None:
    whole = events()
    nothing = whole.filter(np.zeros(len(whole.item), np.bool_))
    assert not any(view.present.any() for view in viewer()(nothing).values())
    liked = whole.filter((whole.weight >= 0) & (whole.value > 2))
    views = viewer()(liked)
    assert not views["dislikes"].present.any()
    assert (views["events"].present == (liked.lengths > 0)).all()


def test_dislikes_are_negative_weights_and_low_values() -> None:
    whole = events()
    low = (whole.weight < 0) | (whole.value <= 2)
    views = viewer()(whole)
    expected = np.minimum(np.bincount(whole.user[low], minlength=len(whole)), 16)
    np.testing.assert_array_equal(views["dislikes"].lengths, expected)


def test_only_the_newest_lines_are_used() -> None:
    short = settings(views={"events": {"kind": "events", "max_lines": 3}}, dislike_at_most=2.0)
    full = viewer()
    cut = ViewBuilder(short, full._vocabulary, full._scaler, items())
    whole, kept = full(events())["events"], cut(events())["events"]
    np.testing.assert_array_equal(kept.lengths, np.minimum(whole.lengths, 3))
    last = np.cumsum(whole.lengths) - 1
    np.testing.assert_array_equal(kept.words[np.cumsum(kept.lengths) - 1], whole.words[last])


def test_sessions_end_at_a_long_pause() -> None:
    whole = events().take(np.array([0]))
    ts = np.array([0, 1, 2, 10, 11, 100]) * MICROSECONDS_PER_DAY // 24  # hours
    one = Events(
        np.array([0, 6]),
        whole.item[:1].repeat(6),
        ts,
        np.zeros(6, np.int8),
        np.ones(6, np.float32),
        np.full(6, 5, np.float32),
        NOW,
    )
    assert viewer()(one)["sessions"].lengths.tolist() == [3]


def test_profile_features_equal_their_definitions() -> None:
    day = np.array([1, 1, 40, 95]) * MICROSECONDS_PER_DAY
    one = Events(
        np.array([0, 4, 4]),
        np.array([0, 0, 1, 2], np.int32),
        day,
        np.zeros(4, np.int8),
        np.array([1, 1, 1, -1], np.float32),
        np.array([2, 2, 5, np.nan], np.float32),
        NOW,
    )
    table = np.expm1(features(one, items()))
    found = dict(zip(FEATURES, table[0].tolist(), strict=True))
    assert found["recency_days"] == pytest.approx(5)
    assert found["events"] == pytest.approx(4)
    assert found["active_days"] == pytest.approx(3)
    assert found["span_days"] == pytest.approx(94)
    assert found["gap_days"] == pytest.approx(47)
    assert (found["events_7"], found["events_30"]) == (pytest.approx(1), pytest.approx(1))
    assert found["items"] == pytest.approx(3)
    assert found["value_mean"] == pytest.approx(3)
    assert found["against_share"] == pytest.approx(0.25)
    prices = items().price[[0, 0, 1, 2]]
    assert found["price_mean"] == pytest.approx(prices.mean())
    assert found["spent"] == pytest.approx((prices * [2, 2, 5, 1]).sum())
    assert np.isnan(table[1]).all()


def test_profile_words_are_weighted_by_feature_values() -> None:
    make, whole = viewer(), events()
    view, table = make(whole)["profile"], features(whole, items())
    mean, spread = (np.asarray(part) for part in (make._scaler.mean, make._scaler.spread))
    numbers, there = view.weight[:, : len(FEATURES)], ~np.isnan(table)
    assert not there.all()
    z = ((table - mean) / spread)[there]
    np.testing.assert_allclose(numbers[there], np.clip(z, -3, 3), atol=1e-6)
    assert np.abs(z).max() > 3
    assert (numbers[~there] == 0).all()
    assert (view.words[:, : len(FEATURES)][~there] == PAD).all()
    for column in view.words.T:
        assert len(set(column.tolist()) - {PAD}) == 1  # which number, independent of its value
    assert (view.weight[:, -1] == 1).all()


def test_an_attribute_that_is_not_a_number_is_missing() -> None:
    assert np.isnan(attribute(catalogue(), "colour")).all()
    assert items().price.tolist()[:3] == [1, 2, 3]


@given(st.text(max_size=60))
def test_text_maps_only_to_language_model_ids(text: str) -> None:
    vocabulary = Vocabulary.learn(["red lamp"], [], FIELDS, ["i1", "age:3"], 1)
    ids = vocabulary.ids(text + " item:i1 age:3 <USER>")
    assert all(PAD < k < vocabulary.lm_size for k in ids)
    assert len(ids) == len(words_of(text + " item:i1 age:3 <USER>"))


def test_numbers_and_items_have_their_own_ids() -> None:
    vocabulary = Vocabulary.learn(["red lamp", "red vase"], [], ("age", "size"), ["b", "a"], 2)
    assert vocabulary.known == ("red",)
    assert vocabulary.lm_size == 2 + HASHED
    ages, sizes = vocabulary.field("age", [0.0, 50.0, np.nan]), vocabulary.field("size", [0.0, 50.0])
    assert ages[2] == PAD
    assert not set(ages.tolist()) & set(sizes.tolist())
    assert vocabulary.item_tokens(["a", "x", "b"]).tolist() == [vocabulary.size - 2, PAD, vocabulary.size - 1]
    assert Vocabulary.from_json(vocabulary.as_json()) == vocabulary


@given(st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=20))
def test_buckets_keep_the_order_of_numbers(numbers: list[float]) -> None:
    found = bucket(sorted(numbers))
    assert (np.diff(found) >= 0).all()
    assert 0 <= found.min() <= found.max() < BUCKETS


def test_an_item_without_a_token_is_represented_by_its_words(embedder: Embedder) -> None:
    known = embedder.view_builder(items())
    renamed = type(items())(tuple(f"new-{k}" for k in items().item_id), items().text, items().price)
    old, new = known(events())["events"], embedder.view_builder(renamed)(events())["events"]
    assert (new.words[:, 0] == PAD).all()
    np.testing.assert_array_equal(new.words[:, 1:], old.words[:, 1:])
