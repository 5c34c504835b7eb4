"""The closed form, compared with refits without each event."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import auc_within, histories, load, model_arrays, planted

from rayrec.denoising import DENOISERS
from rayrec.denoising.removal import RemovalThresholds, TrustedInteractions, select_removals, trusted_events
from rayrec.denoising.ridge_influence import InfluenceDenoiser, InfluenceSettings
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged

ITEMS, WIDTH = 30, 6


def refitted(v: np.ndarray, kept: list[int], weight: list[float], given_: InfluenceSettings) -> np.ndarray:
    own = v[kept].reshape(-1, v.shape[1])
    more = given_.alpha * np.array(weight) if given_.alpha else np.ones(len(kept))
    aim = 1 + more if given_.alpha else more
    block = given_.regularization * np.eye(v.shape[1]) + given_.alpha0 * v.T @ v + own.T @ (more[:, None] * own)
    return np.linalg.solve(block, aim @ own)


def brute_force(
    v: np.ndarray,
    count: np.ndarray,
    history: list[int],
    trusted: list[bool],
    weight: list[float],
    given_: InfluenceSettings,
) -> tuple[list[float], list[float]]:
    pool = np.lexsort((np.arange(len(count)), -count))[: given_.negative_pool]
    scores = v @ refitted(v, history, weight, given_)
    unseen = [int(item) for item in pool if item not in history]
    negatives = sorted(unseen, key=lambda item: -scores[item])[: given_.hard_negatives]
    consistency, negative_influence = [], []
    for i, item in enumerate(history):
        without = v @ refitted(v, history[:i] + history[i + 1 :], weight[:i] + weight[i + 1 :], given_)
        consistency.append(without[item])
        targets = [other for j, other in enumerate(history) if trusted[j] and j != i]
        change = without - scores
        lost = change[targets].mean() if targets else 0.0
        negative_influence.append(lost - (change[negatives].mean() if negatives else 0.0) if targets else 0.0)
    return consistency, negative_influence


@settings(max_examples=40, deadline=None)
@given(
    users=st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=30), min_size=1, max_size=4),
    seed=st.integers(0, 3),
    regularization=st.sampled_from([0.3, 5.0]),
    alpha=st.sampled_from([0.0, 0.5, 10.0]),
    dtype=st.sampled_from(["float32", "float64"]),
    trust=st.randoms(use_true_random=False),
)
def test_the_closed_form_equals_refits(
    users: list[list[int]], seed: int, regularization: float, alpha: float, dtype: str, trust: object
) -> None:
    arrays = model_arrays(ITEMS, WIDTH, seed)
    given_ = InfluenceSettings(
        regularization=regularization, alpha0=0.2, alpha=alpha, hard_negatives=4, negative_pool=20, dtype=dtype
    )
    method = InfluenceDenoiser(arrays["ials.factors"], arrays["item.count"], given_)
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    trusted = np.array([trust.random() < 0.5 for _ in item.values])  # type: ignore[attr-defined]
    weight = np.array([trust.choice([0.0, 0.25, 1.0, 3.0]) for _ in item.values], np.float32)  # type: ignore[attr-defined]
    consistency, negative_influence = method.measure(item, trusted, weight)
    bound = 1e-6 if dtype == "float32" else 1e-10
    v = arrays["ials.factors"].astype(np.float64)
    for row, user in enumerate(users):
        at = slice(item.offsets[row], item.offsets[row + 1])
        expected = brute_force(v, arrays["item.count"], user, trusted[at].tolist(), weight[at].tolist(), given_)
        scale = 1 + np.abs(expected[0]).max()
        assert np.abs(consistency[at] - expected[0]).max() < bound * scale
        assert np.abs(negative_influence[at] - expected[1]).max() < bound * scale


def test_self_consistency_detects_injected_noise() -> None:
    whole, noise, arrays = planted()
    decision = load("influence", arrays).decide(whole)
    assert auc_within(-decision.influence, noise) > 0.8
    taken = decision.keep_weight < 1
    assert noise[taken].mean() > 2 * noise.mean()


def test_items_without_factors_are_not_assessed() -> None:
    arrays = model_arrays()
    arrays["ials.factors"][7] = 0
    item = Ragged.from_lengths(np.array([7, 1, 2, 7, 3, 4, 5, 6], np.int32), [8])
    decision = load("influence", arrays).decide(histories(item))
    assert np.isnan(decision.influence[[0, 3]]).all()
    assert decision.keep_weight[[0, 3]].tolist() == [1, 1]
    assert np.isfinite(decision.influence[[1, 2, 4]]).all()


def test_trusted_events_are_the_newest_that_pass_the_filters() -> None:
    item = Ragged.from_lengths(np.arange(8, dtype=np.int32), [5, 3])
    whole = histories(item, value=np.array([5, 1, 5, 5, 2, 1, 1, 1.0]))
    scored = np.ones(8, np.bool_)
    newest = trusted_events(whole, scored, TrustedInteractions(trusted_newest=2))
    assert newest.tolist() == [False, False, False, True, True, False, True, True]
    liked = trusted_events(whole, scored, TrustedInteractions(trusted_newest=2, trusted_min_value=4.0))
    assert liked.tolist() == [False, False, True, True, False, False, False, False]


def test_events_may_be_down_weighted_instead_of_removed() -> None:
    whole, _, arrays = planted(users=40)
    decision = load("influence", arrays, removed_weight=0.25).decide(whole)
    assert set(decision.keep_weight.tolist()) == {0.25, 1.0}


def test_the_most_suspicious_events_are_removed_first_with_their_reasons() -> None:
    limits = RemovalThresholds(
        max_removed_share=0.5, min_retained=1, min_events=2, inconsistent_share=0.5, negative_influence_share=0.5
    )
    consistency = np.array([[0.0, 0.1, 1.0, 1.0, 0.9, 0.0]])
    negative_influence = np.array([[0.5, -1.0, 0.6, 0.0, -0.2, 9.0]])
    mask = np.array([[True, True, True, True, True, False]])
    keep, reason = select_removals(consistency, negative_influence, mask, limits)
    assert keep.tolist() == [[0, 0, 1, 1, 1, 1]] or keep.tolist() == [[0, 1, 0, 1, 1, 1]]
    assert reason[0, 0] == 3
    assert reason[0, 3:].tolist() == [0, 0, 0]
    none_may = RemovalThresholds(
        max_removed_share=0.5, min_retained=5, min_events=2, inconsistent_share=0.5, negative_influence_share=0.5
    )
    assert (select_removals(consistency, negative_influence, mask, none_may)[0] == 1).all()


@pytest.mark.parametrize(
    "bad",
    [
        {"regularization": 0},
        {"max_removed_share": 2},
        {"removed_weight": 1.0},
        {"trusted_newest": 0},
        {"dtype": "bfloat16"},
        {"regularization": "x"},
    ],
)
def test_invalid_settings_are_an_error(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DENOISERS.settings("influence", bad)


def test_a_model_without_factors_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"needs 'ials\.factors'"):
        load("influence", {"item.count": np.ones(3, np.float32)})
