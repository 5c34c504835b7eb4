"""The rank-promotion cap: the order without the LLM bounds all ranks, whatever the LLM scores are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_slates import codes_of, stage
from scored_candidates import PERSONAL, candidates, item_features, set_llm_scores, window, with_llm

from rayrec.blending.blend_fitting import fit_blender
from rayrec.blending.blender import Blender
from rayrec.blending.rank_promotion_cap import cap_promotion
from rayrec.config import Rerank
from rayrec.numerics.ragged import Ragged

Floats = np.ndarray[tuple[int], np.dtype[np.float32]]
SCORES = st.one_of(st.sampled_from([0.0, 1.0, 1.0 + 2**-23, -1.0]), st.floats(-1e6, 1e6, width=32))
ROWS = st.lists(st.tuples(SCORES, SCORES, st.booleans()), min_size=1, max_size=14)


def ranked(scores: Floats) -> list[int]:
    """Positions, best first, ties in order."""
    return np.argsort(-scores.astype(np.float64), kind="stable").tolist()


def bounded(rows: list[tuple[float, float, bool]], max_promotion: int) -> Floats:
    free, scores = (np.array([row[k] for row in rows], np.float32) for k in (0, 1))
    read = np.array([row[2] for row in rows])
    return cap_promotion(Ragged.from_lengths(free, [len(rows)]), scores, read, max_promotion)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.integers(0, 6), st.data())
def test_no_llm_score_moves_an_item_beyond_the_cap_or_changes_others(
    rows: list[tuple[float, float, bool]], max_promotion: int, data: st.DataObject
) -> None:
    item = data.draw(st.integers(0, len(rows) - 1))
    achieved = data.draw(st.one_of(SCORES, st.just(float(np.finfo(np.float32).max))))
    honest = bounded(rows, max_promotion)
    attacked = bounded([*rows[:item], (rows[item][0], achieved, True), *rows[item + 1 :]], max_promotion)
    retrieved = ranked(np.array([row[0] for row in rows], np.float32))
    assert ranked(attacked).index(item) >= retrieved.index(item) - max_promotion
    assert np.array_equal(np.delete(attacked, item), np.delete(honest, item))
    others = [[place for place in ranked(scores) if place != item] for scores in (honest, attacked)]
    assert others[0] == others[1]


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 6))
def test_no_item_moves_by_more_ranks_than_the_cap(rows: list[tuple[float, float, bool]], max_promotion: int) -> None:
    found = ranked(bounded(rows, max_promotion))
    for place, item in enumerate(ranked(np.array([row[0] for row in rows], np.float32))):
        assert abs(found.index(item) - place) <= max_promotion


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_a_cap_beyond_the_list_gives_the_order_of_the_llm_and_a_cap_of_zero_that_without_it(
    rows: list[tuple[float, float, bool]],
) -> None:
    read = [(free, score, True) for free, score, _ in rows]
    scores = np.array([score for _, score, _ in rows], np.float32)
    assert np.array_equal(bounded(read, 2 * len(rows)), scores)
    assert ranked(bounded(read, 0)) == ranked(np.array([free for free, _, _ in rows], np.float32))


@settings(max_examples=50, deadline=None)
@given(st.lists(ROWS, min_size=2, max_size=4), st.integers(0, 5))
def test_the_scores_of_a_user_do_not_depend_on_others(
    users: list[list[tuple[float, float, bool]]], max_promotion: int
) -> None:
    free, scores, read = (np.concatenate([[row[k] for row in rows] for rows in users]) for k in range(3))
    lengths = [len(rows) for rows in users]
    together = cap_promotion(
        Ragged.from_lengths(free.astype(np.float32), lengths), scores.astype(np.float32), read > 0, max_promotion
    )
    assert np.array_equal(together, np.concatenate([bounded(rows, max_promotion) for rows in users]))


def test_a_score_within_the_bounds_is_unchanged() -> None:
    free = Ragged.from_lengths(np.array([5, 4, 3, 2, 1], np.float32), [5])
    scores = np.array([5.5, 3.25, 9, 2, -7], np.float32)
    assert cap_promotion(free, scores, np.ones(5, np.bool_), 2).tolist() == [5.5, 3.25, 4, 2, -7]
    assert cap_promotion(free, scores, np.array([True, True, False, True, True]), 2).tolist() == [5.5, 3.25, 2, 2, -7]


LEARNED = fit_blender([window(seed=1, llm=1.0), window(seed=2, llm=1.0)], PERSONAL)


def attacked(table: pa.Table, achieved: float) -> pa.Table:
    """The LLM gives this score to every user's last candidate."""
    llm = Ragged.from_arrow(table["llm_score"])
    values = llm.values.copy()
    values[llm.offsets[1:] - 1] = achieved
    return set_llm_scores(table, values)


def test_published_slates_keep_within_the_cap() -> None:
    assert LEARNED.with_llm is not None
    silent = replace(
        LEARNED.with_llm, by_name={k: v for k, v in LEARNED.with_llm.by_name.items() if not k.startswith("llm")}
    )
    table = with_llm(candidates(40))
    last = [int(codes[-1]) for codes in Ragged.from_arrow(table["candidate"])]
    whole = replace(stage(size=40), max_promotion=4)
    retrieved = codes_of(replace(whole, blend=Blender(LEARNED.personalized, silent))(table, "a"))
    rose, free = [], []
    for max_promotion, found in ((4, rose), (None, free)):
        made = replace(whole, blend=LEARNED, max_promotion=max_promotion)
        slates = codes_of(made(attacked(table, 1e6), "a"))
        for before, after, item in zip(retrieved, slates, last, strict=True):
            found.append(before.index(item) - after.index(item))
    assert 0 < max(rose) <= 4
    assert max(free) > 20
    honest, pressed = (codes_of(replace(whole, blend=LEARNED)(one, "a")) for one in (table, attacked(table, -1e6)))
    for one, other, item in zip(honest, pressed, last, strict=True):
        assert [code for code in one if code != item] == [code for code in other if code != item]


def test_mean_llm_scores_leave_the_order_without_the_llm() -> None:
    assert LEARNED.with_llm is not None
    assert LEARNED.with_llm.llm_mean == pytest.approx(-5, abs=0.1)
    table = with_llm(candidates(40))
    zero = np.zeros(len(Ragged.from_arrow(table["llm_score"]).values))
    same = set_llm_scores(table, zero + LEARNED.with_llm.llm_mean)
    indifferent = replace(LEARNED, with_llm=replace(LEARNED.with_llm, llm_mean=0.0))
    free = indifferent.scores(set_llm_scores(table, zero), item_features())
    np.testing.assert_allclose(LEARNED.scores(same, item_features(), max_promotion=10).values, free.values, atol=1e-5)


def test_text_rerankers_have_a_cap_unless_it_is_null() -> None:
    assert Rerank(method="item_token").promotion_cap is None
    assert Rerank(method="listwise", checkpoint="x").promotion_cap == 10
    assert Rerank(method="listwise", checkpoint="x", max_promotion=None).promotion_cap is None
    assert Rerank(method="pointwise", checkpoint="x", max_promotion=0).promotion_cap == 0
    keys = [Rerank(method="listwise", checkpoint="x", **more).scorer_key for more in ({}, {"max_promotion": 3})]
    assert keys[0] == keys[1]
    with pytest.raises(ValueError, match=r"rerank\.max_promotion"):
        Rerank(method="listwise", checkpoint="x", max_promotion=-1)
