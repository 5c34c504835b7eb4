"""Reads the slates of a published date, and the other tables of its run."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.data.id_text import canonical_ids
from rayrec.data.schemas import COUNTERFACTUAL_PROPENSITY, DENOISED_HISTORY, ITEM, SLATE
from rayrec.errors import MissingFileError, PublicationError
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.manifest import find_manifest, published_dates
from rayrec.publishing.records import Manifest, PublishedFile
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow, read_parquet

_PARALLEL_READS = 8
_NEWEST = 5  # published dates named in an error


def read_manifest(root: str | os.PathLike[str], date: str | datetime.date) -> Manifest:
    """The publication of a date. Raises PublicationError with the newest published dates."""
    day = parse_date(date)
    storage = Storage(os.fspath(root))
    manifest = find_manifest(storage, day)
    if manifest is None:
        dates = ", ".join(str(there) for there in published_dates(storage.root)[-_NEWEST:])
        raise PublicationError(
            f"no slates are published for {day}",
            where=storage.url(layout.manifest_path(day)),
            hint=f"the newest dates are {dates}"
            if dates
            else "nothing is published here: check the root, or run jobs.daily",
        )
    return manifest


def read_slates(
    root: str | os.PathLike[str],
    date: str | datetime.date,
    arm: str | None = None,
    *,
    users: Collection[str] | None = None,
    verify: bool = False,
) -> pa.Table:
    """Read the slates of a date (SLATE) and one arm or all, ordered by arm, shard, user_id, rank.

    `users` (ids as text or integers) reads only the shards of these users. `verify` checks every file against its
    sha256. Raises PublicationError if the date or the arm is not published, or a file is not the published one.
    """
    storage = Storage(os.fspath(root))
    return read_arms(storage, read_manifest(root, date), arm, SLATE, users=users, verify=verify)


def read_arms(
    storage: Storage,
    manifest: Manifest,
    arm: str | None,
    schema: pa.Schema,
    *,
    users: Collection[str] | None,
    verify: bool,
    arm_key: str = "arm",
) -> pa.Table:
    """Read one arm or all of any product, like `read_slates`; `arm_key`: the product's name for arms."""
    if arm is not None and arm not in manifest.arms:
        raise PublicationError(
            f"there is no {arm_key} {arm!r} on {manifest.dt}",
            where=storage.root,
            hint=f"the {arm_key}s are {', '.join(manifest.arms)}",
        )
    wanted = None if users is None else pa.array(sorted(set(canonical_ids(users))), pa.string())
    shards = None if wanted is None else set(shard_of(wanted, manifest.shards).tolist())
    files = [
        file for file in manifest.files if (arm is None or file.arm == arm) and (shards is None or file.shard in shards)
    ]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        tables = list(pool.map(lambda file: _read(storage, file, schema, verify), files))
    table = pa.concat_tables([schema.empty_table(), *tables])
    return table if wanted is None else table.filter(pc.is_in(table["user_id"], value_set=wanted))


def read_shard_slates(storage: Storage, manifest: Manifest, arm: str, shard: int, columns: Sequence[str]) -> pa.Table:
    """Some columns of the slates of one arm and shard, strings as dictionaries, to read a date shard by shard.

    Raises PublicationError if the file is not the published one.
    """
    texts = [name for name in columns if pa.types.is_string(SLATE.field(name).type)]
    file = next((file for file in manifest.files if file.arm == arm and file.shard == shard), None)
    if file is None:  # no user has a slate there
        return SLATE.empty_table().select(list(columns))
    data = pa.BufferReader(_bytes(storage, file))
    try:
        return pq.read_table(data, columns=list(columns), read_dictionary=texts, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _not_as_published(storage, file, f"it cannot be read: {error}") from error


def read_counterfactual_propensities(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """COUNTERFACTUAL_PROPENSITY of one shard; no rows if no arm explores or there is only one arm."""
    try:
        return read_arrow(storage, layout.counterfactual_propensities_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        return COUNTERFACTUAL_PROPENSITY.empty_table()


def read_catalogue(storage: Storage, manifest: Manifest) -> pa.Table:
    """The run's ITEM table. Raises MissingFileError."""
    return read_parquet(storage, layout.run_catalogue_path(manifest.dt, manifest.run_id), ITEM)


def read_denoised(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's DENOISED_HISTORY table; empty for a shard without users. Raises MissingFileError."""
    try:
        return read_arrow(storage, layout.denoising_decisions_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        if any(file.shard == shard for file in manifest.files):
            raise
        return DENOISED_HISTORY.empty_table()


def _read(storage: Storage, file: PublishedFile, schema: pa.Schema, verify: bool) -> pa.Table:
    data = _bytes(storage, file)
    if verify and hashlib.sha256(data).hexdigest() != file.sha256:
        raise _not_as_published(storage, file, "its sha256 is another")
    try:
        table = pq.read_table(pa.BufferReader(data), schema=schema, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _not_as_published(storage, file, f"it cannot be read: {error}") from error
    if table.num_rows != file.rows:
        raise _not_as_published(storage, file, f"it has {table.num_rows} rows, not {file.rows}")
    return table


def _bytes(storage: Storage, file: PublishedFile) -> bytes:
    try:
        data = storage.read(file.path)
    except MissingFileError as error:
        raise _not_as_published(storage, file, "it is missing") from error
    if len(data) != file.bytes:
        raise _not_as_published(storage, file, f"it has {len(data)} bytes, not {file.bytes}")
    return data


def _not_as_published(storage: Storage, file: PublishedFile, problem: str) -> PublicationError:
    return PublicationError(
        f"a published file differs from the manifest: {problem}",
        where=storage.url(file.path),
        hint="restore it, or withdraw the date by deleting its manifest, and run the job again",
    )


def parse_date(date: str | datetime.date) -> datetime.date:
    """Parse a date or its ISO form (2011-08-31). Raises PublicationError for other text."""
    if isinstance(date, datetime.datetime):
        return date.date()
    if isinstance(date, datetime.date):
        return date
    try:
        return datetime.date.fromisoformat(date)
    except ValueError:
        raise PublicationError(f"{date!r} is not a date", hint="write it as 2011-08-31") from None
