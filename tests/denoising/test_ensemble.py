"""The ensemble: injected noise, weights learned in the item model's fit, and the resulting decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_noise import auc_within, histories, load, planted, required_fits

from rayrec.config import Denoise
from rayrec.data.schemas import HISTORY
from rayrec.denoising import DENOISERS, REASONS, Histories
from rayrec.denoising.noise_injection import inject_noise
from rayrec.errors import ConfigError
from rayrec.numerics.popularity_bands import TAIL, popularity_bands
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.item_model_fitting import (
    fit_data,
    histories_from_fit_data,
    required_denoiser_fits,
    required_fits_of,
)
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.item_model import ItemModel
from rayrec.storage import Storage

ITEMS, CUT = 150, 10**9
ENSEMBLE = [Denoise(method="ensemble", settings={})]
KEY = DENOISERS["ensemble"].fit_key(DENOISERS.settings("ensemble"))


@given(users=st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_without_the_injected_noise_the_histories_are_unchanged(users: list[list[int]], seed: int) -> None:
    item = Ragged.from_lengths(np.array([i for user in users for i in user], np.int32), [len(user) for user in users])
    whole = histories(item)
    noisy, noise = inject_noise(whole, 10, 0.3, np.random.default_rng(seed))
    for before, after in ((whole.item, noisy.item), (whole.ts, noisy.ts), (whole.weight, noisy.weight)):
        left = after.filter(~noise)
        assert np.array_equal(left.values, before.values)
        assert np.array_equal(left.offsets, before.offsets)
    for row, user in enumerate(users):
        at = slice(noisy.item.offsets[row], noisy.item.offsets[row + 1])
        assert not set(noisy.item.values[at][noise[at]].tolist()) & set(user)
        assert (np.diff(noisy.ts.values[at]) >= 0).all()


def test_injected_noise_is_drawn_by_popularity_and_has_the_requested_share() -> None:
    whole, _, arrays = planted(users=2000, tastes=10)
    noisy, noise = inject_noise(whole, 300, 0.2, np.random.default_rng(0))
    assert abs(noise.mean() - 0.2) < 0.02
    drawn = np.bincount(noisy.item.values[noise], minlength=300)
    assert np.corrcoef(drawn, arrays["item.count"])[0, 1] > 0.8


def test_taste_swap_takes_all_items_of_a_user_from_one_other_user() -> None:
    whole, _, _ = planted(users=40)
    noisy, noise = inject_noise(whole, ITEMS, 0.3, np.random.default_rng(0), ("taste_swap",))
    own = [set(whole.item[user].tolist()) for user in range(len(whole))]
    for user in range(len(noisy)):
        at = slice(noisy.item.offsets[user], noisy.item.offsets[user + 1])
        taken = set(noisy.item.values[at][noise[at]].tolist())
        assert any(taken <= other for other in own)


def test_each_user_has_noise_of_one_kind() -> None:
    whole, _, _ = planted(users=400)
    kinds = ("popularity", "uniform", "taste_swap")
    _, noise = inject_noise(whole, ITEMS, 0.2, np.random.default_rng(0), kinds)
    assert 0.15 < noise.mean() < 0.25
    nobody = histories(Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(3, np.int64)))
    assert not inject_noise(nobody, ITEMS, 0.2, np.random.default_rng(0), kinds)[1].any()


def table_of(whole: Histories) -> pa.Table:
    like, events = whole.item.like, len(whole.item.values)
    columns = [
        pa.array([f"user {k}" for k in range(len(whole))]),
        whole.item.to_arrow(pa.int32()),
        whole.ts.to_arrow(pa.int64()),
        like(np.zeros(events, np.int8)).to_arrow(pa.int8()),
        whole.value.to_arrow(pa.float32()),
        whole.dwell_ms.to_arrow(pa.int32()),
        pa.array([[]] * len(whole), pa.list_(pa.int32())),
    ]
    return pa.table(columns, schema=HISTORY)


def fitted(table: pa.Table) -> ItemModel:
    ids = pa.array([f"item {code:03d}" for code in range(ITEMS)])
    specs = item_model.required_sources([], True, required_fits_of(ENSEMBLE))
    return item_model.fit([table], ids, specs, (1.0,), CUT, 10**6, required_denoiser_fits(ENSEMBLE))


@pytest.fixture(scope="module")
def world() -> tuple[Histories, np.ndarray, ItemModel]:
    whole, noise, _ = planted(users=250)
    return whole, noise, fitted(table_of(whole))


def test_the_ensemble_detects_noise_as_well_as_its_best_member(world: tuple[Histories, np.ndarray, ItemModel]) -> None:
    whole, noise, model = world
    arrays = model.denoiser_arrays(())
    found = {name: load(name, arrays).decide(whole) for name in ("ease", "influence", "ensemble")}
    auc = {name: auc_within(-decision.influence, noise) for name, decision in found.items()}
    assert auc["ensemble"] > max(auc["ease"], auc["influence"]) - 0.01
    taken = found["ensemble"].keep_weight < 1
    assert noise[taken].mean() > 2 * noise.mean()
    assert {REASONS[code] for code in found["ensemble"].reason[taken]} == {"likely_noise"}


def test_probabilities_are_calibrated_on_injected_noise(
    world: tuple[Histories, np.ndarray, ItemModel],
) -> None:
    whole, _, model = world
    clean, items = whole, len(model.count)
    noisy, noise = inject_noise(clean, items, 0.2, np.random.default_rng(9))
    again = fitted(table_of(noisy)).denoiser_arrays(())
    again |= {f"{KEY}.{name}": array for name, array in model.fitted_denoisers[KEY].items()}
    probability = 1 - load("ensemble", again).decide(noisy).influence
    assert abs(probability.mean() - noise.mean()) < 0.03
    likely = probability > np.quantile(probability, 0.9)
    assert abs(probability[likely].mean() - noise[likely].mean()) < 0.1


def test_the_tail_loses_no_more_than_its_bound(world: tuple[Histories, np.ndarray, ItemModel]) -> None:
    whole, _, model = world
    arrays, tail = model.denoiser_arrays(()), popularity_bands(model.count)[whole.item.values] == TAIL
    removed = {}
    for bound in (0.0, 0.05, 1.0):
        decision = load("ensemble", arrays, max_tail_share=bound, min_probability=0.0).decide(whole)
        removed[bound] = float((decision.keep_weight[tail] < 1).mean())
    assert removed[0.0] < 0.01  # what lies beyond all that the fit has seen
    assert removed[0.0] <= removed[0.05] <= removed[1.0]
    assert removed[0.05] < 0.75 * removed[1.0]
    assert (load("ensemble", arrays, max_tail_share=0.0).decide(whole).keep_weight[~tail] < 1).any()


def test_the_learned_weights_are_stored_in_the_item_model(
    tmp_path: Path, world: tuple[Histories, np.ndarray, ItemModel]
) -> None:
    whole, _, model = world
    storage = Storage(str(tmp_path))
    item_model_store.save(storage, "abc", model)
    back = item_model_store.load(storage, "abc")
    assert np.array_equal(back.fitted_denoisers[KEY]["weights"], model.fitted_denoisers[KEY]["weights"])
    assert len(back.fitted_denoisers[KEY]["weights"]) == 8
    moved = back.for_catalogue(pa.array(["a new item", *model.item_ids.to_pylist()]))
    shifted = Histories(whole.item.like(whole.item.values + 1), whole.ts, whole.weight, whole.value, whole.dwell_ms)
    before = load("ensemble", model.denoiser_arrays(())).decide(whole)
    after = load("ensemble", moved.denoiser_arrays(())).decide(shifted)
    assert np.array_equal(before.keep_weight, after.keep_weight)


def test_the_learned_weights_do_not_depend_on_the_sharding(
    world: tuple[Histories, np.ndarray, ItemModel],
) -> None:
    whole, _, model = world
    table = table_of(whole)
    reversed_ = table.take(pa.array(np.arange(len(table))[::-1]))
    assert np.array_equal(fitted(reversed_).fitted_denoisers[KEY]["weights"], model.fitted_denoisers[KEY]["weights"])


def test_the_fit_key_has_only_settings_of_the_fit() -> None:
    def key(**settings: Any) -> str:
        return DENOISERS["ensemble"].fit_key(DENOISERS.settings("ensemble", settings))

    assert key() == key(max_removed_share=0.1, min_probability=0.3) == key(noise_share=0.2)
    assert key() != key(noise_share=0.1)
    several = [*ENSEMBLE, Denoise(method="ensemble", settings={"max_removed_share": 0.1}), Denoise(method="ease")]
    assert len(required_denoiser_fits(several)) == 1


def test_fit_data_and_histories_contain_the_same_events() -> None:
    whole, _, _ = planted(users=20)
    data = fit_data(whole, ITEMS, CUT)
    back = histories_from_fit_data(data)
    assert np.array_equal(back.item.values, whole.item.values)
    assert np.array_equal(back.item.offsets, whole.item.offsets)
    assert np.array_equal(fit_data(back, ITEMS, CUT).matrix.toarray(), data.matrix.toarray())


def test_each_denoiser_names_the_fits_it_needs() -> None:
    kinds = {name: {need.method for need in required_fits(name)} for name in DENOISERS}
    assert kinds["none"] == kinds["rules"] == set()
    assert (kinds["influence"], kinds["ease"], kinds["loss"]) == ({"ials"}, {"ease"}, {"fism"})
    assert kinds["ensemble"] == {"ials", "ease", "fism"}
    assert len(item_model.required_sources([], False, required_fits_of([*ENSEMBLE, *ENSEMBLE]))) == 3


def test_a_model_without_the_learned_weights_is_an_error() -> None:
    with pytest.raises(ConfigError, match="which is not in the item model"):
        load("ensemble", {})
    with pytest.raises(ConfigError, match="noise_share"):
        DENOISERS.settings("ensemble", {"noise_share": 0.0})
