"""EMBEDDING, NEIGHBOURS and INFLUENCE: what is published, and what must hold for it before it is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.embeddings.neighbours import SearchResult
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import shard_of

NEIGHBOUR_COLUMNS = {"users": "neighbour_id", "items": "item_id"}
_UNIT = 1e-3  # how far a length may be from 1


def embedding_schema(dim: int) -> pa.Schema:
    """One row a (user, instruction), sorted by user_id in a file of one instruction and one shard."""
    return pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("instruction_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False),
            pa.field("sources", pa.list_(pa.string()), nullable=False),  # those that the user has
        ]
    )


def embedding_table(
    user_id: pa.Array,
    instruction_id: str,
    vectors: npt.NDArray[np.float32],
    present: npt.NDArray[np.bool_],
    sources: tuple[str, ...],
) -> pa.Table:
    """Rows of EMBEDDING, sorted by user_id: vectors [users, dim], present [users, sources]."""
    order = pc.array_sort_indices(user_id).to_numpy()
    vectors, present = vectors[order], present[order]
    schema = embedding_schema(vectors.shape[1])
    offsets = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int32)
    names = pa.array(sources, pa.string()).take(pa.array(np.nonzero(present)[1]))
    columns = [
        user_id.take(pa.array(order)),
        pa.repeat(pa.scalar(instruction_id), len(user_id)),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=schema.field("vector").type),
        pa.ListArray.from_arrays(pa.array(offsets), names),
    ]
    return pa.table(columns, schema=schema)


def vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """float32 [rows, dim] of EMBEDDING rows."""
    column = table["vector"].combine_chunks()
    dim = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, dim)


def neighbour_schema(of: str) -> pa.Schema:
    """One row a (user, instruction, neighbour), sorted by user_id and rank in a file of one list and one shard.

    `of`: whether the neighbours are `users`, in the column neighbour_id, or `items`, in the column item_id.
    """
    return pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("instruction_id", pa.string(), nullable=False),
            pa.field("rank", pa.int32(), nullable=False),  # 1, 2, ...
            pa.field(NEIGHBOUR_COLUMNS[of], pa.string(), nullable=False),
            pa.field("similarity", pa.float32(), nullable=False),  # cosine
        ]
    )


def neighbour_table(user_id: pa.Array, instruction_id: str, of: str, ids: pa.Array, nearest: SearchResult) -> pa.Table:
    """Rows of NEIGHBOURS of these users, who are sorted; `ids`: whose places the neighbours are."""
    row, rank = np.nonzero(nearest.place >= 0)
    columns = [
        user_id.take(pa.array(row)),
        pa.repeat(pa.scalar(instruction_id), len(row)),
        pa.array(rank + 1, pa.int32()),
        ids.take(pa.array(nearest.place[row, rank])),
        pa.array(nearest.similarity[row, rank], pa.float32()),
    ]
    return pa.table(columns, schema=neighbour_schema(of))


def check_embeddings(table: pa.Table, *, instruction: str, shard: int, shards: int) -> pa.Array:
    """The users of EMBEDDING rows.

    Raises PublicationError unless: the schema is EMBEDDING's, nothing is missing, the instruction is this one, users
    are sorted, each there once and of this shard, and every vector is finite and of length 1.
    """

    fail = partial(_fail, "embedding", f"instruction {instruction}, shard {shard}")
    dim = getattr(table.schema.field("vector").type, "list_size", 1) if "vector" in table.column_names else 1
    if not table.schema.equals(embedding_schema(dim)):
        fail(f"columns are not those of an embedding: {table.schema}")
    table = table.combine_chunks()
    if any(column.null_count for column in table.columns) or table["vector"].combine_chunks().flatten().null_count:
        fail("a value is missing")
    if not pc.all(pc.equal(table["instruction_id"], instruction), min_count=0).as_py():
        fail("the instruction is another")
    users = table["user_id"].combine_chunks()
    if not pc.all(pc.less(users[:-1], users[1:]), min_count=0).as_py():
        fail("users are not sorted, or one is there twice")
    if bool((shard_of(users, shards) != shard).any()):
        fail("a user belongs to another shard")
    length = np.linalg.norm(vectors_of(table), axis=1)
    if not bool((np.abs(length - 1) <= _UNIT).all()):  # NaN fails, too
        fail("a vector is not of length 1")
    return users


def check_neighbours(table: pa.Table, *, arm: str, shard: int, shards: int) -> pa.Array:
    """The users of NEIGHBOURS rows of one list, `<instruction>.users` or `<instruction>.items`.

    Raises PublicationError unless: the schema is that of the list, nothing is missing, the instruction is this one,
    users are sorted and of this shard, ranks are 1..n, no similarity is above the one before it, all are cosines, and
    nobody is their own neighbour.
    """
    instruction, of = arm.rsplit(".", 1)
    fail = partial(_fail, "neighbour", f"list {arm}, shard {shard}")
    if not table.schema.equals(neighbour_schema(of)):
        fail(f"columns are not those of {of}: {table.schema}")
    table, begins = _ranked(table, instruction, shard, shards, fail)
    if not _descending(table["similarity"], begins, -1, 1):
        fail("similarities are no cosines in descending order")
    column = table["user_id"].combine_chunks()
    if of == "users" and pc.any(pc.equal(column, table[NEIGHBOUR_COLUMNS[of]]), min_count=0).as_py():
        fail("somebody is their own neighbour")
    return column.filter(pa.array(begins))


INFLUENCE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1, 2, ...
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("event", pa.string(), nullable=False),  # as data.events calls it
        pa.field("influence", pa.float32(), nullable=False),  # 1 - cos(with all events, without this one), in [0, 2]
        pa.field("agreement", pa.float32(), nullable=False),  # with the user's other events, in [-1, 1]
        pa.field("left_out", pa.bool_(), nullable=False),  # of the vector that is published
    ]
)
"""One row a (user, instruction, event), sorted by user_id and rank in a file of one instruction and one shard."""


def check_influences(table: pa.Table, *, instruction: str, shard: int, shards: int) -> pa.Array:
    """The users of INFLUENCE rows.

    Raises PublicationError unless: the schema is INFLUENCE's, nothing is missing, the instruction is this one, users
    are sorted and of this shard, ranks are 1..n, and influences lie in [0, 2], none above the one before it.
    """
    fail = partial(_fail, "influence", f"instruction {instruction}, shard {shard}")
    if not table.schema.equals(INFLUENCE):
        fail(f"columns are not those of influences: {table.schema}")
    table, begins = _ranked(table, instruction, shard, shards, fail)
    if not _descending(table["influence"], begins, 0, 2):
        fail("influences do not lie in [0, 2] in descending order")
    return table["user_id"].combine_chunks().filter(pa.array(begins))


def _ranked(
    table: pa.Table, instruction: str, shard: int, shards: int, fail: Callable[[str], NoReturn]
) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Rows whose users are in order and ranked from 1, in one chunk; and which of them begin a user."""
    table = table.combine_chunks()
    if any(column.null_count for column in table.columns):
        fail("a value is missing")
    if not pc.all(pc.equal(table["instruction_id"], instruction), min_count=0).as_py():
        fail("the instruction is another")
    column = table["user_id"].combine_chunks()
    begins = np.ones(len(column), np.bool_)
    begins[1:] = pc.not_equal(column[:-1], column[1:]).to_numpy(zero_copy_only=False)
    users = column.filter(pa.array(begins))
    if not pc.all(pc.less(users[:-1], users[1:]), min_count=0).as_py():
        fail("users are not sorted")
    if bool((shard_of(users, shards) != shard).any()):
        fail("a user belongs to another shard")
    first = np.flatnonzero(begins)
    if not np.array_equal(table["rank"].to_numpy(), np.arange(len(begins)) - np.repeat(first, _runs(begins)) + 1):
        fail("ranks are not 1..n")
    return table, begins


def _descending(column: pa.ChunkedArray, begins: npt.NDArray[np.bool_], low: float, high: float) -> bool:
    """Whether all numbers lie in [low, high], but for rounding, and within a user none is above the one before it."""
    values = column.to_numpy()
    inside = (values >= low - _UNIT) & (values <= high + _UNIT)  # NaN is not
    return bool(inside.all()) and not bool((np.diff(values)[~begins[1:]] > 0).any())


def _runs(begins: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The length of each run of rows; bool [n], True where one begins."""
    return np.diff(np.append(np.flatnonzero(begins), len(begins)))


def _fail(noun: str, where: str, what: str) -> NoReturn:
    raise PublicationError(
        f"a wrong {noun} was about to be written: {what}",
        where=where,
        hint="nothing was written; this is a defect of the model, please report it with this message",
    )
