"""From scored candidates to published rows; ties; training windows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from made_slates import stage, without_candidates
from scored_candidates import NAMES, PERSONAL, SOURCES, candidates, item_features

from rayrec.blending.blender import Blender
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_consumed, is_training_user
from rayrec.data.schemas import HISTORY, SLATE
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, ranks
from rayrec.slates.assembly import slate_ids


def test_slates_hold_each_users_best_candidates_in_order() -> None:
    table = candidates()
    rows = stage()(table, "llm")
    assert rows.schema.equals(SLATE)
    blender = Blender.default(PERSONAL, NAMES)
    scores, candidate = blender.scores(table, item_features()), Ragged.from_arrow(table["candidate"])
    for user in range(50):
        own = rows.filter(pa.compute.equal(rows["user_id"], f"user {user:04d}"))
        order = np.argsort(-scores[user], kind="stable")[:10]
        assert own["item_id"].to_pylist() == [f"item {code:03d}" for code in candidate[user][order]]
        assert own["rank"].to_pylist() == list(range(1, len(order) + 1))
        assert own["score"].to_pylist() == scores[user][order].tolist()
        source = np.array(table["source"][user].as_py())[order]
        assert own["source"].to_pylist() == [SOURCES[number] for number in source]
    assert set(rows["propensity"].to_pylist()) == {1.0}
    assert set(rows["arm"].to_pylist()) == {"llm"}


def test_rows_are_sorted_by_user_and_do_not_depend_on_the_order_of_users() -> None:
    table = candidates()
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
    assert stage()(shuffled, "llm").equals(stage()(table, "llm"))


def test_users_without_candidates_and_empty_shards_have_no_rows() -> None:
    table = candidates()
    assert len(stage()(table.slice(0, 0), "llm")) == 0
    assert len(stage()(without_candidates(table), "llm")) == 0


def test_slate_ids_are_stable_and_differ_by_run_arm_and_user() -> None:
    users = pa.array(["a", "b", "ü"])
    first = slate_ids("run", "arm", users).to_pylist()
    assert first == slate_ids("run", "arm", users).to_pylist()
    assert slate_ids("run", "arm", users[1:]).to_pylist() == first[1:]
    others = slate_ids("run", "other", users).to_pylist() + slate_ids("run 2", "arm", users).to_pylist()
    assert len({*first, *others}) == 9
    assert all(len(text) == 32 for text in first)
    assert slate_ids("run", "arm", pa.array([], pa.string())).to_pylist() == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan]), max_size=7), max_size=5))
def test_ties_go_to_the_first_and_missing_scores_come_last(rows: list[list[float]]) -> None:
    ragged = Ragged.from_lengths(np.array([x for row in rows for x in row], np.float32), [len(row) for row in rows])
    places = best(ragged, 4)
    for number, row in enumerate(rows):
        order = sorted(range(len(row)), key=lambda at: (np.isnan(row[at]), -row[at] if row[at] == row[at] else 0.0, at))
        assert (places[number] - ragged.offsets[number]).tolist() == order[:4]
        if row:
            rank = ranks(np.array([row], np.float32), np.ones((1, len(row)), np.bool_))[0]
            assert rank[order].tolist() == list(range(len(row)))


def history() -> pa.Table:
    return pa.table(
        [
            ["a", "b", "c"],
            [[1, 2, 1, 3, 3], [5, 6], []],
            [[10, 20, 30, 40, 50], [5, 60], []],
            [[0, 0, 0, 0, 0], [0, 1], []],
            [[0.0] * 5, [0.0] * 2, []],
            [[-1] * 5, [-1] * 2, []],
            [[9, 10], [6], []],
        ],
        schema=HISTORY,
    )


def test_a_training_window_has_the_history_before_its_cutoff_and_the_new_items_after_it() -> None:
    past = histories_at(history(), 30)
    assert past["item"].to_pylist() == [[1, 2], [5], []]
    assert past["ts"].to_pylist() == [[10, 20], [5], []]
    assert past.schema.equals(HISTORY)
    wanted = consumed_after(history(), 30, 50, (1.0, -1.0))
    assert [wanted[row].tolist() for row in range(3)] == [[3], [], []]  # 1 is not new, 6 is a return
    again = consumed_after(history(), 30, 61, (1.0, -1.0), new_only=False)
    assert [again[row].tolist() for row in range(3)] == [[1, 3], [], []]
    assert is_training_user(past, wanted, 2).tolist() == [True, False, False]
    rewarded = np.array([False, True, True])
    assert is_training_user(past, wanted, 1, rewarded).tolist() == [True, True, False]
    candidate = Ragged.from_lengths(np.array([3, 4, 3], np.int32), [2, 1, 0])
    assert is_consumed(candidate, wanted).tolist() == [True, False, False]


def test_items_of_events_beyond_the_history_are_seen_where_an_event_is_before_the_cutoff() -> None:
    table = history().set_column(6, HISTORY.field("older_items"), pa.array([[3, 9], [6], []], pa.list_(pa.int32())))
    assert histories_at(table, 30)["older_items"].to_pylist() == [[3, 9], [6], []]
    assert histories_at(table, 10)["older_items"].to_pylist() == [[], [6], []]  # a's older events may be later
    assert consumed_after(table, 30, 50, (1.0, -1.0))[0].tolist() == []  # 3 is not new
    assert consumed_after(table, 10, 50, (1.0, -1.0))[0].tolist() == [1, 2, 3]
    assert consumed_after(table, 30, 50, (1.0, -1.0), new_only=False)[0].tolist() == [1, 3]
