"""Nearest-neighbour search, compared with all pairs: batch independence and ties."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.embeddings.embedding_tables import NEIGHBOURS, check_neighbours, neighbour_table
from rayrec.embeddings.neighbour_search import Index
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import shard_of

SHARDS = 2
USERS = pa.array([f"user-{n:02d}" for n in range(40)])
OURS = USERS.filter(pa.array(shard_of(USERS, SHARDS) == 0))


def unit(rows: int, seed: int, dim: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    group=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    k=st.integers(1, 70),
    seed=st.integers(0, 5),
    own=st.booleans(),
)
def test_neighbours_are_the_most_similar_of_all_pairs_and_ties_are_in_order(
    group: list[int], k: int, seed: int, own: bool
) -> None:
    vectors = unit(10, seed)[group]  # vectors of one group are bit-identical
    places = np.arange(len(group))
    found = Index(vectors).search(vectors, k, places if own else None)
    for row in places:
        similarity = np.einsum("nd,d->n", vectors, vectors[row])
        expected = sorted((n for n in places if not (own and n == row)), key=lambda n: (-similarity[n], n))[:k]
        there = found.place[row] >= 0
        assert found.place[row][there].tolist() == expected
        assert not there[len(expected) :].any()
        np.testing.assert_allclose(found.similarity[row][there], similarity[expected], atol=1e-6)
        assert np.isneginf(found.similarity[row][~there]).all()


def test_results_do_not_depend_on_other_queries() -> None:
    index, queries = Index(unit(3000, 1, 64)), unit(1500, 2, 64)
    together = index.search(queries, 20)
    for part in (slice(0, 1), slice(700, 733), slice(1499, 1500)):
        alone = index.search(queries[part], 20)
        assert np.array_equal(alone.place, together.place[part])
        assert np.array_equal(alone.similarity, together.similarity[part])
    assert index.search(queries[:0], 20).place.shape == (0, 20)


def listed(of: str = "users") -> pa.Table:
    vectors = unit(len(USERS), 3)
    rows = np.flatnonzero(shard_of(USERS, SHARDS) == 0)
    nearest = Index(vectors).search(vectors[rows], 3, rows if of == "users" else None)
    return neighbour_table(OURS, "gifts", of, USERS, nearest)


@pytest.mark.parametrize("of", ["users", "items"])
def test_the_check_of_a_valid_list_returns_its_users(of: str) -> None:
    assert check_neighbours(listed(of), arm=f"gifts.{of}", shard=0, shards=SHARDS).equals(OURS)
    assert not len(check_neighbours(listed(of)[:0], arm=f"gifts.{of}", shard=0, shards=SHARDS))
    assert NEIGHBOURS.sort_columns == ("user_id", "rank")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda t: t[1:], "ranks"),
        (lambda t: pa.concat_tables([t[3:], t[:3]]), "not sorted"),
        (lambda t: t.set_column(3, t.schema.field(3), t["user_id"]), "own neighbour"),
        (lambda t: t.set_column(4, t.schema.field(4), pa.array(np.full(len(t), np.nan, np.float32))), "cosines"),
        (
            lambda t: t.set_column(4, t.schema.field(4), t["similarity"].take(pa.array(np.arange(len(t))[::-1]))),
            "cosines",
        ),
        (lambda t: t.set_column(1, t.schema.field(1), pa.array(["bags"] * len(t))), "instruction"),
        (lambda t: t.drop_columns(["rank"]), "columns"),
        (lambda t: listed("items"), "columns"),
    ],
)
def test_an_invalid_list_is_an_error(wrong: object, says: str) -> None:
    with pytest.raises(PublicationError, match=says):
        check_neighbours(wrong(listed()), arm="gifts.users", shard=0, shards=SHARDS)  # type: ignore[operator]
    with pytest.raises(PublicationError, match="another shard"):
        check_neighbours(listed(), arm="gifts.users", shard=1, shards=SHARDS)
