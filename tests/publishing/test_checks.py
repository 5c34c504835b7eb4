"""Validation of slates: every kind of invalid slate is refused, valid ones pass."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_day import DATE, SHARDS, SIZE, USERS, slates, users_of

from rayrec.data.schemas import SLATE
from rayrec.errors import PublicationError
from rayrec.publishing.published_tables import validate_slates

RIGHT = slates(users_of(1), "llm")


def check(table: pa.Table) -> tuple[pa.Table, pa.Array]:
    return validate_slates(table, date=DATE, arm="llm", shard=1, shards=SHARDS)


def with_value(column: str, row: int, value: object) -> pa.Table:
    values = RIGHT[column].to_pylist()
    values[row] = value
    index = SLATE.get_field_index(column)
    return RIGHT.set_column(index, SLATE.field(index), pa.array(values, SLATE.field(index).type))


def without_row(row: int) -> pa.Table:
    return RIGHT.take(np.delete(np.arange(RIGHT.num_rows), row))


def second_slate() -> pa.Table:
    again = slates(users_of(1)[:1], "llm").to_pylist()
    extra = [row | {"slate_id": "other", "rank": row["rank"] + SIZE, "item_id": f"more-{row['rank']}"} for row in again]
    return pa.concat_tables([RIGHT, pa.Table.from_pylist(extra, SLATE)])


@pytest.mark.parametrize(("right", "users"), [(RIGHT, users_of(1)), (SLATE.empty_table(), [])])
def test_valid_slates_pass_and_return_their_users(right: pa.Table, users: list[str]) -> None:
    table, found = check(right)
    assert table.equals(right)
    assert found.to_pylist() == users


@pytest.mark.parametrize(
    ("why", "wrong"),
    [
        ("columns are not those of a slate", lambda: RIGHT.drop_columns(["source"])),
        ("columns are not those of a slate", lambda: RIGHT.append_column("extra", RIGHT["rank"])),
        ("order or nullability differ", lambda: RIGHT.select(SLATE.names[::-1])),
        (
            "score: float is expected, score: double is not",
            lambda: RIGHT.cast(SLATE.set(6, pa.field("score", pa.float64()))),
        ),
        ("ranks are not 1..n", lambda: without_row(0)),
        ("ranks are not 1..n", lambda: without_row(2)),
        ("ranks are not 1..n", lambda: with_value("rank", 3, 3)),
        ("ranks are not 1..n", lambda: with_value("rank", 0, 0)),
        ("ranks are not 1..n", lambda: with_value("rank", 0, -1)),
        ("ranks are not 1..n", lambda: pa.concat_tables([RIGHT, RIGHT])),
        ("ranks are not 1..n", lambda: pa.concat_tables([RIGHT, RIGHT.slice(7, 1)])),
        ("two slates for one user", second_slate),
        ("slate_id is shared", lambda: RIGHT.set_column(2, SLATE.field(2), pa.array(["one"] * RIGHT.num_rows))),
        ("an item is in the slate twice", lambda: with_value("item_id", 1, RIGHT["item_id"][0].as_py())),
        ("the score is not finite", lambda: with_value("score", 4, float("nan"))),
        ("the score is not finite", lambda: with_value("score", 4, float("-inf"))),
        ("the propensity is not in", lambda: with_value("propensity", 4, 0.0)),
        ("the propensity is not in", lambda: with_value("propensity", 4, 1.1)),
        ("the propensity is not in", lambda: with_value("propensity", 4, -0.5)),
        ("the propensity is not in", lambda: with_value("propensity", 4, float("nan"))),
        ("dt is not 2011-08-31", lambda: with_value("dt", 0, datetime.date(2011, 8, 30))),
        ("arm is another one", lambda: slates(users_of(1), "control")),
        ("belongs to another shard", lambda: slates(USERS, "llm")),
        *((f"{name} is missing", lambda name=name: with_value(name, 2, None)) for name in SLATE.names),
    ],
)
def test_an_invalid_slate_is_refused_with_the_reason(why: str, wrong: Callable[[], pa.Table]) -> None:
    with pytest.raises(PublicationError, match="an invalid slate was not written") as error:
        check(wrong())
    assert why in str(error.value)
    assert error.value.where == "arm llm, shard 1"


def test_the_message_shows_the_row() -> None:
    with pytest.raises(PublicationError, match=r"in 1 of \d+ rows, first in .*'score': nan"):
        check(with_value("score", 4, float("nan")))


@settings(max_examples=50, deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 8), min_size=1, max_size=12))
def test_slates_are_sorted_for_any_length_order_and_chunking(random, lengths: list[int]) -> None:  # type: ignore[no-untyped-def]
    tables = [slates([user], "llm", size) for user, size in zip(users_of(1), lengths, strict=False)]
    table = pa.concat_tables(tables)
    order = list(range(table.num_rows))
    random.shuffle(order)
    got, users = check(table.take(pa.array(order, pa.int64())))
    assert got.equals(table)
    assert users.to_pylist() == users_of(1)[: len(lengths)]
