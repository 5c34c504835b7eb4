"""The A/B decision and its segments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from rayrec.evaluation.ab_decision import decide
from rayrec.evaluation.comparison import COMPARISON, compare
from rayrec.evaluation.metrics import UserMetrics
from rayrec.evaluation.segments import MIN_SEGMENT_USERS, SegmentFeatures, segments
from rayrec.evaluation.significance import holm


def arm(name: str, values: np.ndarray, rows: np.ndarray | None = None) -> UserMetrics:
    top = np.zeros((len(values), 10), np.int32)
    return UserMetrics(name, {"ndcg@10": values}, top, 5, np.arange(len(values)) if rows is None else rows)


def users(seed: int = 0, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).random(count)


def noise(seed: int, size: float = 0.05, count: int = 400) -> np.ndarray:
    return size * np.random.default_rng(seed).normal(size=count)


def test_a_clear_gain_is_chosen_with_its_size_and_interval_in_percent() -> None:
    base = users()
    table = compare([arm("a", base), arm("b", base * 1.1 + noise(1, 0.01))], seed=0, baselines=["a"])
    found = decide(table, "a", ["a", "b"], "ndcg@10")
    assert found is not None
    assert found.recommendation == "Choose b: it is better than a."
    (conclusion,) = found.conclusions
    assert conclusion.conclusion == "better"
    assert conclusion.sentence.startswith("b − a: +9.8% nDCG@10")
    assert "95% interval +9.7% … +10.0%" in conclusion.sentence
    assert "p < .001" in conclusion.sentence


def test_without_a_clear_difference_the_sentence_names_the_detectable_effect() -> None:
    base = users()
    table = compare([arm("a", base), arm("b", base + noise(1))], seed=0, baselines=["a"])
    found = decide(table, "a", ["a", "b"], "ndcg@10")
    assert found is not None
    assert found.recommendation == "Keep a: no arm is significantly better."
    assert "not significant" in found.conclusions[0].sentence
    assert "With 400 users" in found.conclusions[0].sentence


def test_arms_with_the_same_slates_have_no_power_to_speak_of() -> None:
    base = users()
    found = decide(compare([arm("a", base), arm("b", base)], seed=0, baselines=["a"]), "a", ["b"], "ndcg@10")
    assert found is not None
    assert found.recommendation == "Keep a: no arm is significantly better."
    assert found.conclusions[0].sentence.startswith("b − a: nDCG@10 is the same for every user")
    assert "power" not in found.conclusions[0].sentence


def test_an_arm_that_is_worse_is_not_recommended() -> None:
    base = users()
    found = decide(compare([arm("a", base), arm("b", base - 0.1)], seed=0, baselines=["a"]), "a", ["b"], "ndcg@10")
    assert found is not None
    assert found.recommendation == "Keep a: every other arm is worse."


def test_a_gain_with_a_worse_segment_is_not_recommended() -> None:
    base, gain = users(), np.where(np.arange(400) < 60, -0.2, 0.2) + noise(3, 0.01)
    arms = [arm("a", base), arm("b", base + gain)]
    rows = compare(arms, seed=0, baselines=["a"]).to_pylist()
    newcomers = np.arange(400) < 60
    for name, chosen in (("first week", newcomers), ("first month", ~newcomers)):
        inside = [one.take(chosen) for one in arms]
        rows += compare(inside, seed=0, baselines=["a"], segment=name, metrics=["ndcg@10"]).to_pylist()
    found = decide(pa.Table.from_pylist(rows, COMPARISON), "a", ["b"], "ndcg@10")
    assert found is not None
    assert "worse for some segments" in found.recommendation
    assert found.conclusions[0].worse_segments == ("first week",)
    assert "It is worse in the segments first week" in found.conclusions[0].sentence


def test_a_segment_that_is_too_small_to_show_a_loss_is_named_with_the_loss_that_could_be_missed() -> None:
    base = users()
    arms = [arm("a", base), arm("b", base + 0.2 + noise(3, 0.01))]
    rows = compare(arms, seed=0, baselines=["a"]).to_pylist()
    spread = noise(5, 0.8)
    noisy = [one.take(np.arange(40)) for one in (arms[0], arm("b", base + spread - spread[:40].mean()))]
    rows += compare(noisy, seed=0, baselines=["a"], segment="first week", metrics=["ndcg@10"], family=8).to_pylist()
    found = decide(pa.Table.from_pylist(rows, COMPARISON), "a", ["b"], "ndcg@10")
    assert found is not None
    (conclusion,) = found.conclusions
    assert conclusion.small_segments == ("first week",)
    (row,) = (row for row in rows if row["segment"] == "first week" and row["baseline"] == "a")
    missed = row["min_detectable_effect"] / base[:40].mean()
    assert (
        f"to exclude a loss of 10%, with the loss that has 80% power: first week ({missed:.1%})" in conclusion.sentence
    )


def guarded(name: str, quality: np.ndarray, tail: np.ndarray) -> UserMetrics:
    top = np.zeros((len(quality), 10), np.int32)
    return UserMetrics(name, {"ndcg@10": quality, "tail@10": tail}, top, 5, np.arange(len(quality)))


@pytest.mark.parametrize(
    ("change", "spread", "finding", "words"),
    [
        (-0.198, 0.02, "violated", "Keep a for now: b is better, but violates a guardrail: share of tail"),
        (-0.02, 0.02, "held", "Choose b: it is better than a."),
        (
            -0.02,
            2.0,
            "not shown",
            "Choose b: it is better than a. First check what is not shown to hold: share of tail",
        ),
    ],
)
def test_a_guardrail_metric_takes_part_in_the_decision(change: float, spread: float, finding: str, words: str) -> None:
    base, tail = users(), 0.5 + noise(7, 0.01)
    moved = noise(8, spread)
    lost = tail * (1 + change) + moved - moved.mean()
    arms = [guarded("a", base, tail), guarded("b", base + 0.1 + noise(1, 0.01), lost)]
    found = decide(compare(arms, seed=0, baselines=["a"]), "a", ["a", "b"], "ndcg@10")
    assert found is not None
    assert found.recommendation.startswith(words)
    (guardrail,) = (g for g in found.conclusions[0].guardrails if g.metric == "tail@10")
    assert guardrail.finding == finding


def test_users_that_do_not_have_the_shares_give_no_recommendation() -> None:
    base = users()
    table = compare([arm("a", base), arm("b", base + 0.2)], seed=0, baselines=["a"])
    found = decide(table, "a", ["a", "b"], "ndcg@10", sample_ratio_p=1e-5)
    assert found is not None
    assert found.recommendation.startswith("No decision")


@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_stated_power_is_that_of_the_corrected_test(count: int) -> None:
    base = users()
    arms = [arm("a", base), *(arm(f"b{n}", base + noise(n + 10)) for n in range(count))]
    row = next(row for row in compare(arms, seed=0, baselines=["a"]).to_pylist() if row["p"] is not None)
    error = float((arms[1].values["ndcg@10"] - base).std(ddof=1) / np.sqrt(len(base)))
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, count))
    z[:, 0] += row["min_detectable_effect"] / error
    found = np.mean([holm(p)[0] < 0.05 for p in 2 * stats.norm.sf(np.abs(z))])
    assert found == pytest.approx(0.8, abs=0.03)


def test_the_intervals_of_all_arms_hold_together() -> None:
    base, rng = users(count=150), np.random.default_rng(1)
    together = []
    for _ in range(60):
        arms = [arm("a", base), *(arm(f"b{n}", base + 0.05 * rng.normal(size=150)) for n in range(4))]
        rows = compare(arms, seed=0, baselines=["a"], metrics=["ndcg@10"], resamples=20).to_pylist()
        together.append(all(row["low"] <= 0 <= row["high"] for row in rows if row["baseline"]))
    assert np.mean(together) >= 0.88  # plain 95% intervals hold together in 81%


def test_the_interval_of_thirty_users_covers_the_true_difference() -> None:
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        one, other = ((rng.random(30) < share) * rng.beta(1, 3, 30) for share in (0.5, 0.6))
        rows = compare([arm("a", one), arm("b", other)], seed=0, baselines=["a"], metrics=["ndcg@10"], resamples=50)
        (row,) = [row for row in rows.to_pylist() if row["baseline"]]
        held.append(row["low"] <= 0.1 * 0.25 <= row["high"])
    assert np.mean(held) >= 0.93


def test_p_values_of_three_arms_are_corrected() -> None:
    base = users()
    arms = [arm("a", base), *(arm(f"b{n}", base + noise(n + 10)) for n in range(3))]
    rows = [row for row in compare(arms, seed=0, baselines=["a"]).to_pylist() if row["p"] is not None]
    raw, corrected = ([row[name] for row in rows] for name in ("p", "p_adjusted"))
    assert min(corrected) == pytest.approx(min(1, 3 * min(raw)))


def test_arms_on_different_users_are_compared_as_two_groups() -> None:
    values, rows = users(count=600), np.arange(600)
    one, other = arm("a", values[::2], rows[::2]), arm("b", values[1::2] + 0.2, rows[1::2])
    (row,) = [
        r
        for r in compare([one, other], seed=0, baselines=["a"]).to_pylist()
        if r["baseline"] == "a" and r["metric"] == "ndcg@10"
    ]
    assert row["users"] == 600
    half = 1.96 * np.hypot(values[::2].std(), values[1::2].std()) / np.sqrt(300)
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=0.1)
    assert row["low"] < 0.2 < row["high"]


def test_a_single_arm_has_no_decision() -> None:
    assert decide(compare([arm("a", users())], seed=0, baselines=["a"]), "a", ["a"], "ndcg@10") is None


def test_segments_are_partitions_and_small_ones_are_left_out() -> None:
    rng = np.random.default_rng(0)
    count = 500
    traits = SegmentFeatures(
        rng.choice([2, 9, 50, 120], count),
        rng.uniform(0, 200, count),
        rng.integers(0, 4, count).astype(np.int32),
        np.zeros((count, 1)),
    )
    found = dict(segments(traits, ["w", "x", "y", "z"]))
    assert sum(users.sum() for name, users in found.items() if "events" in name) == count
    assert sum(users.sum() for name, users in found.items() if name.startswith("mostly")) == count
    events = np.array([1] * (MIN_SEGMENT_USERS - 1) + [7] * MIN_SEGMENT_USERS)
    few = SegmentFeatures(events, np.zeros(len(events)), np.full(len(events), -1), np.zeros((len(events), 1)))
    assert list(dict(segments(few, []))) == ["5–19 events", "first week"]
