"""Histories: a shard's interactions grouped by user, in order, without duplicates, the newest N of each user.

Of older events only the items remain: they count as seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Data
from rayrec.data.schemas import HISTORY, INTERACTION, QUARANTINE
from rayrec.errors import DataError
from rayrec.numerics.ragged import Ragged
from rayrec.storage import Storage
from rayrec.storage.tables import read_arrow

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupedHistories:
    """Histories and counts of a shard: users = histories.num_rows + quarantined + ineligible."""

    histories: pa.Table  # HISTORY, sorted by user_id
    duplicates: pa.Table  # QUARANTINE, reason duplicate; `raw` is null, since file and row identify it
    users: int
    quarantined: dict[str, int]  # users by reason
    ineligible: dict[str, int]  # users by reason
    events: int  # in the histories
    truncated: int  # older events beyond history_limit


def group_histories(
    tables: Iterable[pa.Table], item_ids: pa.StringArray, data: Data, files: Sequence[str]
) -> GroupedHistories:
    """Group the INTERACTION tables of one shard, in any order.

    `item_ids`: the catalogue's, in its order. `files`: input paths by `source_file`. Events are sorted by (user_id, ts,
    source_file, source_row). Of events with the same (user, item, ts, event) the first counts. `min_events` applies to
    the positive events within `history_limit`.
    """
    table = pa.concat_tables([INTERACTION.empty_table(), *tables]).unify_dictionaries().combine_chunks()
    names, user = _users(table["user_id"].combine_chunks())
    good = ~table["rejected"].to_numpy(zero_copy_only=False)
    events = _Events.of(table, user, item_ids).take(np.flatnonzero(good))
    if bool((events.item < 0).any()):
        raise DataError(
            "some items are not in the catalogue", hint="the inputs changed during the run: run the job again"
        )
    events = events.take(events.order())
    repeated = events.repeated()
    duplicates = _duplicates(events.take(np.flatnonzero(repeated)), names, files)
    events = events.take(np.flatnonzero(~repeated))
    recent = _newest(events.user, data.history_limit)
    truncated = int((~recent).sum())
    older = _distinct_items(events, np.flatnonzero(~recent), len(names))
    events = events.take(np.flatnonzero(recent))

    has_events = np.bincount(events.user, minlength=len(names)) > 0
    positive = np.array([weight > 0 for weight in data.events.values()], bool)
    positives = np.bincount(events.user[positive[events.event]], minlength=len(names))
    eligible = has_events & (positives >= data.min_events)
    events = events.take(np.flatnonzero(eligible[events.user]))
    return GroupedHistories(
        _histories(events, older, names, eligible),
        duplicates,
        len(names),
        _counted("all_events_quarantined", int((~has_events).sum())),
        _counted("too_few_events", int((has_events & ~eligible).sum())),
        len(events.user),
        truncated,
    )


def read_histories(storage: Storage, path: str) -> pa.Table:
    """Read HISTORY. Raises MissingFileError, and DataError for another kind of file."""
    try:
        return read_arrow(storage, path).cast(HISTORY)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"cannot be read as histories: {error}", where=storage.url(path), hint="delete it, and run the job again"
        ) from error


@dataclass(frozen=True)
class _Events:
    """Accepted events as arrays [n]; `user` indexes the sorted user_ids."""

    user: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]
    event: npt.NDArray[np.int8]
    value: npt.NDArray[np.float32]
    dwell_ms: npt.NDArray[np.int32]
    source_file: npt.NDArray[np.int32]
    source_row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table, user: npt.NDArray[np.int32], item_ids: pa.StringArray) -> _Events:
        def numbers(name: str, nothing: int) -> npt.NDArray[Any]:
            column = table[name].combine_chunks()
            column = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
            return np.asarray(column.fill_null(nothing).to_numpy(zero_copy_only=False))

        items = table["item_id"].combine_chunks()
        code_of = pc.index_in(items.dictionary, value_set=item_ids).fill_null(-1).to_numpy(zero_copy_only=False)
        item = np.append(code_of, -1)[items.indices.fill_null(-1).to_numpy(zero_copy_only=False)].astype(np.int32)
        nothing = {"ts": 0, "event": 0, "value": 0, "dwell_ms": -1, "source_file": 0, "source_row": 0}
        return cls(user=user, item=item, **{name: numbers(name, value) for name, value in nothing.items()})

    def take(self, rows: Rows) -> _Events:
        return _Events(*(column[rows] for column in vars(self).values()))

    def order(self) -> Rows:
        """Sort order by user, ts, file, row."""
        later_file = self.source_file[1:] > self.source_file[:-1]
        later_row = (self.source_file[1:] == self.source_file[:-1]) & (self.source_row[1:] > self.source_row[:-1])
        if bool(np.all(later_file | later_row)):  # the usual shuffle order: a stable sort by two keys is enough
            return np.asarray(np.lexsort((self.ts, self.user)))
        return np.asarray(np.lexsort((self.source_row, self.source_file, self.ts, self.user)))

    def repeated(self) -> npt.NDArray[np.bool_]:
        """Bool [n]: the (sorted) event repeats an earlier one with the same user, item, ts and event."""
        repeated = np.zeros(len(self.user), bool)
        follows = (self.user[1:] == self.user[:-1]) & (self.ts[1:] == self.ts[:-1])
        tied = np.flatnonzero(np.append(follows, False) | np.insert(follows, 0, False))
        if len(tied) == 0:
            return repeated
        moment = np.cumsum(~np.insert(follows, 0, False))[tied]
        order = np.lexsort((tied, self.event[tied], self.item[tied], moment))
        rows = tied[order]
        same = (
            (moment[order][1:] == moment[order][:-1])
            & (self.item[rows][1:] == self.item[rows][:-1])
            & (self.event[rows][1:] == self.event[rows][:-1])
        )
        repeated[rows[1:][same]] = True
        return repeated


def _users(column: pa.DictionaryArray) -> tuple[pa.StringArray, npt.NDArray[np.int32]]:
    """The distinct user_ids, sorted, and each row's index into them."""
    order = pc.array_sort_indices(column.dictionary).to_numpy()
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    return column.dictionary.take(pa.array(order)), place[column.indices.to_numpy(zero_copy_only=False)]


def _newest(user: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.bool_]:
    """Bool [n]: the last `limit` events of each user; events are sorted by user."""
    last = np.searchsorted(user, user, side="right")
    return last - np.arange(len(user)) <= limit


def _distinct_items(events: _Events, rows: Rows, users: int) -> Ragged:
    """Each user's distinct items among these events, ascending."""
    cells = np.unique(events.user[rows].astype(np.int64) << 32 | events.item[rows])
    return Ragged.from_lengths((cells & 0xFFFFFFFF).astype(np.int32), np.bincount(cells >> 32, minlength=users))


def _histories(events: _Events, older: Ragged, names: pa.StringArray, eligible: npt.NDArray[np.bool_]) -> pa.Table:
    lengths = np.bincount(events.user, minlength=len(names))[eligible]

    def ragged(values: npt.NDArray[Any], name: str) -> pa.ListArray:
        return Ragged.from_lengths(values, lengths).to_arrow(HISTORY.field(name).type.value_type)

    columns = [ragged(getattr(events, name), name) for name in ("item", "ts", "event", "value", "dwell_ms")]
    columns.append(older.take(np.flatnonzero(eligible)).to_arrow(pa.int32()))
    return pa.table([names.filter(pa.array(eligible)), *columns], schema=HISTORY)


def _duplicates(events: _Events, names: pa.StringArray, files: Sequence[str]) -> pa.Table:
    rows = len(events.user)
    columns = [
        pa.array(files, pa.string()).take(pa.array(events.source_file)),
        pa.array(events.source_row),
        names.take(pa.array(events.user)),
        pa.repeat(pa.scalar("duplicate"), rows),
        pa.repeat(pa.scalar("same user, item, time and event as an earlier row"), rows),
        pa.nulls(rows, pa.string()),
    ]
    return pa.table(columns, schema=QUARANTINE)


def _counted(reason: str, users: int) -> dict[str, int]:
    return {reason: users} if users else {}
