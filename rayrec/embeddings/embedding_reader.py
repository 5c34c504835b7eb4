"""Readers of published embeddings, neighbours and influences. They read only the files that the manifest lists."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.embeddings.embedding_tables import (
    EMBEDDINGS,
    INFLUENCE,
    INFLUENCES,
    NEIGHBOURS,
    embedding_schema,
    neighbour_schema,
)
from rayrec.errors import MissingFileError, PublicationError
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.published_tables import PublishedTable
from rayrec.publishing.records import Manifest, PublishedFile
from rayrec.publishing.slate_reader import parse_date
from rayrec.storage import Storage, layout

_PARALLEL_READS = 8


def read_embeddings(
    root: str | os.PathLike[str],
    date: str | datetime.date,
    instruction: str,
    *,
    users: Collection[str] | None = None,
    verify: bool = False,
) -> pa.Table:
    """EMBEDDING rows of one instruction, ordered by shard and user_id; `vectors_of` converts them to an array.

    With `users`, only the shards of these users are read. With `verify`, every file is checked against its sha256.
    Raises PublicationError if the date or the instruction is not published, or a file is missing or was changed.
    """

    def schema(manifest: Manifest) -> pa.Schema:
        return embedding_schema(int(manifest.fingerprinted_settings["embeddings"]["model"]["dim"]))

    return _published(Storage(os.fspath(root)), date, EMBEDDINGS, instruction, schema, users, verify)


def read_neighbours(
    root: str | os.PathLike[str],
    date: str | datetime.date,
    instruction: str,
    of: Literal["users", "items"],
    *,
    users: Collection[str] | None = None,
    verify: bool = False,
) -> pa.Table:
    """NEIGHBOURS rows of one instruction, ordered by shard, user_id and rank; otherwise as `read_embeddings`."""
    arm = f"{instruction}.{of}"
    return _published(Storage(os.fspath(root)), date, NEIGHBOURS, arm, lambda _: neighbour_schema(of), users, verify)


def read_influences(
    root: str | os.PathLike[str],
    date: str | datetime.date,
    instruction: str,
    *,
    users: Collection[str] | None = None,
    verify: bool = False,
) -> pa.Table:
    """INFLUENCE rows of one instruction, ordered by shard, user_id and rank; otherwise as `read_embeddings`."""
    return _published(Storage(os.fspath(root)), date, INFLUENCES, instruction, lambda _: INFLUENCE, users, verify)


def _published(
    storage: Storage,
    date: str | datetime.date,
    product: PublishedTable,
    arm: str,
    schema: Callable[[Manifest], pa.Schema],
    users: Collection[str] | None,
    verify: bool,
) -> pa.Table:
    date = parse_date(date)
    manifest = find_manifest(storage, date, product.name)
    if manifest is None:
        raise PublicationError(
            f"no {product.name} are published for {date}",
            where=storage.url(layout.manifest_path(date, product.name)),
            hint="run jobs.embed",
        )
    if arm not in manifest.arms:
        raise PublicationError(
            f"there is no {product.arm_key} {arm!r} on {date}",
            where=storage.root,
            hint=f"the {product.arm_key}s are {', '.join(manifest.arms)}",
        )
    wanted = None if users is None else pa.array(sorted(set(users)), pa.string())
    shards = None if wanted is None else set(shard_of(wanted, manifest.shards).tolist())
    files = [f for f in manifest.files if f.arm == arm and (shards is None or f.shard in shards)]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        tables = list(pool.map(lambda file: _read(storage, file, verify), files))
    table = pa.concat_tables([schema(manifest).empty_table(), *tables])
    return table if wanted is None else table.filter(pc.is_in(table["user_id"], value_set=wanted))


def _read(storage: Storage, file: PublishedFile, verify: bool) -> pa.Table:
    def fail(problem: str) -> PublicationError:
        return PublicationError(
            f"a published file does not match its manifest: {problem}",
            where=storage.url(file.path),
            hint="restore it, or delete the date's manifest and run the job again",
        )

    try:
        data = storage.read(file.path)
    except MissingFileError:
        raise fail("it is missing") from None
    if len(data) != file.bytes:
        raise fail(f"it has {len(data)} bytes instead of {file.bytes}")
    if verify and hashlib.sha256(data).hexdigest() != file.sha256:
        raise fail("its sha256 differs")
    try:
        return pq.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise fail(f"it cannot be read: {error}") from None
