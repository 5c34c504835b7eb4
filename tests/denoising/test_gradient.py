"""Gradients of the next-item model: closed forms against automatic differentiation, and the resulting decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import (
    auc_within,
    fit_data,
    histories,
    load,
    model_arrays,
    next_item_arrays,
    planted,
    random_histories,
    required_fits,
)

from rayrec.denoising import DENOISERS, REASONS
from rayrec.denoising.gradient_influence import SCORES
from rayrec.errors import ConfigError
from rayrec.numerics.next_item_model import NextItemModel
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.next_item import NextItemRetriever, NextItemSettings
from rayrec.storage import Storage

ITEMS, WIDTH = 12, 3
HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=10), min_size=1, max_size=3)


def small_model(seed: int) -> NextItemModel:
    return NextItemModel(**next_item_arrays(ITEMS, WIDTH, seed))


def loss_of(
    model: NextItemModel, source: torch.Tensor, target: torch.Tensor, before: list[int], code: int
) -> torch.Tensor:
    """The loss as documented in rayrec.numerics.next_item_model."""
    recent = before[::-1][: len(model.recency)]
    weights = torch.tensor(model.recency[: len(recent)], dtype=torch.float64)
    context = torch.zeros(WIDTH, dtype=torch.float64)
    if recent:
        context = (weights / weights.sum()) @ source[recent]
    score = target @ torch.cat([context, torch.ones(1, dtype=torch.float64)])
    total = torch.exp(score[code])
    for negative, weight in zip(model.negatives.tolist(), model.weight.tolist(), strict=True):
        if negative != code:
            total = total + weight * torch.exp(score[negative])
    return torch.log(total) - score[code]


def autograd(model: NextItemModel, checkpoint: int, row: list[int]) -> np.ndarray:
    """Gradient of each event of one history by all parameters, [L, parameters] float64."""
    gradients = []
    for place, code in enumerate(row):
        parts = [torch.tensor(array[checkpoint].astype(np.float64)) for array in (model.source, model.target)]
        source, target = (part.requires_grad_() for part in parts)
        loss_of(model, source, target, row[:place], code).backward()
        flat = [torch.zeros(part.numel()) if part.grad is None else part.grad.flatten() for part in (source, target)]
        gradients.append(torch.cat(flat).numpy())
    return np.stack(gradients)


def padded(users: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    length = max(len(user) for user in users)
    codes = np.array([user + [0] * (length - len(user)) for user in users], np.int32)
    return codes, np.arange(length) < np.array([len(user) for user in users])[:, None]


@settings(max_examples=40, deadline=None)
@given(users=HISTORIES, seed=st.integers(0, 5), checkpoint=st.integers(0, 2))
def test_closed_form_products_of_gradients_equal_autograd(users: list[list[int]], seed: int, checkpoint: int) -> None:
    model = small_model(seed)
    codes, mask = padded(users)
    found = model.gradients(codes, mask, checkpoint).gram().numpy()
    for row, user in enumerate(users):
        gradients = autograd(model, checkpoint, user)
        expected = gradients @ gradients.T
        size = len(user)
        assert np.allclose(found[row, :size, :size], expected, atol=1e-5 * max(1, np.abs(expected).max()))
        assert not found[row, size:].any()
        assert not found[row, :, size:].any()


@settings(max_examples=20, deadline=None)
@given(users=HISTORIES, seed=st.integers(0, 5))
def test_el2n_is_the_distance_of_the_probabilities_from_the_target(users: list[list[int]], seed: int) -> None:
    """The gradient by the items' biases, the last column of `target`, equals p - e_y."""
    model = small_model(seed)
    codes, mask = padded(users)
    found = model.gradients(codes, mask, 2).el2n().numpy()
    for row, user in enumerate(users):
        bias = autograd(model, 2, user)[:, ITEMS * WIDTH :].reshape(-1, ITEMS, WIDTH + 1)[:, :, -1]
        assert np.allclose(found[row, : len(user)], np.linalg.norm(bias, axis=1), atol=1e-5)


def test_the_variance_of_gradients_is_taken_over_the_checkpoints() -> None:
    model, user = small_model(1), [3, 1, 4, 1, 5, 9]
    by_context = []
    for checkpoint in range(3):
        rows = []
        for place, code in enumerate(user):
            source, target = (torch.tensor(a[checkpoint].astype(np.float64)) for a in (model.source, model.target))
            moved = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)  # u + moved, for any previous events
            shifted = torch.cat([target[:, :-1] @ moved[:, None], torch.zeros(ITEMS, WIDTH)], 1)
            bias = torch.cat([torch.zeros(ITEMS, WIDTH), shifted[:, :1]], 1)
            loss_of(model, source, target + bias, user[:place], code).backward()
            assert moved.grad is not None
            rows.append(moved.grad.numpy())
        by_context.append(rows)
    expected = np.std(by_context, axis=0).mean(1)
    assert np.allclose(measured(model, [user], "grad_variance"), expected, atol=1e-5)


def measured(model: NextItemModel, users: list[list[int]], score: str, trusted: np.ndarray | None = None) -> np.ndarray:
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    everything = np.ones(len(item.values), np.bool_)
    method = load("gradient", {**prefixed(model)}, score=score)
    return method.measure(histories(item), everything, everything if trusted is None else trusted)


def prefixed(model: NextItemModel) -> dict[str, Any]:
    name = required_fits("gradient")[0].name
    return {f"{name}.{part}": getattr(model, part) for part in next_item_arrays(1, 1, 0)}


@settings(max_examples=20, deadline=None)
@given(users=HISTORIES, seed=st.integers(0, 5), only=st.integers(0, 2))
def test_tracin_of_one_checkpoint_is_the_mean_product_with_the_trusted(
    users: list[list[int]], seed: int, only: int
) -> None:
    whole = small_model(seed)
    model = NextItemModel(
        whole.source[only : only + 1], whole.target[only : only + 1], whole.negatives, whole.weight, whole.recency
    )
    trusted = np.random.default_rng(seed).random(sum(map(len, users))) < 0.5
    found = measured(model, users, "tracin", trusted)
    start = 0
    for user in users:
        gradients = autograd(model, 0, user)
        own = trusted[start : start + len(user)]
        for place in range(len(user)):
            targets = own & (np.arange(len(user)) != place)
            expected = (gradients[targets] @ gradients[place]).mean() if targets.any() else 0.0
            assert found[start + place] == pytest.approx(expected, abs=1e-4 * max(1, np.abs(gradients).max() ** 2))
        start += len(user)


def test_scores_over_checkpoints_are_means_of_those_of_each() -> None:
    users = [[1, 2, 3, 4, 5, 6, 7], [8, 1, 8]]
    whole = small_model(0)
    for score in ("self_influence", "tracin"):
        parts = [
            measured(
                NextItemModel(whole.source[[c]], whole.target[[c]], *list(vars(whole).values())[2:5]), users, score
            )
            for c in range(3)
        ]
        assert np.allclose(measured(whole, users, score), np.mean(parts, axis=0), rtol=1e-5)


@pytest.mark.parametrize("score", sorted(SCORES))
def test_scores_do_not_depend_on_other_users_in_the_batch(score: str) -> None:
    whole = random_histories(users=60, longest=70)
    method = load("gradient", model_arrays(), score=score)
    together = method.decide(whole)
    for user in (0, 7, 31, 59):
        at = slice(whole.item.offsets[user], whole.item.offsets[user + 1])
        alone = method.decide(histories(Ragged.from_lengths(whole.item[user], [len(whole.item[user])])))
        assert np.array_equal(alone.influence, together.influence[at])
        assert np.array_equal(alone.keep_weight, together.keep_weight[at])


@pytest.fixture(scope="module")
def world() -> tuple[Any, np.ndarray, dict[str, Any]]:
    whole, noise, arrays = planted(users=200)
    fit = NextItemRetriever.fit(
        fit_data(whole, len(arrays["item.count"])), NextItemSettings(factors=8, learning_rate=0.03)
    )
    name = required_fits("gradient")[0].name
    return whole, noise, {f"{name}.{part}": array for part, array in fit.arrays().items()}


@pytest.mark.parametrize("score", ["el2n", "self_influence", "grad_variance"])
def test_injected_noise_has_large_and_variable_gradients(
    score: str, world: tuple[Any, np.ndarray, dict[str, Any]]
) -> None:
    whole, noise, arrays = world
    decision = load("gradient", arrays, score=score).decide(whole)
    assert auc_within(-decision.influence, noise) > 0.65
    taken = decision.keep_weight < 1
    assert noise[taken].mean() > 1.5 * noise.mean()
    assert {REASONS[code] for code in decision.reason[taken]} == {"low_likelihood"}


def test_tracin_gives_injected_noise_less_negative_influence(
    world: tuple[Any, np.ndarray, dict[str, Any]],
) -> None:
    whole, noise, arrays = world
    decision = load("gradient", arrays, score="tracin").decide(whole)
    assert auc_within(decision.negative_influence, noise) < 0.4


def test_tracin_removes_only_events_of_negative_influence() -> None:
    decision = load("gradient", model_arrays(), score="tracin").decide(random_histories(users=80, longest=30))
    taken = decision.keep_weight < 1
    assert taken.any()
    assert (decision.negative_influence[taken] > 0).all()
    assert (decision.negative_influence <= 0).any()
    assert {REASONS[code] for code in decision.reason[taken]} == {"negative_influence"}


def test_invalid_settings_are_an_error() -> None:
    for bad in ({"score": "el3n"}, {"score": "ek_fac"}, {"trusted_newest": 0}, {"max_removed_share": 1.5}):
        with pytest.raises(ConfigError):
            DENOISERS.settings("gradient", bad)


def test_a_model_fitted_without_next_item_is_an_error() -> None:
    with pytest.raises(ConfigError, match="which is not in the item model"):
        load("gradient", {})


def test_all_scores_require_the_same_fit() -> None:
    asked = [required_fits("gradient", score=score, max_removed_share=0.1) for score in SCORES]
    assert asked == [required_fits("gradient")] * len(SCORES)


def test_a_stored_fit_serves_the_denoiser_in_another_catalogue(tmp_path: Path) -> None:
    whole, _, arrays = planted(users=60)
    items = len(arrays["item.count"])
    ids = pa.array([f"item {code:03d}" for code in range(items)])
    specs = item_model.required_sources([], False, required_fits("gradient"))
    model = item_model.from_fit_data(fit_data(whole, items), ids, specs)
    storage = Storage(str(tmp_path))
    item_model_store.save(storage, "0123", model)
    order = np.random.default_rng(0).permutation(items)
    moved = item_model_store.load(storage, "0123").for_catalogue(pa.concat_arrays([pa.array(["new"]), ids.take(order)]))
    code = np.empty(items, np.int32)
    code[order] = np.arange(1, items + 1)
    before = load("gradient", model.denoiser_arrays(specs)).decide(whole)
    after = load("gradient", moved.denoiser_arrays(specs)).decide(histories(whole.item.like(code[whole.item.values])))
    assert np.isfinite(before.influence).all()
    assert np.array_equal(before.influence, after.influence)
    assert np.array_equal(before.keep_weight, after.keep_weight)
