"""Whether logs can say anything: sample sizes, wrong propensities, missing support."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.errors import DataError
from rayrec.evaluation.off_policy.action_estimators import ips
from rayrec.evaluation.off_policy.diagnostics import clipping_sensitivity, diagnose, support_problem, unsupported_mass
from rayrec.evaluation.off_policy.estimates import effective_sample_size


def logged(rows: int = 5_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a target that prefers the last of four actions, and the logged propensities."""
    logging, target = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    action = np.random.default_rng(seed).choice(4, size=rows, p=logging)
    return (target / logging)[action], logging[action]


def test_the_effective_sample_size_is_kish_s() -> None:
    assert effective_sample_size(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6, abs=1e-12)
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7, abs=1e-12)
    assert effective_sample_size(np.array([[1.0, 0.0], [1.0, 5.0]])) == pytest.approx(1, abs=1e-12)
    assert effective_sample_size(np.zeros(3)) == effective_sample_size(np.zeros(0)) == 0


def test_right_propensities_have_a_mean_weight_of_one_and_wrong_ones_are_found_out() -> None:
    weight, _ = logged()
    right, wrong = diagnose(weight), diagnose(weight * 1.2)
    assert right.mean_weight.low < 1 < right.mean_weight.high
    assert right.p_value > 0.05
    assert wrong.p_value < 1e-6
    assert (right.largest_share, right.zero_share) == pytest.approx((4 / weight.sum(), 0))


def test_the_test_of_the_mean_weight_is_as_strict_as_it_says() -> None:
    found = np.array([diagnose(logged(500, seed)[0]).p_value for seed in range(400)])
    assert 0.02 <= (found < 0.05).mean() <= 0.08


def test_clustered_weights_are_tested_as_clusters() -> None:
    weight, _ = logged(50)
    copies, user = np.repeat(weight, 20), np.repeat(np.arange(50), 20)
    assert diagnose(copies, user).p_value == pytest.approx(diagnose(weight).p_value, abs=1e-9)
    assert diagnose(np.ones(5)).p_value == 1
    assert diagnose(np.zeros(5)).p_value == 0


def test_clipping_ends_at_the_unclipped_value() -> None:
    weight, _ = logged()
    reward = weight  # what the target prefers earns more: every cap takes something away
    found = clipping_sensitivity(reward, weight, [0.5, 1, 2, 100])
    values = [each.value for each in found]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(ips(reward, weight).value, abs=1e-12)
    assert len(set(values)) == 4


def test_the_mass_without_support_is_what_logging_never_does() -> None:
    target, logging = np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]), np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert unsupported_mass(target, logging) == pytest.approx((0.5 + 0.6) / 2, abs=1e-12)
    with pytest.raises(DataError, match="no probability on any action"):
        unsupported_mass(np.zeros((1, 2)), np.ones((1, 2)))


@pytest.mark.parametrize(
    ("weight", "logging", "says"),
    [
        (np.ones(0), np.ones(0), "nothing was logged"),
        (np.zeros(50), np.full(50, 0.5), "every weight is 0"),
        (np.tile([0.0, 1.0], 50), np.ones(100), "left nothing to chance"),
        (np.array([1000.0, *np.ones(99)]), np.full(100, 0.5), "effective sample size is 1.2, below 30"),
        (np.stack([np.ones(100), np.zeros(100)], axis=1), np.full((100, 2), 0.5), "effective sample size is 0.0"),
    ],
)
def test_missing_support_is_refused_in_words(weight: np.ndarray, logging: np.ndarray, says: str) -> None:
    assert says in str(support_problem(weight, logging))


def test_logs_with_support_are_not_refused_nor_a_target_that_is_the_logging_policy() -> None:
    assert support_problem(*logged()) is None
    assert support_problem(np.ones(50), np.ones(50)) is None
    assert support_problem(np.ones(10), np.full(10, 0.5)) is not None
    assert support_problem(np.ones(10), np.full(10, 0.5), least=5) is None
