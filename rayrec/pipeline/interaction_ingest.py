"""Ingests interactions: validates input splits, shuffles rows by shard, and writes one file of histories per shard.

Both stages resume: a split is done when its shuffle file exists, a shard when its counts exist. Split paths depend on
the split plan, so changing `data.split_bytes` starts over. The shuffle uses storage instead of Ray's object store:
memory is bounded by one split and one shard, and a killed task is simply repeated.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from rayrec.data import catalogue
from rayrec.data.cutoff_histories import first_positive, with_unseen_items
from rayrec.data.histories import group_histories, read_histories
from rayrec.data.input_files import Split, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.quarantine import check_share, counts_by_reason, quarantine_examples, without_contents
from rayrec.data.raw_rows import MissingColumns
from rayrec.data.schemas import ITEM
from rayrec.data.shuffle import count_erased_users, read_item_counts, read_shard_interactions, read_statistics
from rayrec.data.split_ingest import RowCounts, ingest_split
from rayrec.errors import DataError
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest
from rayrec.pipeline.instruction_ingest import INSTRUCTION_REASON_PREFIX, ingest_instructions
from rayrec.pipeline.run_context import RunContext
from rayrec.publishing.erasure import ERASED
from rayrec.ray_support.stage_runner import SplitItem, WorkItem, append_stage, run_pending
from rayrec.storage import Storage, layout
from rayrec.storage.concurrent_reads import read_all, read_in_order
from rayrec.storage.tables import read_parquet, write_arrow, write_parquet

_LOG = logging.getLogger(__name__)

ITEM_REASON_PREFIX = "item: "  # prefix of reasons of item rows, which do not count in data.max_quarantine_share


@dataclass(frozen=True)
class IngestResult:
    """Counts of the ingested data. The histories themselves stay in storage."""

    context: RunContext
    rows: int  # rows read
    quarantined: dict[str, int]  # rows by reason
    outside_window: int  # rows at or after the date, or before the window
    input_rows: dict[str, int]  # by input path
    shards: tuple[ShardCounts, ...]
    erased: int = 0  # rows in the window, of users on the erasure list
    missing_columns: dict[str, int] = field(default_factory=dict)  # files without the column, by column

    @property
    def users(self) -> int:
        return sum(shard.users for shard in self.shards)

    @cached_property
    def catalogue(self) -> pa.Table:
        """ITEM, sorted by item_id: the run's item codes."""
        return read_catalogue(self.context)


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
    first_positive: int | None = None  # microseconds UTC: the oldest positive event of the histories; None: none
    unseen: int | None = None  # histories that lack an available item; None: not counted


def ingest(context: RunContext) -> IngestResult:
    """Write the histories unless they exist. Raises DataError; QuarantineError if too many rows are invalid."""
    instructions = ingest_instructions(context)
    if not is_ingested(context):
        _ingest(context)
    content = json.loads(context.storage.read(_summary_path(context)))
    content["quarantined"] |= instructions.quarantined
    content["input_rows"] |= instructions.rows
    shards = tuple(ShardCounts(**shard) for shard in content.pop("shards"))
    result = IngestResult(context=context, shards=shards, **content)
    _check_share(context, result, result.quarantined)
    return result


def first_positive_event(context: RunContext) -> int | None:
    """The oldest positive event of all histories, microseconds UTC; None: there is none. Requires ingested data."""
    shards = json.loads(context.storage.read(_summary_path(context)))["shards"]
    return min((shard["first_positive"] for shard in shards if shard["first_positive"] is not None), default=None)


def histories_path(context: RunContext, shard: int) -> str:
    return layout.histories_path(context.work_folder, shard)


def histories(context: RunContext, shard: int) -> pa.Table:
    """HISTORY of one shard."""
    return read_histories(context.storage, histories_path(context, shard))


def read_catalogue(context: RunContext) -> pa.Table:
    return read_parquet(context.storage, layout.catalogue_path(context.work_folder), ITEM).combine_chunks()


@dataclass(frozen=True)
class SplitPlan:
    """The splits of the input files, and their output paths.

    The paths carry a digest of the plan, because split numbers of different plans cover different rows. Quarantine
    files of a killed run with another plan remain.
    """

    context: RunContext
    splits: tuple[Split, ...]

    @classmethod
    def of(cls, context: RunContext) -> SplitPlan:
        """Make the plan from the input files and `data.split_bytes`; identical in every process."""
        data = context.config.data
        return cls(context, make_splits(Storage(data.root), context.interaction_files, data.split_bytes))

    def shuffle_path(self, split: int) -> str:
        return layout.shuffle_path(self.context.work_folder, self._key, split)

    def quarantine(self, split: int) -> str:
        return layout.quarantined_split_path(self.context.quarantine, self._key, split)

    @property
    def shuffle_paths(self) -> list[str]:
        """Every shuffle file, in (file, row) order."""
        return [self.shuffle_path(split.index) for split in self.splits]

    def pending(self) -> list[int]:
        folder = layout.shuffle_folder(self.context.work_folder, self._key)
        done = {file.path for file in self.context.storage.list(folder)}
        return [split.index for split in self.splits if self.shuffle_path(split.index) not in done]

    @cached_property
    def _key(self) -> str:
        return digest(
            [[(fragment.file.path, fragment.row_groups) for fragment in split.fragments] for split in self.splits]
        )


class IngestSplit:
    """Stage: validates one input split and writes its shuffle file."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._plan = SplitPlan.of(context)
        items = (
            None if context.config.data.items.from_interactions else read_catalogue(context)["item_id"].combine_chunks()
        )
        self._contract = InteractionContract(context.config.data, context.date, items)

    def __call__(self, item: SplitItem, _: pa.Table) -> pa.Table:
        statistics = ingest_split(
            Storage(self._context.config.data.root),
            self._context.storage,
            self._plan.splits[item.split],
            self._contract,
            shuffle_path=self._plan.shuffle_path(item.split),
            quarantine=self._plan.quarantine(item.split),
            erasure_list=self._context.erasure_list,
        )
        return pa.table({"rows": [statistics["rows"]]})


class GroupShard:
    """Stage: groups one shard's part of every shuffle file into histories."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._shuffle_paths = SplitPlan.of(context).shuffle_paths
        catalogue_table = read_catalogue(context)
        self._item_ids = catalogue_table["item_id"].combine_chunks()
        self._available = catalogue_table["available"].to_numpy()
        self._files = [file.path for file in context.interaction_files]

    def __call__(self, item: WorkItem, _: pa.Table) -> pa.Table:
        context, shard = self._context, item.shard
        tables = read_shard_interactions(context.storage, self._shuffle_paths, shard)
        grouped = group_histories(tables, self._item_ids, context.config.data, self._files)
        write_arrow(context.storage, histories_path(context, shard), grouped.histories)
        if grouped.duplicates.num_rows:
            path = layout.quarantined_duplicates_path(context.quarantine, shard)
            write_parquet(context.storage, path, without_contents(grouped.duplicates, context.erasure_list)[0])
        erased = count_erased_users(context.storage, self._shuffle_paths, shard) if context.erasure_list else 0
        counts = {
            "shard": shard,
            "users": grouped.users + erased,
            "histories": grouped.histories.num_rows,
            "events": grouped.events,
            "truncated": grouped.truncated,
            "quarantined": grouped.quarantined,
            "ineligible": grouped.ineligible | ({ERASED: erased} if erased else {}),
            "duplicates": grouped.duplicates.num_rows,
            "first_positive": first_positive(grouped.histories, context.event_weights),
            "unseen": with_unseen_items(grouped.histories, self._available),
        }
        context.storage.write(_counts_path(context, shard), json.dumps(counts).encode())
        return pa.table({"users": [grouped.users]})


def pending_shards(context: RunContext) -> list[int]:
    done = {file.path for file in context.storage.list(layout.histories_folder(context.work_folder))}
    return [shard for shard in range(context.config.data.shard_count) if _counts_path(context, shard) not in done]


def is_ingested(context: RunContext) -> bool:
    return context.storage.exists(_summary_path(context))


def _ingest(context: RunContext) -> None:
    if path := context.window_files.several_days:
        _LOG.warning(
            "ingest: paths have several days (%s): a file is read if one of them is in the window; a pattern for the "
            "day of its rows in data.interactions.day_pattern reads less",
            path,
        )
    items_apart = not context.config.data.items.from_interactions
    rejected_items, item_rows = _ingest_items(context) if items_apart else ({}, {})
    plan = SplitPlan.of(context)
    splits = [SplitItem(split) for split in plan.pending()]
    _run(context, "ingest", IngestSplit, splits, of=len(plan.splits), unit="splits")
    row_counts, files, missing = RowCounts(), Counter[str](), dict[str, dict[str, list[str]]]()
    for statistics in read_all(lambda path: read_statistics(context.storage, path), plan.shuffle_paths):
        row_counts.add(RowCounts.from_dict(statistics))
        files.update({file: counts["rows"] for file, counts in statistics["files"].items()})
        missing |= statistics["missing_columns"]
    missing_columns = _missing_columns(missing)
    _check_share(context, row_counts, row_counts.quarantined)  # before the histories: the share may already be too high
    if not items_apart:
        parts = read_in_order(lambda path: read_item_counts(context.storage, path), plan.shuffle_paths)
        _write_catalogue(context, catalogue.catalogue_from_counts(parts))
    count = context.config.data.shard_count
    shard_items = [WorkItem(context.cutoff, shard) for shard in pending_shards(context)]
    _run(context, "histories", GroupShard, shard_items, of=count, unit="shards")
    shards = read_all(lambda shard: json.loads(context.storage.read(_counts_path(context, shard))), range(count))
    quarantined = Counter(row_counts.quarantined) + Counter(duplicate=sum(shard["duplicates"] for shard in shards))
    summary = {
        "rows": row_counts.rows,
        "quarantined": dict(sorted({**quarantined, **rejected_items}.items())),
        "outside_window": row_counts.outside_window,
        "erased": row_counts.erased,
        "missing_columns": missing_columns,
        "input_rows": {**files, **item_rows},
        "shards": shards,
    }
    context.storage.write(_summary_path(context), json.dumps(summary).encode())


def _ingest_items(context: RunContext) -> tuple[dict[str, int], dict[str, int]]:
    """Write the catalogue of the item files; the rejected rows by reason, and the rows read by input path."""
    read = catalogue.catalogue_from_files(context.config.data, context.item_files)
    _write_catalogue(context, read.catalogue)
    if read.quarantine.num_rows:
        rows, _ = without_contents(read.quarantine, context.erasure_list)
        write_parquet(context.storage, layout.quarantined_items_path(context.quarantine), rows)
    rejected = {f"{ITEM_REASON_PREFIX}{reason}": n for reason, n in counts_by_reason(read.quarantine).items()}
    return rejected, {", ".join(file.path for file in context.item_files): read.rows}


def _missing_columns(by_file: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, int]:
    """Number of files that lack each optional column. Raises DataError for one that every file with rows lacks."""
    missing = MissingColumns()
    for errors in by_file.values():
        missing.add({column: DataError(what, where=where, hint=hint) for column, (what, where, hint) in errors.items()})
    missing.check()
    for column, count in missing.counts.items():
        _LOG.warning("interactions: %d of %d files lack the column %r: null there", count, missing.files, column)
    return missing.counts


def _check_share(context: RunContext, counts: RowCounts | IngestResult, quarantined: Mapping[str, int]) -> None:
    """Raise QuarantineError if the share of invalid interactions is above `data.max_quarantine_share`."""
    others = (ITEM_REASON_PREFIX, INSTRUCTION_REASON_PREFIX)
    check_share(
        counts.rows - counts.outside_window - counts.erased,
        {reason: n for reason, n in quarantined.items() if not reason.startswith(others)},
        context.config.data.max_quarantine_share,
        f"the {context.config.data.window_days} days before {context.dt}",
        lambda: quarantine_examples(context.storage, context.quarantine),
    )


def _run(
    context: RunContext,
    name: str,
    stage: Any,
    work_items: list[SplitItem] | list[WorkItem],
    *,
    of: int,
    unit: str,
) -> None:
    with Progress(name, of, unit=unit) as progress:
        progress.advance(of - len(work_items))
        at_once = context.config.resources.ingest_tasks
        run_pending(
            work_items,
            lambda dataset: append_stage(dataset, stage, context, concurrency=at_once),
            progress.advance,
            name=name,
        )


def _write_catalogue(context: RunContext, table: pa.Table) -> None:
    write_parquet(context.storage, layout.catalogue_path(context.work_folder), table)


def _summary_path(context: RunContext) -> str:
    return layout.ingest_summary_path(context.work_folder)


def _counts_path(context: RunContext, shard: int) -> str:
    return layout.history_counts_path(context.work_folder, shard)
