"""Earlier days as lessons: what was known at a cut, and what each user then took for the first time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.numerics.ragged import Ragged


def histories_at(table: pa.Table, cutoff: int) -> pa.Table:
    """HISTORY rows as they were at `cut` (microseconds UTC): later events left out; users stay, perhaps empty."""
    past = Ragged.from_arrow(table["ts"]).values < cutoff
    columns = []
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            column = Ragged.from_arrow(column).filter(past).to_arrow(field.type.value_type)
        columns.append(column)
    return pa.table(columns, schema=table.schema)


def consumed_after(
    table: pa.Table, cutoff: int, until: int, event_weights: Sequence[float], *, new_only: bool = True
) -> Ragged:
    """The items, int32 and sorted, that each user of HISTORY rows took (positive events) in [cut, until).

    With `new_only`, those the user had no event with before the cut.
    """
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]).values
    weight = np.asarray(event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
    key = item.rows << 32 | item.values
    wanted = np.unique(key[(ts >= cutoff) & (ts < until) & (weight > 0)])
    if new_only:
        wanted = wanted[~np.isin(wanted, key[ts < cutoff])]
    return Ragged.from_lengths((wanted & 0xFFFFFFFF).astype(np.int32), np.bincount(wanted >> 32, minlength=len(item)))


def is_consumed(candidate: Ragged, wanted: Ragged) -> npt.NDArray[np.bool_]:
    """Which candidates [candidates] the same row of `wanted` holds."""
    return np.isin(candidate.rows << 32 | candidate.values, wanted.rows << 32 | wanted.values)


def is_training_user(table: pa.Table, wanted: Ragged, min_events: int) -> npt.NDArray[np.bool_]:
    """Which users can teach: at least `min_events` events known, and something taken afterwards."""
    known = Ragged.from_arrow(table["item"]).lengths
    return (known >= min_events) & (wanted.lengths > 0)
