"""Readers of published embeddings, neighbours and influences. They read only the files that the manifest lists."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Collection
from typing import Literal

import pyarrow as pa

from rayrec.embeddings.embedding_tables import (
    EMBEDDINGS,
    INFLUENCE,
    INFLUENCES,
    NEIGHBOURS,
    embedding_schema,
    neighbour_schema,
)
from rayrec.errors import PublicationError
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.published_tables import PublishedTable
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import parse_date, read_arms
from rayrec.storage import Storage, layout


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
    return read_arms(storage, manifest, arm, schema(manifest), users=users, verify=verify, arm_key=product.arm_key)
