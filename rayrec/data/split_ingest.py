"""Ingest of one input split: validates rows and writes them to a shuffle file and to quarantine."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayrec.data.catalogue import merge_item_counts
from rayrec.data.erasure_list import ErasureList
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile, Split
from rayrec.data.interaction_contract import InteractionContract, ValidatedBatch
from rayrec.data.quarantine import counts_by_reason, without_contents
from rayrec.data.raw_rows import RawBatch
from rayrec.data.schemas import QUARANTINE
from rayrec.data.shuffle import ShuffleWriter
from rayrec.numerics.hashing import shard_of
from rayrec.storage import Storage

_ROUND_ROWS = 4_000_000  # rows held in memory at once, about 40 bytes each


@dataclass
class RowCounts:
    """Row counts by outcome: rows = accepted + sum(quarantined) + outside_window + erased."""

    rows: int = 0
    accepted: int = 0
    outside_window: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    erased: int = 0  # rows in the window, of users on the erasure list

    def add(self, other: RowCounts) -> None:
        self.rows += other.rows
        self.accepted += other.accepted
        self.outside_window += other.outside_window
        self.quarantined.update(other.quarantined)
        self.erased += other.erased

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"quarantined": dict(sorted(self.quarantined.items()))}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RowCounts:
        counts = (content["rows"], content["accepted"], content["outside_window"])
        return cls(*counts, Counter(content["quarantined"]), content["erased"])


def ingest_split(
    inputs: Storage,
    outputs: Storage,
    split: Split,
    contract: InteractionContract,
    *,
    shuffle_path: str,
    quarantine: str,
    erasure_list: ErasureList | None = None,
) -> dict[str, Any]:
    """Write the split's quarantine (parquet; no file without rows), then its shuffle file, which marks it as done.

    Rows of users on the erasure list are dropped and do not count for the catalogue.

    Returns the split's statistics, also stored in the shuffle file: RowCounts as a dict, `files` (path -> RowCounts as
    a dict), `missing_columns` (path -> column that the file lacks -> the parts of an error), `quarantine` (the file's
    path, or None) and `erased_users` (token -> shard, of erased users with rows here). Raises DataError for unreadable
    input.
    """
    with ExitStack() as shuffle_stack:
        target = shuffle_stack.enter_context(outputs.writer(shuffle_path))
        with ExitStack() as quarantine_stack:
            writer = ShuffleWriter(target, contract.data.shard_count)
            ingest = _Ingest(writer, outputs, quarantine, quarantine_stack, erasure_list or ErasureList())
            for fragment in split.fragments:
                ingest.read(inputs, fragment, contract)
        return ingest.finish()


class _Ingest:
    def __init__(
        self, writer: ShuffleWriter, outputs: Storage, quarantine: str, stack: ExitStack, erasure_list: ErasureList
    ) -> None:
        self._writer, self._outputs, self._path, self._stack = writer, outputs, quarantine, stack
        self._erasure_list = erasure_list
        self._erased_users: dict[str, int] = {}
        self._quarantine: pq.ParquetWriter | None = None
        self._round: list[pa.Table] = []
        self._items: list[pa.Table] = []
        self._files: dict[str, RowCounts] = {}
        self._missing: dict[str, dict[str, tuple[str, str, str]]] = {}

    def read(self, inputs: Storage, fragment: FileFragment, contract: InteractionContract) -> None:
        where = inputs.url(fragment.file.path)
        row_counts = self._files.setdefault(fragment.file.path, RowCounts())
        for batch in read_fragment(inputs, fragment, contract.data.interactions, contract.columns, contract.needed):
            checked, erased = self._checked(batch, fragment.file, where, contract)
            row_counts.add(_row_counts(batch, checked, erased))
            self._missing[fragment.file.path] = {
                column: (error.what, error.where, error.hint) for column, error in batch.missing.items()
            }
            self._keep(checked)
            if sum(table.num_rows for table in self._round) >= _ROUND_ROWS:
                self._flush()

    def finish(self) -> dict[str, Any]:
        self._flush()
        total = RowCounts()
        for row_counts in self._files.values():
            total.add(row_counts)
        files = {path: row_counts.as_dict() for path, row_counts in self._files.items()}
        quarantine = self._path if self._quarantine is not None else None
        statistics = {
            **total.as_dict(),
            "files": files,
            "missing_columns": self._missing,
            "quarantine": quarantine,
            "erased_users": dict(sorted(self._erased_users.items())),
        }
        self._writer.finish(merge_item_counts(self._items) if self._items else None, statistics)
        return statistics

    def _checked(
        self, batch: RawBatch, file: InputFile, where: str, contract: InteractionContract
    ) -> tuple[ValidatedBatch, int]:
        """Validate the batch and drop rows of users on the erasure list; also returns the number dropped."""
        checked = contract.check(batch, file, where)
        users = checked.interactions["user_id"]
        listed = self._erasure_list.contains(users)
        if not listed.any():
            return checked, 0
        erased = pc.unique(users.filter(pa.array(listed)).cast(pa.string()))
        for user, shard in zip(erased.to_pylist(), shard_of(erased, contract.data.shard_count).tolist(), strict=True):
            self._erased_users[self._erasure_list.token(user)] = shard
        # Validate again without them, so that their rows do not count for the catalogue either.
        rows = checked.interactions["source_row"].to_numpy()[listed]
        return contract.check(batch.filter(~np.isin(batch.row, rows)), file, where), len(rows)

    def _keep(self, checked: ValidatedBatch) -> None:
        if checked.interactions.num_rows:
            self._round.append(checked.interactions)
        if checked.items is not None:
            self._items.append(checked.items)
        if checked.quarantine.num_rows:
            if self._quarantine is None:
                file = self._stack.enter_context(self._outputs.writer(self._path))
                self._quarantine = self._stack.enter_context(pq.ParquetWriter(file, QUARANTINE, compression="zstd"))
            self._quarantine.write_table(without_contents(checked.quarantine, self._erasure_list)[0])

    def _flush(self) -> None:
        if self._round:
            self._writer.write_round(self._round)
        if self._items:
            self._items = [merge_item_counts(self._items)]
        self._round = []


def _row_counts(batch: RawBatch, checked: ValidatedBatch, erased: int) -> RowCounts:
    rows = batch.table.num_rows + len(batch.malformed)
    counts = Counter(counts_by_reason(checked.quarantine))
    return RowCounts(rows, checked.accepted, checked.outside_window, counts, erased)
