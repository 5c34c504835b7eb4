"""What every denoising method promises, whichever it is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from planted_noise import histories, model_arrays, random_histories

from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import DENOISED, HISTORY
from rayrec.denoising import METHODS, REASONS, Denoiser, Histories
from rayrec.denoising.stage import DenoiseStage, denoiser_kind
from rayrec.errors import ConfigError


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Denoiser:
    return METHODS[request.param].load(model_arrays(), {})


def part(whole: Histories, users: np.ndarray) -> Histories:
    def take(ragged: Ragged) -> Ragged:
        return Ragged.from_lengths(np.concatenate([ragged[user] for user in users]), ragged.lengths[users])

    return Histories(take(whole.item), take(whole.ts), take(whole.weight), take(whole.value), take(whole.dwell_ms))


def test_every_event_gets_a_verdict_within_bounds(method: Denoiser) -> None:
    whole = random_histories()
    verdict = method.judge(whole)
    for array, dtype in ((verdict.keep, "f4"), (verdict.influence, "f4"), (verdict.harm, "f4"), (verdict.reason, "i1")):
        assert array.shape == whole.item.values.shape
        assert array.dtype == np.dtype(dtype)
    assert ((verdict.keep >= 0) & (verdict.keep <= 1)).all()
    assert ((verdict.reason >= 0) & (verdict.reason < len(REASONS))).all()
    assert np.array_equal(verdict.keep < 1, verdict.reason > 0)
    assert np.isfinite(verdict.harm).all()


def test_a_verdict_never_depends_on_who_shares_the_batch(method: Denoiser) -> None:
    whole = random_histories(users=120, longest=60)
    together = method.judge(whole)
    random = np.random.default_rng(3)
    for users in (np.array([5]), random.permutation(120), random.choice(120, 17, replace=False)):
        alone = method.judge(part(whole, users))
        events = np.concatenate([np.arange(whole.item.offsets[u], whole.item.offsets[u + 1]) for u in users])
        assert np.array_equal(alone.keep, together.keep[events])
        assert np.array_equal(alone.reason, together.reason[events])
        assert np.array_equal(alone.influence, together.influence[events], equal_nan=True)
        assert np.array_equal(alone.harm, together.harm[events])


def test_the_same_batch_gets_the_same_verdict_again(method: Denoiser) -> None:
    first, second = method.judge(random_histories()), method.judge(random_histories())
    assert np.array_equal(first.keep, second.keep)
    assert np.array_equal(first.influence, second.influence, equal_nan=True)


def test_empty_and_tiny_histories_are_left_alone(method: Denoiser) -> None:
    item = Ragged.from_lengths(np.array([3, 4, 4], np.int32), [0, 1, 2, 0])
    assert method.judge(histories(item)).keep.tolist() == [1, 1, 1]
    nobody = Ragged.from_lengths(np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert len(method.judge(histories(nobody)).keep) == 0


def test_no_more_goes_than_the_cap_allows(method: Denoiser) -> None:
    whole = random_histories(users=200, longest=40)
    verdict = method.judge(whole)
    gone = np.bincount(whole.item.rows, verdict.keep < 1, minlength=200)
    assert (gone <= 0.2 * whole.item.lengths + 1e-9).all()
    assert (whole.item.lengths - gone >= np.minimum(whole.item.lengths, 5)).all()


def test_events_that_are_not_positive_are_not_judged(method: Denoiser) -> None:
    whole = random_histories()
    weight = np.where(np.arange(len(whole.item.values)) % 3, 1.0, -1.0)
    verdict = method.judge(histories(whole.item, weight))
    assert (verdict.keep[weight < 0] == 1).all()
    assert np.isnan(verdict.influence[weight < 0]).all()


def test_unknown_settings_are_refused_before_any_work(method: Denoiser) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'max_shar'"):
        method.check({"max_shar": 0.1})


def test_the_stage_turns_histories_into_denoised_rows(method: Denoiser) -> None:
    table = pa.table(
        [
            ["a", "b", "c"],
            [[1, 2], [], [3]],
            [[5, 6], [], [7]],
            [[0, 1], [], [0]],
            [[1.0, 2.0], [], [3.0]],
            [[-1, -1], [], [-1]],
        ],
        schema=HISTORY,
    )
    out = DenoiseStage.load("variant", method.name, {}, (1.0, -1.0), model_arrays())(table)
    assert out.schema.equals(DENOISED)
    assert out.select(HISTORY.names).equals(table)
    assert out["variant"].to_pylist() == ["variant"] * 3
    assert out["keep"].to_pylist() == [[1.0, 1.0], [], [1.0]]


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no denoising method 'influense'") as error:
        denoiser_kind("influense")
    assert "influence" in error.value.do
