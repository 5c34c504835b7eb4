"""Events in: input splits through the contract into the exchange, and out of it one file of histories a shard.

Both halves are resumable: a split is done when its exchange file exists, a shard when its counts do. How the input is
cut into splits is part of a split's paths, so that another `data.split_bytes` begins anew. The exchange is a shuffle
through storage, not through Ray's object store: memory is bounded by a split and by a shard, whatever the day holds,
and what is killed is only run again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.contracts import catalogue
from rayrec.contracts.quarantine import check_share, counts_by_reason
from rayrec.contracts.schemas import ITEM, QUARANTINE
from rayrec.contracts.sources import Split, make_splits
from rayrec.contracts.validation import InteractionContract
from rayrec.hashing import digest
from rayrec.histories.exchange import read_forgotten, read_item_counts, read_shard, read_statistics
from rayrec.histories.grouping import group, read_histories, write_histories
from rayrec.histories.ingest import Tally, ingest_split
from rayrec.pipeline.carry import carry, over_units, results
from rayrec.pipeline.day import Day
from rayrec.pipeline.instructions import OF_INSTRUCTIONS, ingest_instructions
from rayrec.progress import Progress
from rayrec.publishing.erasure import FORGOTTEN
from rayrec.storage import Storage

OF_ITEMS = "item: "  # begins the reasons of rows of the item files, which are no part of the interactions' share


@dataclass(frozen=True)
class Ingested:
    """What the night's data are, counted. Small; the histories themselves stay in storage."""

    day: Day
    rows: int  # rows read
    quarantined: dict[str, int]  # rows by reason
    outside_window: int  # rows at or after the date, or before the window
    input_rows: dict[str, int]  # by input path
    shards: tuple[ShardCounts, ...]
    forgotten: int = 0  # rows in the window, of forgotten users

    @property
    def users(self) -> int:
        return sum(shard.users for shard in self.shards)

    @cached_property
    def catalogue(self) -> pa.Table:
        """ITEM, sorted by item_id: the run's item codes."""
        return read_catalogue(self.day)


@dataclass(frozen=True)
class ShardCounts:
    """users = histories + sum(quarantined) + sum(ineligible)."""

    shard: int
    users: int
    histories: int
    events: int
    truncated: int
    quarantined: dict[str, int]
    ineligible: dict[str, int]
    duplicates: int


def ingest(day: Day) -> Ingested:
    """Run, or find, the day's histories. Raises DataError; QuarantineError where too many rows broke the contract."""
    summary = _summary_path(day)
    asked = ingest_instructions(day)
    if not day.storage.exists(summary):
        _ingest(day)
    content = json.loads(day.storage.read(summary))
    content["quarantined"] |= asked.quarantined
    content["input_rows"] |= asked.rows
    shards = tuple(ShardCounts(**shard) for shard in content.pop("shards"))
    ingested = Ingested(day=day, shards=shards, **content)
    check_share(
        ingested.rows - ingested.outside_window - ingested.forgotten,
        {reason: n for reason, n in ingested.quarantined.items() if not reason.startswith((OF_ITEMS, OF_INSTRUCTIONS))},
        day.config.data.max_quarantine_share,
        f"the {day.config.data.window_days} days before {day.dt}",
    )
    return ingested


def histories_path(day: Day, shard: int) -> str:
    return f"{day.work}/histories/shard={shard:04d}.arrow"


def histories(day: Day, shard: int) -> pa.Table:
    """HISTORY of one shard."""
    return read_histories(day.storage, histories_path(day, shard))


def read_catalogue(day: Day) -> pa.Table:
    with day.storage.open(_catalogue_path(day)) as file:
        return pq.read_table(file, schema=ITEM).combine_chunks()


@dataclass(frozen=True)
class SplitPlan:
    """A day's splits, and where what is read of each goes.

    Files of another plan hold other rows under the same number, so the paths carry a digest of the plan. What a killed
    run of another plan left in quarantine stays there, beside the whole.
    """

    day: Day
    splits: tuple[Split, ...]

    @classmethod
    def of(cls, day: Day) -> SplitPlan:
        """The same in every process: it follows from the listing and `data.split_bytes` alone."""
        data = day.config.data
        return cls(day, make_splits(Storage(data.root), day.interaction_files, data.split_bytes))

    def exchange(self, split: int) -> str:
        return f"{self.day.work}/exchange/{self._key}/split={split:04d}.rrx"

    def quarantine(self, split: int) -> str:
        return f"{self.day.quarantine}/splits-{self._key}/split={split:04d}.parquet"

    @property
    def exchanges(self) -> list[str]:
        """Every exchange file, in the order of (file, row)."""
        return [self.exchange(split.index) for split in self.splits]

    def to_do(self) -> list[int]:
        done = {file.path for file in self.day.storage.list(f"{self.day.work}/exchange/{self._key}")}
        return [split.index for split in self.splits if self.exchange(split.index) not in done]

    @cached_property
    def _key(self) -> str:
        return digest([[(piece.file.path, piece.row_groups) for piece in split.pieces] for split in self.splits])


class IngestSplit:
    """Stage: one input split through the contract into its exchange file."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._plan = SplitPlan.of(day)
        items = None if day.config.data.items.from_interactions else read_catalogue(day)["item_id"].combine_chunks()
        self._contract = InteractionContract(day.config.data, day.date, items)

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        statistics = ingest_split(
            Storage(self._day.config.data.root),
            self._day.storage,
            self._plan.splits[unit],
            self._contract,
            exchange=self._plan.exchange(unit),
            quarantine=self._plan.quarantine(unit),
            forgotten=self._day.forgotten,
        )
        return pa.table({"rows": [statistics["rows"]]})


class GroupShard:
    """Stage: one shard's part of every exchange file into its histories."""

    def __init__(self, day: Day) -> None:
        self._day = day
        self._exchange = SplitPlan.of(day).exchanges
        self._item_ids = read_catalogue(day)["item_id"].combine_chunks()
        self._files = [file.path for file in day.interaction_files]

    def __call__(self, unit: int, _: pa.Table) -> pa.Table:
        day = self._day
        tables = read_shard(day.storage, self._exchange, unit)
        grouped = group(tables, self._item_ids, day.config.data, self._files)
        write_histories(day.storage, histories_path(day, unit), grouped.histories)
        if grouped.duplicates.num_rows:
            _write_quarantine(day, f"duplicates-shard={unit:04d}", grouped.duplicates)
        forgotten = read_forgotten(day.storage, self._exchange, unit) if day.forgotten else 0
        counts = {
            "shard": unit,
            "users": grouped.users + forgotten,
            "histories": grouped.histories.num_rows,
            "events": grouped.events,
            "truncated": grouped.truncated,
            "quarantined": grouped.quarantined,
            "ineligible": grouped.ineligible | ({FORGOTTEN: forgotten} if forgotten else {}),
            "duplicates": grouped.duplicates.num_rows,
        }
        day.storage.write(_counts_path(day, unit), json.dumps(counts).encode())
        return pa.table({"users": [grouped.users]})


def shards_to_do(day: Day) -> list[int]:
    done = {file.path for file in day.storage.list(f"{day.work}/histories")}
    return [shard for shard in range(day.config.data.shards) if _counts_path(day, shard) not in done]


def ingested_already(day: Day) -> bool:
    return day.storage.exists(_summary_path(day))


def _ingest(day: Day) -> None:
    rejected_items, item_rows = Counter[str](), dict[str, int]()
    if not day.config.data.items.from_interactions:
        read = catalogue.from_files(day.config.data, day.item_files)
        _write_catalogue(day, read.catalogue)
        if read.quarantine.num_rows:
            _write_quarantine(day, "items", read.quarantine)
        rejected_items.update({f"{OF_ITEMS}{reason}": n for reason, n in counts_by_reason(read.quarantine).items()})
        item_rows = {", ".join(file.path for file in day.item_files): read.rows}
    plan = SplitPlan.of(day)
    _run(day, "ingest", IngestSplit, plan.to_do(), of=len(plan.splits), unit="splits")
    tally, files = Tally(), Counter[str]()
    for path in plan.exchanges:
        statistics = read_statistics(day.storage, path)
        tally.add(Tally.from_dict(statistics))
        files.update({file: counts["rows"] for file, counts in statistics["files"].items()})
    _check_early(day, tally)
    if day.config.data.items.from_interactions:
        parts = (read_item_counts(day.storage, path) for path in plan.exchanges)
        _write_catalogue(day, catalogue.from_counts(parts))
    _run(day, "histories", GroupShard, shards_to_do(day), of=day.config.data.shards, unit="shards")
    shards = [json.loads(day.storage.read(_counts_path(day, k))) for k in range(day.config.data.shards)]
    quarantined = Counter(tally.quarantined) + Counter(duplicate=sum(shard["duplicates"] for shard in shards))
    summary = {
        "rows": tally.rows,
        "quarantined": dict(sorted((quarantined + rejected_items).items())),
        "outside_window": tally.outside_window,
        "forgotten": tally.forgotten,
        "input_rows": {**files, **item_rows},
        "shards": shards,
    }
    day.storage.write(_summary_path(day), json.dumps(summary).encode())


def _check_early(day: Day, tally: Tally) -> None:
    """Before the histories are made: a day that cannot be published need not be grouped."""
    share, window = day.config.data.max_quarantine_share, f"the {day.config.data.window_days} days before {day.dt}"
    check_share(tally.rows - tally.outside_window - tally.forgotten, tally.quarantined, share, window)


def _run(day: Day, name: str, stage: Any, units: list[int], *, of: int, unit: str) -> None:
    with Progress(name, of, unit=unit) as progress:
        progress.advance(of - len(units))
        if units:
            at_once = day.config.resources.ingest_tasks
            for _ in results(carry(over_units(units), stage, day, concurrency=at_once)):
                progress.advance()


def _write_catalogue(day: Day, table: pa.Table) -> None:
    with day.storage.writer(_catalogue_path(day)) as file:
        pq.write_table(table, file, compression="zstd")


def _write_quarantine(day: Day, name: str, table: pa.Table) -> None:
    with day.storage.writer(f"{day.quarantine}/{name}.parquet") as file:
        pq.write_table(table.cast(QUARANTINE), file, compression="zstd")


def _catalogue_path(day: Day) -> str:
    return f"{day.work}/catalogue.parquet"


def _summary_path(day: Day) -> str:
    return f"{day.work}/summary.json"


def _counts_path(day: Day, shard: int) -> str:
    return f"{day.work}/histories/shard={shard:04d}.json"
