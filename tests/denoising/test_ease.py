"""EASE's support and negative influence, compared with rescoring without each event."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import auc_within, histories, load, model_arrays, planted, random_histories

from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.ease import EaseRetriever, EaseSettings
from rayrec.retrieval.retriever import all_item_scores
from rayrec.retrieval.user_histories import UserHistories

ITEMS = 30


@settings(max_examples=30, deadline=None)
@given(
    users=st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 3),
    power=st.sampled_from([0.0, 0.5]),
    draw=st.randoms(use_true_random=False),
)
def test_support_and_negative_influence_equal_rescoring_without_the_event(
    users: list[list[int]], seed: int, power: float, draw: object
) -> None:
    arrays = model_arrays(ITEMS, 6, seed)
    b = arrays["ease.weights"]
    scorer = EaseRetriever.load(
        {"weights": b, "active": arrays["ease.active"], "items": np.array([ITEMS])}, EaseSettings()
    )
    method = load("ease", arrays, hard_negatives=4, negative_pool=20, partner_power=power)
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    weight = np.array([draw.choice([0.25, 1.0]) for _ in item.values], np.float32)  # type: ignore[attr-defined]
    trusted = np.array([draw.random() < 0.5 for _ in item.values])  # type: ignore[attr-defined]
    support, negative_influence = method.measure(item, weight, trusted)  # type: ignore[attr-defined]
    pool = np.lexsort((np.arange(ITEMS), -arrays["item.count"]))[:20]

    def scored(own: list[int], weights: np.ndarray) -> np.ndarray:
        row = Ragged.from_lengths(np.array(own, np.int32), [len(own)])
        return all_item_scores(scorer, UserHistories(row, row.like(np.arange(len(own))), row.like(weights), ITEMS))[0]

    for row, own in enumerate(users):
        at = slice(item.offsets[row], item.offsets[row + 1])
        now = scored(own, weight[at])
        best = sorted((int(j) for j in pool if j not in own), key=lambda j: -now[j])[:4]
        for i, code in enumerate(own):
            x = np.zeros(ITEMS)
            np.add.at(x, own, weight[at])
            x = np.minimum(x, 1)
            partner = x / (arrays["item.count"] + 10) ** power
            assert abs(support[at][i] - (b[:, code] + b[code]) @ partner) < 1e-5
            change = scored(own[:i] + own[i + 1 :], np.delete(weight[at], i)) - now
            targets = [other for j, other in enumerate(own) if trusted[at][j] and j != i]
            expected = change[targets].mean() - (change[best].mean() if best else 0.0) if targets else 0.0
            assert abs(negative_influence[at][i] - expected) < 1e-5


def test_support_detects_injected_noise() -> None:
    whole, noise, arrays = planted()
    decision = load("ease", arrays).decide(whole)
    assert auc_within(-decision.influence, noise) > 0.8
    assert noise[decision.keep_weight < 1].mean() > 2 * noise.mean()


def test_items_outside_the_solve_are_not_assessed() -> None:
    arrays = model_arrays()
    arrays["ease.active"] = np.delete(arrays["ease.active"], 7)
    arrays["ease.weights"] = np.delete(np.delete(arrays["ease.weights"], 7, 0), 7, 1)
    item = Ragged.from_lengths(np.array([7, 1, 2, 7, 3, 4, 5, 6], np.int32), [8])
    decision = load("ease", arrays).decide(histories(item))
    assert np.flatnonzero(np.isnan(decision.influence)).tolist() == [0, 3]
    assert decision.keep_weight[[0, 3]].tolist() == [1, 1]


def test_sparse_weights_give_the_decisions_of_dense_ones() -> None:
    """The same weights in both forms, items outside the solve included."""
    dense = model_arrays(ITEMS, 6, 0)
    weights = np.where(np.abs(dense["ease.weights"]) > 0.05, dense["ease.weights"], 0)
    active = np.delete(np.arange(ITEMS, dtype=np.int32), [3, 17])
    dense |= {"ease.weights": weights[np.ix_(active, active)].copy(), "ease.active": active}
    sparse = dict(dense)
    weights[[3, 17]] = 0
    weights[:, [3, 17]] = 0
    csr = sp.csr_matrix(weights.astype(np.float32))
    del sparse["ease.weights"]
    sparse |= {"ease.indptr": csr.indptr.astype(np.int64), "ease.indices": csr.indices, "ease.data": csr.data}
    whole = random_histories()
    one, other = (load("ease", arrays, negative_pool=9).decide(whole) for arrays in (dense, sparse))
    assert np.array_equal(one.keep_weight, other.keep_weight)
    assert np.allclose(one.influence, other.influence, atol=1e-6, equal_nan=True)
    assert np.allclose(one.negative_influence, other.negative_influence, atol=1e-6)
    assert (one.keep_weight == 0).any()
