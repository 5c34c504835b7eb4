"""EMBEDDING: what is published, and what must hold for it before it is written."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.errors import PublicationError
from rayrec.hashing import shard_of

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


def check_embeddings(table: pa.Table, *, instruction: str, shard: int, shards: int) -> None:
    """Raise PublicationError unless: the schema is EMBEDDING's, nothing is missing, the instruction is this one, users
    are sorted, each there once and of this shard, and every vector is finite and of length 1."""

    def fail(what: str) -> None:
        raise PublicationError(
            f"a wrong embedding was about to be written: {what}",
            where=f"instruction {instruction}, shard {shard}",
            do="nothing was written; this is a defect of the model, please report it with this message",
        )

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
