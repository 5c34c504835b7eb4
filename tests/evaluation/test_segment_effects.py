"""Shrunken effects by segment: known answers, less error than the raw ones, and a test of interaction at its level."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rayrec.evaluation.comparison import COMPARISON
from rayrec.evaluation.segment_effects import interaction_sentences, segment_effects, shrink
from rayrec.evaluation.segments import segment_family
from rayrec.evaluation.significance import min_detectable_effect

NAMES = ("1–4 events", "5–19 events", "20–99 events", "100 events or more")


def test_equal_effects_are_shrunk_to_their_weighted_mean() -> None:
    found = shrink(np.array([0.1, 0.1, 0.1]), np.array([0.1, 0.2, 0.3]))
    assert found.value == pytest.approx([0.1] * 3)
    assert found.interaction_p == 1
    assert found.error == pytest.approx([np.sqrt(1 / (100 + 25 + 1 / 0.09))] * 3)


def test_precise_different_effects_stay_as_they_are() -> None:
    value, error = np.array([-1.0, 0.0, 2.0]), np.array([0.01, 0.01, 0.01])
    found = shrink(value, error)
    assert found.value == pytest.approx(value, abs=1e-3)
    assert found.error == pytest.approx(error, rel=1e-2)
    assert found.interaction_p < 1e-6


def test_shrunken_effects_are_nearer_to_the_truth_and_covered() -> None:
    rng = np.random.default_rng(0)
    raw, shrunk, covered = [], [], []
    for _ in range(1_000):
        error = rng.uniform(0.5, 2, 12)
        truth = 1 + 0.5 * rng.normal(size=12)
        value = truth + error * rng.normal(size=12)
        found = shrink(value, error)
        raw.append((value - truth) ** 2)
        shrunk.append((found.value - truth) ** 2)
        covered.append(np.abs(found.value - truth) < 1.96 * found.error)
    assert np.mean(shrunk) < 0.5 * np.mean(raw)
    assert 0.92 < np.mean(covered) < 0.98


def test_the_test_of_interaction_has_its_level() -> None:
    rng = np.random.default_rng(1)
    p = [shrink(rng.normal(size=6) * 0.3, np.full(6, 0.3)).interaction_p for _ in range(2_000)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.015)


def comparison(effects: tuple[float, ...], error: float) -> pa.Table:
    level = 0.05 / len(NAMES)
    rows = [
        {
            **{"system": "llm", "baseline": "control", "metric": "ndcg@10", "segment": name, "users": 100},
            **{"value": value, "low": value - 1, "high": value + 1},
            "min_detectable_effect": min_detectable_effect(error, level),
        }
        for name, value in (("", 9.0), *zip(NAMES, effects, strict=True))
    ]
    return pa.Table.from_pylist(rows, COMPARISON)


def test_effects_are_read_from_a_comparison_with_its_own_errors() -> None:
    effects = (0.1, -0.2, 0.3, 0.0)
    found = segment_effects(comparison(effects, 0.2), "control", "ndcg@10")
    expected = shrink(np.array(effects), np.full(4, 0.2))
    assert [effect.shrunk for effect in found] == pytest.approx(expected.value.tolist())
    assert [effect.measured for effect in found] == list(effects)
    assert [(effect.arm, effect.family, effect.users) for effect in found] == [("llm", "history length", 100)] * 4
    assert interaction_sentences(found) == []
    (sentence,) = interaction_sentences(segment_effects(comparison((1.0, -1.0, 0.0, 0.0), 0.1), "control", "ndcg@10"))
    assert sentence.startswith("llm: the effect depends on history length")
    assert segment_effects(comparison(effects, 0.2), "other", "ndcg@10") == ()


def test_segments_of_one_definition_are_one_family() -> None:
    assert {segment_family(name) for name in NAMES} == {"history length"}
    assert segment_family("first month") == "tenure"
    assert segment_family("mostly Drama") == segment_family("mostly other categories") == "main category"
