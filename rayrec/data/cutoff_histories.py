"""Histories as of a cutoff: events before it, and what each user consumes after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.numerics.ragged import Ragged


def histories_at(table: pa.Table, cutoff: int) -> pa.Table:
    """HISTORY rows as of the cutoff (microseconds UTC), without later events. Every user stays, even without events.

    `older_items` are older than all events of the history: they stay where one event is before the cutoff. Where none
    is, their times are not known, and they are left out.
    """
    ts = Ragged.from_arrow(table["ts"])
    past = ts.values < cutoff
    columns = []
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if field.name == "older_items":
            column = _older_items(table, ts.filter(past).lengths > 0).to_arrow(pa.int32())
        elif pa.types.is_list(field.type):
            column = Ragged.from_arrow(column).filter(past).to_arrow(field.type.value_type)
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def first_positive(table: pa.Table, event_weights: Sequence[float]) -> int | None:
    """The time (microseconds UTC) of the oldest positive event of HISTORY rows; None if there is none."""
    weight = np.asarray(event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
    positive = Ragged.from_arrow(table["ts"]).values[weight > 0]
    return int(positive.min()) if len(positive) else None


def with_unseen_items(table: pa.Table, available: npt.NDArray[np.bool_]) -> int:
    """How many HISTORY rows lack at least one item of `available` [items]."""
    item, most = Ragged.from_arrow(table["item"]), int(np.count_nonzero(available))
    item = item.joined(Ragged.from_arrow(table["older_items"]))
    if int(item.lengths.max(initial=0)) < most:  # nobody has as many events as there are items
        return len(item)
    seen = np.unique(item.rows.astype(np.int64) << 32 | item.values)
    seen = seen[available[seen & 0xFFFFFFFF]]
    return int((np.bincount(seen >> 32, minlength=len(item)) < most).sum())


def consumed_after(
    table: pa.Table, cutoff: int, until: int, event_weights: Sequence[float], *, new_only: bool = True
) -> Ragged:
    """Sorted int32 items that each user of HISTORY rows consumed (positive events) in [cutoff, until).

    `new_only`: exclude items that the user had an event with before the cutoff, see `histories_at`.
    """
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]).values
    weight = np.asarray(event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
    key = item.rows << 32 | item.values
    wanted = np.unique(key[(ts >= cutoff) & (ts < until) & (weight > 0)])
    if new_only:
        before = key[ts < cutoff]
        older = _older_items(table, np.bincount(item.rows[ts < cutoff], minlength=len(item)) > 0)
        wanted = wanted[~np.isin(wanted, np.concatenate([before, older.rows << 32 | older.values]))]
    return Ragged.from_lengths((wanted & 0xFFFFFFFF).astype(np.int32), np.bincount(wanted >> 32, minlength=len(item)))


def _older_items(table: pa.Table, users: npt.NDArray[np.bool_]) -> Ragged:
    """`older_items` of these users [users]; none of all others."""
    older = Ragged.from_arrow(table["older_items"])
    return older.filter(users[older.rows])


def is_consumed(candidate: Ragged, wanted: Ragged) -> npt.NDArray[np.bool_]:
    """Bool [candidates]: the candidate is in the same row of `wanted`."""
    return np.isin(candidate.rows << 32 | candidate.values, wanted.rows << 32 | wanted.values)


def is_training_user(
    table: pa.Table, wanted: Ragged, min_events: int, rewarded: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Bool [users]: at least `min_events` events before the cutoff, and something consumed after it, or `rewarded`."""
    known, labelled = Ragged.from_arrow(table["item"]).lengths, wanted.lengths > 0
    return (known >= min_events) & (labelled if rewarded is None else labelled | rewarded)


def first_row_per_user(denoised: pa.Table) -> pa.Table:
    """The first DENOISED_HISTORY row of each user, for facts that do not depend on the variant.

    With a split, a user has one row (the variant of their arm); else one row per variant.
    """
    users = denoised["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(users, return_index=True)[1]  # codes follow the order of the rows, so these ascend
    return denoised.take(pa.array(first)).combine_chunks()
