"""What every view is made from: users' events before a moment, and what the catalogue says of the items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.number_columns import floats
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.time_units import MICROSECONDS_PER_DAY


@dataclass(frozen=True)
class Events:
    """Users' events, oldest first, all before `now`; the arrays are one value an event, [events]."""

    offsets: npt.NDArray[np.int64]  # [users + 1]
    item: npt.NDArray[np.int32]  # codes of the catalogue
    ts: npt.NDArray[np.int64]  # microseconds UTC
    event: npt.NDArray[np.int8]  # index into the event names
    weight: npt.NDArray[np.float32]  # what the event is worth; below 0: evidence against
    value: npt.NDArray[np.float32]  # rating, quantity; NaN where there is none
    now: int  # microseconds UTC

    @classmethod
    def of(cls, table: pa.Table, event_weights: Sequence[float], now: int) -> Self:
        """HISTORY rows as they were at `now`; users stay, perhaps without events."""
        item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]).values
        event, value = (Ragged.from_arrow(table[name]).values for name in ("event", "value"))
        weight = np.asarray(event_weights, np.float32)[event]
        return cls(item.offsets, item.values, ts, event, weight, value, now).filter(ts < now)

    def __len__(self) -> int:
        """Users."""
        return len(self.offsets) - 1

    @cached_property
    def user(self) -> npt.NDArray[np.int64]:
        """The user of each event."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Events of each user."""
        return np.diff(self.offsets)

    @cached_property
    def age_days(self) -> npt.NDArray[np.float64]:
        return (self.now - self.ts) / MICROSECONDS_PER_DAY

    def filter(self, mask: npt.NDArray[np.bool_]) -> Self:
        """The events where mask is true; users stay."""
        lengths = np.bincount(self.user[mask], minlength=len(self))
        return self._with(lengths, np.flatnonzero(mask))

    def take(self, users: npt.NDArray[np.integer[Any]]) -> Self:
        """These users, in this order; one may be named several times."""
        lengths = self.lengths[users]
        return self._with(lengths, ranges(self.offsets[users], lengths))

    def _with(self, lengths: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> Self:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        of = (self.item[at], self.ts[at], self.event[at], self.weight[at], self.value[at])
        return type(self)(offsets, *of, self.now)


@dataclass(frozen=True)
class Items:
    """What the catalogue says of the items, in the order of their codes."""

    item_id: tuple[str, ...]
    text: tuple[str, ...]  # title and category
    price: npt.NDArray[np.float64]  # the attribute that is called the price; NaN where there is none

    @classmethod
    def of(cls, catalogue: pa.Table, price: str) -> Self:
        """`catalogue`: ITEM; `price`: the name of an attribute that holds numbers."""
        category = pc.fill_null(catalogue["category"], "")
        text = pc.binary_join_element_wise(catalogue["title"], category, " ")
        return cls(
            tuple(catalogue["item_id"].to_pylist()),
            tuple(text.to_pylist()),
            attribute(catalogue, price),
        )


def attribute(catalogue: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """An attribute of ITEM rows as numbers, [items]; NaN where it is missing or no number."""
    found = pc.map_lookup(catalogue["attributes"].combine_chunks(), name, "first")
    numbers: npt.NDArray[np.float64] = floats(found)[0]
    return numbers


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ...: [sum of lengths]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    counted: npt.NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return counted
