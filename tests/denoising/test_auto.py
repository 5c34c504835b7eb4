"""`auto`: its contestants, and that it does what the chosen one does."""

from __future__ import annotations

import numpy as np
import pytest
from planted_noise import load, model_arrays, random_histories
from pydantic import ValidationError

from rayrec.config import Denoise
from rayrec.denoising import DENOISERS
from rayrec.denoising.auto import NONE, AutoSettings, contestants
from rayrec.errors import ConfigError
from rayrec.pipeline.item_model_fitting import required_denoiser_fits, required_fits_of


def arrays_with(choice: int) -> dict[str, np.ndarray]:
    key = f"{DENOISERS['auto'].fit_key(DENOISERS.settings('auto'))}.choice"
    return {**model_arrays(), key: np.array([choice])}


def test_each_candidate_takes_part_at_each_budget() -> None:
    settings = AutoSettings(candidates={"mild": {"method": "ease"}, "rules": {}}, budgets=(0.05, 0.2))
    found = contestants(settings)
    assert [one.name for one in found] == ["mild 0.05", "mild 0.2", "rules 0.05", "rules 0.2"]
    assert [one.denoise.settings.model_dump()["max_removed_share"] for one in found] == [0.05, 0.2, 0.05, 0.2]


@pytest.mark.parametrize("choice", range(len(contestants(AutoSettings()))))
def test_it_decides_as_the_chosen_contestant(choice: int) -> None:
    whole, chosen = random_histories(users=60, longest=60), contestants(AutoSettings())[choice].denoise
    alone = DENOISERS[chosen.method].load(model_arrays(), chosen.settings).decide(whole)
    found = load("auto", arrays_with(choice)).decide(whole)
    assert np.array_equal(found.keep_weight, alone.keep_weight)
    assert np.array_equal(found.reason, alone.reason)


def test_none_removes_nothing() -> None:
    assert (load("auto", arrays_with(NONE)).decide(random_histories()).keep_weight == 1).all()


def test_without_a_contest_it_is_an_error() -> None:
    arrays = {name: array for name, array in model_arrays().items() if not name.endswith(".choice")}
    with pytest.raises(ConfigError, match="choice"):
        load("auto", arrays)


def test_it_needs_the_fits_of_all_candidates() -> None:
    auto = Denoise(method="auto", settings={"candidates": {"ensemble": {}, "gradient": {}}})
    assert {fit.method for fit in required_fits_of([auto])} == {"ease", "ials", "fism", "next_item"}
    alone = required_denoiser_fits([Denoise(method="ensemble")])
    assert [fit.key for fit in required_denoiser_fits([auto])] == [fit.key for fit in alone]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"candidates": {"auto": {}}}, "none always takes part"),
        ({"candidates": {"none": {}}}, "none always takes part"),
        ({"candidates": {}}, "candidates"),
        ({"candidates": {"ease": {"settings": {"budget": 1}}}}, "candidates.ease.settings.budget"),
        ({"candidates": {"eas": {}}}, "no denoising method 'eas'"),
        ({"budgets": [1.5]}, "budgets"),
    ],
)
def test_settings_that_mean_nothing_are_errors(settings: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        Denoise(method="auto", settings=settings)
