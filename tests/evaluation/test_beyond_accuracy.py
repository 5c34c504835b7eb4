"""Novelty, diversity, calibration and popularity, compared with hand-computed values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.evaluation.beyond_accuracy import METRICS, ItemStatistics, beyond_accuracy

COUNT = np.array([79.5, 9.5, 9.5, 0.5, 0.5 - 0.5])  # +0.5 each: 80, 10, 10, 1, 0.5
FACTS = ItemStatistics.of(COUNT, pa.array(["a", "a", "b", None, "b"]))


def top(*slates: list[int]) -> np.ndarray:
    padded = [slate + [-1] * (10 - len(slate)) for slate in slates]
    return np.array(padded, np.int32)


def values(slate: list[int], past: list[int]) -> dict[str, float]:
    category_shares = FACTS.category_shares(np.array(past, np.int64), np.zeros(len(past), np.int64), 1)
    return {name: float(found[0]) for name, found in beyond_accuracy(top(slate), FACTS, category_shares).items()}


def test_each_metric_of_a_small_slate_follows_its_definition() -> None:
    found = values([0, 1, 2], past=[0, 1, 2, 2])
    shares = np.array([80, 10, 10]) / 101.5
    assert found["novelty@10"] == pytest.approx(float(-np.log2(shares).mean()))
    assert found["diversity@10"] == pytest.approx(2 / 3)  # a-b, a-b differ; a-a do not
    p, q = np.array([0.5, 0.5]), np.array([2 / 3, 1 / 3])
    assert found["miscalibration@10"] == pytest.approx(float((p * np.log2(p / (0.99 * q + 0.01 * p))).sum()))
    assert found["popularity@10"] == pytest.approx((1 + 0.625 + 0.625) / 3)
    assert found["tail@10"] == pytest.approx(2 / 3)  # item 0 has 80% of all events: the rest is tail


def test_a_slate_with_the_categories_of_the_history_is_calibrated() -> None:
    assert values([0, 2], past=[1, 4])["miscalibration@10"] == pytest.approx(0, abs=1e-12)
    assert values([0, 1], past=[2])["miscalibration@10"] > 6  # log2(1 / 0.01)


def test_an_item_without_a_category_is_in_no_diversity_and_in_no_miscalibration() -> None:
    assert np.isnan(values([3, 3], past=[0])["diversity@10"])  # 1.0 would say that a shop without categories is diverse
    assert np.isnan(values([3, 0], past=[0])["diversity@10"])
    assert values([3, 0, 1, 2], past=[0])["diversity@10"] == pytest.approx(2 / 3)
    assert np.isnan(values([3], past=[0])["miscalibration@10"])
    assert np.isnan(values([0], past=[3])["miscalibration@10"])


def test_without_event_counts_only_the_metrics_of_categories_are_known() -> None:
    facts = ItemStatistics.of(None, pa.array(["a", "a", "b", None, "b"]))
    category_shares = FACTS.category_shares(np.array([0, 2]), np.array([0, 0]), 1)
    known, found = (beyond_accuracy(top([0, 1, 2]), of, category_shares) for of in (FACTS, facts))
    for name in METRICS:
        counted = name not in ("diversity@10", "miscalibration@10")
        np.testing.assert_array_equal(found[name], [np.nan] if counted else known[name])


def test_a_user_without_a_slate_has_no_metrics() -> None:
    category_shares = FACTS.category_shares(np.array([0]), np.array([0]), 2)
    found = beyond_accuracy(top([], [0]), FACTS, category_shares)
    assert all(np.isnan(found[name][0]) for name in METRICS)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_the_values_of_a_user_do_not_depend_on_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, items = 7, 30
    facts = ItemStatistics.of(rng.integers(0, 50, items).astype(float), pa.array([f"k{n % 4}" for n in range(items)]))
    slates = np.stack([rng.permutation(items)[:10] for _ in range(users)]).astype(np.int32)
    past, row = rng.integers(0, items, 40), np.sort(rng.integers(0, users, 40))
    whole = beyond_accuracy(slates, facts, facts.category_shares(past, row, users))
    alone = beyond_accuracy(
        slates[3:4], facts, facts.category_shares(past[row == 3], np.zeros((row == 3).sum(), int), 1)
    )
    for name in METRICS:
        np.testing.assert_allclose(whole[name][3], alone[name][0])
