"""Support of the target policy by the logs: effective sample size, and reasons for missing estimates."""

from __future__ import annotations

import numpy as np
import pytest

from rayrec.evaluation.off_policy.estimates import effective_sample_size, support_problem


def logged(rows: int = 5_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a target that prefers the last of four actions, and the logged propensities."""
    logging, target = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4])
    action = np.random.default_rng(seed).choice(4, size=rows, p=logging)
    return (target / logging)[action], logging[action]


def test_the_effective_sample_size_is_kishs() -> None:
    assert effective_sample_size(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6, abs=1e-12)
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7, abs=1e-12)
    assert effective_sample_size(np.array([[1.0, 0.0], [1.0, 5.0]])) == pytest.approx(1, abs=1e-12)
    assert effective_sample_size(np.zeros(3)) == effective_sample_size(np.zeros(0)) == 0


@pytest.mark.parametrize(
    ("weight", "logging", "says"),
    [
        (np.ones(0), np.ones(0), "nothing was logged"),
        (np.zeros(50), np.full(50, 0.5), "every weight is 0"),
        (np.tile([0.0, 1.0], 50), np.ones(100), "is deterministic"),
        (np.array([1000.0, *np.ones(99)]), np.full(100, 0.5), "effective sample size is 1.2, below 30"),
        (np.stack([np.ones(100), np.zeros(100)], axis=1), np.full((100, 2), 0.5), "effective sample size is 0.0"),
    ],
)
def test_missing_support_has_a_reason(weight: np.ndarray, logging: np.ndarray, says: str) -> None:
    assert says in str(support_problem(weight, logging))


def test_supported_targets_and_the_logging_policy_have_no_problem() -> None:
    assert support_problem(*logged()) is None
    assert support_problem(np.ones(50), np.ones(50)) is None
    assert support_problem(np.ones(10), np.full(10, 0.5)) is not None
