"""A shard is scored for some users at a time, so that a run can tell of its progress."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rayrec.pipeline.scoring import in_parts

USERS = ["c", "a", "b", "a", "c", "d", "a"]  # rows of several scoring requests


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 100])
def test_rows_stay_in_place_and_users_together(at_once: int) -> None:
    calls: list[list[str]] = []
    told: list[int] = []

    def score(table: pa.Table) -> pa.Table:
        calls.append(table["user_id"].to_pylist())
        return table.append_column("llm_score", table["row"])

    table = pa.table({"user_id": USERS, "row": range(len(USERS))})
    found = in_parts(score, table, at_once, told.append)
    assert found.to_pydict() == {"user_id": USERS, "row": list(range(7)), "llm_score": list(range(7))}
    assert sum(told) == len(USERS)
    assert all(len(set(users)) <= at_once for users in calls)
    assert sum(len(set(users)) for users in calls) == 4  # a user's rows are scored together


def test_a_shard_without_rows() -> None:
    empty = pa.table({"user_id": pa.array([], pa.string())})
    assert in_parts(lambda table: table, empty, 2, lambda rows: None).num_rows == 0
