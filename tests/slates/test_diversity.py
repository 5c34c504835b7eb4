"""Diversifiers: each equals its paper's method, and the new order has the old scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scored_candidates import items, scored

from rayrec.config import DiversitySettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.slates import DIVERSIFIERS, CatalogueItems, ScoredCandidates
from rayrec.slates.diversity import diversify, make_diversifier

DEPTH = 8
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "mmr": [{"relevance": 0.4}, {"relevance": 0.4, "by": "factors"}],
    "dpp": [{"theta": 1.0}, {"theta": 1.0, "by": "factors"}],
    "calibrated": [{"calibration": 0.6}],
}
CASES = [(name, given_settings) for name, many in SETTINGS.items() for given_settings in many]
LENGTHS = [20, 0, 5, 1, 9, 70, 8, 12]


def diversified(
    pool: ScoredCandidates,
    name: str,
    given_settings: dict[str, Any],
    depth: int = DEPTH,
    users: np.ndarray | None = None,
) -> Ragged:
    method = make_diversifier(DiversitySettings(method=name, settings=given_settings))
    assert method is not None
    return diversify(method, pool, depth, np.ones(len(pool), np.bool_) if users is None else users)


def order_of(pool: ScoredCandidates, depth: int, name: str, **given_settings: Any) -> list[list[int]]:
    """Each user's candidates in the order of the new scores."""
    scores = diversified(pool, name, given_settings, depth)
    places = best(scores, int(scores.lengths.max(initial=0)))
    return [(places[user] - scores.offsets[user]).tolist() for user in range(len(scores))]


def by_relevance(pool: ScoredCandidates) -> list[list[int]]:
    places = best(pool.scores, 1000)
    return [(places[user] - pool.scores.offsets[user]).tolist() for user in range(len(pool))]


def relevance_of(scores: np.ndarray, head: list[int]) -> np.ndarray:
    own = scores[head].astype(np.float64)
    return (own - own.min()) / (own.max() - own.min()) if own.max() > own.min() else np.zeros(len(own))


def similarity_of(codes: np.ndarray, known: CatalogueItems, by: str) -> np.ndarray:
    if by == "factors":
        vectors = known.vectors[codes].astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        alike = vectors @ vectors.T
    else:
        kind = known.category[codes]
        alike = ((kind[:, None] == kind) & (kind >= 0)).astype(float)
    np.fill_diagonal(alike, 1)
    return alike


@pytest.mark.parametrize(("name", "given_settings"), CASES)
def test_the_best_candidates_are_reordered_and_exchange_their_scores(name: str, given_settings: dict[str, Any]) -> None:
    pool = scored(LENGTHS)
    scores = diversified(pool, name, given_settings)
    for user in range(len(pool)):
        assert np.array_equal(np.sort(scores[user]), np.sort(pool.scores[user]))
    found, before = order_of(pool, DEPTH, name, **given_settings), by_relevance(pool)
    assert [sorted(own) for own in found] == [sorted(own) for own in before]
    assert [own[DEPTH:] for own in found] == [own[DEPTH:] for own in before]
    assert found != before


@pytest.mark.parametrize(("name", "given_settings"), CASES)
def test_orders_do_not_depend_on_other_users_in_the_batch(name: str, given_settings: dict[str, Any]) -> None:
    pool = scored(LENGTHS * 3, known=items(width=64), past=40)
    together = diversified(pool, name, given_settings)
    for user in range(len(pool)):
        alone = diversified(pool.take_users(np.array([user])), name, given_settings)
        assert np.array_equal(alone.values, together[user])


@pytest.mark.parametrize(("name", "given_settings"), CASES)
def test_the_scores_of_other_users_stay_as_they_are(name: str, given_settings: dict[str, Any]) -> None:
    pool, users = scored(LENGTHS), np.arange(len(LENGTHS)) % 2 == 0
    scores = diversified(pool, name, given_settings, users=users)
    assert np.array_equal(scores.values[~users[scores.rows]], pool.scores.values[~users[scores.rows]])


@pytest.mark.parametrize("by", ["category", "factors"])
def test_without_weight_on_diversity_the_order_is_by_relevance(by: str) -> None:
    pool = scored(LENGTHS)
    assert order_of(pool, DEPTH, "mmr", relevance=1.0, by=by) == by_relevance(pool)
    assert order_of(pool, DEPTH, "dpp", theta=1e6, by=by) == by_relevance(pool)
    assert order_of(pool, DEPTH, "calibrated", calibration=0.0) == by_relevance(pool)


@pytest.mark.parametrize(("name", "given_settings"), CASES)
def test_equal_scores_become_distinct_in_the_new_order(name: str, given_settings: dict[str, Any]) -> None:
    pool = scored(LENGTHS)
    flat = replace(pool, scores=pool.scores.like(np.round(pool.scores.values * 2).astype(np.float32) / 2))
    scores = diversified(flat, name, given_settings)
    for user in range(len(flat)):
        own = flat.scores[user]
        head = np.argsort(-own, kind="stable")[:DEPTH]
        assert len(set(scores[user][head].tolist())) == len(head)
        assert np.allclose(np.sort(scores[user]), np.sort(own), atol=1e-5)


@pytest.mark.parametrize("by", ["category", "factors"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), weight=st.floats(0, 1))
def test_mmr_equals_carbonell_and_goldsteins(by: str, seed: int, weight: float) -> None:
    pool = scored([12, 6, 8, 3], seed)
    found = order_of(pool, DEPTH, "mmr", relevance=weight, by=by)
    for user, before in enumerate(by_relevance(pool)):
        head, own = before[:DEPTH], pool.scores[user]
        relevance = relevance_of(own, head)
        alike = similarity_of(pool.candidate[user][head], pool.items, by)
        chosen = [0]
        while len(chosen) < len(head):
            left = [k for k in range(len(head)) if k not in chosen]
            worth = {k: weight * relevance[k] - (1 - weight) * max(alike[k, c] for c in chosen) for k in left}
            taken = found[user][len(chosen)]
            assert worth[head.index(taken)] >= max(worth.values()) - 1e-9
            chosen.append(head.index(taken))


@pytest.mark.parametrize("by", ["category", "factors"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), theta=st.floats(0, 5))
def test_greedy_dpp_equals_brute_force_maximisation_of_log_det(by: str, seed: int, theta: float) -> None:
    pool = scored([12, 6, 8, 3], seed)
    found = order_of(pool, DEPTH, "dpp", theta=theta, by=by)
    for user, before in enumerate(by_relevance(pool)):
        head, chosen = before[:DEPTH], list[int]()
        quality = np.exp(theta * relevance_of(pool.scores[user], head))
        alike = 0.9 * similarity_of(pool.candidate[user][head], pool.items, by) + 0.1 * np.eye(len(head))
        kernel = quality[:, None] * alike * quality
        while len(chosen) < len(head):
            left = [k for k in range(len(head)) if k not in chosen]
            log_det = {k: np.linalg.slogdet(kernel[np.ix_([*chosen, k], [*chosen, k])])[1] for k in left}
            chosen.append(head.index(found[user][len(chosen)]))
            assert log_det[chosen[-1]] >= max(log_det.values()) - 1e-9


def divergence(share: np.ndarray, shown: np.ndarray) -> float:
    smooth = 0.99 * shown + 0.01 * share
    return float(sum(p * np.log(p / q) for p, q in zip(share, smooth, strict=True) if p > 0))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), weight=st.floats(0, 1))
def test_calibrated_equals_stecks(seed: int, weight: float) -> None:
    pool = scored([12, 6, 8, 3, 10], seed, past=12)
    kinds = int(pool.items.category.max()) + 1
    found = order_of(pool, DEPTH, "calibrated", calibration=weight)
    for user, before in enumerate(by_relevance(pool)):
        past = pool.items.category[pool.history[user]]
        counts = np.bincount(past[past >= 0], minlength=kinds)
        share = counts / max(counts.sum(), 1)
        head = before[:DEPTH]
        relevance, kind = relevance_of(pool.scores[user], head), pool.items.category[pool.candidate[user][head]]
        chosen: list[int] = []
        while len(chosen) < len(head):
            worth = {}
            for k in set(range(len(head))) - set(chosen):
                shown = np.bincount([kind[c] for c in [*chosen, k] if kind[c] >= 0], minlength=kinds)
                worth[k] = (1 - weight) * relevance[k] - weight * divergence(share, shown / (len(chosen) + 1))
            taken = head.index(found[user][len(chosen)])
            assert worth[taken] >= max(worth.values()) - 1e-9
            chosen.append(taken)


def test_more_calibration_brings_the_categories_nearer_to_the_history() -> None:
    known = items(kinds=3)
    known.category[::7] = 0
    pool = scored([60] * 40, known=known, past=30)
    far = []
    for weight in (0.0, 0.5, 0.99):
        gaps = []
        for user, order in enumerate(order_of(pool, 60, "calibrated", calibration=weight)):
            past = np.bincount(known.category[pool.history[user]], minlength=3)
            shown = np.bincount(known.category[pool.candidate[user][order[:20]]], minlength=3)
            if past.sum():
                gaps.append(np.abs(past / past.sum() - shown / 20).sum())
        far.append(np.mean(gaps))
    assert far[0] > far[1] > far[2]
    assert far[2] < 0.12


def test_each_category_is_shown_once_before_one_is_repeated() -> None:
    known = CatalogueItems(scored([1]).items.ids[:6], np.array([0, 0, 0, 1, 1, 2], np.int32), np.ones(6, np.bool_))
    scores = Ragged.from_lengths(np.array([6, 5, 4, 3, 2, 1], np.float32), [6])
    codes = scores.like(np.arange(6, dtype=np.int32))
    pool = ScoredCandidates(scored([1]).user_ids, scores, codes, Ragged.from_lengths(np.zeros(0, np.int32), [0]), known)
    assert order_of(pool, 6, "mmr", relevance=0.1)[0][:3] == [0, 3, 5]
    assert order_of(pool, 6, "dpp", theta=0.1)[0][:3] == [0, 3, 5]


@pytest.mark.parametrize(
    ("name", "given_settings", "says"),
    [
        ("mmr", {"relevance": 1.5}, "relevance"),
        ("mmr", {"by": "colour"}, "'category' or 'factors'"),
        ("dpp", {"theta": -1.0}, "theta"),
        ("calibrated", {"by": "factors"}, "unknown key"),
        ("calibrated", {"calibration": 2.0}, "calibration"),
        ("none", {"by": "category"}, "unknown key"),
        ("mrr", {}, "there is no diversification 'mrr'"),
    ],
)
def test_invalid_settings_are_an_error(name: str, given_settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DiversitySettings(method=name, settings=given_settings)


def test_every_method_is_tested_here() -> None:
    assert set(DIVERSIFIERS) == set(SETTINGS)
