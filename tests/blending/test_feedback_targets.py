"""Feedback as targets of the blender: which dates, which rows, which candidates. Without Ray."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scored_candidates import PERSONAL, window

from rayrec.blending.blend_fitting import fit_blender, target_weights
from rayrec.blending.blender import Blender
from rayrec.config import Config, Feedback
from rayrec.config.feedback_learning_section import FeedbackLearning
from rayrec.data.schemas import FEEDBACK_TARGETS, SIMULATED_REQUEST
from rayrec.evaluation.off_policy.feedback_evaluation import MATCHED
from rayrec.monitoring.feedback_learning import in_words
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline import feedback_inputs as inputs
from rayrec.pipeline.blender_fitting import candidate_targets
from rayrec.pipeline.feedback_targets import cutoff_of, summed, targets_of
from rayrec.storage import Storage

DAY, A_DAY = date(2026, 3, 10), 86_400_000_000


def config(root: Path, learning: dict[str, Any] | None, **log: Any) -> Config:
    data = {"root": str(root), "interactions": {"path": "events.csv"}, "items": {"from_interactions": True}}
    sections = {"name": "test", "data": data, "arms": {"variants": {"a": {}}}, "output": {"root": str(root / "out")}}
    return Config.model_validate({**sections, "feedback": {"path": "log", **log}, "blend": {"feedback": learning}})


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The 20 days before DAY are published; the log has a file a day, also of later days, and one without a day."""
    days = [DAY - timedelta(number) for number in range(20, 0, -1)]
    monkeypatch.setattr(inputs, "published_dates", lambda _: days)
    monkeypatch.setattr(inputs, "find_manifest", lambda _, day: SimpleNamespace(run_id=f"run of {day}"))
    (tmp_path / "log").mkdir()
    for name in ("all", *(DAY + timedelta(number) for number in (-2, -1, 0, 1))):
        (tmp_path / "log" / f"{name}.csv").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("learning", "hours", "days_ago"),
    [
        ({}, None, range(14, 0, -1)),
        ({"dates": 3}, None, (3, 2, 1)),
        ({"dates": 3, "attribution_days": 1.5}, None, (4, 3, 2)),
        ({"dates": 2}, 12.0, (3, 2)),
        ({"dates": 2, "attribution_days": 5.0}, 12.0, (6, 5)),
    ],
)
def test_only_dates_with_complete_rewards_since_the_oldest_cutoff_count(
    published: Path, learning: dict[str, Any], hours: float | None, days_ago: tuple[int, ...]
) -> None:
    given = config(published, learning, time="time", attribution_hours=hours)
    found = inputs.feedback_inputs(given, Storage(given.output.root), DAY)
    assert found.dates == tuple(DAY - timedelta(days) for days in days_ago)
    assert set(found.too_recent) == {DAY - timedelta(days) for days in range(1, min(days_ago))}
    assert [file.path for file in found.files] == ["log/2026-03-08.csv", "log/2026-03-09.csv", "log/all.csv"]
    assert len(found.records) == len(found.dates) + 3


def test_without_the_setting_nothing_is_listed_and_no_fingerprint_knows_the_log(tmp_path: Path) -> None:
    plain = config(tmp_path, None)
    assert inputs.feedback_inputs(plain, Storage(plain.output.root), DAY) == inputs.FeedbackInputs()
    assert plain.fingerprint == config(tmp_path, None, slate_id="other").fingerprint
    learns, elsewhere = config(tmp_path, {}), Feedback(path="log", root="elsewhere")
    assert learns.fingerprint != config(tmp_path, {}, slate_id="other").fingerprint
    assert learns.fingerprint == config(tmp_path, {}).model_copy(update={"feedback": elsewhere}).fingerprint


def test_learning_needs_the_log() -> None:
    with pytest.raises(ValidationError, match=r"blend\.feedback needs the section feedback"):
        Config.model_validate(
            {
                "name": "test",
                "data": {"interactions": {"path": "e.csv"}, "items": {"from_interactions": True}},
                "arms": {"variants": {"a": {}}},
                "blend": {"feedback": {}},
            }
        )


def test_a_slate_belongs_to_the_newest_cutoff_before_it_within_the_horizon() -> None:
    cutoffs = [10 * A_DAY, 17 * A_DAY]
    days = [9, 10, 16, 17, 23, 24]
    assert [cutoff_of(day * A_DAY, cutoffs, 7.0) // A_DAY for day in days] == [-1, 10, 10, 17, 17, -1]
    assert cutoff_of(0, [], 7.0) == -1


def shown(*rows: tuple[date, str, int, float, float]) -> pa.Table:
    fixed = {"impression_id": "", "item_id": "i", "user_id": "u", "arm": "a"}
    names = ("date", "slate_id", "rank", "propensity", "reward")
    schema = pa.schema([*MATCHED, pa.field("date", pa.date32())])
    return pa.Table.from_pylist([{**dict(zip(names, row, strict=True)), **fixed} for row in rows], schema)


def test_rewards_become_targets_by_date_and_what_no_policy_drew_is_counted() -> None:
    other = DAY + timedelta(1)
    table = shown(
        (DAY, "s", 1, 1.0, 1.0),  # a pin
        (DAY, "s", 2, 0.5, 0.0),
        (DAY, "s", 3, 0.25, 2.0),
        (other, "s", 1, 0.5, 1.0),  # another date's slate, whatever its id
        (other, "s", 2, 0.5, -1.0),
    )
    target, counts = targets_of(table, FeedbackLearning(weight=3.0, examination="none", clip=100.0))
    # Des Raj: (1 / p + K - k) / K with K = 2 drawn items a slate
    assert target == pytest.approx(np.array([0, 0, 2 * 2.0, 1 * 1.5, 0]) * 3 * 3 / 5.5)
    assert counts["rewarded/2026-03-10"] == counts["rewarded/2026-03-11"] == 1
    assert counts["left out/not drawn by a policy"] == 1
    assert counts["examination/1"] == 1
    text = in_words({**counts, "used": 2.0})
    assert text.startswith("2 rewarded items among the candidates of training users; of the slates of 2026-03-10: 1, ")
    assert "left out: not drawn by a policy 1" in text


def test_without_feedback_there_are_no_targets() -> None:
    target, counts = targets_of(shown(), FeedbackLearning())
    assert not len(target)
    assert "of the slates of no date" in in_words(counts)
    assert in_words({}) == ""


def test_rewards_of_one_item_add_up() -> None:
    table = summed(pa.array(["v", "u", "v"]), np.array([3, 3, 3]), np.array([1.0, 0.5, 2.0]))
    assert table.schema == FEEDBACK_TARGETS
    assert [tuple(row.values()) for row in table.to_pylist()] == [("u", 3, 0.5), ("v", 3, 3.0)]


PAIRS = st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), st.floats(0.125, 8, width=32), max_size=9)
ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.sets(st.integers(0, 6), max_size=5), st.booleans()), max_size=6)


@settings(max_examples=50)
@given(ROWS, PAIRS)
def test_candidates_get_the_targets_of_their_users(
    rows: list[tuple[str, set[int], bool]], pairs: dict[tuple[str, int], float]
) -> None:
    users = pa.chunked_array([pa.array([user for user, _, _ in rows], pa.string())])
    request = pa.chunked_array([pa.array(["r" if asks else None for _, _, asks in rows], pa.string())])
    examples = pa.table({"user_id": users, SIMULATED_REQUEST: request})
    codes = [item for _, items, _ in rows for item in sorted(items)]
    candidate = Ragged.from_lengths(np.array(codes, np.int32), np.array([len(items) for _, items, _ in rows], int))
    given_rows = [(user, item, target) for (user, item), target in pairs.items()]
    columns = list(zip(*given_rows, strict=True)) or [(), (), ()]
    targets = pa.table([pa.array(c, f.type) for c, f in zip(columns, FEEDBACK_TARGETS, strict=True)], FEEDBACK_TARGETS)
    expected = [0.0 if asks else pairs.get((user, item), 0.0) for user, items, asks in rows for item in sorted(items)]
    assert candidate_targets(examples, candidate, targets).tolist() == expected


def test_targets_of_feedback_count_as_they_are() -> None:
    plain = window(seed=1)
    given = plain.consumed.like(target_weights(plain.consumed))
    learned = fit_blender([replace(plain, consumed=given, weighted=True)], PERSONAL)
    expected = fit_blender([plain], PERSONAL).without_llm.by_name
    assert learned.without_llm.by_name == pytest.approx(expected)


def test_a_blender_remembers_the_feedback_it_has_learned_from() -> None:
    blender = replace(Blender.default(PERSONAL), feedback={"used": 3.0})
    assert Blender.from_dict(blender.to_dict()) == blender
