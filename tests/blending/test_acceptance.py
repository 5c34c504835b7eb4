"""The calibrated probability of acceptance, and slates that withhold what is below it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_slates import codes_of, stage
from scored_candidates import PERSONAL, candidates, window

from rayrec.blending.acceptance import AcceptanceCurve, fit_acceptance, log_shares
from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.blender import Blender
from rayrec.evaluation.metrics import RelevantItems, shown_metrics
from rayrec.numerics.ragged import Ragged
from rayrec.slates.assembly import SlateAssembler
from rayrec.slates.rule_counts import WITHHELD, rule_effects


def test_shares_are_a_softmax_in_each_row() -> None:
    scores = Ragged.from_lengths(np.array([0, 0, 1000, 1, 2], np.float32), [2, 0, 1, 2])
    assert np.exp(log_shares(scores)) == pytest.approx([0.5, 0.5, 1, 1 / (1 + np.e), np.e / (1 + np.e)])
    assert len(log_shares(Ragged.from_lengths(np.zeros(0, np.float32), [0, 0]))) == 0


def test_the_curve_finds_the_probabilities_that_made_the_data() -> None:
    random = np.random.default_rng(0)
    share = random.uniform(-8, 0, 200_000)
    true = 0.5 * np.exp(share)  # never certain, whatever the share
    curve = AcceptanceCurve.fit(share, random.random(len(share)) < true)
    assert (np.diff(curve.probability) >= 0).all()
    assert len(curve.log_share) <= 500
    probes = np.linspace(-6, -0.1, 30)
    found = np.interp(probes, curve.log_share, curve.probability)
    assert np.abs(found - 0.5 * np.exp(probes)).max() < 0.05
    assert AcceptanceCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


def test_it_is_calibrated_on_users_whom_the_blender_did_not_learn_from() -> None:
    windows = [window(400, seed=3)]
    fitted: list[set[str]] = []

    def fit(of: Sequence[TrainingWindow]) -> Blender:
        fitted.append({user for each in of for user in each.table["user_id"].to_pylist()})
        return fit_blender(of, PERSONAL)

    curve = fit_acceptance(windows, fit)
    assert curve is not None
    assert not fitted[0] & fitted[1]
    assert fitted[0] | fitted[1] == set(windows[0].table["user_id"].to_pylist())
    # Over all candidates, what it expects is what was consumed.
    expected = curve(fit_blender(windows, PERSONAL).scores(windows[0].table, windows[0].item_features)).mean()
    assert expected == pytest.approx((windows[0].consumed.values > 0).mean(), rel=0.25)
    assert fit_acceptance([], fit) is None


HALF = AcceptanceCurve((-4.0, 0.0), (0.0, 1.0))


def assembler(least: float, **slate: Any) -> SlateAssembler:
    made = stage(min_probability=least, **slate)
    return replace(made, blend=replace(made.blend, acceptance=HALF))


def test_candidates_below_the_probability_are_withheld_and_each_user_keeps_a_slate() -> None:
    table = candidates()
    plain, strict = assembler(0.0), assembler(0.3)
    found = strict.candidate_pool(table)
    probability = found.blend_scores.like(HALF(found.blend_scores))
    everything, shown = (codes_of(one(table, "llm")) for one in (plain, strict))
    assert sum(map(len, shown)) < sum(map(len, everything))
    assert all(one and one == other[: len(one)] for one, other in zip(shown, everything, strict=True))
    expected = np.maximum([min(10, int((row >= 0.3).sum())) for row in probability], 1)
    assert [len(one) for one in shown] == expected.tolist()
    effects = rule_effects(strict, found, strict.apply_rules(found))
    assert effects[WITHHELD] == sum(one != other for one, other in zip(shown, everything, strict=True))
    assert codes_of(assembler(0.99)(table, "llm")) == [one[:1] for one in everything]


def test_a_blocked_best_item_leaves_the_next_one() -> None:
    table = candidates()
    best = codes_of(assembler(0.99)(table, "llm"))[0][0]
    without = codes_of(assembler(0.99, rules={"blocked": [f"item {best:03d}"]})(table, "llm"))
    assert len(without[0]) == 1
    assert without[0][0] != best


@pytest.mark.parametrize("policy", ["plackett_luce", "epsilon_greedy"])
def test_propensities_are_those_of_the_candidates_that_are_left(policy: str) -> None:
    made = assembler(0.3, policy=policy)
    pool = made.apply_rules(made.candidate_pool(candidates()))
    chosen = made.select(pool, "llm")
    again = made.policy.probability(pool.scored, chosen.place, made.policy_size, made.seed("llm"))
    assert np.array_equal(chosen.propensity, again)
    assert made.policy.first_choice(pool.scored, 0).sum() == pytest.approx(len(pool.scored), rel=1e-4)


def test_without_a_curve_nothing_is_withheld() -> None:
    assert stage(min_probability=0.9)(candidates(), "llm").equals(stage()(candidates(), "llm"))


def test_precision_is_hits_by_ranks_shown() -> None:
    slates = pa.table(
        {"user_id": ["a", "a", "a", "b"], "rank": [1, 2, 3, 1], "item_id": ["x", "y", "old", "y"]},
    )
    relevant = RelevantItems.from_pairs(pa.array(["a", "b", "c"]), pa.array(["y", "x", "x"]), pa.array(["x", "y"]))
    found = shown_metrics(slates, relevant)
    assert found["shown"].tolist() == [3, 1, 0]
    np.testing.assert_allclose(found["precision"], [1 / 3, 0, np.nan])
