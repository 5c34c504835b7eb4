"""Bootstrap intervals: known coverage, pairing, seeds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayrec.evaluation.comparison import COMPARISON, COVERAGE, compare
from rayrec.evaluation.metrics import UserMetrics


def user_values(name: str, values: np.ndarray, items: int = 20) -> UserMetrics:
    rows = np.arange(len(values))
    top = np.full((len(values), 10), -1, np.int32)
    top[:, 0] = rows % items
    return UserMetrics(name, {"hr@1": values.astype(float)}, top, items, rows)


def row(table: pa.Table, system: str, metric: str, against: str | None = None) -> dict[str, float]:
    rows = [r for r in table.to_pylist() if (r["system"], r["metric"], r["baseline"]) == (system, metric, against)]
    assert len(rows) == 1
    return rows[0]


def test_the_interval_is_that_of_the_normal_distribution_for_many_users() -> None:
    values = np.random.default_rng(0).random(2000) < 0.3
    found = row(compare([user_values("a", values)], seed=1), "a", "hr@1")
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.003)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.003)


def test_a_constant_gain_has_a_paired_interval_of_zero_width() -> None:
    values = np.random.default_rng(0).random(50)
    table = compare([user_values("a", values), user_values("b", values + 0.1)], seed=1, baselines=["a"])
    found = row(table, "b", "hr@1", "a")
    assert (found["low"], found["value"], found["high"]) == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)


def test_the_interval_of_a_system_does_not_depend_on_which_others_are_compared() -> None:
    rng = np.random.default_rng(0)
    one, other = user_values("a", rng.random(30)), user_values("b", rng.random(30))
    assert row(compare([one], seed=3), "a", "hr@1") == pytest.approx(row(compare([one, other], seed=3), "a", "hr@1"))


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others() -> None:
    system = user_values("a", np.random.default_rng(0).random(30))
    assert compare([system], seed=1) == compare([system], seed=1)
    assert compare([system], seed=1) != compare([system], seed=2)


def test_the_coverage_interval_reaches_down_to_the_value_itself() -> None:
    table = compare([user_values("a", np.ones(200))], seed=1)
    found = row(table, "a", COVERAGE)
    assert found["value"] == 1.0
    assert found["low"] <= found["value"] <= found["high"]


def test_systems_without_users_have_no_rows() -> None:
    assert compare([user_values("a", np.zeros(0))], seed=1) == COMPARISON.empty_table()


def test_more_users_than_fit_in_one_chunk_of_resamples_are_all_drawn() -> None:
    values = np.ones(70_000)
    found = row(compare([user_values("a", values)], seed=0, resamples=120), "a", "hr@1")
    assert found["low"] == found["value"] == found["high"] == pytest.approx(1.0)
