"""Taking users out of what is published: the one case in which a day's files change after its manifest.

The files without them are written beside the old ones, then the manifest is replaced in one step, then the old files
go: a reader sees the day before or after, and one who holds the old manifest is told that a file is missing. The users
become ineligible, for the reason `erased`, so that they still add up. A model that was made again without them is
named in the place of the one that is deleted. Slates and embeddings are laid out alike:
<kind>/dt=D/manifest.json names all there is. Of nearest users, rows go too whose neighbour is to be erased.
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
from rayrec.publishing.records import Manifest, PublishedFile, add_counts
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet, write_arrow

ERASED = "erased"  # why these users are ineligible
USER_COLUMNS = ("user_id", "neighbour_id")  # columns that hold users


def erase(
    storage: Storage,
    product: str,
    date: datetime.date,
    erasure_list: ErasureList,
    retrained: Mapping[str, str] | None = None,
) -> None:
    """Take users out of one day's publication (`slates/dt=D`), and out of runs of it that never published.

    `remade`: fingerprints of models -> of the same without the users, for the manifest to name. Killed in the middle
    and done again, it completes. Raises PublicationError for a manifest that cannot be read.
    """
    manifest = _manifest(storage, product, date)
    if manifest is not None:
        _erase_targets(storage, manifest, erasure_list)
        manifest = _erase_published(storage, product, manifest, erasure_list, retrained or {})
    named = {file.path for file in manifest.files} if manifest is not None else set()
    own = "" if manifest is None else f"-{manifest.run_id}-"
    for info in storage.list(layout.publication_folder(product, date)):
        if info.path in named or not info.path.endswith(".parquet"):
            continue
        if own and own in info.path:  # of an attempt that was killed, this one's own perhaps
            storage.delete(info.path)
        elif rows_of_users(read_parquet(storage, info.path), erasure_list).any():
            _drop_attempt(storage, info.path)


def rows_of_users(table: pa.Table, erasure_list: ErasureList) -> npt.NDArray[np.bool_]:
    """The rows that hold one of these users, as whose they are or as somebody's neighbour: bool [n]."""
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
        files.append(_rewritten(storage, file, table.filter(pa.array(~listed))) if listed.any() else file)
    models = {name: retrained.get(fingerprint, fingerprint) for name, fingerprint in manifest.models.items()}
    if models == manifest.models and all(new is old for new, old in zip(files, manifest.files, strict=True)):
        return manifest
    users = manifest.users
    now = dataclasses.replace(
        users,
        published=users.published - len(erased),
        ineligible=add_counts(users.ineligible, {ERASED: len(erased)} if erased else {}),
    )
    kept = tuple(file for file in files if file.rows)
    rows = sum(file.rows for file in kept)
    changed = dataclasses.replace(manifest, users=now, files=kept, rows=rows, models=models, attempt=uuid.uuid4().hex)
    storage.write(layout.manifest_path(manifest.dt, product), changed.to_json())
    for path in {file.path for file in manifest.files} - {file.path for file in kept}:
        storage.delete(path)
    return changed


def _rewritten(storage: Storage, file: PublishedFile, table: pa.Table) -> PublishedFile:
    """The file with these rows only, under a name of a new attempt of its run; none is written for no rows."""
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


def _erase_targets(storage: Storage, manifest: Manifest, erasure_list: ErasureList) -> None:
    """What other arms would have made of their slates. Before the slates: those say whose a slate was."""
    slates: dict[int, list[pa.Array]] = {}
    for file in manifest.files:
        table = read_parquet(storage, file.path)
        if "slate_id" in table.column_names and (listed := erasure_list.contains(table["user_id"])).any():
            slates.setdefault(file.shard, []).append(table["slate_id"].filter(pa.array(listed)).combine_chunks())
    for shard, ids in slates.items():
        path = layout.counterfactual_propensities_path(manifest.dt, manifest.run_id, shard)
        try:
            targets = read_arrow(storage, path)
        except MissingFileError:  # no arm drew at random
            continue
        others = pc.invert(pc.is_in(targets["slate_id"], pa.concat_arrays(ids)))
        write_arrow(storage, path, targets.filter(others))


def _drop_attempt(storage: Storage, path: str) -> None:
    """Delete a file of a run that never published, its shard's receipt first: a receipt must not outlive its files."""
    of = layout.parse_published_path(path)
    if of is not None:
        storage.delete(layout.receipt_path(of.date, of.run_id, of.shard))
        storage.delete(layout.counterfactual_propensities_path(of.date, of.run_id, of.shard))
    storage.delete(path)


def _manifest(storage: Storage, product: str, date: datetime.date) -> Manifest | None:
    path = layout.manifest_path(date, product)
    try:
        return Manifest.from_json(storage.read(path), storage.url(path))
    except MissingFileError:
        return None
