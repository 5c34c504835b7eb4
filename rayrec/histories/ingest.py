"""One input split through the contract: into its exchange file, with its quarantine beside it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.contracts import item_counts
from rayrec.contracts.quarantine import counts_by_reason
from rayrec.contracts.reading import read_piece
from rayrec.contracts.rows import RawBatch
from rayrec.contracts.schemas import QUARANTINE
from rayrec.contracts.sources import Piece, Split
from rayrec.contracts.validation import Checked, InteractionContract
from rayrec.histories.exchange import ExchangeWriter
from rayrec.storage import Storage

_ROUND_ROWS = 4_000_000  # rows held in memory at once, about 40 bytes each


@dataclass
class Tally:
    """Rows by what became of them: rows = accepted + sum(quarantined) + outside_window."""

    rows: int = 0
    accepted: int = 0
    outside_window: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.rows += other.rows
        self.accepted += other.accepted
        self.outside_window += other.outside_window
        self.quarantined.update(other.quarantined)

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "accepted": self.accepted,
            "outside_window": self.outside_window,
            "quarantined": dict(sorted(self.quarantined.items())),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Tally:
        return cls(content["rows"], content["accepted"], content["outside_window"], Counter(content["quarantined"]))


def ingest_split(
    inputs: Storage, outputs: Storage, split: Split, contract: InteractionContract, *, exchange: str, quarantine: str
) -> dict[str, Any]:
    """Write the split's exchange file, and before it its quarantine (parquet; no file where nothing broke).

    Returns the split's statistics, which the exchange file holds too: a Tally as a dict, `files` (path -> Tally as a
    dict) and `quarantine` (the file's path, or None). The exchange file is the receipt: it appears last, whole, and
    doing it again gives the same rows. Raises DataError for input that cannot be read.
    """
    with ExitStack() as exchange_stack:
        target = exchange_stack.enter_context(outputs.writer(exchange))
        with ExitStack() as quarantine_stack:
            ingest = _Ingest(ExchangeWriter(target, contract.data.shards), outputs, quarantine, quarantine_stack)
            for piece in split.pieces:
                ingest.read(inputs, piece, contract)
        return ingest.finish()


class _Ingest:
    def __init__(self, writer: ExchangeWriter, outputs: Storage, quarantine: str, stack: ExitStack) -> None:
        self._writer, self._outputs, self._path, self._stack = writer, outputs, quarantine, stack
        self._broken: pq.ParquetWriter | None = None
        self._round: list[pa.Table] = []
        self._items: list[pa.Table] = []
        self._files: dict[str, Tally] = {}

    def read(self, inputs: Storage, piece: Piece, contract: InteractionContract) -> None:
        where = inputs.url(piece.file.path)
        tally = self._files.setdefault(piece.file.path, Tally())
        for batch in read_piece(inputs, piece, contract.data.interactions, contract.columns, contract.needed):
            checked = contract.check(batch, piece.file, where)
            tally.add(_tally(batch, checked))
            self._keep(checked)
            if sum(table.num_rows for table in self._round) >= _ROUND_ROWS:
                self._flush()

    def finish(self) -> dict[str, Any]:
        self._flush()
        total = Tally()
        for tally in self._files.values():
            total.add(tally)
        files = {path: tally.as_dict() for path, tally in self._files.items()}
        broken = self._path if self._broken is not None else None
        statistics = {**total.as_dict(), "files": files, "quarantine": broken}
        self._writer.finish(item_counts.merge(self._items) if self._items else None, statistics)
        return statistics

    def _keep(self, checked: Checked) -> None:
        if checked.interactions.num_rows:
            self._round.append(checked.interactions)
        if checked.items is not None:
            self._items.append(checked.items)
        if checked.quarantine.num_rows:
            if self._broken is None:
                file = self._stack.enter_context(self._outputs.writer(self._path))
                self._broken = self._stack.enter_context(pq.ParquetWriter(file, QUARANTINE, compression="zstd"))
            self._broken.write_table(checked.quarantine)

    def _flush(self) -> None:
        if self._round:
            self._writer.write_round(self._round)
        if self._items:
            self._items = [item_counts.merge(self._items)]
        self._round = []


def _tally(batch: RawBatch, checked: Checked) -> Tally:
    rows = batch.table.num_rows + len(batch.malformed)
    return Tally(rows, checked.accepted, checked.outside_window, Counter(counts_by_reason(checked.quarantine)))
