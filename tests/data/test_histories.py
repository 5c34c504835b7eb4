"""Grouping into histories, compared with a row-by-row reference implementation."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.config import Data
from rayrec.data.histories import GroupedHistories, group_histories, read_histories
from rayrec.data.schemas import HISTORY, INTERACTION
from rayrec.errors import DataError
from rayrec.storage import Storage
from rayrec.storage.tables import write_arrow

ITEMS = ["a", "b", "c"]
FILES = ["f0", "f1"]


def settings_of(**data: Any) -> Data:
    content = {"interactions": {"path": "x", "event": {"column": "e"}}, "items": {"path": "y"}}
    return Data.model_validate(content | {"events": {"view": 1.0, "return": -1.0}} | data)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    plain = {field.name: [row[field.name] for row in rows] for field in INTERACTION}
    columns = [
        pa.array(plain[field.name], pa.string()).dictionary_encode()
        if field.name in ("user_id", "item_id")
        else pa.array(plain[field.name], field.type)
        for field in INTERACTION
    ]
    return pa.table(columns, schema=INTERACTION)


def row(user: str, item: str, ts: int, file: int = 0, at: int = 1, event: int = 0, rejected: bool = False) -> Any:
    return {
        "user_id": user,
        "item_id": None if rejected else item,
        "ts": ts,
        "event": None if rejected else event,
        "value": float(at),
        "dwell_ms": -1,
        "source_file": file,
        "source_row": at,
        "rejected": rejected,
    }


def run(rows: list[dict[str, Any]], **data: Any) -> GroupedHistories:
    return group_histories([table(rows)], pa.array(ITEMS), settings_of(**data), FILES)


def plainly(rows: list[dict[str, Any]], limit: int, min_events: int) -> tuple[dict[str, list[tuple[Any, ...]]], Any]:
    """Reference implementation of `group`."""
    users: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in rows:
        users[one["user_id"]].append(one)
    histories, counts = {}, {"duplicate": 0, "quarantined": 0, "ineligible": 0, "truncated": 0}
    for user, mine in sorted(users.items()):
        mine = sorted(
            (r for r in mine if not r["rejected"]), key=lambda r: (r["ts"], r["source_file"], r["source_row"])
        )
        seen, kept = set(), []
        for one in mine:
            key = (one["item_id"], one["ts"], one["event"])
            counts["duplicate"] += key in seen
            kept += [] if key in seen else [one]
            seen.add(key)
        counts["truncated"] += max(0, len(kept) - limit)
        kept = kept[-limit:]
        if not kept:
            counts["quarantined"] += 1
        elif sum(one["event"] == 0 for one in kept) < min_events:
            counts["ineligible"] += 1
        else:
            histories[user] = [(ITEMS.index(r["item_id"]), r["ts"], r["event"], r["value"]) for r in kept]
    return histories, counts


ROW = st.builds(
    row,
    user=st.sampled_from(["u", "v", "w", "é", "ü"]),
    item=st.sampled_from(ITEMS),
    ts=st.integers(0, 3),
    file=st.integers(0, 1),
    event=st.integers(0, 1),
    rejected=st.sampled_from([False, False, False, True]),
)


@given(
    rows=st.lists(ROW, max_size=40), limit=st.integers(1, 5), min_events=st.integers(0, 3), cutoff=st.integers(0, 40)
)
@settings(max_examples=80, deadline=None)
def test_histories_equal_the_reference(rows: list[dict[str, Any]], limit: int, min_events: int, cutoff: int) -> None:
    for at, one in enumerate(rows):
        one["source_row"], one["value"] = at + 1, float(at)
    expected, counts = plainly(rows, limit, min_events)
    data = settings_of(history_limit=limit, min_events=min_events)
    whole = group_histories([table(rows)], pa.array(ITEMS), data, FILES)
    assert whole.histories.schema == HISTORY
    found = {
        one["user_id"]: list(zip(one["item"], one["ts"], one["event"], one["value"], strict=True))
        for one in whole.histories.to_pylist()
    }
    assert found == expected
    assert list(found) == sorted(found)
    unlimited = group_histories([table(rows)], pa.array(ITEMS), settings_of(history_limit=99, min_events=0), FILES)
    items = dict(zip(*unlimited.histories.select(["user_id", "item"]).to_pydict().values(), strict=True))
    for one in whole.histories.to_pylist():
        assert one["older_items"] == sorted(set(items[one["user_id"]][:-limit]))
    assert sum(whole.quarantined.values()) == counts["quarantined"]
    assert sum(whole.ineligible.values()) == counts["ineligible"]
    assert whole.duplicates.num_rows == counts["duplicate"]
    assert whole.truncated == counts["truncated"]
    assert whole.users == whole.histories.num_rows + counts["quarantined"] + counts["ineligible"]
    # The result does not depend on the order of the tables or on how they were split.
    parts = group_histories([table(rows[cutoff:]), table(rows[:cutoff])], pa.array(ITEMS), data, FILES)
    assert parts.histories.equals(whole.histories)


def test_a_duplicate_is_quarantined_with_its_location_and_the_first_counts() -> None:
    grouped = run([row("u", "a", 5, 1, 3), row("u", "a", 5, 0, 8), row("u", "a", 5, 0, 9, event=1)])
    assert grouped.histories["value"].to_pylist() == [[8.0, 9.0]]
    assert grouped.duplicates.select(["file", "row", "user_id", "reason", "raw"]).to_pylist() == [
        {"file": "f1", "row": 3, "user_id": "u", "reason": "duplicate", "raw": None}
    ]


def test_a_shard_without_rows_has_no_histories() -> None:
    grouped = group_histories([], pa.array(ITEMS), settings_of(), FILES)
    assert (grouped.users, grouped.histories.num_rows, grouped.duplicates.num_rows) == (0, 0, 0)


def test_an_item_missing_from_the_catalogue_gets_no_other_items_code() -> None:
    with pytest.raises(DataError, match="not in the catalogue"):
        run([row("u", "zzz", 1)])


def test_written_histories_read_back(tmp_path: Any) -> None:
    storage, grouped = Storage(str(tmp_path)), run([row("u", "a", 5), row("v", "b", 6)])
    write_arrow(storage, "h/0.arrow", grouped.histories)
    assert read_histories(storage, "h/0.arrow").equals(grouped.histories)
    storage.write("h/1.arrow", b"junk")
    with pytest.raises(DataError):
        read_histories(storage, "h/1.arrow")
