"""Finds manifests, and builds the manifest of a complete run from its receipts."""

from __future__ import annotations

import dataclasses
import datetime
import os
import uuid
from collections.abc import Mapping

from rayrec.errors import MissingFileError, PublicationError
from rayrec.publishing.published_tables import SLATES, PublishedTable
from rayrec.publishing.records import (
    Manifest,
    Provenance,
    PublishedFile,
    Receipt,
    RunRecord,
    UserCounts,
    add_counts,
    utc_now,
)
from rayrec.storage import Storage, layout
from rayrec.storage.concurrent_reads import read_all

_MAX_NAMED = 10  # shards or files named in an error


def find_manifest(storage: Storage, date: datetime.date, product: str = layout.SLATES) -> Manifest | None:
    """The publication of a date, or None."""
    path = layout.manifest_path(date, product)
    try:
        data = storage.read(path)
    except MissingFileError:
        return None
    return Manifest.from_json(data, storage.url(path))


def published_dates(root: str | os.PathLike[str]) -> list[datetime.date]:
    """The dates that have a slate manifest under the output root, oldest first."""
    storage = Storage(os.fspath(root))
    dates = [date for date in map(layout.slates_date, storage.folders(layout.SLATES)) if date is not None]
    there = read_all(lambda date: storage.exists(layout.manifest_path(date)), dates)
    return [date for date, published in zip(dates, there, strict=True) if published]


def build_manifest(
    storage: Storage,
    record: RunRecord,
    receipts: Mapping[int, Receipt],
    provenance: Provenance,
    product: PublishedTable = SLATES,
) -> Manifest:
    """Build the manifest of a complete run. Raises PublicationError naming what is incomplete or does not add up."""
    _require_all_shards(storage, record, receipts)
    users = _accounted_users(receipts, provenance, product)
    files = sorted(
        (file for receipt in receipts.values() for file in receipt.files), key=lambda file: (file.arm, file.shard)
    )
    _require_files(storage, record, files, product)
    engine: dict[str, int] = {}
    for receipt in receipts.values():
        engine = add_counts(engine, receipt.engine)
    rows = provenance.input_rows
    return Manifest(
        dt=record.date,
        run_id=record.run_id,
        identity=record.identity,
        attempt=uuid.uuid4().hex,
        created_at=utc_now(),
        fingerprint=record.fingerprint,
        code_version=record.code_version,
        versions=dict(provenance.versions),
        models=dict(sorted(provenance.models.items())),
        prompt_hash=provenance.prompt_hash,
        shards=record.shards,
        arms=record.arms,
        users=users,
        rows=sum(file.rows for file in files),
        quarantined_rows=dict(sorted(provenance.quarantined_rows.items())),
        engine=engine,
        fingerprinted_settings=record.fingerprinted_settings,
        inputs=tuple(dataclasses.replace(file, rows=rows.get(file.path)) for file in record.inputs),
        files=tuple(files),
    )


def _require_all_shards(storage: Storage, record: RunRecord, receipts: Mapping[int, Receipt]) -> None:
    missing = [shard for shard in range(record.shards) if shard not in receipts]
    if missing:
        raise PublicationError(
            f"{len(missing)} of {record.shards} shards are not done: {_some([str(shard) for shard in missing])}",
            where=storage.url(layout.receipts_folder(record.date, record.run_id)),
            hint="run the job again: it goes on with the shards that are missing",
        )


def _accounted_users(receipts: Mapping[int, Receipt], provenance: Provenance, product: PublishedTable) -> UserCounts:
    total = UserCounts(0, 0)
    for shard, receipt in receipts.items():
        if receipt.users.balance_error():
            raise PublicationError(
                f"users do not add up: {receipt.users.balance_error()}",
                where=f"shard {shard}",
                hint="nothing is published; this is a defect of the job, please report it with this message",
            )
        total = total + receipt.users
    if total.users_in != provenance.users_in:
        raise PublicationError(
            f"users do not add up: {provenance.users_in} users have a history, {total.users_in} went into the shards",
            hint="nothing is published; this is a defect of the job, please report it with this message",
        )
    if total.published == 0:
        raise PublicationError(
            f"nobody has {product.singular}: of {total.users_in} users, quarantined {dict(total.quarantined)},"
            f" ineligible {dict(total.ineligible)}",
            hint="; ".join(
                hint
                for reason, hint in _WITHOUT_SLATES.items()
                if reason in total.quarantined or reason in total.ineligible
            )
            or "check the date, data.window_days and data.min_events",
        )
    return total


_WITHOUT_SLATES = {
    "too_few_events": "too_few_events: lower data.min_events, or raise data.window_days",
    "no_candidates": "no_candidates: every candidate was excluded; set retrieval.exclude_seen: false if users have "
    "most items already, loosen slate.rules, or check data.items.available",
    "all_events_quarantined": "all_events_quarantined: correct the rows under quarantine/, or data.interactions",
    "prompt_failed": "prompt_failed: runs/ has the errors of the LLM; check rerank.checkpoint and resources.vllm",
    "erased": "erased: these users are on the erasure list",
}
"""What to do, by the reason for which users have no slate."""


def _require_files(storage: Storage, record: RunRecord, files: list[PublishedFile], product: PublishedTable) -> None:
    sizes = {file.path: file.size for file in storage.list(layout.publication_folder(product.name, record.date))}
    wrong = [file for file in files if sizes.get(file.path) != file.bytes]
    if wrong:
        named = [f"{file.path} ({sizes.get(file.path, 'missing')}, not {file.bytes} bytes)" for file in wrong]
        receipts = sorted({layout.receipt_path(record.date, record.run_id, file.shard) for file in wrong})
        raise PublicationError(
            f"{len(wrong)} of {len(files)} files are not as their receipts say: {_some(named)}",
            where=storage.root,
            hint=f"delete {_some(receipts)} and run the job again: these shards are then scored anew",
        )


def _some(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
