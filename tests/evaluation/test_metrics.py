"""Ranking metrics, compared with `ir-measures` and hand-computed values."""

from __future__ import annotations

import ir_measures
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from rayrec.errors import DataError
from rayrec.evaluation.metrics import RelevantItems, user_metrics

PEERS = {
    "recall@10": R @ 10,
    "recall@50": R @ 50,
    "ndcg@10": nDCG @ 10,
    "hr@1": Success @ 1,
    "hr@10": Success @ 10,
    "mrr": RR,
}


def slate_table(slates: dict[str, list[str]]) -> pa.Table:
    rows = [(user, rank, item) for user, items in slates.items() for rank, item in enumerate(items, 1)]
    user, rank, item = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {"user_id": pa.array(user, pa.string()), "rank": pa.array(rank, pa.int16())}
    return pa.table({**columns, "item_id": pa.array(item, pa.string())})


def truth_of(wanted: dict[str, list[str]], catalogue: list[str]) -> RelevantItems:
    pairs = [(user, item) for user, items in wanted.items() for item in items]
    return RelevantItems.from_pairs(
        pa.array([u for u, _ in pairs]), pa.array([i for _, i in pairs]), pa.array(sorted(catalogue))
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 15), st.integers(1, 80))
def test_every_metric_of_every_user_equals_ir_measures(seed: int, users: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    catalogue = [f"i{n:03d}" for n in range(120)]
    names = [f"u{n}" for n in range(users)]
    slates = {u: list(rng.choice(catalogue, length, replace=False)) for u in names}
    wanted = {u: list(rng.choice(catalogue, rng.integers(1, 20), replace=False)) for u in names}
    found = user_metrics("ours", slate_table(slates), truth_of(wanted, catalogue))

    qrels = {u: {str(i): 1 for i in items} for u, items in wanted.items()}
    run = {u: {str(i): float(-rank) for rank, i in enumerate(items)} for u, items in slates.items()}
    peer = {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc(list(PEERS.values()), qrels, run)}
    for metric, measure in PEERS.items():
        theirs = [peer[user, str(measure)] for user in sorted(names)]
        np.testing.assert_allclose(found.values[metric], theirs, atol=1e-12, err_msg=metric)


def test_a_slate_with_the_relevant_item_second_has_the_textbook_values() -> None:
    found = user_metrics("one", slate_table({"u": ["a", "b", "c"]}), truth_of({"u": ["b"]}, ["a", "b", "c", "d"]))
    expected = {"recall@10": 1, "recall@50": 1, "ndcg@10": 1 / np.log2(3), "hr@1": 0, "hr@10": 1, "mrr": 0.5}
    assert {name: float(values[0]) for name, values in found.values.items()} == pytest.approx(expected)
    assert found.coverage() == 3 / 4


def test_a_user_without_a_slate_counts_as_zero() -> None:
    found = user_metrics("half", slate_table({"u": ["a"]}), truth_of({"u": ["a"], "v": ["a"]}, ["a"]))
    assert found.values["hr@1"].tolist() == [1.0, 0.0]


def test_slates_of_users_without_relevant_items_change_nothing() -> None:
    truth = truth_of({"u": ["b"]}, ["a", "b"])
    alone = user_metrics("s", slate_table({"u": ["a", "b"]}), truth)
    both = user_metrics("s", slate_table({"u": ["a", "b"], "w": ["b", "a"]}), truth)
    assert all((alone.values[name] == both.values[name]).all() for name in alone.values)
    assert alone.coverage() == both.coverage()


def test_the_order_of_the_rows_does_not_matter() -> None:
    truth = truth_of({"u": ["b"], "v": ["a"]}, ["a", "b"])
    table = slate_table({"u": ["a", "b"], "v": ["a", "b"]})
    backwards = table.take(pa.array(range(len(table) - 1, -1, -1)))
    found, expected = (user_metrics("s", rows, truth).values["mrr"].tolist() for rows in (backwards, table))
    assert found == expected


def test_an_item_twice_in_a_slate_is_an_error() -> None:
    with pytest.raises(DataError, match="twice"):
        user_metrics("twice", slate_table({"u": ["a", "a"]}), truth_of({"u": ["a"]}, ["a"]))


def test_items_outside_the_catalogue_are_not_relevant() -> None:
    truth = truth_of({"u": ["a", "newer"], "v": ["newer"]}, ["a"])
    assert truth.user_id.to_pylist() == ["u"]
    assert user_metrics("s", slate_table({"u": ["a"]}), truth).values["recall@10"].tolist() == [1.0]
