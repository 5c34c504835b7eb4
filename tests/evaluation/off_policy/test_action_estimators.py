"""Single-action estimators: hand-computed values, equivalences, exact expectations, coverage of intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.action_estimators import (
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    on_policy,
    self_normalised_dr,
    snips,
    switch_dr,
)
from rayrec.evaluation.off_policy.estimates import Contributions, confidence_interval

Floats = npt.NDArray[np.float64]

REWARD, WEIGHT = np.array([1.0, 0.0, 2.0, 4.0]), np.array([0.5, 3.0, 1.0, 0.5])
Q_LOGGED, Q_TARGET = np.array([0.5, 1.0, 2.0, 2.0]), np.array([1.0, 1.0, 0.5, 1.5])

columns = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-5, 5)),
        arrays(np.float64, n, elements=st.floats(0.125, 8)),
        arrays(np.float64, n, elements=st.floats(-5, 5)),
        arrays(np.float64, n, elements=st.floats(-5, 5)),
    )
)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (on_policy(REWARD), 7 / 4),
        (ips(REWARD, WEIGHT), 4.5 / 4),
        (clipped_ips(REWARD, WEIGHT, 0.75), (0.5 + 0 + 1.5 + 2) / 4),
        (snips(REWARD, WEIGHT), 4.5 / 5),
        (direct_method(Q_TARGET), 4 / 4),
        (doubly_robust(REWARD, WEIGHT, Q_LOGGED, Q_TARGET), (4 + 0.25 - 3 + 0 + 1) / 4),
        (self_normalised_dr(REWARD, WEIGHT, Q_LOGGED, Q_TARGET), 4 / 4 + (0.25 - 3 + 0 + 1) / 5),
        (switch_dr(REWARD, WEIGHT, Q_LOGGED, Q_TARGET, 1.0), (4 + 0.25 + 0 + 1) / 4),
    ],
    ids=lambda found: found.name if isinstance(found, Contributions) else "",
)
def test_each_estimator_equals_the_value_computed_by_hand(found: Contributions, value: float) -> None:
    assert found.value == pytest.approx(value, abs=1e-12)


def test_the_interval_of_snips_is_the_textbook_one() -> None:
    found = confidence_interval(snips(REWARD, WEIGHT))
    influence = WEIGHT * (REWARD - 0.9) / WEIGHT.mean()
    assert found.standard_error == pytest.approx(influence.std(ddof=1) / 2, abs=1e-12)
    t = 3.182446305284263  # Student's, 3 degrees of freedom
    assert found.high - found.value == pytest.approx(t * found.standard_error, abs=1e-12)
    assert found.effective_sample_size == pytest.approx(25 / 10.5, abs=1e-12)
    assert found.observations == 4


def interval(found: Contributions) -> tuple[float, float, float]:
    estimate = confidence_interval(found)
    return estimate.value, estimate.low, estimate.high


@given(columns)
def test_unit_weights_give_the_mean_reward_and_its_confidence_interval(drawn: tuple[Floats, ...]) -> None:
    reward = drawn[0]
    ones = np.ones_like(reward)
    for found in (ips(reward, ones), snips(reward, ones), clipped_ips(reward, ones, 2.0)):
        assert interval(found) == pytest.approx(interval(on_policy(reward)), abs=1e-12)


@given(columns)
def test_bounds_and_models_without_effect_change_nothing(drawn: tuple[Floats, ...]) -> None:
    reward, weight, q_logged, q_target = drawn
    nothing, model = np.zeros_like(reward), (q_logged, q_target)
    pairs = [
        (clipped_ips(reward, weight, np.inf), ips(reward, weight)),
        (doubly_robust(reward, weight, nothing, nothing), ips(reward, weight)),
        (self_normalised_dr(reward, weight, nothing, nothing), snips(reward, weight)),
        (switch_dr(reward, weight, *model, np.inf), doubly_robust(reward, weight, *model)),
        (switch_dr(reward, weight, *model, 0.1), direct_method(q_target)),
        (snips(reward, 3 * weight), snips(reward, weight)),
    ]
    for left, right in pairs:
        assert interval(left) == pytest.approx(interval(right), abs=1e-9)


@given(columns)
def test_single_row_clusters_change_nothing_and_copied_rows_leave_the_standard_error(drawn: tuple[Floats, ...]) -> None:
    reward, weight = drawn[:2]
    user = np.arange(len(reward))[::-1]
    alone, doubled = snips(reward, weight), snips(np.tile(reward, 2), np.tile(weight, 2))
    error = pytest.approx(confidence_interval(alone).standard_error, abs=1e-12)
    assert confidence_interval(alone, user).standard_error == error
    assert confidence_interval(doubled, np.tile(user, 2)).standard_error == error


def world(seed: int = 0, contexts: int = 5, actions: int = 6) -> tuple[Floats, Floats, Floats, Floats]:
    """Logging, target, mean reward and a wrong reward model, each [contexts, actions]; contexts are equally likely."""
    rng = np.random.default_rng(seed)
    logging, target = (rng.dirichlet(np.full(actions, 4.0), contexts) for _ in range(2))
    mean = rng.uniform(0.1, 0.9, (contexts, actions))
    return logging, target, mean, mean + rng.normal(0, 0.3, mean.shape)


def test_expectations_over_all_actions_equal_the_true_value() -> None:
    """Each (context, action) with its probability: IPS, SNIPS, DR with a wrong model, all with the right one."""
    logging, target, mean, model = world()
    chance, truth = logging.ravel() / len(logging), (target * mean).sum() / len(mean)
    reward, weight = mean.ravel(), (target / logging).ravel()

    def expected(found: Contributions) -> float:
        below, above = chance @ found.denominator, chance @ found.numerator
        return float((above / below).sum())

    def all_dr(q: Floats) -> list[Contributions]:
        known = (reward, weight, q.ravel(), np.repeat((target * q).sum(axis=1), q.shape[1]))
        return [doubly_robust(*known), self_normalised_dr(*known), switch_dr(*known, 1.0)]

    unbiased = [ips(reward, weight), snips(reward, weight), *all_dr(model)[:2], *all_dr(mean)]
    assert [expected(found) for found in unbiased] == pytest.approx([truth] * len(unbiased), abs=1e-12)
    assert expected(clipped_ips(reward, weight, 1.0)) < truth - 0.01
    assert abs(expected(all_dr(model)[2]) - truth) > 1e-4


def draw(slates: int, seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    logging, target, mean, model = world()
    rng = np.random.default_rng([1, seed])
    context = rng.integers(len(mean), size=slates)
    action = (rng.random(slates)[:, None] > np.cumsum(logging, axis=1)[context]).sum(axis=1)
    reward = (rng.random(slates) < mean[context, action]).astype(np.float64)
    expected = (target * model).sum(axis=1)
    return reward, (target / logging)[context, action], model[context, action], expected[context]


@pytest.mark.parametrize(
    "estimator", [lambda r, w, q, v: ips(r, w), lambda r, w, q, v: snips(r, w), doubly_robust, self_normalised_dr]
)
def test_intervals_have_nominal_coverage(estimator: Callable[..., Contributions]) -> None:
    _, target, mean, _ = world()
    truth = (target * mean).sum() / len(mean)
    found = [confidence_interval(estimator(*draw(400, seed))) for seed in range(400)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.92 <= covered <= 0.98
    error = np.mean([each.standard_error for each in found])
    assert np.std([each.value for each in found]) == pytest.approx(error, rel=0.1)


def test_clustered_intervals_have_nominal_coverage_and_unclustered_ones_do_not() -> None:
    """Ten rows per user that differ between users only."""
    covered, plainly = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        user = np.repeat(np.arange(60), 10)
        reward = rng.normal(size=60)[user] + 0.3 * rng.normal(size=600)
        clustered, plain = confidence_interval(on_policy(reward), user), confidence_interval(on_policy(reward))
        covered += clustered.low <= 0 <= clustered.high
        plainly += plain.low <= 0 <= plain.high
    assert 0.92 <= covered / 300 <= 0.98
    assert plainly / 300 < 0.7


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ips(np.ones(3), np.ones(2)), r"differ in shape: reward \(3,\), weight \(2,\)"),
        (lambda: ips(np.ones(2), np.array([1.0, -1.0])), "weight is -1.0"),
        (lambda: snips(np.array([1.0, np.nan]), np.ones(2)), "reward is nan"),
        (lambda: clipped_ips(np.ones(2), np.ones(2), 0.0), "the cap of the weights is 0.0"),
        (lambda: snips(np.ones(2), np.zeros(2)).value, "every weight is 0"),
        (lambda: confidence_interval(ips(np.ones(1), np.ones(1))), "has 1 independent observation"),
        (lambda: on_policy(np.ones(0)).value, "nothing was logged"),
    ],
)
def test_an_impossible_estimate_is_an_error_with_its_reason(call: Callable[[], object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        call()
