"""The smallest part of a history that keeps a slate: known answers on a hand-made EASE, curves against random."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayrec.evaluation.history_explanation import LinearHistory, linear_history, mean_curve

ITEMS = 10


def hand_made() -> LinearHistory:
    """Items 0 and 1 bring about 5 and 6; item 2 supports 5 a little; item 3 brings 7, which is not in the slate."""
    weights = np.zeros((4, ITEMS), np.float32)
    weights[0, 5], weights[1, 6], weights[2, 5], weights[3, 7] = 0.8, 0.7, 0.2, 0.9
    return linear_history([0, 1, 2, 3], [1, 1, 1, 1], weights)


def test_the_part_of_a_hand_made_ease() -> None:
    found = hand_made().explain(np.array([5, 6]), depth=3, keep=1.0)
    assert found.items == (1, 0)  # item 1 alone supports 6; most of 5 comes from item 0
    assert (found.kept, found.explained, found.slate, found.history) == (2, 2, 2, 4)


def test_half_of_the_slate_needs_half_of_the_part() -> None:
    assert hand_made().explain(np.array([5, 6]), depth=3, keep=0.5).items == (1,)


def test_items_that_the_history_does_not_support_are_not_explained() -> None:
    found = hand_made().explain(np.array([5, 8, 9]), depth=3, keep=1.0)
    assert found.items == (0,)
    assert (found.kept, found.explained, found.slate) == (1, 1, 3)
    assert hand_made().explain(np.array([8, 9]), depth=3).items == ()


def test_an_item_beyond_the_depth_is_not_kept() -> None:
    assert hand_made().explain(np.array([6]), depth=1, keep=1.0).explained == 0  # 5 and 7 are above it


def test_the_profile_scales_what_an_item_adds() -> None:
    weights = np.ones((2, ITEMS), np.float32)
    found = linear_history([4, 2], [0.5, 1.0], weights)
    assert found.item.tolist() == [2, 4]
    assert found.added[:, 0].tolist() == [1.0, 0.5]


def random_history(seed: int, items: int = 60, length: int = 12) -> tuple[LinearHistory, np.ndarray]:
    """A few items of the history carry each item of the slate, as real weights do."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 0.02, (length, items)) * (random.random((length, items)) < 0.5)
    weights += random.exponential(0.2, (length, items)) * (random.random((length, items)) < 0.08)
    history = linear_history(range(length), np.ones(length), weights.astype(np.float32))
    score = history.added.sum(0)
    score[:length] = -np.inf
    return history, np.argsort(-score, kind="stable")[:6]


@given(seed=st.integers(0, 1000))
def test_greedy_reaches_its_bound(seed: int) -> None:
    history, slate = random_history(seed, length=7)
    support = np.maximum(history.added[:, slate], 0)
    support = support / np.maximum(support.sum(0), 1e-12)
    order = history.order(slate)
    assert sorted(order.tolist()) == list(range(7))
    for size in (1, 2, 3):
        value = {part: np.sqrt(support[list(part)].sum(0)).sum() for part in itertools.combinations(range(7), size)}
        assert value[tuple(sorted(order[:size].tolist()))] >= (1 - 1 / np.e) * max(value.values()) - 1e-9


def test_the_whole_history_keeps_what_it_explains_and_deleting_it_keeps_nothing() -> None:
    history, slate = random_history(0)
    order = history.order(slate)
    inserted, deleted = history.kept(order, slate, 6), history.kept(order, slate, 6, deletion=True)
    assert np.array_equal(inserted[-1], deleted[0])
    assert inserted[-1].all()
    assert not inserted[0].any()
    assert not deleted[-1].any()


def test_curves_beat_random_orders_on_average() -> None:
    """Many items inserted early keep the slate, and their deletion loses it early."""
    greedy, chance = [], []
    for seed in range(40):
        history, slate = random_history(seed)
        greedy.append(mean_curve(history, history.order(slate), slate, 6))
        chance.append(mean_curve(history, np.random.default_rng(seed).permutation(len(history.item)), slate, 6))
    (inserted, deleted), (by_chance, deleted_by_chance) = np.mean(greedy, 0), np.mean(chance, 0)
    assert inserted > by_chance + 0.05
    assert deleted < deleted_by_chance - 0.05
