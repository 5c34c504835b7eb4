"""What a run can publish, each under a folder of its own, by the same rules (rayrec.publishing.run)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from rayrec.publishing.records import RunRecord
from rayrec.publishing.slate_checks import validate_slates
from rayrec.storage import layout

Check = Callable[[pa.Table, RunRecord, str, int], tuple[pa.Table, pa.Array]]


@dataclass(frozen=True)
class PublishedTable:
    """A kind of table that is published a day, an arm and a shard at a time. Picklable: `check` is a plain function."""

    name: str  # the folder under the output root, and what messages call it
    singular: str  # what a user has one of in an arm, with its article
    arm: str  # what the arms are called in paths
    sort_columns: tuple[str, ...]  # columns that the rows of a file are sorted by
    row_group_rows: int  # rows; small enough that one user's rows are found through the statistics
    covers_all_users: bool  # every arm holds every user who is published; else a user is in at least one
    check: Check  # (table, run, arm, shard) -> the table in order, its users; PublicationError for what is wrong


def _checked_slates(table: pa.Table, record: RunRecord, arm: str, shard: int) -> tuple[pa.Table, pa.Array]:
    return validate_slates(table, date=record.date, arm=arm, shard=shard, shards=record.shards)


SLATES = PublishedTable(layout.SLATES, "a slate", "arm", ("user_id", "rank"), 1 << 17, False, _checked_slates)
