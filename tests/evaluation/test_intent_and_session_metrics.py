"""Intent-based metrics and the session-level metric NUM, on slates whose values are known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from rayrec.evaluation.intent_metrics import intent_metrics
from rayrec.evaluation.metrics import RelevantItems
from rayrec.evaluation.session_metrics import normalized_u_measure

FILM, BOOK, GAME = 0, 1, 2
CATEGORY = np.array([FILM, FILM, BOOK, GAME, -1, FILM], np.int32)


def relevant(*items: list[int]) -> RelevantItems:
    matrix = sp.lil_matrix((len(items), len(CATEGORY)), dtype=bool)
    for row, codes in enumerate(items):
        matrix[row, codes] = True
    users = pa.array([f"u{row}" for row in range(len(items))])
    return RelevantItems(users, pa.array([f"i{code}" for code in range(len(CATEGORY))]), matrix.tocsr())


def top(*slates: list[int]) -> np.ndarray:
    found = np.full((len(slates), 10), -1, np.int32)
    for row, codes in enumerate(slates):
        found[row, : len(codes)] = codes
    return found


def test_each_intent_counts_alike_however_many_items_it_has() -> None:
    """Both films at the top and the book not shown: nDCG is near 1, one of two intents is served."""
    found = intent_metrics(top([0, 1, 3]), relevant([0, 1, 2]), CATEGORY)
    assert found["intent_ndcg@10"].tolist() == pytest.approx([0.5])
    assert found["intent_recall@10"].tolist() == [0.5]


def test_intent_ndcg_is_the_mean_of_the_ndcg_of_each_intent() -> None:
    found = intent_metrics(top([3, 0, 4, 2]), relevant([0, 1, 2]), CATEGORY)
    film = (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    book = 1 / np.log2(5)
    assert found["intent_ndcg@10"].tolist() == pytest.approx([(film + book) / 2])
    assert found["intent_recall@10"].tolist() == [1]


def test_items_without_a_category_belong_to_no_intent() -> None:
    found = intent_metrics(top([4, 0], [4], [], [0]), relevant([0, 4], [4], [2], []), CATEGORY)
    assert found["intent_ndcg@10"][:3].tolist() == pytest.approx([1 / np.log2(3), np.nan, 0], nan_ok=True)
    assert np.isnan(found["intent_ndcg@10"][3])
    assert np.isnan(intent_metrics(top([0]), relevant([0]), np.full(6, -1, np.int32))["intent_recall@10"]).all()


def num(slates: list[list[int]], wanted: list[int], ranks: int = 2) -> float:
    codes = np.array([slate + [-1] * (ranks - len(slate)) for slate in slates])
    user = np.zeros(len(slates), np.int64)
    pairs = np.zeros(len(wanted), np.int64), np.array(wanted, np.int64)
    return float(normalized_u_measure(user, np.arange(len(slates)), codes, *pairs, 1)[0])


def test_num_is_one_for_the_ideal_session_and_falls_with_what_is_read_before() -> None:
    """Four units of reading: worth 1, 3/4, 2/4, 1/4; the ideal session of two items has 7/4."""
    assert num([[5, 6], [7, 8]], [5, 6]) == 1
    assert num([[7, 5], [6, 8]], [5, 6]) == pytest.approx((3 / 4 + 2 / 4) / (7 / 4))
    assert num([[7, 8], [5, 6]], [5, 6]) == pytest.approx((2 / 4 + 1 / 4) / (7 / 4))
    assert num([[7, 8], [1, 2]], [5, 6]) == 0
    assert np.isnan(num([[7, 8]], []))


def test_num_counts_an_item_once_where_it_was_first_shown() -> None:
    assert num([[5, 7], [5, 8]], [5, 5]) == 1
    assert num([[7, 5], [5, 8]], [5]) == pytest.approx(3 / 4)


def test_num_sees_a_late_first_success_that_a_mean_over_dates_does_not() -> None:
    early, late = ([[5, 1], [2, 3], [2, 3]], [[2, 3], [2, 3], [5, 1]])
    assert num(early, [5]) == 1
    assert num(late, [5]) == pytest.approx(1 / 3)


def test_the_order_of_rows_and_other_users_do_not_change_num() -> None:
    user, when = np.array([1, 0, 1, 0]), np.array([2, 1, 1, 2])
    codes = np.array([[5, 6], [7, 8], [9, -1], [1, 2]])
    found = normalized_u_measure(user, when, codes, np.array([1, 0, 2]), np.array([6, 2, 1]), 4)
    assert found[:2].tolist() == pytest.approx([1 / 4, 1 / 4])
    assert np.isnan(found[2:]).all()
