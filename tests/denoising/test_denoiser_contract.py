"""Contract of all denoising methods."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from planted_noise import histories, load, model_arrays, random_histories

from rayrec.data.schemas import DENOISED_HISTORY, HISTORY
from rayrec.denoising import DENOISERS, REASONS, Denoiser, Histories
from rayrec.denoising.denoiser import DenoiseStage
from rayrec.denoising.ease_support import EaseDenoiser
from rayrec.denoising.ridge_influence import InfluenceDenoiser
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import padded_batches

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=sorted(DENOISERS))
def method(request: pytest.FixtureRequest) -> Denoiser:
    return load(request.param, model_arrays())


def part(whole: Histories, users: np.ndarray) -> Histories:
    def take(ragged: Ragged) -> Ragged:
        return Ragged.from_lengths(np.concatenate([ragged[user] for user in users]), ragged.lengths[users])

    return Histories(take(whole.item), take(whole.ts), take(whole.weight), take(whole.value), take(whole.dwell_ms))


def test_every_event_gets_a_valid_decision(method: Denoiser) -> None:
    whole = random_histories()
    decision = method.decide(whole)
    for array, dtype in (
        (decision.keep_weight, "f4"),
        (decision.influence, "f4"),
        (decision.negative_influence, "f4"),
        (decision.reason, "i1"),
    ):
        assert array.shape == whole.item.values.shape
        assert array.dtype == np.dtype(dtype)
    assert ((decision.keep_weight >= 0) & (decision.keep_weight <= 1)).all()
    assert ((decision.reason >= 0) & (decision.reason < len(REASONS))).all()
    assert np.array_equal(decision.keep_weight < 1, decision.reason > 0)
    assert np.isfinite(decision.negative_influence).all()


def test_decisions_do_not_depend_on_other_users_in_the_batch(method: Denoiser) -> None:
    whole = random_histories(users=120, longest=60)
    together = method.decide(whole)
    random = np.random.default_rng(3)
    for users in (np.array([5]), random.permutation(120), random.choice(120, 17, replace=False)):
        alone = method.decide(part(whole, users))
        events = np.concatenate([np.arange(whole.item.offsets[u], whole.item.offsets[u + 1]) for u in users])
        assert np.array_equal(alone.keep_weight, together.keep_weight[events])
        assert np.array_equal(alone.reason, together.reason[events])
        assert np.array_equal(alone.influence, together.influence[events], equal_nan=True)
        assert np.array_equal(alone.negative_influence, together.negative_influence[events])


@pytest.mark.parametrize("device", DEVICES)
def test_decisions_are_the_same_on_every_device(method: Denoiser, device: str) -> None:
    whole = random_histories(users=120, longest=60)
    here, there = method.decide(whole), method.to(torch.device(device)).decide(whole)
    assert np.array_equal(here.keep_weight, there.keep_weight)
    assert np.array_equal(here.reason, there.reason)
    assert np.allclose(here.influence, there.influence, atol=1e-5, equal_nan=True)
    assert np.allclose(here.negative_influence, there.negative_influence, atol=1e-5)


@pytest.mark.parametrize("name", ["influence", "ease"])
@pytest.mark.parametrize("longest", [5, 60])  # solved in the dual, and in the primal
def test_what_is_measured_stays_on_the_device(name: str, longest: int) -> None:
    """On torch's `meta` device, which has shapes and no numbers: what came from the CPU would be an error."""
    item = random_histories(longest=longest).item
    ones = np.ones(len(item.values), np.float32)
    moved = load(name, model_arrays()).to(torch.device("meta"))
    batch = next(iter(padded_batches(item.offsets, 6)))
    if isinstance(moved, InfluenceDenoiser):
        measured = moved._measure(batch, item, ones > 0, ones)
    else:
        assert isinstance(moved, EaseDenoiser)
        measured = moved._measure(batch, item, (ones, ones, ones), ones > 0)
    for found in measured:
        assert found.device.type == "meta"
        assert found.shape == batch.mask.shape


def test_decisions_are_deterministic(method: Denoiser) -> None:
    first, second = method.decide(random_histories()), method.decide(random_histories())
    assert np.array_equal(first.keep_weight, second.keep_weight)
    assert np.array_equal(first.influence, second.influence, equal_nan=True)


def test_nothing_is_removed_from_empty_and_tiny_histories(method: Denoiser) -> None:
    item = Ragged.from_lengths(np.array([3, 4, 4], np.int32), [0, 1, 2, 0])
    assert method.decide(histories(item)).keep_weight.tolist() == [1, 1, 1]
    nobody = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert len(method.decide(histories(nobody)).keep_weight) == 0


def test_removals_stay_within_the_budget(method: Denoiser) -> None:
    whole = random_histories(users=200, longest=40)
    decision = method.decide(whole)
    gone = np.bincount(whole.item.rows, decision.keep_weight < 1, minlength=200)
    assert (gone <= 0.2 * whole.item.lengths + 1e-9).all()
    assert (whole.item.lengths - gone >= np.minimum(whole.item.lengths, 5)).all()


def test_events_that_are_not_positive_are_not_assessed(method: Denoiser) -> None:
    whole = random_histories()
    weight = np.where(np.arange(len(whole.item.values)) % 3, 1.0, -1.0)
    decision = method.decide(histories(whole.item, weight))
    assert (decision.keep_weight[weight < 0] == 1).all()
    assert np.isnan(decision.influence[weight < 0]).all()


def test_unknown_settings_are_an_error_at_load(method: Denoiser) -> None:
    with pytest.raises(ConfigError, match="max_shar"):
        DENOISERS.settings(method.name, {"max_shar": 0.1})


def test_the_stage_converts_histories_to_denoised_rows(method: Denoiser) -> None:
    table = pa.table(
        [
            ["a", "b", "c"],
            [[1, 2], [], [3]],
            [[5, 6], [], [7]],
            [[0, 1], [], [0]],
            [[1.0, 2.0], [], [3.0]],
            [[-1, -1], [], [-1]],
            [[8], [], []],
        ],
        schema=HISTORY,
    )
    out = DenoiseStage.load("variant", method.name, DENOISERS.settings(method.name), (1.0, -1.0), model_arrays())(table)
    assert out.schema.equals(DENOISED_HISTORY)
    assert out.select(HISTORY.names).equals(table)
    assert out["variant"].to_pylist() == ["variant"] * 3
    assert out["keep_weight"].to_pylist() == [[1.0, 1.0], [], [1.0]]


def test_the_error_for_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no denoising method 'influense'") as error:
        DENOISERS.lookup("influense")
    assert "influence" in error.value.hint
