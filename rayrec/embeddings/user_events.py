"""Inputs of the views: users' events before a cutoff, and the text and price of items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.column_parsing import floats
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged


@dataclass(frozen=True)
class Events:
    """The events of some users before `now`, oldest first; arrays are [events]."""

    offsets: npt.NDArray[np.int64]  # [users + 1]
    item: npt.NDArray[np.int32]  # item codes of the catalogue
    ts: npt.NDArray[np.int64]  # microseconds UTC
    event: npt.NDArray[np.int8]  # index into the event names
    weight: npt.NDArray[np.float32]  # weight of the event type; negative: evidence against the item
    value: npt.NDArray[np.float32]  # rating or quantity; NaN if missing
    now: int  # microseconds UTC

    @classmethod
    def of(cls, table: pa.Table, event_weights: Sequence[float], now: int) -> Self:
        """Convert HISTORY rows as of `now`. Users without events before `now` are included."""
        item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]).values
        event, value = (Ragged.from_arrow(table[name]).values for name in ("event", "value"))
        weight = np.asarray(event_weights, np.float32)[event]
        return cls(item.offsets, item.values, ts, event, weight, value, now).filter(ts < now)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.offsets) - 1

    @cached_property
    def user(self) -> npt.NDArray[np.int64]:
        """User of each event, [events]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Events of each user, [users]."""
        return np.diff(self.offsets)

    @cached_property
    def age_days(self) -> npt.NDArray[np.float64]:
        return (self.now - self.ts) / MICROSECONDS_PER_DAY

    def filter(self, mask: npt.NDArray[np.bool_]) -> Self:
        """Select the events in `mask`; all users remain."""
        lengths = np.bincount(self.user[mask], minlength=len(self))
        return self._select(lengths, np.flatnonzero(mask))

    def take(self, users: npt.NDArray[np.integer[Any]]) -> Self:
        """Select users in this order; a user may be repeated."""
        lengths = self.lengths[users]
        return self._select(lengths, ranges(self.offsets[users], lengths))

    def _select(self, lengths: npt.NDArray[np.int64], at: npt.NDArray[np.int64]) -> Self:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        columns = (self.item[at], self.ts[at], self.event[at], self.weight[at], self.value[at])
        return type(self)(offsets, *columns, self.now)


@dataclass(frozen=True)
class Items:
    """Text and price of the catalogue's items, in the order of their codes."""

    item_id: tuple[str, ...]
    text: tuple[str, ...]  # title and category
    price: npt.NDArray[np.float64]  # NaN if missing

    @classmethod
    def of(cls, catalogue: pa.Table, price: str) -> Self:
        """Create from ITEM rows; `price`: name of the attribute that holds prices."""
        category = pc.fill_null(catalogue["category"], "")
        text = pc.binary_join_element_wise(catalogue["title"], category, " ")
        return cls(tuple(catalogue["item_id"].to_pylist()), tuple(text.to_pylist()), attribute(catalogue, price))


def attribute(catalogue: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """An attribute of ITEM rows as numbers, [items]; NaN where it is missing or not a number."""
    found = pc.map_lookup(catalogue["attributes"].combine_chunks(), name, "first")
    numbers: npt.NDArray[np.float64] = floats(found)[0]
    return numbers


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Concatenated ranges: starts[0], starts[0] + 1, ... (lengths[0] of them), starts[1], ...; [sum of lengths]."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    counted: npt.NDArray[np.int64] = np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
    return counted
