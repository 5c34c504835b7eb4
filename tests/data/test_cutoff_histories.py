"""Facts of histories about cutoffs and seen items, against plain Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.cutoff_histories import first_positive, with_unseen_items
from rayrec.data.schemas import HISTORY

WEIGHTS = (1.0, 0.0, -1.0)
EVENT = st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, 2))  # item, time, event
USERS = st.lists(st.lists(EVENT, min_size=1, max_size=8), max_size=5)


def history(users: list[list[tuple[int, int, int]]], older: list[list[int]] | None = None) -> pa.Table:
    def lists(values: list[list[float]], name: str) -> pa.Array:
        return pa.array(values, HISTORY.field(name).type)

    columns = {
        "user_id": pa.array([f"u{n}" for n in range(len(users))], pa.string()),
        "item": lists([[event[0] for event in user] for user in users], "item"),
        "ts": lists([[event[1] for event in user] for user in users], "ts"),
        "event": lists([[event[2] for event in user] for user in users], "event"),
        "value": lists([[1.0] * len(user) for user in users], "value"),
        "dwell_ms": lists([[1] * len(user) for user in users], "dwell_ms"),
        "older_items": lists([list(items) for items in older or [[]] * len(users)], "older_items"),
    }
    return pa.table([columns[name] for name in HISTORY.names], HISTORY)


@given(USERS)
def test_the_first_positive_event(users: list[list[tuple[int, int, int]]]) -> None:
    positive = [ts for user in users for _, ts, event in user if WEIGHTS[event] > 0]
    assert first_positive(history(users), WEIGHTS) == min(positive, default=None)


@given(USERS, st.lists(st.booleans(), min_size=4, max_size=4), st.data())
def test_users_with_an_unseen_available_item(
    users: list[list[tuple[int, int, int]]], available: list[bool], data: st.DataObject
) -> None:
    older = [sorted(data.draw(st.sets(st.integers(0, 3)))) for _ in users]
    items = {item for item, there in enumerate(available) if there}
    seen = [{item for item, _, _ in user}.union(more) for user, more in zip(users, older, strict=True)]
    expected = sum(bool(items - had) for had in seen)
    assert with_unseen_items(history(users, older), np.array(available)) == expected
