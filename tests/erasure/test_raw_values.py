"""Ids in the raw values of quarantined rows, in dictionaries, and in aggregates of few users."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.erasure_list import ErasureList
from rayrec.data.quarantine import without_contents
from rayrec.data.schemas import QUARANTINE
from rayrec.monitoring.request_recognition import REQUEST_RECOGNITION, without_users
from rayrec.pipeline import user_data_inventory
from rayrec.storage import Storage, layout
from rayrec.storage.tables import rows_without

GONE = ("user-0007", "Anna Maria 7", "4711")
LISTED = ErasureList(b"salt", frozenset(ErasureList(b"salt").token(user) for user in GONE))


@pytest.mark.parametrize(
    "raw",
    [
        '{"user_id": "user-0007", "item": null}',
        '{"deep": [{"who": "4711"}]}',
        '{"n": 4711}',
        '{"line": "user-0007,item-1,extra"}',
        '{"line": "\\"user-0007"}',
        "user-0007::item-1",
        "user-0007\titem-1",
        "2011-08-31;Anna Maria 7;x",
        "user_id=4711&x=1",
        '["user-0007"',
    ],
)
def test_an_id_among_the_raw_values_is_recognised(raw: str) -> None:
    assert LISTED.mentioned_in(pa.array([raw, None, "", "user-0008,47110,Anna", '{"a": "x"}'])).tolist() == [
        True,
        False,
        False,
        False,
        False,
    ]


@given(st.text())
def test_any_text_can_be_searched(text: str) -> None:
    assert LISTED.mentioned_in(pa.array([text])).dtype == np.bool_


def quarantine(*rows: tuple[str | None, str | None]) -> pa.Table:
    listed = [("f", n, user, "malformed_row", "what it is", raw) for n, (user, raw) in enumerate(rows)]
    return pa.Table.from_pylist([dict(zip(QUARANTINE.names, row, strict=True)) for row in listed], QUARANTINE)


def test_rows_lose_their_contents_and_keep_their_place() -> None:
    table = quarantine(("user-0007", "x"), ("other", "y"), ("other", "z,user-0007"), (None, "w"), (None, "user-0007,1"))
    at_ingest, emptied = without_contents(table, LISTED)
    assert at_ingest["raw"].to_pylist() == [None, "y", None, "w", None]
    assert at_ingest["user_id"].to_pylist() == [None, "other", None, None, None]
    assert at_ingest["row"].equals(table["row"])
    assert at_ingest["reason"].equals(table["reason"])
    assert emptied == 3
    by_forget, emptied = without_contents(table, LISTED, every_row_without_user=True)
    assert by_forget["raw"].to_pylist() == [None, "y", None, None, None]
    assert by_forget["detail"].to_pylist() == [None, "what it is", None, None, None]
    assert emptied == 4
    assert without_contents(by_forget, LISTED, every_row_without_user=True) == (by_forget, 0)
    assert without_contents(table, ErasureList()) == (table, 0)
    assert by_forget.schema.equals(QUARANTINE)


def test_removed_rows_leave_nothing_in_dictionaries() -> None:
    users = pa.chunked_array(
        [pa.array(["stays", "user-0007", "stays"]).dictionary_encode(), pa.array(["x"]).dictionary_encode()]
    )
    table = pa.table({"user_id": users, "n": [1, 2, 3, 4]}).replace_schema_metadata({"kept": "1"})
    left = rows_without(table, np.array([False, True, False, False]))
    assert left["n"].to_pylist() == [1, 3, 4]
    assert left["user_id"].to_pylist() == ["stays", "stays", "x"]
    assert left.schema.equals(table.schema, check_metadata=True)
    sink = io.BytesIO()
    pq.write_table(left, sink, compression="none")
    assert b"user-0007" not in sink.getvalue()


def requests(*rows: tuple[str | None, int, str]) -> pa.Table:
    listed = [{"text": text, "texts": 1, "rows": count, "arms": arms, "recognised": True} for text, count, arms in rows]
    return pa.Table.from_pylist(listed, REQUEST_RECOGNITION)


def test_a_text_that_fewer_than_five_users_may_have_is_only_counted() -> None:
    table = requests(
        ("for all", 1, ""), ("five", 5, ""), ("six", 6, ""), ("many", 40, "a, b"), ("ten", 10, "a, b"), (None, 3, "")
    )
    assert without_users(table, 0) is table
    one = without_users(table, 1)
    assert one["text"].to_pylist() == ["for all", "six", "many", "ten", None]
    assert one["rows"].to_pylist() == [1, 6, 40, 10, 8]
    assert without_users(one, 1).equals(one)
    assert without_users(table, 3)["text"].to_pylist() == ["for all", "many", None]  # 2 rows a user with two arms


def test_the_words_of_a_failed_run_are_deleted(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    status = layout.run_status_path(date(2026, 3, 2), "0123")
    record = layout.run_record_path(date(2026, 3, 2), "0123")
    storage.write(status, b'{"error": "row 7 of user-0007"}')
    storage.write(record, b"{}")
    user_data_inventory.erase(storage, [], LISTED, {}, 0)
    assert [info.path for info in storage.list()] == [record]
