"""The blender: fitted weights, default weights, independence of users."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scored_candidates import NAMES, PERSONAL, candidates, item_features, set_llm_scores, window, with_llm

from rayrec.blending.blend_features import blend_features, impute_missing, rms_normalised, user_features
from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.blender import REQUEST_MATCH, Blender
from rayrec.blending.conditional_logit import LogitData, fit_logit
from rayrec.numerics.ragged import Ragged


def test_newton_finds_the_minimum_that_scipy_finds() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 4)).astype(np.float32) * [1, 5, 0.1, 1]
    offsets = np.arange(0, 601, 12)
    consumed = (random.random(600) < 0.1).astype(np.float32)
    consumed[::12] = 0.5
    z = (features - features.mean(0)) / features.std(0)

    def loss(w: np.ndarray) -> float:
        score = (z @ w).reshape(-1, 12)
        mass = consumed.reshape(-1, 12)
        normal = np.log(np.exp(score).sum(1))
        return float((mass * (normal[:, None] - score)).sum() / mass.sum() + 0.01 * w @ w)

    expected = minimize(loss, np.zeros(4), tol=1e-12).x / features.std(0)
    found = fit_logit(LogitData(features.astype(np.float32), offsets, consumed), np.full(4, 0.01)).raw
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_constant_and_repeated_features_have_finite_weights() -> None:
    random = np.random.default_rng(0)
    one = random.normal(size=(200, 1))
    features = np.hstack([one, one, np.ones((200, 1))]).astype(np.float32)
    data = LogitData(features, np.arange(0, 201, 10), (random.random(200) < 0.2).astype(np.float32))
    weights = fit_logit(data, np.full(3, 1e-3)).raw
    assert np.isfinite(weights).all()
    assert weights[0] == pytest.approx(weights[1], abs=1e-6)


@pytest.mark.parametrize("cap", [None, 0, 3])
def test_the_request_match_is_added_to_every_score_in_nats(cap: int | None) -> None:
    """Also with an LLM; and a capped order starts from the order with the match."""
    example = window(seed=1)
    blender = fit_blender([example], PERSONAL)
    match = Ragged.from_arrow(example.table["candidate"])
    nats = match.like(np.random.default_rng(2).choice([0, 8, -8], len(match.values)).astype(np.float32))
    asked = example.table.append_column(REQUEST_MATCH, nats.to_arrow(pa.float32()))
    plain = blender.scores(example.table, example.item_features)
    assert np.allclose(blender.scores(asked, example.item_features, cap).values, plain.values + nats.values, atol=1e-5)


def top_hits(scores: Ragged, of: TrainingWindow) -> float:
    first = [int(scores.offsets[row] + np.argmax(scores[row])) for row in range(len(scores))]
    return float(of.consumed.values[first].mean())


def test_a_fitted_blender_beats_the_default_and_every_source_alone() -> None:
    learned = fit_blender([window(seed=1), window(seed=2)], PERSONAL)
    held_out = window(seed=3)
    hits = top_hits(learned.scores(held_out.table, held_out.item_features), held_out)
    assert hits > top_hits(Blender.default(PERSONAL, NAMES).scores(held_out.table, held_out.item_features), held_out)
    for name in PERSONAL:
        assert hits > top_hits(Ragged.from_arrow(held_out.table[f"score.{name}"]), held_out)
    assert learned.without_llm.by_name["log ease"] > 3 * abs(learned.without_llm.by_name.get("log user_knn", 0.0))
    assert learned.with_llm is None


def test_the_weight_of_the_llm_follows_its_use() -> None:
    useful, useless = (
        fit_blender([window(seed=1, llm=weight), window(seed=2, llm=weight)], PERSONAL) for weight in (1, 0)
    )
    assert useful.with_llm is not None
    assert useless.with_llm is None
    assert useful.with_llm.by_name["llm"] > 0.6


def test_scores_are_the_sum_of_the_named_features() -> None:
    learned = fit_blender([window(seed=1, llm=1.0), window(seed=2, llm=1.0)], PERSONAL)
    assert learned.with_llm is not None
    held_out = window(seed=3, llm=1.0)
    user = user_features(held_out.table, held_out.item_features)
    for weights, llm in ((learned.without_llm, False), (learned.with_llm, True)):
        centred = user - np.array(weights.feature_means, np.float32)
        named = blend_features(held_out.table, held_out.item_features, PERSONAL, (), centred, llm)
        expected = sum(np.float64(weights.by_name.get(name, 0)) * column for name, column in named.items())
        table = held_out.table if llm else held_out.table.drop_columns(["llm_score", "error"])
        assert np.allclose(learned.scores(table, held_out.item_features).values, expected, atol=1e-4)
        assert set(weights.by_name) <= set(named)


def test_a_user_whose_prompt_failed_has_the_scores_without_the_llm_and_others_are_unchanged() -> None:
    learned = fit_blender([window(seed=1, llm=1.0)], PERSONAL)
    table = with_llm(candidates())
    whole = learned.scores(table, item_features())
    llm = Ragged.from_arrow(table["llm_score"])
    broken = set_llm_scores(table, np.where(llm.rows == 7, np.nan, llm.values))
    found, plain = learned.scores(broken, item_features()), learned.scores(candidates(), item_features())
    assert np.array_equal(found[7], plain[7])
    assert np.array_equal(found.values[llm.rows != 7], whole.values[llm.rows != 7])


def test_a_candidate_without_llm_score_gets_the_users_lowest() -> None:
    filled, known = impute_missing(
        Ragged.from_lengths(np.array([-1, np.nan, -3, np.nan, -np.inf], np.float32), [3, 2, 0])
    )
    assert filled.tolist() == [-1, -3, -3, 0, 0]
    assert known.tolist() == [True, False, False]


def test_scores_do_not_depend_on_other_users_in_the_table() -> None:
    learned = fit_blender([window(seed=1, llm=1.0)], PERSONAL)
    table = with_llm(candidates(60))
    whole = learned.scores(table, item_features())
    for start, length in ((0, 1), (5, 1), (20, 13)):
        part = learned.scores(table.slice(start, length), item_features())
        assert np.array_equal(part.values, whole.values[whole.offsets[start] : whole.offsets[start + length]])


def test_a_blender_survives_a_json_round_trip() -> None:
    learned = fit_blender([window(seed=1, llm=1.0)], PERSONAL)
    back = Blender.from_dict(json.loads(json.dumps(learned.to_dict())))
    table = with_llm(candidates())
    assert np.array_equal(back.scores(table, item_features()).values, learned.scores(table, item_features()).values)


def test_without_enough_training_users_the_default_is_used() -> None:
    assert fit_blender([], PERSONAL) == Blender.default(PERSONAL)
    few = window(users=40)
    default = replace(Blender.default(PERSONAL, NAMES), with_llm=None)
    assert replace(fit_blender([few], PERSONAL), with_request=None) == default
    nothing_consumed = replace(few, consumed=few.consumed.like(np.zeros(len(few.consumed.values), np.bool_)))
    assert replace(fit_blender([nothing_consumed], PERSONAL), with_request=None) == default


def test_fitting_again_gives_the_same_weights() -> None:
    assert fit_blender([window(seed=1)], PERSONAL) == fit_blender([window(seed=1)], PERSONAL)


def _no_dust(score: float) -> float:
    """Treat rows with scores below 1e-12 as zero, because there the scale does matter."""
    return score if abs(score) > 1e-9 else 0.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32).map(_no_dust), max_size=6), min_size=1, max_size=5))
def test_normalised_scores_do_not_depend_on_the_scale_of_a_row(rows: list[list[float]]) -> None:
    ragged = Ragged.from_lengths(np.array([x for row in rows for x in row], np.float32), [len(row) for row in rows])
    scores = rms_normalised(ragged)
    assert np.isfinite(scores).all()
    doubled = rms_normalised(ragged.like(ragged.values * np.float32(2)))
    assert np.allclose(scores, doubled, atol=1e-5)
