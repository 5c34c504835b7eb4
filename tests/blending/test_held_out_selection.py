"""Scorers enter the blend only if they help on held-out users: planted good ones do, noise does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scored_candidates import PERSONAL, set_llm_scores, window, with_llm

from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.blender import Blender
from rayrec.blending.conditional_logit import LogitData, fit_logit
from rayrec.blending.held_out_selection import MIN_USERS, select_scorers
from rayrec.numerics.ragged import Ragged

DRAWS = 60


def data(seed: int, users: int, strength: float, noise: int = 1, width: int = 8) -> tuple[LogitData, pa.Array]:
    """One consumed candidate a user, drawn by exp(base + strength * good); columns: base, good, noise."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(users * width, 2 + noise)).astype(np.float32)
    value = features[:, 0] + strength * features[:, 1] + random.gumbel(size=len(features))
    consumed = np.zeros((users, width), np.float32)
    consumed[np.arange(users), value.reshape(users, width).argmax(1)] = 1
    ids = pa.array([f"{seed}-{number}" for number in range(users)])
    return LogitData(features, np.arange(users + 1, dtype=np.int64) * width, consumed.ravel()), ids


def select(seed: int, users: int, strength: float) -> dict[str, bool]:
    examples, ids = data(seed, users, strength)
    whole = fit_logit(examples, np.full(3, 1e-3))
    gains = select_scorers(examples, ids, {"good": [1], "noise": [2]}, ("good", "noise"), 1e-3, whole)
    return {gain.scorer: gain.entered for gain in gains}


@pytest.mark.parametrize(("users", "strength"), [(60, 2.0), (300, 0.9)])
def test_noise_stays_out_in_95_of_100_draws_and_a_planted_scorer_enters(users: int, strength: float) -> None:
    found = [select(seed, users, strength) for seed in range(DRAWS)]
    assert sum(entered["noise"] for entered in found) <= 0.05 * DRAWS
    assert sum(entered["good"] for entered in found) >= 0.95 * DRAWS


def test_first_steps_on_fewer_examples_end_at_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    examples, _ = data(5, 400, 0.9, noise=3)
    penalty = np.full(5, 1e-3)
    plain = fit_logit(examples, penalty).raw
    monkeypatch.setattr("rayrec.blending.conditional_logit._FIRST_ROWS", 60)
    assert np.allclose(fit_logit(examples, penalty).raw, plain, atol=1e-4)


def test_selected_columns_are_those_alone() -> None:
    examples, _ = data(5, 400, 0.9, noise=3)
    columns, penalty = np.array([0, 3]), np.full(2, 1e-3)
    copied = replace(examples, features=examples.features[:, columns])
    assert np.array_equal(fit_logit(examples.select(columns), penalty).raw, fit_logit(copied, penalty).raw)


def test_the_same_group_twice_enters_once() -> None:
    examples, ids = data(1, 300, 0.9)
    twice = replace(examples, features=np.hstack([examples.features, examples.features[:, 1:2]]))
    whole = fit_logit(twice, np.full(4, 1e-3))
    gains = select_scorers(twice, ids, {"one": [1], "other": [3]}, ("one", "other"), 1e-3, whole)
    assert sum(gain.entered for gain in gains) == 1


def test_a_retriever_that_only_overfits_is_shrunk_and_a_good_one_is_not() -> None:
    examples, ids = data(2, 120, 0.9, noise=40)
    groups = {"good": [1], "noise": list(range(2, 42))}
    whole = fit_logit(examples, np.full(42, 1e-3))
    good, noise = select_scorers(examples, ids, groups, (), 1e-3, whole)
    assert (good.entered, good.l2_factor) == (True, 1.0)
    assert not noise.entered or (noise.l2_factor or 0) >= 10


def test_a_user_counts_once_and_few_users_show_nothing() -> None:
    examples, _ = data(3, 4 * (MIN_USERS - 1), 2.0)
    ids = pa.array([f"user {row // 4}" for row in range(len(examples))])
    whole = fit_logit(examples, np.full(3, 1e-3))
    (gain,) = select_scorers(examples, ids, {"good": [1]}, ("good",), 1e-3, whole)
    assert (gain.users, gain.entered) == (MIN_USERS - 1, False)


def test_an_llm_of_noise_changes_no_score() -> None:
    useless, useful = (
        fit_blender([window(seed=seed, llm=weight) for seed in (1, 2)], PERSONAL) for weight in (0.0, 1.0)
    )
    assert useless.with_llm is None
    assert useful.with_llm is not None
    held_out = window(seed=3, llm=0.0)
    plain = held_out.table.drop_columns(["llm_score", "error"])
    with_scores, without = (useless.scores(table, held_out.item_features) for table in (held_out.table, plain))
    assert np.array_equal(with_scores.values, without.values)
    assert [gain.users for gain in useless.gains if gain.scorer == "llm"] == [400]


def test_a_content_feature_of_noise_gets_no_weight_and_a_planted_one_does() -> None:
    learned = fit_blender([planted(window(seed=1)), planted(window(seed=2))], PERSONAL, content=("char", "word"))
    assert learned.without_llm.by_name["content.char"] > 0.3
    assert "content.word" not in learned.without_llm.by_name
    assert {gain.scorer for gain in learned.gains if gain.entered} >= {"ease", "content.char"}
    held_out = planted(window(seed=3))
    scores = learned.scores(held_out.table, held_out.item_features)
    column = held_out.table.schema.get_field_index("content.word")
    other = held_out.table.set_column(column, "content.word", held_out.table["content.char"])
    assert np.array_equal(learned.scores(other, held_out.item_features).values, scores.values)
    assert Blender.from_dict(learned.to_dict()) == learned


def planted(given: TrainingWindow) -> TrainingWindow:
    """Add `content.char`, higher for consumed items, and `content.word`, noise."""
    random = np.random.default_rng(len(given.table) + given.consumed.offsets[-1])
    consumed = given.consumed.values
    columns = {
        "content.char": consumed + random.normal(size=len(consumed)),
        "content.word": random.normal(size=len(consumed)),
    }
    table = given.table
    for name, values in columns.items():
        table = table.append_column(name, given.consumed.like(values.astype(np.float32)).to_arrow(pa.float32()))
    return replace(given, table=table)


def test_with_too_few_users_the_llm_counts_for_requests_only() -> None:
    few = window(users=MIN_USERS - 1, llm=1.0)
    learned = fit_blender([few], PERSONAL)
    assert learned.with_llm is None
    table = with_llm(few.table.drop_columns(["llm_score", "error"]))
    asks = table.append_column("has_request", pa.array(np.arange(len(table)) % 2 == 0))
    other = set_llm_scores(asks, -Ragged.from_arrow(asks["llm_score"]).values)
    one, two = (learned.scores(each, few.item_features) for each in (asks, other))
    changed = [not np.array_equal(one[row], two[row]) for row in range(len(table))]
    assert changed == [row % 2 == 0 for row in range(len(table))]
