"""The published tables of embeddings, neighbours and influences: schemas, and the checks before a file is written.

They are published by the rules of slates (rayrec.publishing.publishing_run):

    embeddings/dt=2011-08-31/instruction=gifts/shard=0007-<run id>-<attempt>.parquet
    embeddings/dt=2011-08-31/manifest.json                    the publication: lists every file of the date
    neighbours/dt=2011-08-31/list=gifts.users/shard=...       nearest users, if configured
    neighbours/dt=2011-08-31/list=next_order.items/shard=...  nearest items, if configured
    influences/dt=2011-08-31/instruction=gifts/shard=...      influence of single events on the vectors, if configured
    runs/dt=2011-08-31/<run id>/run.json, receipts/           as for slates, under other run ids

In run records and manifests an instruction (or a list of one) takes the place of an arm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.embeddings.neighbour_search import SearchResult
from rayrec.errors import PublicationError
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.published_tables import PublishedTable
from rayrec.publishing.records import RunRecord

NEIGHBOUR_COLUMNS = {"users": "neighbour_id", "items": "item_id"}
_TOLERANCE = 1e-3  # allowed deviation of vector lengths and cosines

INFLUENCE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1, 2, ...
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("event", pa.string(), nullable=False),  # a name of data.events
        pa.field("influence", pa.float32(), nullable=False),  # 1 - cos(with all events, without this one), in [0, 2]
        pa.field("alignment", pa.float32(), nullable=False),  # with the user's other events, in [-1, 1]
        pa.field("removed", pa.bool_(), nullable=False),  # from the published vector
    ]
)
"""One row per (user, instruction, event), sorted by user_id and rank in a file of one instruction and one shard."""


def embedding_schema(dim: int) -> pa.Schema:
    """EMBEDDING: one row per (user, instruction), sorted by user_id in a file of one instruction and one shard."""
    return pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("instruction_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("item", pa.float32(), nullable=False), dim), nullable=False),
            pa.field("sources", pa.list_(pa.string()), nullable=False),  # names of the sources with data
        ]
    )


def neighbour_schema(of: str) -> pa.Schema:
    """NEIGHBOURS: one row per (user, instruction, neighbour), sorted by user_id and rank; one list and shard per file.

    `of`: `users` (neighbours in the column neighbour_id) or `items` (in the column item_id).
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


def neighbour_table(user_id: pa.Array, instruction_id: str, of: str, ids: pa.Array, found: SearchResult) -> pa.Table:
    """Build NEIGHBOURS rows of these users, sorted by id; `ids`: the ids of the index's entries."""
    row, rank = np.nonzero(found.place >= 0)
    columns = [
        user_id.take(pa.array(row)),
        pa.repeat(pa.scalar(instruction_id), len(row)),
        pa.array(rank + 1, pa.int32()),
        ids.take(pa.array(found.place[row, rank])),
        pa.array(found.similarity[row, rank], pa.float32()),
    ]
    return pa.table(columns, schema=neighbour_schema(of))


def check_embeddings(table: pa.Table, *, instruction: str, shard: int, shards: int) -> pa.Array:
    """Check EMBEDDING rows and return their users.

    Raises PublicationError unless the schema is EMBEDDING's, no value is missing, the instruction is this one, users
    are sorted, unique and of this shard, and every vector is finite and of length 1.
    """
    fail = partial(_fail, "embedding", f"instruction {instruction}, shard {shard}")
    dim = getattr(table.schema.field("vector").type, "list_size", 1) if "vector" in table.column_names else 1
    if not table.schema.equals(embedding_schema(dim)):
        fail(f"its columns are not those of an embedding: {table.schema}")
    table = table.combine_chunks()
    _check_values(table, instruction, fail)
    if table["vector"].combine_chunks().flatten().null_count:
        fail("a value is missing")
    users = table["user_id"].combine_chunks()
    _check_users(users, shard, shards, fail)
    length = np.linalg.norm(vectors_of(table), axis=1)
    if not bool((np.abs(length - 1) <= _TOLERANCE).all()):  # also false for NaN
        fail("a vector is not of length 1")
    return users


def check_neighbours(table: pa.Table, *, arm: str, shard: int, shards: int) -> pa.Array:
    """Check NEIGHBOURS rows of one list, `<instruction>.users` or `<instruction>.items`, and return their users.

    Raises PublicationError unless the schema is that of the list, no value is missing, the instruction is this one,
    users are sorted and of this shard, ranks are 1..n, similarities are cosines in descending order, and no user is
    their own neighbour.
    """
    instruction, of = arm.rsplit(".", 1)
    fail = partial(_fail, "neighbour", f"list {arm}, shard {shard}")
    if not table.schema.equals(neighbour_schema(of)):
        fail(f"its columns are not those of {of}: {table.schema}")
    table, starts = _ranked(table, instruction, shard, shards, fail)
    if not _descending(table["similarity"], starts, -1, 1):
        fail("similarities are not cosines in descending order")
    column = table["user_id"].combine_chunks()
    if of == "users" and pc.any(pc.equal(column, table[NEIGHBOUR_COLUMNS[of]]), min_count=0).as_py():
        fail("a user is their own neighbour")
    return column.filter(pa.array(starts))


def check_influences(table: pa.Table, *, instruction: str, shard: int, shards: int) -> pa.Array:
    """Check INFLUENCE rows and return their users.

    Raises PublicationError unless the schema is INFLUENCE's, no value is missing, the instruction is this one, users
    are sorted and of this shard, ranks are 1..n, and influences lie in [0, 2] in descending order.
    """
    fail = partial(_fail, "influence", f"instruction {instruction}, shard {shard}")
    if not table.schema.equals(INFLUENCE):
        fail(f"its columns are not those of influences: {table.schema}")
    table, starts = _ranked(table, instruction, shard, shards, fail)
    if not _descending(table["influence"], starts, 0, 2):
        fail("influences are not in [0, 2] in descending order")
    return table["user_id"].combine_chunks().filter(pa.array(starts))


def _ranked(
    table: pa.Table, instruction: str, shard: int, shards: int, fail: _Fail
) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Check users and ranks; return the rows in one chunk and a mask of the first row of each user."""
    table = table.combine_chunks()
    _check_values(table, instruction, fail)
    column = table["user_id"].combine_chunks()
    starts = np.ones(len(column), np.bool_)
    starts[1:] = pc.not_equal(column[:-1], column[1:]).to_numpy(zero_copy_only=False)
    _check_users(column.filter(pa.array(starts)), shard, shards, fail)
    first = np.flatnonzero(starts)
    lengths = np.diff(np.append(first, len(starts)))
    if not np.array_equal(table["rank"].to_numpy(), np.arange(len(starts)) - np.repeat(first, lengths) + 1):
        fail("ranks are not 1..n")
    return table, starts


def _check_values(table: pa.Table, instruction: str, fail: _Fail) -> None:
    if any(column.null_count for column in table.columns):
        fail("a value is missing")
    if not pc.all(pc.equal(table["instruction_id"], instruction), min_count=0).as_py():
        fail("a row has another instruction")


def _check_users(users: pa.Array, shard: int, shards: int, fail: _Fail) -> None:
    if not pc.all(pc.less(users[:-1], users[1:]), min_count=0).as_py():
        fail("users are not sorted, or a user occurs twice")
    if bool((shard_of(users, shards) != shard).any()):
        fail("a user belongs to another shard")


def _descending(column: pa.ChunkedArray, starts: npt.NDArray[np.bool_], low: float, high: float) -> bool:
    """Whether all values lie in [low, high], within rounding, and do not increase within a user."""
    values = column.to_numpy()
    inside = (values >= low - _TOLERANCE) & (values <= high + _TOLERANCE)  # False for NaN
    return bool(inside.all()) and not bool((np.diff(values)[~starts[1:]] > 0).any())


def _fail(noun: str, where: str, what: str) -> NoReturn:
    raise PublicationError(
        f"a wrong {noun} was about to be written: {what}",
        where=where,
        hint="nothing was written; this is a defect of the model, please report it with this message",
    )


_Fail = Callable[[str], NoReturn]


def _embeddings(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_embeddings(table, instruction=arm, shard=shard, shards=record.shards)


def _neighbours(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_neighbours(table, arm=arm, shard=shard, shards=record.shards)


def _influences(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return table, check_influences(table, instruction=arm, shard=shard, shards=record.shards)


EMBEDDINGS = PublishedTable("embeddings", "a vector", "instruction", ("user_id",), 1 << 14, True, _embeddings)
NEIGHBOURS = PublishedTable("neighbours", "a neighbour", "list", ("user_id", "rank"), 1 << 17, False, _neighbours)
INFLUENCES = PublishedTable("influences", "an event", "instruction", ("user_id", "rank"), 1 << 17, False, _influences)
