"""EASE's support and harm against scoring again without each event; updates of P against refits."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import auc_within, histories, model_arrays, planted

from rayrec.denoising import DENOISERS
from rayrec.denoising.ease_updates import (
    first_order_effects,
    inverse_of,
    score_gradient,
    weights_of,
    without_event,
    without_user,
    worst_events,
)
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.ease import EaseRetriever
from rayrec.retrieval.retriever import UserHistories

ITEMS = 30


@settings(max_examples=30, deadline=None)
@given(
    users=st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=12), min_size=1, max_size=4),
    seed=st.integers(0, 3),
    power=st.sampled_from([0.0, 0.5]),
    draw=st.randoms(use_true_random=False),
)
def test_support_and_harm_are_what_scoring_again_without_the_event_says(
    users: list[list[int]], seed: int, power: float, draw: object
) -> None:
    arrays = model_arrays(ITEMS, 6, seed)
    b = arrays["ease.weights"]
    scorer = EaseRetriever.load(
        {"weights": b, "active": arrays["ease.active"], "items": np.array([ITEMS])}, EaseRetriever.settings_class()
    )
    method = DENOISERS["ease"].load(
        arrays, DENOISERS["ease"].settings_class(hard_negatives=4, negative_pool=20, partner_power=power)
    )
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    weight = np.array([draw.choice([0.25, 1.0]) for _ in item.values], np.float32)  # type: ignore[attr-defined]
    trusted = np.array([draw.random() < 0.5 for _ in item.values])  # type: ignore[attr-defined]
    support, negative_influence = method.measure(item, weight, trusted)  # type: ignore[attr-defined]
    pool = np.lexsort((np.arange(ITEMS), -arrays["item.count"]))[:20]

    def scored(own: list[int], weights: np.ndarray) -> np.ndarray:
        row = Ragged.from_lengths(np.array(own, np.int32), [len(own)])
        return scorer.scores(UserHistories(row, row.like(np.arange(len(own))), row.like(weights), ITEMS))[0]

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


def test_support_within_the_user_finds_planted_noise() -> None:
    whole, noise, arrays = planted()
    decision = DENOISERS["ease"].load(arrays, DENOISERS["ease"].settings_class()).decide(whole)
    assert auc_within(-decision.influence, noise) > 0.8
    assert noise[decision.keep < 1].mean() > 2 * noise.mean()


def test_items_outside_the_solve_are_not_judged() -> None:
    arrays = model_arrays()
    arrays["ease.active"] = np.delete(arrays["ease.active"], 7)
    arrays["ease.weights"] = np.delete(np.delete(arrays["ease.weights"], 7, 0), 7, 1)
    item = Ragged.from_lengths(np.array([7, 1, 2, 7, 3, 4, 5, 6], np.int32), [8])
    decision = DENOISERS["ease"].load(arrays, DENOISERS["ease"].settings_class()).decide(histories(item))
    assert np.flatnonzero(np.isnan(decision.influence)).tolist() == [0, 3]
    assert decision.keep[[0, 3]].tolist() == [1, 1]


def random_matrix(seed: int, users: int = 40, items: int = 15) -> sp.csr_matrix:
    random = np.random.default_rng(seed)
    cells = random.random((users, items)) < 0.3
    return sp.csr_matrix(cells * random.choice([0.25, 1.0], (users, items)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), regularization=st.sampled_from([0.5, 20.0]), all_of_it=st.booleans())
def test_without_an_event_is_the_refit_without_it(seed: int, regularization: float, all_of_it: bool) -> None:
    matrix = random_matrix(seed)
    random = np.random.default_rng(seed)
    cells = matrix.tocoo()
    place = random.integers(len(cells.data))
    user, item = cells.row[place], cells.col[place]
    loss = cells.data[place] * (1.0 if all_of_it else 0.5)
    dense = matrix.toarray()
    updated = without_event(inverse_of(matrix, regularization), dense[user], int(item), loss)
    dense[user, item] -= loss
    assert np.abs(updated - inverse_of(sp.csr_matrix(dense), regularization)).max() < 1e-8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), regularization=st.sampled_from([0.5, 20.0]))
def test_without_a_user_is_the_refit_without_them(seed: int, regularization: float) -> None:
    matrix = random_matrix(seed)
    user = seed % matrix.shape[0]
    updated = without_user(inverse_of(matrix, regularization), matrix.toarray()[user])
    others = np.delete(np.arange(matrix.shape[0]), user)
    assert np.abs(updated - inverse_of(matrix[others], regularization)).max() < 1e-8


def objective(matrix: sp.csr_matrix, coefficient: sp.csr_matrix, inverse: np.ndarray) -> float:
    return float(coefficient.multiply(matrix @ weights_of(inverse)).sum())


def test_first_order_effects_are_the_derivative_of_refits() -> None:
    matrix = random_matrix(5)
    random = np.random.default_rng(6)
    coefficient = sp.csr_matrix(random.normal(size=matrix.shape) * (random.random(matrix.shape) < 0.2))
    inverse = inverse_of(matrix, 500.0)  # so much that one event moves little
    effects = first_order_effects(matrix, inverse, score_gradient(matrix, coefficient))
    before = objective(matrix, coefficient, inverse)
    cells = matrix.tocoo()
    exact, found = [], []
    for user, item, value in zip(cells.row, cells.col, cells.data, strict=True):
        after = without_event(inverse, matrix.toarray()[user], int(item), value)
        exact.append(objective(matrix, coefficient, after) - before)
        found.append(effects[user, item])
    assert np.abs(np.array(found) - exact).max() < 0.02 * np.abs(exact).max()


def test_effects_do_not_add_up_and_few_at_a_time_nearly_do() -> None:
    claimed: dict[float, list[float]] = {0.2: [], 1.0: []}
    for seed in range(6):
        matrix = random_matrix(seed)
        coefficient = sp.csr_matrix(np.random.default_rng(seed + 100).normal(size=matrix.shape))
        inverse = inverse_of(matrix, 1.0)
        effects = first_order_effects(matrix, inverse, score_gradient(matrix, coefficient))
        before = objective(matrix, coefficient, inverse)
        for share, ratios in claimed.items():
            chosen = worst_events(effects, share)
            left = sp.csr_matrix(matrix - matrix.multiply(chosen))
            gained = objective(matrix, coefficient, inverse_of(left, 1.0)) - before
            ratios.append(effects.multiply(chosen).sum() / gained)
    assert np.mean(claimed[1.0]) > 1.3  # all that look harmful at once: much less comes of it than the sum says
    assert abs(np.mean(claimed[0.2]) - 1) < 0.15


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.2, 0.5]))
def test_no_user_and_no_item_loses_more_than_the_share(seed: int, share: float) -> None:
    effects = random_matrix(seed)
    effects.data = np.random.default_rng(seed).normal(size=effects.nnz)
    few = worst_events(effects, share)
    assert (few.getnnz(axis=0) <= share * effects.getnnz(axis=0) + 1e-9).all()
    assert (few.getnnz(axis=1) <= share * effects.getnnz(axis=1) + 1e-9).all()
    assert (effects.multiply(few).tocsr().data > 0).all()
