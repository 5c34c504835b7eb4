"""A run of embeddings from its first file to its publication, by the rules of slates (rayrec.publishing.run).

    embeddings/dt=2011-08-31/instruction=gifts/shard=0007-<run id>-<attempt>.parquet
    embeddings/dt=2011-08-31/manifest.json                    the publication: what it does not name does not exist
    runs/dt=2011-08-31/<run id>/run.json, receipts/           as of slates, under another run id

The documents are those of slates: where theirs say arm, these hold an instruction. Files count for nothing until their
shard's receipt exists, receipts and the manifest are created only if absent, and a day that is published under other
settings is not written again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.embeddings.schema import check_embeddings
from rayrec.errors import MissingFileError, PublicationError
from rayrec.publishing import layout
from rayrec.publishing.differences import differences
from rayrec.publishing.records import Manifest, Provenance, Receipt, RunRecord, SlateFile, UserCounts, utc_now
from rayrec.publishing.run import Publication
from rayrec.storage import Storage

_PARALLEL_CALLS = 16
_ROW_GROUP = 1 << 14  # rows


def folder(date: datetime.date) -> str:
    return f"embeddings/dt={date.isoformat()}"


def manifest_path(date: datetime.date) -> str:
    return f"{folder(date)}/manifest.json"


def find_manifest(storage: Storage, date: datetime.date) -> Manifest | None:
    """The publication of a day's embeddings, or None while there is none."""
    path = manifest_path(date)
    try:
        return Manifest.from_json(storage.read(path), storage.url(path))
    except MissingFileError:
        return None


@dataclass(frozen=True)
class EmbeddingRun:
    """One run of one date. Plain and picklable: workers get it whole."""

    storage: Storage
    record: RunRecord
    published: Manifest | None = None  # set by `open` where the day is published already, by this very run

    @classmethod
    def open(cls, storage: Storage, record: RunRecord) -> EmbeddingRun:
        """Begin or resume. Raises PublicationError if the day is published under other settings or other inputs."""
        manifest = find_manifest(storage, record.date)
        run = cls(storage, record, manifest)
        if manifest is not None:
            run._require_same(manifest)
            run._clean_up(manifest)  # what a run left that was killed just after it had published
            return run
        storage.require_atomic_create()
        storage.create(layout.record_path(record.date, record.run_id), record.to_json())
        return run

    def receipts(self) -> dict[int, Receipt]:
        """The shards that are done."""
        files = self.storage.list(layout.receipts_folder(self.record.date, self.record.run_id))
        with ThreadPoolExecutor(_PARALLEL_CALLS) as pool:
            receipts = list(pool.map(self._read_receipt, [file.path for file in files]))
        return {receipt.shard: receipt for receipt in sorted(receipts, key=lambda receipt: receipt.shard)}

    def commit(self, shard: int, tables: Mapping[str, pa.Table], users: UserCounts) -> Receipt:
        """Write a shard's EMBEDDING tables by instruction, then its receipt; the one that stands is returned.

        Raises PublicationError for a table that must not be published, and for users that do not add up.
        """
        if set(tables) != set(self.record.arms):
            raise PublicationError(f"tables for {sorted(tables)}, not {sorted(self.record.arms)}", where=f"{shard=}")
        for instruction, table in tables.items():
            check_embeddings(table, instruction=instruction, shard=shard, shards=self.record.shards)
            if users.imbalance() or table.num_rows != users.published:
                problem = users.imbalance() or f"{users.published} published, {table.num_rows} have a vector"
                raise PublicationError(f"users do not add up: {problem}", where=f"shard {shard}")
        attempt = f"{self.record.run_id}-{uuid.uuid4().hex[:12]}"
        files = tuple(self._write(table, name, shard, attempt) for name, table in tables.items() if table.num_rows)
        receipt = Receipt(shard, self.record.run_id, attempt, utc_now(), users, {}, files)
        path = layout.receipt_path(self.record.date, self.record.run_id, shard)
        if self.storage.create(path, receipt.to_json()):
            return receipt
        standing = self._read_receipt(path)
        if standing.attempt != attempt:  # equal after a lost answer: the receipt is ours all the same
            self._delete(file.path for file in files)
        return standing

    def publish(self, provenance: Provenance) -> Publication:
        """Make the day visible, by one conditional create of its manifest.

        Raises PublicationError if a shard has no receipt, a file is missing or of another size, the users do not add
        up, nobody has a vector, or a different run has published the day.
        """
        path = manifest_path(self.record.date)
        winner = find_manifest(self.storage, self.record.date)
        ours = None
        if winner is None:
            ours = self._assembled(provenance)
            created = self.storage.create(path, ours.to_json())
            winner = ours if created else find_manifest(self.storage, self.record.date)
        if winner is None:
            raise PublicationError(
                "the manifest was there and is gone again",
                where=self.storage.url(path),
                do="somebody withdraws this day; run again when they are done",
            )
        self._clean_up(winner)
        self._require_same(winner)
        won = ours is not None and winner.attempt == ours.attempt
        return Publication("published" if won else "published by another run", winner)

    def _assembled(self, provenance: Provenance) -> Manifest:
        record, receipts = self.record, self.receipts()
        missing = [shard for shard in range(record.shards) if shard not in receipts]
        if missing:
            raise PublicationError(
                f"{len(missing)} of {record.shards} shards are not done: {missing[:10]}",
                where=self.storage.url(layout.receipts_folder(record.date, record.run_id)),
                do="run the job again: it goes on with the shards that are missing",
            )
        users = UserCounts(0, 0)
        for receipt in receipts.values():
            users = users + receipt.users
        if users.users_in != provenance.users_in or not users.published:
            raise PublicationError(
                f"users do not add up: {provenance.users_in} users in, {users.users_in} in the shards,"
                f" {users.published} with a vector",
                do="nothing is published; check the date, data.window_days and data.min_events",
            )
        files = sorted((f for r in receipts.values() for f in r.files), key=lambda f: (f.arm, f.shard))
        sizes = {file.path: file.size for file in self.storage.list(folder(record.date))}
        if wrong := [file for file in files if sizes.get(file.path) != file.bytes]:
            receipt_paths = sorted({layout.receipt_path(record.date, record.run_id, file.shard) for file in wrong})
            raise PublicationError(
                f"{len(wrong)} of {len(files)} files are not as their receipts say, first {wrong[0].path}",
                where=self.storage.root,
                do=f"delete {', '.join(receipt_paths[:10])} and run the job again",
            )
        return Manifest(
            dt=record.date,
            run_id=record.run_id,
            identity=record.identity,
            attempt=uuid.uuid4().hex,
            created_at=utc_now(),
            fingerprint=record.fingerprint,
            code_version=record.code_version,
            versions=dict(provenance.versions),
            models=dict(provenance.models),
            prompt_hash=provenance.prompt_hash,
            shards=record.shards,
            arms=record.arms,
            users=users,
            rows=sum(file.rows for file in files),
            quarantined_rows=dict(sorted(provenance.quarantined_rows.items())),
            engine={},
            meaning=record.meaning,
            inputs=tuple(
                dataclasses.replace(file, rows=provenance.input_rows.get(file.path)) for file in record.inputs
            ),
            files=tuple(files),
        )

    def _write(self, table: pa.Table, instruction: str, shard: int, attempt: str) -> SlateFile:
        sink = pa.BufferOutputStream()
        order = pq.SortingColumn.from_ordering(table.schema, [("user_id", "ascending")])
        pq.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP, sorting_columns=order)
        data = sink.getvalue()
        path = f"{folder(self.record.date)}/instruction={instruction}/shard={shard:04d}-{attempt}.parquet"
        with self.storage.writer(path) as file:
            file.write(data)
        sha256 = hashlib.sha256(data).hexdigest()
        return SlateFile(instruction, shard, path, table.num_rows, table.num_rows, data.size, sha256)

    def _require_same(self, winner: Manifest) -> None:
        if winner.identity == self.record.identity:
            return
        lines = [f"embeddings of {winner.dt} are already published, by a run that differs (published -> now):"]
        lines += [f"  {line}" for line in differences(winner.record, self.record)]
        raise PublicationError(
            "\n".join(lines),
            where=f"{self.storage.url(manifest_path(winner.dt))}, published {winner.created_at}",
            do="keep what is published; or give output.root another folder; or withdraw the day by deleting that"
            " manifest, and run again",
        )

    def _clean_up(self, manifest: Manifest) -> None:
        """Delete this run's files that the manifest does not name: of killed attempts, and all of a run that lost."""
        if manifest.run_id != self.record.run_id:
            receipts = self.storage.list(layout.receipts_folder(self.record.date, self.record.run_id))
            self._delete(file.path for file in receipts)  # before the files, which they must never outlive
        kept = {file.path for file in manifest.files}
        written = [file.path for file in self.storage.list(folder(self.record.date))]
        self._delete(path for path in written if f"-{self.record.run_id}-" in path and path not in kept)

    def _read_receipt(self, path: str) -> Receipt:
        return Receipt.from_json(self.storage.read(path), self.storage.url(path))

    def _delete(self, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(_PARALLEL_CALLS) as pool:
            list(pool.map(self.storage.delete, paths))
