"""Gradient-boosted trees on top of the conditional logit."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from scored_candidates import PERSONAL, candidates, item_features, window

from rayrec.blending import BLENDING_METHODS
from rayrec.blending.blend_features import log_feature, rms_normalised
from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.blender import Blender
from rayrec.blending.boosted_trees import LightGbmSettings, _Examples
from rayrec.blending.score_correction import with_correction
from rayrec.errors import ConfigError
from rayrec.numerics.ragged import Ragged

QUICK = LightGbmSettings(trees=60, learning_rate=0.2, min_leaf_examples=50)


def crossed(seed: int, users: int = 500) -> TrainingWindow:
    """Users take what EASE finds if the item is old, and the opposite if it is new: no weighted sum of the features."""
    table, features = candidates(users, seed), item_features()
    candidate = Ragged.from_arrow(table["candidate"])
    ease = log_feature(rms_normalised(Ragged.from_arrow(table["score.ease"])))
    utility = 3 * ease * np.sign(features.column("log_age")[candidate.values])
    utility += np.random.default_rng(seed + 1).gumbel(size=len(utility))
    of_user = candidate.like(utility)
    best = [int(candidate.offsets[row] + np.argmax(of_user[row])) for row in range(users)]
    consumed = np.zeros(len(utility), np.bool_)
    consumed[best] = True
    return TrainingWindow(table, candidate.like(consumed), features)


def log_likelihood(blender: Blender, of: TrainingWindow) -> float:
    scores = blender.scores(of.table, of.item_features)
    rows = [scores[row] - np.log(np.exp(scores[row]).sum()) for row in range(len(scores))]
    return float(np.concatenate(rows)[of.consumed.values].mean())


@pytest.fixture(scope="module")
def fitted() -> tuple[Blender, Blender]:
    windows = [crossed(1), crossed(2)]
    logit = fit_blender(windows, PERSONAL)
    return logit, with_correction(logit, windows, "lightgbm", QUICK)


def test_trees_learn_what_no_weighted_sum_can(fitted: tuple[Blender, Blender]) -> None:
    logit, trees = fitted
    assert trees.gains[-1].scorer == "lightgbm"
    assert trees.gains[-1].entered
    assert trees.gains[-1].low > 0
    held_out = crossed(3)
    assert log_likelihood(trees, held_out) > log_likelihood(logit, held_out) + 0.1


def test_trees_do_not_enter_where_they_have_nothing_to_add() -> None:
    windows = [window(seed=1), window(seed=2)]
    logit = fit_blender(windows, PERSONAL)
    gain = with_correction(logit, windows, "lightgbm", QUICK).gains[-1]
    assert gain.entered == (gain.low > 0)
    few = [crossed(1, users=20)]
    blender = with_correction(fit_blender(few, PERSONAL), few, "lightgbm", QUICK)
    assert blender.correction is None
    assert not blender.gains[-1].entered


def test_the_fit_is_deterministic_and_survives_json(fitted: tuple[Blender, Blender]) -> None:
    logit, trees = fitted
    again = with_correction(logit, [crossed(1), crossed(2)], "lightgbm", QUICK)
    assert again == trees
    back = Blender.from_dict(json.loads(json.dumps(trees.to_dict())))
    assert back == trees
    held_out = crossed(3)
    one, other = (blender.scores(held_out.table, held_out.item_features).values for blender in (trees, back))
    assert np.array_equal(one, other)
    assert Blender.from_dict(logit.to_dict()) == logit


def test_rows_are_independent(fitted: tuple[Blender, Blender]) -> None:
    _, trees = fitted
    held_out = crossed(3)
    whole = trees.scores(held_out.table, held_out.item_features)
    some = held_out.table.take(pa.array([7, 3, 401])).combine_chunks()
    alone = trees.scores(some, held_out.item_features)
    for place, row in enumerate((7, 3, 401)):
        assert np.array_equal(alone[place], whole[row])
    assert not len(trees.scores(held_out.table.slice(0, 0), held_out.item_features).values)


def test_users_with_a_request_are_left_to_the_logit(fitted: tuple[Blender, Blender]) -> None:
    logit, trees = fitted
    held_out = crossed(3)
    asks = pa.array(np.arange(len(held_out.table)) % 2 == 0)
    table = held_out.table.append_column("has_request", asks)
    one, other = (blender.scores(table, held_out.item_features) for blender in (logit, trees))
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])


def test_gradients_are_those_of_the_log_likelihood() -> None:
    examples = _Examples.of([crossed(1, users=8)], fit_blender([crossed(1)], PERSONAL), 100)
    added = np.random.default_rng(0).normal(size=len(examples.features))
    gradient, hessian = examples.gradients(added)
    for place in (0, 5, 11):
        step = np.zeros(len(added))
        step[place] = 1e-5
        up, down = (examples.likelihoods(added + sign * step).sum() for sign in (1, -1))
        assert gradient[place] == pytest.approx(-(up - down) / 2e-5, abs=1e-6)
    assert (hessian > 0).all()


def test_a_missing_package_is_an_error_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed"):
        BLENDING_METHODS.lookup("lightgbm").require()
