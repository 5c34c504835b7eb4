"""Erasure of users from publications: the only case in which a date's files change after its manifest.

New files without the users are written first, then the manifest is replaced in one step, then the old files are
deleted. Readers see the date before or after; a reader with the old manifest gets an error about a missing file. The
users count as ineligible, with the reason ERASED, so that the user counts still add up.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import uuid
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.data.erasure_list import ErasureList
from rayrec.errors import MissingFileError
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.records import Manifest, PublishedFile, add_counts
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet, rows_without, write_arrow

ERASED = "erased"  # reason of ineligible users
USER_COLUMNS = ("user_id", "neighbour_id")  # columns with user ids


def erase(
    storage: Storage,
    product: str,
    date: datetime.date,
    erasure_list: ErasureList,
    retrained: Mapping[str, str] | None = None,
) -> None:
    """Erase users from the publication of a product and date, and from its unpublished runs.

    `retrained`: old -> new fingerprints of models refitted without the users, for the manifest. Idempotent, also after
    a kill. Raises PublicationError for an unreadable manifest.
    """
    manifest = find_manifest(storage, date, product)
    if manifest is not None:
        _erase_propensities(storage, manifest, erasure_list)
        manifest = _erase_published(storage, product, manifest, erasure_list, retrained or {})
    named = {file.path for file in manifest.files} if manifest is not None else set()
    own = "" if manifest is None else f"-{manifest.run_id}-"
    for info in storage.list(layout.publication_folder(product, date)):
        if info.path in named or not info.path.endswith(".parquet"):
            continue
        if own and own in info.path:  # left by a killed attempt, perhaps of this function
            storage.delete(info.path)
        elif rows_of_users(read_parquet(storage, info.path), erasure_list).any():
            _drop_attempt(storage, info.path)


def rows_of_users(table: pa.Table, erasure_list: ErasureList) -> npt.NDArray[np.bool_]:
    """Bool [n]: rows of these users, or with one of them as neighbour."""
    found = np.zeros(table.num_rows, np.bool_)
    for column in USER_COLUMNS:
        if column in table.column_names:
            found |= erasure_list.contains(table[column])
    return found


def _erase_published(
    storage: Storage, product: str, manifest: Manifest, erasure_list: ErasureList, retrained: Mapping[str, str]
) -> Manifest:
    files, erased = [], set[str]()
    for file in manifest.files:
        table = read_parquet(storage, file.path)
        listed = rows_of_users(table, erasure_list)
        erased |= erasure_list.tokens_in(table["user_id"])
        files.append(_rewritten(storage, file, rows_without(table, listed)) if listed.any() else file)
    models = {name: retrained.get(fingerprint, fingerprint) for name, fingerprint in manifest.models.items()}
    if models == manifest.models and all(new is old for new, old in zip(files, manifest.files, strict=True)):
        return manifest
    users = manifest.users
    without = dataclasses.replace(
        users,
        published=users.published - len(erased),
        ineligible=add_counts(users.ineligible, {ERASED: len(erased)} if erased else {}),
    )
    remaining = tuple(file for file in files if file.rows)
    rows = sum(file.rows for file in remaining)
    changed = dataclasses.replace(
        manifest, users=without, files=remaining, rows=rows, models=models, attempt=uuid.uuid4().hex
    )
    storage.write(layout.manifest_path(manifest.dt, product), changed.to_json())
    for path in {file.path for file in manifest.files} - {file.path for file in remaining}:
        storage.delete(path)
    return changed


def _rewritten(storage: Storage, file: PublishedFile, table: pa.Table) -> PublishedFile:
    """Write these rows under the name of a new attempt; no file without rows."""
    if not table.num_rows:
        return dataclasses.replace(file, rows=0, users=0)
    path = layout.rewritten_path(file.path, uuid.uuid4().hex[:12])
    with storage.open(file.path) as opened:
        group = pq.ParquetFile(opened).metadata.row_group(0)
        sorting, size = list(group.sorting_columns), group.num_rows
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=max(size, 1), sorting_columns=sorting or None)
    data = sink.getvalue().to_pybytes()
    storage.write(path, data)
    users = len(pc.unique(table["user_id"]))
    return PublishedFile(file.arm, file.shard, path, table.num_rows, users, len(data), hashlib.sha256(data).hexdigest())


def _erase_propensities(storage: Storage, manifest: Manifest, erasure_list: ErasureList) -> None:
    """Erase the counterfactual propensities of the users' slates, before the slates that identify them."""
    slates: dict[int, list[pa.Array]] = {}
    for file in manifest.files:
        table = read_parquet(storage, file.path)
        if "slate_id" in table.column_names and (listed := erasure_list.contains(table["user_id"])).any():
            slates.setdefault(file.shard, []).append(table["slate_id"].filter(pa.array(listed)).combine_chunks())
    for shard, ids in slates.items():
        path = layout.counterfactual_propensities_path(manifest.dt, manifest.run_id, shard)
        try:
            propensities = read_arrow(storage, path)
        except MissingFileError:  # no arm explores
            continue
        theirs = pc.is_in(propensities["slate_id"], pa.concat_arrays(ids)).to_numpy()
        write_arrow(storage, path, rows_without(propensities, theirs))


def _drop_attempt(storage: Storage, path: str) -> None:
    """Delete a file of an unpublished run, after its receipt: a receipt must not outlive its files."""
    of = layout.parse_published_path(path)
    if of is not None:
        storage.delete(layout.receipt_path(of.date, of.run_id, of.shard))
        storage.delete(layout.counterfactual_propensities_path(of.date, of.run_id, of.shard))
    storage.delete(path)
