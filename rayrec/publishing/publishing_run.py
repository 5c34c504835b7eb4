"""A publishing run: commits the tables of each shard, then publishes the date atomically.

    run = PublishingRun.open(storage, record)  # driver; run.published is set if there is nothing to do
    run.commit(shard, tables, users, engine)   # worker, once per shard; any number of attempts
    run.publish(provenance)                    # driver

The files of a shard have names unique to the attempt and do not count until its receipt exists. The receipt is created
only if absent, so exactly one attempt counts; the manifest is created only if absent, so exactly one run publishes.
After a kill at any step, leftover files are never read, and the next run continues from the receipts.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.errors import PublicationError
from rayrec.publishing.manifest import build_manifest, find_manifest
from rayrec.publishing.published_tables import SLATES, PublishedTable
from rayrec.publishing.records import Manifest, Provenance, PublishedFile, Receipt, RunRecord, UserCounts, utc_now
from rayrec.publishing.run_differences import run_differences
from rayrec.storage import Storage, layout

_PARALLEL_CALLS = 16


@dataclass(frozen=True)
class PublishResult:
    """How a run ended; all other outcomes are errors."""

    outcome: Literal["published", "published by another run"]
    manifest: Manifest


@dataclass(frozen=True)
class PublishingRun:
    """One run of one date. Picklable."""

    storage: Storage
    record: RunRecord
    published: Manifest | None = None  # set by `open` if this run has published the date
    product: PublishedTable = SLATES

    @classmethod
    def preview(cls, storage: Storage, record: RunRecord, product: PublishedTable = SLATES) -> PublishingRun:
        """The state that `open` would find; writes nothing."""
        manifest = find_manifest(storage, record.date, product.name)
        run = cls(storage, record, manifest, product)
        if manifest is not None and manifest.identity != record.identity:
            raise run._refusal(manifest)
        return run

    @classmethod
    def open(cls, storage: Storage, record: RunRecord, product: PublishedTable = SLATES) -> PublishingRun:
        """Begin or resume a run. Raises PublicationError if the date is published with other settings or inputs."""
        run = cls.preview(storage, record, product)
        if run.published is not None:
            run._clean_up(run.published)  # this run may have been killed after its publication
            return run
        storage.require_atomic_create()
        storage.create(layout.run_record_path(record.date, record.run_id), record.to_json())
        return run

    def receipts(self) -> dict[int, Receipt]:
        """The receipts of finished shards."""
        files = self.storage.list(layout.receipts_folder(self.record.date, self.record.run_id))
        with ThreadPoolExecutor(_PARALLEL_CALLS) as pool:
            receipts = list(pool.map(self._read_receipt, [file.path for file in files]))
        return {receipt.shard: receipt for receipt in sorted(receipts, key=lambda receipt: receipt.shard)}

    def commit(
        self, shard: int, tables: Mapping[str, pa.Table], users: UserCounts, engine: Mapping[str, int] | None = None
    ) -> Receipt:
        """Write one shard's tables (SLATE for slates), one per arm, then its receipt; return the receipt that won.

        If another attempt was first, delete this attempt's files and return the other receipt. Raises PublicationError
        if a table is invalid (`PublishedTable.check`) or the users do not add up.
        """
        if set(tables) != set(self.record.arms):
            raise PublicationError(
                f"the arms are {sorted(tables)}, not {sorted(self.record.arms)}",
                where=f"shard {shard}",
                hint="this is a defect of the job, please report it with this message",
            )
        attempt = uuid.uuid4().hex[:12]
        checked = {arm: self.product.check(tables[arm], self.record, arm, shard) for arm in self.record.arms}
        having = [len(pc.unique(pa.chunked_array([arm_users for _, arm_users in checked.values()])))]
        if self.product.covers_all_users:
            having += [len(arm_users) for _, arm_users in checked.values()]
        if users.balance_error() or (wrong := [count for count in having if count != users.published]):
            problem = (
                users.balance_error()
                or f"{users.published} users counted as published, {wrong[0]} have {self.product.singular}"
            )
            raise PublicationError(
                f"users do not add up: {problem}",
                where=f"shard {shard}",
                hint="this is a defect of the job, please report it with this message",
            )
        files = tuple(
            self._write(table, len(arm_users), arm, shard, attempt)
            for arm, (table, arm_users) in checked.items()
            if table.num_rows
        )
        receipt = Receipt(
            shard, self.record.run_id, attempt, utc_now(), users, dict(sorted((engine or {}).items())), files
        )
        path = layout.receipt_path(self.record.date, self.record.run_id, shard)
        if self.storage.create(path, receipt.to_json()):
            return receipt
        standing = self._read_receipt(path)
        if standing.attempt != attempt:  # equal if only the response was lost
            self._delete(file.path for file in files)
        return standing

    def publish(self, provenance: Provenance) -> PublishResult:
        """Publish the date by one conditional create of its manifest.

        Raises PublicationError if a shard has no receipt, a file is missing or has another size, the users do not add
        up, there are no users, or a different run has published the date (then this run's files are deleted).
        """
        path = layout.manifest_path(self.record.date, self.product.name)
        winner = find_manifest(self.storage, self.record.date, self.product.name)
        if winner is not None:
            return self._yield_to(winner)
        manifest = build_manifest(self.storage, self.record, self.receipts(), provenance, self.product)
        if not self.storage.create(path, manifest.to_json()):
            winner = find_manifest(self.storage, self.record.date, self.product.name)
            if winner is None:
                raise PublicationError(
                    "the manifest existed and is gone again",
                    where=self.storage.url(path),
                    hint="this date is being withdrawn; run the job again afterwards",
                )
            if winner.attempt != manifest.attempt:
                return self._yield_to(winner)
        self._clean_up(manifest)
        return PublishResult("published", manifest)

    def _write(self, table: pa.Table, users: int, arm: str, shard: int, attempt: str) -> PublishedFile:
        sink = pa.BufferOutputStream()
        order = pq.SortingColumn.from_ordering(
            table.schema, [(name, "ascending") for name in self.product.sort_columns]
        )
        pq.write_table(
            table, sink, compression="zstd", row_group_size=self.product.row_group_rows, sorting_columns=order
        )
        data = sink.getvalue()
        product, record = self.product, self.record
        path = layout.published_path(product.name, record.date, product.arm_key, arm, shard, record.run_id, attempt)
        with self.storage.writer(path) as file:
            file.write(data)
        return PublishedFile(arm, shard, path, table.num_rows, users, data.size, hashlib.sha256(data).hexdigest())

    def _read_receipt(self, path: str) -> Receipt:
        return Receipt.from_json(self.storage.read(path), self.storage.url(path))

    def _yield_to(self, winner: Manifest) -> PublishResult:
        self._clean_up(winner)
        if winner.identity != self.record.identity:
            raise self._refusal(winner)
        return PublishResult("published by another run", winner)

    def _clean_up(self, manifest: Manifest) -> None:
        """Delete this run's files that the manifest does not name: of killed attempts, or all if another run won."""
        if manifest.run_id != self.record.run_id:
            # Receipts first: they must not outlive the files if the date is withdrawn and this run resumes.
            self._delete(self._paths(layout.receipts_folder(self.record.date, self.record.run_id)))
        named = {file.path for file in manifest.files}
        written = self._paths(layout.publication_folder(self.product.name, self.record.date))
        self._delete([path for path in written if f"-{self.record.run_id}-" in path and path not in named])

    def _refusal(self, published: Manifest) -> PublicationError:
        date = self.record.date
        lines = [
            f"{self.product.name} for {date} are already published, by a run that differs (published -> now):",
            *(f"  {line}" for line in run_differences(published.record, self.record)),
        ]
        manifest = self.storage.url(layout.manifest_path(date, self.product.name))
        return PublicationError(
            "\n".join(lines),
            where=f"{manifest}, published {published.created_at}",
            hint="keep the publication, or set another output.root, or withdraw the date by deleting that manifest"
            " and run the job again",
        )

    def _paths(self, folder: str) -> list[str]:
        return [file.path for file in self.storage.list(folder)]

    def _delete(self, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(_PARALLEL_CALLS) as pool:
            list(pool.map(self.storage.delete, paths))
