"""The benchmark's candidates: sources are fused, and recall counts what each user wanted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.embed_recall import FUSION, Judged, fused, ratio_interval
from rayrec.contracts.ragged import Ragged
from rayrec.retrieval.sources import SourceSpec

PERSONAL = SourceSpec("one", "ials", 100, {}), SourceSpec("two", "ease", 100, {})
SHARED = SourceSpec("all", "popularity", 100, {})


def proposed(scores: list[list[float]]) -> pa.Table:
    """One user with candidates 0, 1, ...; a list of scores a source."""
    columns = {"candidate": [list(range(len(scores[0])))]}
    return pa.table(columns | {f"score.s{k}": pa.array([own], pa.list_(pa.float32())) for k, own in enumerate(scores)})


@settings(max_examples=40, deadline=None)
@given(
    scores=st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=30, unique_by=lambda row: row[0]),
    size=st.integers(1, 12),
)
def test_sources_are_fused_by_reciprocal_ranks(scores: list[tuple[int, ...]], size: int) -> None:
    columns = [[float(row[k]) for row in scores] for k in range(3)]
    found = fused(proposed(columns), (*PERSONAL, SHARED), size).values.tolist()
    total = [0.0] * len(scores)
    for k, own in enumerate(columns):
        order = sorted(range(len(own)), key=lambda n, own=own: (-own[n], n))
        for rank, n in enumerate(order, start=1):
            total[n] += 1 / (FUSION + rank) if own[n] > 0 or k == 2 else 0
    assert len(found) == len(set(found)) == min(size, len(scores))
    # Equals may stand either way: sums of floats differ in their last bits.
    np.testing.assert_allclose([total[n] for n in found], sorted(total, reverse=True)[:size], rtol=1e-5)


def test_recall_is_the_share_of_what_was_wanted() -> None:
    wanted = Ragged.from_lengths(np.array([1, 2, 5], np.int32), [2, 1])
    judged = Judged(pa.array(["u", "v"]), wanted)
    assert judged.recall(Ragged.from_lengths(np.array([2, 9, 1, 2], np.int32), [2, 2])).tolist() == [0.5, 0.0]


def test_the_interval_holds_the_ratio_and_is_one_for_equals() -> None:
    theirs = np.random.default_rng(0).random(500)
    assert ratio_interval(theirs, theirs) == (1.0, 1.0)
    low, high = ratio_interval(1.2 * theirs, theirs)
    assert (low, high) == pytest.approx((1.2, 1.2))
    low, high = ratio_interval(theirs[::-1], theirs)
    assert low < 1 < high
