"""Slate estimators: hand-computed values, single-rank equivalence, and unbiasedness under their assumptions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.enumerated_world import MODELS, make
from benchmarks.offpolicy_coverage import SLATES
from rayrec.errors import DataError
from rayrec.evaluation.off_policy import action_estimators
from rayrec.evaluation.off_policy.estimates import Contributions, confidence_interval
from rayrec.evaluation.off_policy.slate_estimators import (
    cascade_dr,
    conditional_weights,
    iips,
    prefix_weights,
    rips,
    sips,
    sn_iips,
    sn_rips,
    sn_sips,
)

Floats = npt.NDArray[np.float64]

REWARD = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 9.0]])
WEIGHT = np.array([[0.5, 2.0, 3.0], [2.0, 0.5, 9.0]])
MASK = np.array([[True, True, True], [True, True, False]])  # the second slate has two ranks
Q, V = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 9.0]]), np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 9.0]])
UNBIASED = {
    "independent": set(SLATES),
    "cascade": {"rips", "sn_rips", "cascade_dr", "sips", "sn_sips"},
    "standard": {"sips", "sn_sips"},
}


@pytest.mark.parametrize(
    ("found", "ranks"),
    [
        (sips(REWARD, WEIGHT, MASK), [3 / 2, 3 / 2, 6 / 2]),  # slate weights are 3 and 1
        (sn_sips(REWARD, WEIGHT, MASK), [3 / 4, 3 / 4, 6 / 4]),
        (rips(REWARD, WEIGHT, MASK), [0.5 / 2, 3 / 2, 6 / 2]),  # prefix weights are .5, 1, 3 and 2, 1, 1
        (sn_rips(REWARD, WEIGHT, MASK), [0.5 / 2.5, 3 / 2, 6 / 4]),
        (iips(REWARD, WEIGHT, MASK), [0.5 / 2, 1.5 / 2, 6 / 2]),
        (sn_iips(REWARD, WEIGHT, MASK), [0.5 / 2.5, 1.5 / 2.5, 6 / 4]),
        # Rank 1: 2 + .5 (1 - 1) and 0 + 2 (0 - 1); rank 2: .5 + 1 (0 - 1) and 2 + 1 (3 - 2); rank 3: 0 + 3 (2 - 1).
        (cascade_dr(REWARD, WEIGHT, Q, V, MASK), [(2 - 2) / 2, (-0.5 + 3) / 2, 3 / 2]),
    ],
    ids=lambda found: found.name if isinstance(found, Contributions) else "",
)
def test_each_estimator_equals_the_value_computed_by_hand(found: Contributions, ranks: list[float]) -> None:
    assert found.terms.tolist() == pytest.approx(ranks, abs=1e-12)
    assert found.value == pytest.approx(sum(ranks), abs=1e-12)


def interval(found: Contributions) -> tuple[float, float, float]:
    estimate = confidence_interval(found)
    return estimate.value, estimate.low, estimate.high


drawn = st.tuples(st.integers(2, 12), st.integers(1, 5), st.integers(0, 2**32))


def slates(shape: tuple[int, int, int]) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    rows, ranks, seed = shape
    rng = np.random.default_rng(seed)
    mask = np.arange(ranks) < rng.integers(1, ranks + 1, rows)[:, None]
    return rng.normal(size=(rows, ranks)), rng.uniform(0.2, 4, (rows, ranks)), mask


@given(drawn)
def test_unit_weights_give_the_mean_sum_of_rewards(shape: tuple[int, int, int]) -> None:
    reward, _, mask = slates(shape)
    ones = np.ones_like(reward)
    own = interval(action_estimators.on_policy(np.where(mask, reward, 0).sum(axis=1)))
    found = [kind(reward, ones, mask) for kind in (sips, sn_sips, rips, sn_rips, iips, sn_iips)]
    found.append(cascade_dr(reward, ones, 0 * reward, 0 * reward, mask))
    for each in found:
        assert interval(each) == pytest.approx(own, abs=1e-9)


@given(
    arrays(np.float64, 9, elements=st.floats(-5, 5)),
    arrays(np.float64, 9, elements=st.floats(0.125, 8)),
    arrays(np.float64, 9, elements=st.floats(-5, 5)),
)
def test_slates_of_one_rank_equal_single_actions(reward: Floats, weight: Floats, q: Floats) -> None:
    mask, v = np.ones((9, 1), bool), q[::-1]
    columns = (reward[:, None], weight[:, None])
    pairs = [(kind(*columns, mask), action_estimators.ips(reward, weight)) for kind in (sips, rips, iips)]
    pairs += [(kind(*columns, mask), action_estimators.snips(reward, weight)) for kind in (sn_sips, sn_rips, sn_iips)]
    doubly_robust = action_estimators.doubly_robust(reward, weight, q, v)
    pairs.append((cascade_dr(*columns, q[:, None], v[:, None], mask), doubly_robust))
    for slate, single in pairs:
        assert interval(slate) == pytest.approx(interval(single), abs=1e-12)


@given(drawn)
def test_cascade_dr_without_a_model_equals_rips(shape: tuple[int, int, int]) -> None:
    reward, weight, mask = slates(shape)
    without_model = cascade_dr(reward, weight, np.zeros_like(reward), np.zeros_like(reward), mask)
    assert interval(without_model) == pytest.approx(interval(rips(reward, weight, mask)), abs=1e-12)


@given(drawn)
def test_values_past_the_end_of_a_slate_are_never_read(shape: tuple[int, int, int]) -> None:
    reward, weight, mask = slates(shape)
    rubbish = np.where(mask, reward, np.nan), np.where(mask, weight, -np.inf)
    for kind in (sips, sn_sips, rips, sn_rips, iips, sn_iips):
        assert confidence_interval(kind(*rubbish, mask)) == confidence_interval(kind(reward, weight, mask))
    model = np.where(mask, 1.0, np.nan)
    assert np.isfinite(cascade_dr(*rubbish, model, model, mask).value)


@pytest.mark.parametrize("model", MODELS)
def test_expectations_over_all_slates_are_unbiased_under_each_estimators_assumption(model: str) -> None:
    """Every slate weighted by its Plackett-Luce probability; estimators whose assumption fails are clearly biased."""
    world = make(model, 3, contexts=2, items=4, ranks=3)
    chance, every = world.every
    for name, estimator in SLATES.items():
        found = estimator(every)
        off = abs(float(((chance @ found.numerator) / (chance @ found.denominator)).sum()) - world.truth)
        assert off < 1e-12 if name in UNBIASED[model] else off > 1e-3, name


def test_stronger_assumptions_give_lower_variance() -> None:
    world = make("independent", 0)
    chance, every = world.every
    spread = {}
    for name in ("iips", "rips", "cascade_dr", "sips"):
        total = SLATES[name](every).numerator.sum(axis=1)
        spread[name] = chance @ total**2 - (chance @ total) ** 2
    assert spread["iips"] < spread["rips"] < spread["sips"]
    assert spread["cascade_dr"] < spread["rips"]


@pytest.mark.parametrize(
    ("model", "names"), [("cascade", ("sn_rips", "cascade_dr")), ("standard", ("sips", "sn_sips"))]
)
def test_slate_intervals_have_nominal_coverage(model: str, names: tuple[str, ...]) -> None:
    world = make(model, 0)
    covered = dict.fromkeys(names, 0)
    for seed in range(300):
        sample = world.draw(500, np.random.default_rng([9, seed]))
        for name in names:
            found = confidence_interval(SLATES[name](sample))
            covered[name] += found.low <= world.truth <= found.high
    assert all(0.91 <= count / 300 <= 0.98 for count in covered.values()), covered


def test_conditional_weights_multiply_to_the_slate_weight() -> None:
    target, logging = np.array([[0.2, 0.5, np.nan]]), np.array([[0.4, 0.25, 0.0]])
    mask = np.array([[True, True, False]])
    weight = conditional_weights(target, logging, mask)
    assert weight.tolist() == [[0.5, 2.0, 1.0]]
    assert prefix_weights(weight, mask).tolist() == [[0.5, 1.0, 1.0]]


@pytest.mark.parametrize(("target", "logging"), [(0.5, 0.0), (0.5, 1.5), (-0.1, 0.5), (1.1, 0.5), (0.5, np.nan)])
def test_impossible_propensities_are_an_error_with_their_place(target: float, logging: float) -> None:
    with pytest.raises(DataError, match=r"impossible propensities(.|\n)*slate 1, rank 1"):
        conditional_weights(np.array([[0.5], [target]]), np.array([[0.5], [logging]]), np.ones((2, 1), bool))


def test_a_slate_with_a_gap_is_an_error() -> None:
    with pytest.raises(DataError, match="a slate has a gap"):
        rips(REWARD, WEIGHT, np.array([[True, True, True], [True, False, True]]))
