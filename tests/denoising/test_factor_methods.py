"""Loss, propensity and NBPO: their leave-one-out scores and the decisions they make."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import (
    auc_within,
    fism_arrays,
    histories,
    load,
    model_arrays,
    planted,
    random_histories,
    required_fits,
)

from rayrec.denoising import DENOISERS, REASONS
from rayrec.denoising.factor_denoiser import FactorModelDenoiser
from rayrec.denoising.within_user import median_within_user, softmax_within_user
from rayrec.errors import ConfigError
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.fism import OBJECTIVES, FismRetriever

CASES: list[tuple[str, dict[str, Any]]] = [
    ("loss", {"objective": "pld"}),
    ("loss", {"objective": "t_ce"}),
    ("loss", {"objective": "r_ce"}),
    ("propensity", {}),
    ("nbpo", {}),
]


@given(users=st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=4), seed=st.integers(0, 5))
def test_leave_one_out_scores_use_the_users_other_items(users: list[list[int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    source, target = random.normal(size=(2, 10, 3)).astype(np.float32)
    bias = random.normal(size=10).astype(np.float32)
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    found = FismModel(source, target, bias).leave_one_out_scores(item)
    expected = []
    for user in users:
        for code in user:
            others = sorted(set(user) - {code})
            vector = source[others].sum(0) / np.sqrt(max(len(others), 1))
            expected.append(bias[code] + target[code] @ vector)
    assert np.allclose(found, expected, atol=1e-5)


@given(st.lists(st.lists(st.floats(-30, 30, width=32), max_size=6), min_size=1, max_size=5))
def test_softmax_and_median_are_taken_within_the_user(users: list[list[float]]) -> None:
    flat = np.array([value for user in users for value in user], np.float64)
    item = Ragged.from_lengths(flat, [len(user) for user in users])
    if not len(flat):
        return
    share, median = softmax_within_user(item, flat), median_within_user(item, flat)
    for row, user in enumerate(users):
        at = slice(item.offsets[row], item.offsets[row + 1])
        if user:
            weights = np.exp(np.array(user) - max(user))
            assert np.allclose(share[at], weights / weights.sum())
            assert (median[at] == sorted(user)[(len(user) - 1) // 2]).all()


@pytest.fixture(scope="module")
def world() -> tuple[Any, np.ndarray, dict[str, Any]]:
    whole, noise, arrays = planted(users=200)
    return whole, noise, arrays | fism_arrays(whole, len(arrays["item.count"]), CASES)


@pytest.mark.parametrize(("name", "given_"), CASES)
def test_injected_noise_has_the_lowest_likelihood(
    name: str, given_: dict[str, Any], world: tuple[Any, np.ndarray, dict[str, Any]]
) -> None:
    whole, noise, arrays = world
    decision = load(name, arrays, **given_).decide(whole)
    assert auc_within(-decision.influence, noise) > 0.75
    taken = decision.keep_weight < 1
    assert taken.any()
    assert noise[taken].mean() > 2 * noise.mean()
    assert {REASONS[code] for code in decision.reason[taken]} == {"low_likelihood"}


def loaded(name: str, given_: dict[str, Any]) -> tuple[FactorModelDenoiser, dict[str, Any]]:
    prefix = required_fits(name, **given_)[0].name
    standard = model_arrays()
    fism = required_fits("propensity")[0].name
    arrays = {f"{prefix}.{part}": standard[f"{fism}.{part}"] for part in ("source", "target", "bias", "quantiles")}
    loaded_method = load(name, arrays, **given_)
    assert isinstance(loaded_method, FactorModelDenoiser)
    return loaded_method, arrays


def test_t_ce_ranks_losses_over_all_users() -> None:
    whole = random_histories(users=80, longest=30)
    method, arrays = loaded(
        "loss", {"objective": "t_ce", "drop": 0.1, "max_removed_share": 1.0, "min_retained": 0, "min_events": 0}
    )
    loss = np.logaddexp(0, -method.model.leave_one_out_scores(whole.item).astype(np.float64))
    quantiles = next(array for name, array in arrays.items() if name.endswith("quantiles"))
    assert np.array_equal(method.decide(whole).keep_weight == 0, loss > quantiles[90])


def test_r_ce_reduces_weights_but_removes_no_event() -> None:
    whole = random_histories(users=80, longest=30)
    decision = loaded("loss", {"objective": "r_ce"})[0].decide(whole)
    weighed = decision.keep_weight[decision.keep_weight < 1]
    assert len(np.unique(weighed)) > 20
    assert weighed.min() > 0


def test_pld_resamples_by_the_users_own_losses_only() -> None:
    whole = random_histories(users=30, longest=30)
    decision = loaded("loss", {"objective": "pld"})[0].decide(whole)
    for user in range(30):
        at = slice(whole.item.offsets[user], whole.item.offsets[user + 1])
        own = decision.influence[at]
        out = decision.keep_weight[at] == 0
        if out.any():
            assert own[out].max() <= own[~out].min()  # the largest losses of this user, independent of other users


def test_objectives_have_separate_fits() -> None:
    names = {required_fits(name, **given_)[0].name for name, given_ in CASES}
    assert len(names) == len(CASES)
    assert required_fits("loss", max_removed_share=0.1) == required_fits("loss")  # the budget does not concern the fit


def test_a_model_fitted_without_the_factors_is_an_error() -> None:
    with pytest.raises(ConfigError, match="which is not in the item model"):
        load("loss", {})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("loss", {"objective": "bce"}),
        ("loss", {"tau": 0.0}),
        ("propensity", {"floor": 0.0}),
        ("nbpo", {"flip": 1.0}),
        ("nbpo", {"max_removed_share": 1.5}),
    ],
)
def test_invalid_settings_are_an_error(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DENOISERS.settings(name, bad)


@settings(max_examples=len(OBJECTIVES), deadline=None)
@given(objective=st.sampled_from(OBJECTIVES))
def test_the_same_data_gives_the_same_factors(objective: str) -> None:
    whole, _, arrays = planted(users=40)
    given_ = {"objective": objective, "epochs": 3, "factors": 8}
    items = len(arrays["item.count"])
    first, second = (fism_arrays(whole, items, [], given_) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.isfinite(np.concatenate([array.ravel() for array in first.values()])).all()
    assert FismRetriever.name == "fism"


def test_unknown_items_are_not_assessed() -> None:
    method, _ = loaded("nbpo", {})
    method.model.target[7] = 0
    fresh = type(method)(method.model, method.quantiles, method.settings)
    item = Ragged.from_lengths(np.array([7, 1, 2, 7, 3, 4, 5, 6], np.int32), [8])
    assert np.flatnonzero(np.isnan(fresh.decide(histories(item)).influence)).tolist() == [0, 3]
