"""Content features: known answers, independence of the batch, users and items without content."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_candidates import ITEMS, candidates

from rayrec.blending import content_features
from rayrec.blending.blend_features import user_standardised
from rayrec.blending.content_features import with_content
from rayrec.numerics.ragged import Ragged

FEATURES = ("char", "char_best")


def vectors(seed: int = 0, items: int = ITEMS, terms: int = 30) -> sp.csr_matrix:
    """Rows of length 1; every fifth item has no content."""
    random = np.random.default_rng(seed)
    dense = random.random((items, terms)) * (random.random((items, terms)) < 0.2)
    dense[::5] = 0
    length = np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)
    return sp.csr_matrix((dense / length).astype(np.float32))


def columns(table: pa.Table, content: sp.csr_matrix) -> list[Ragged]:
    found = with_content(table, {"char": content}, FEATURES)
    return [Ragged.from_arrow(found[f"content.{name}"]) for name in FEATURES]


def test_features_are_weighted_cosines() -> None:
    table, content = candidates(20), vectors()
    item, candidate = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["candidate"])
    mean, closest = columns(table, content)
    for user in range(20):
        weight = 2.0 ** (-np.arange(len(item[user]))[::-1] / 100)
        cosine = (content[candidate[user]] @ content[item[user]].T).toarray() * weight
        assert np.allclose(mean[user], cosine.sum(1), atol=1e-6)
        assert np.allclose(closest[user], cosine.max(1, initial=0), atol=1e-6)


def test_values_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    table, content = candidates(60), vectors()
    whole = columns(table, content)
    monkeypatch.setattr(content_features, "_BLOCK_CELLS", 100)
    for start, length in ((0, 60), (0, 1), (7, 1), (20, 13)):
        for part, all_users in zip(columns(table.slice(start, length), content), whole, strict=True):
            assert np.array_equal(part.values, all_users.take(np.arange(start, start + length)).values)


def test_without_content_or_users_all_is_zero() -> None:
    table = candidates(5)
    for content in (sp.csr_matrix((ITEMS, 0), dtype=np.float32), sp.csr_matrix((ITEMS, 3), dtype=np.float32)):
        assert all(not column.values.any() for column in columns(table, content))
    assert all(len(column) == 0 for column in columns(table.slice(0, 0), vectors()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=6), min_size=1, max_size=5))
def test_standardised_features_have_mean_0_and_spread_1_or_0(rows: list[list[float]]) -> None:
    ragged = Ragged.from_lengths(np.array([x for row in rows for x in row], np.float32), [len(row) for row in rows])
    found = ragged.like(user_standardised(ragged))
    for row in range(len(found)):
        if len(found[row]):
            assert found[row].mean(dtype=float) == pytest.approx(0, abs=1e-3)
            assert found[row].std(dtype=float) == pytest.approx(1, abs=1e-3) or not found[row].any()
