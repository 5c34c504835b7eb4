"""Run statistics: merging, overlap of rankings, drift."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import denoising_reasons, gains, slates

from rayrec.data.schemas import DENOISED_HISTORY
from rayrec.denoising.denoiser import REASONS
from rayrec.monitoring.drift import drift, psi
from rayrec.monitoring.rank_overlap import rank_biased_overlap
from rayrec.monitoring.run_statistics import (
    RUN_STATISTICS,
    bin_edges,
    counts_by_arm,
    history_statistics,
    merge,
    slate_statistics,
)
from rayrec.monitoring.scorer_gains import scorer_gains
from rayrec.reporting.charts import histogram


def textbook_rbo(first: list[int], second: list[int], p: float) -> float:
    """Webber et al. 2010, eq. 32 with equal depths, written with sets."""
    depth, total = len(first), 0.0
    agreement = [len(set(first[:d]) & set(second[:d])) / d for d in range(1, depth + 1)]
    for d in range(1, depth + 1):
        total += (1 - p) * p ** (d - 1) * agreement[d - 1]
    return total + agreement[-1] * p**depth


def test_statistics_of_all_users_are_the_sum_of_those_of_the_parts() -> None:
    table, item_id, category = slates(users=30)
    whole = slate_statistics(table, item_id, category)
    number = pc.cast(pc.replace_substring(table["user_id"], "user-", ""), pa.int64())
    parts = [table.filter(pc.less(number, 11)), table.filter(pc.greater_equal(number, 11))]
    merged = merge([slate_statistics(part, item_id, category) for part in parts])
    assert merged.select(["statistic", "arm", "key"]) == whole.select(["statistic", "arm", "key"])
    np.testing.assert_allclose(merged["count"].to_numpy(), whole["count"].to_numpy())


def test_fractions_are_added_in_the_order_of_the_shards() -> None:
    shards = np.random.default_rng(0).random((50, 2))
    keys = {"statistic": ["overlap"] * 2, "arm": ["a ~ b"] * 2, "key": ["rbo", "users"]}
    parts = [pa.table({**keys, "count": shard}, RUN_STATISTICS) for shard in shards]
    one_after_another = [reduce(add, column) for column in shards.T.tolist()]  # `sum` compensates for lost digits
    for _ in range(100):
        assert merge(parts)["count"].to_pylist() == one_after_another


def test_every_slate_row_is_counted_once_in_each_distribution() -> None:
    table, item_id, category = slates(users=12, size=20)
    summary = slate_statistics(table, item_id, category)
    for statistic, expected in {"score": 240, "source": 240, "category": 240, "top score": 12}.items():
        assert {sum(counts.values()) for counts in counts_by_arm(summary, statistic).values()} == {expected}


def test_no_slates_give_an_empty_summary() -> None:
    table, item_id, category = slates(users=2)
    assert slate_statistics(table.slice(0, 0), item_id, category).num_rows == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 12))
def test_rbo_equals_the_papers_formula(seed: int, users: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.argsort(rng.random((users, 15)), axis=1)[:, :depth] for _ in range(2))
    expected = [textbook_rbo(list(a), list(b), 0.9) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_biased_overlap(first, second), expected)


def test_ranks_past_the_end_of_a_short_slate_are_not_shared() -> None:
    assert rank_biased_overlap(np.array([[1, -1]]), np.array([[2, -1]]))[0] == 0.0


@settings(max_examples=50, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32))
def test_every_score_lies_within_the_edges_of_its_bin(score: float) -> None:
    table, item_id, category = slates(users=1, size=1)
    table = with_scores(table, pa.array([score] * len(table), pa.float32()))
    (key,) = counts_by_arm(slate_statistics(table, item_id, category), "score")["llm"]
    low, high = bin_edges(int(key))
    tolerance = 1e-9 + abs(score) * 1e-9
    assert low - tolerance <= score <= high + tolerance


def test_a_histogram_keeps_the_mass_between_its_ends() -> None:
    table, item_id, category = slates(users=200)
    counts = counts_by_arm(slate_statistics(table, item_id, category), "score")["llm"]
    heights, low, high = histogram(counts)
    assert low < -1.5 < 1.5 < high
    assert 0.97 * 4000 < heights.sum() <= 4000 + 1e-6


def test_reasons_and_lengths_of_histories_are_counted() -> None:
    empty = pa.array([[0.0] * 3, [0.0]], pa.list_(pa.float32()))
    columns = {
        name: empty.cast(DENOISED_HISTORY.field(name).type)
        for name in DENOISED_HISTORY.names
        if name not in ("user_id", "variant")
    }
    columns["reason"] = pa.array([[0, 1, 0], [3]], pa.list_(pa.int8()))
    table = pa.table({**columns, "user_id": ["u", "v"], "variant": ["influence"] * 2}).select(DENOISED_HISTORY.names)
    summary = history_statistics(table.cast(DENOISED_HISTORY))
    assert counts_by_arm(summary, "denoising reason") == {
        "influence": {REASONS[0]: 2.0, "inconsistent": 1.0, REASONS[3]: 1.0}
    }
    assert counts_by_arm(summary, "history length") == {"all": {"1": 1.0, "3": 1.0}}


def test_each_history_counts_once_for_all_variants() -> None:
    columns = {name: pa.array([[0] * n for n in (3, 1, 3, 2)]) for name in DENOISED_HISTORY.names}
    rows = {**columns, "user_id": ["u", "v", "u", "w"], "variant": ["none", "none", "rules", "rules"]}
    lengths = counts_by_arm(history_statistics(pa.table(rows).cast(DENOISED_HISTORY)), "history length")
    assert lengths == {"all": {"1": 1.0, "2": 1.0, "3": 1.0}}


def with_scores(table: pa.Table, scores: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("score"), table.schema.field("score"), scores)


def test_drift_is_zero_without_a_change_and_found_after_a_shift() -> None:
    table, item_id, category = slates(users=300)
    shifted = with_scores(table, pc.add(table["score"], pa.scalar(1, pa.float32())))
    today = slate_statistics(table, item_id, category)
    assert set(drift(today, today)["psi"].to_pylist()) == {0.0}
    found = drift(today, slate_statistics(shifted, item_id, category)).to_pylist()
    status = {(row["statistic"], row["status"]) for row in found}
    assert ("score", "shifted") in status
    assert ("category", "stable") in status


def test_psi_equals_the_formula_for_two_bins() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.4, 0.6])
    found = psi({"a": 50, "b": 50}, {"a": 4, "b": 6}, ordered=False)
    assert found == pytest.approx(float(((q - p) * np.log(q / p)).sum()))


def test_an_empty_earlier_date_has_no_drift() -> None:
    assert drift(denoising_reasons().slice(0, 0), denoising_reasons()).num_rows == 0


def test_the_gains_of_a_blend_are_rows_of_the_report() -> None:
    assert [(row["scorer"], row["gain"], row["users"], bool(row["entered"])) for row in scorer_gains(gains())] == [
        ("llm (users with a request)", 0.7, 60, True),
        ("ease", 0.2, 400, True),
        ("content: char", 0.05, 400, True),
        ("llm", -0.001, 44, False),
    ]
