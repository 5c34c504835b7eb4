"""The arms compared on the rewards of the users who saw them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tea_tasting
from scipy import stats

from rayrec.evaluation.live_experiment import CUPED, PER_IMPRESSION, REWARD, LiveExperiment, live_experiment


def feedback(users: np.ndarray, arm: np.ndarray, reward: np.ndarray) -> pa.Table:
    """One row per item shown."""
    names = {"user_id": [f"u{n:05d}" for n in users], "arm": [("a", "b", "c")[code] for code in arm]}
    return pa.table({**names, "reward": pa.array(reward, pa.float32())})


def world(users: int, effect: float, seed: int = 0) -> tuple[pa.Table, dict[str, list[float]]]:
    """Each user saw one arm, in one to five impressions; past activity explains a part of the clicks."""
    rng = np.random.default_rng(seed)
    arm, past, shown = rng.integers(0, 2, users), rng.random(users), rng.integers(1, 6, users)
    row = np.repeat(np.arange(users), shown)
    click = rng.random(len(row)) < 0.6 * past[row] + effect * arm[row]
    return feedback(row, arm[row], click), {f"u{n:05d}": [float(past[n])] for n in range(users)}


def row(found: LiveExperiment, metric: str) -> dict[str, float]:
    (one,) = [r for r in found.comparison.to_pylist() if r["metric"] == metric and r["baseline"] == "a"]
    return dict(one)


def test_a_true_difference_in_rewards_is_found_with_p_and_decision() -> None:
    table, activity = world(2_000, 0.06)
    found = live_experiment(table, activity, {"a": 1, "b": 1}, "a", 0)
    assert found is not None
    assert found.decision.recommendation.startswith("Choose b")
    assert found.users == 2_000
    width = {metric: row(found, metric)["high"] - row(found, metric)["low"] for metric in (CUPED, REWARD)}
    assert width[CUPED] < 0.9 * width[REWARD]
    (valid,) = found.always_valid
    assert valid.low < row(found, CUPED)["low"] < row(found, CUPED)["high"] < valid.high


def test_rewards_per_impression_are_tested_by_the_delta_method() -> None:
    table, _ = world(1_000, 0.02)
    found = live_experiment(table, {}, {}, "a", 0)
    assert found is not None
    rows = table.to_pandas()
    ratio, variance = {}, {}
    for arm, of_arm in rows.groupby("arm"):
        by_user = of_arm.groupby("user_id")["reward"].agg(["sum", "count"]).astype(float)
        clicks, shown = by_user["sum"], by_user["count"]
        ratio[arm] = clicks.sum() / shown.sum()
        covariance = np.cov(clicks, shown)
        parts = covariance[0, 0] - 2 * ratio[arm] * covariance[0, 1] + ratio[arm] ** 2 * covariance[1, 1]
        variance[arm] = parts / shown.mean() ** 2 / len(by_user)
    z = (ratio["b"] - ratio["a"]) / np.sqrt(variance["a"] + variance["b"])
    assert row(found, PER_IMPRESSION)["value"] == pytest.approx(ratio["b"] - ratio["a"])
    assert row(found, PER_IMPRESSION)["p"] == pytest.approx(2 * stats.norm.sf(abs(z)), abs=2e-3)


def test_differences_and_p_values_are_those_of_tea_tasting() -> None:
    """Plain and CUPED means by Welch's test, and the ratio by the delta method, from an independent library."""
    table, activity = world(1_000, 0.02)
    found = live_experiment(table, activity, {}, "a", 0)
    assert found is not None
    users = (
        table.to_pandas()
        .groupby(["user_id", "arm"])["reward"]
        .agg(["sum", "count"])
        .reset_index()
        .astype({"sum": float})
    )
    users["past"] = users["user_id"].map(lambda user: activity[user][0])
    users = users.rename(columns={"sum": "reward", "count": "shown", "arm": "variant"})
    metrics = {
        REWARD: tea_tasting.Mean("reward"),
        CUPED: tea_tasting.Mean("reward", covariate="past"),
        PER_IMPRESSION: tea_tasting.RatioOfMeans("reward", "shown"),
    }
    result = tea_tasting.Experiment(metrics).analyze(users, control="a")
    for metric in metrics:
        ours, theirs = row(found, metric), result[metric]
        # Slopes differ by the degrees of freedom of one covariate; linearised values have each arm's own mean.
        assert ours["value"] == pytest.approx(theirs.effect_size, abs=2e-3), metric
        assert ours["p"] == pytest.approx(theirs.pvalue, rel=0.06), metric


def test_users_who_saw_two_arms_are_left_out_and_counted() -> None:
    table, activity = world(400, 0.0)
    twice = feedback(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.ones(4))
    found = live_experiment(pa.concat_tables([table, twice]), activity, {}, "a", 0)
    assert found is not None
    assert (found.users, found.left_out) == (398, 2)
    assert "2 saw several" in found.sentences[0]


def test_without_a_difference_the_share_of_findings_is_the_level() -> None:
    found = []
    for seed in range(120):
        table, activity = world(300, 0.0, seed)
        result = live_experiment(table, activity, {}, "a", seed, resamples=50)
        assert result is not None
        found.append(row(result, CUPED)["p"] < 0.05)
    assert np.mean(found) <= 0.11  # 3 standard errors above 5%


def test_arms_whose_users_are_not_in_their_shares_give_no_recommendation() -> None:
    table, activity = world(2_000, 0.06)
    found = live_experiment(table, activity, {"a": 1, "b": 3}, "a", 0)
    assert found is not None
    assert found.decision.recommendation.startswith("No decision")


def test_one_arm_is_no_experiment() -> None:
    table, activity = world(50, 0.0)
    only = table.filter(pa.compute.equal(table["arm"], "a"))
    assert live_experiment(only, activity, {}, "a", 0) is None
