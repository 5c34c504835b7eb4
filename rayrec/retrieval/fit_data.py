"""FitData, the training data of retrievers, and its collection from a stream of HISTORY tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.errors import DataError
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.sparse_products import dense_gram
from rayrec.retrieval.user_histories import clipped_matrix

_SALT = np.uint64(derive_seed("rayrec fit sample"))  # shards use the plain hash; a sample must not consist of shards


@dataclass(frozen=True)
class FitData:
    """The training data of retrievers: positive events before the cutoff."""

    matrix: sp.csr_matrix  # float32 [users, items]: summed positive weight, at most 1
    user: npt.NDArray[np.int32]  # one entry per event, [events], sorted by (user, ts)
    item: npt.NDArray[np.int32]
    ts: npt.NDArray[np.int64]  # microseconds UTC
    weight: npt.NDArray[np.float32]
    cutoff: int  # microseconds UTC: events at or after it are excluded
    catalogue: pa.Table | None = None  # ITEM by code, for retrievers that read texts

    @cached_property
    def gram(self) -> npt.NDArray[np.float32]:
        """X'X [items, items]; see `gram_matrix`."""
        return gram_matrix(self.matrix, self.by_item)

    @cached_property
    def by_item(self) -> sp.csr_matrix:
        """X' in CSR [items, users], users ascending."""
        return self.matrix.T.tocsr()

    @cached_property
    def age_days(self) -> npt.NDArray[np.float64]:
        """Age of each event at the cutoff, [events]."""
        return (self.cutoff - self.ts) / MICROSECONDS_PER_DAY


def gram_matrix(matrix: sp.csr_matrix, by_item: sp.csr_matrix | None = None) -> npt.NDArray[np.float32]:
    """X'X [items, items] float32 from CSR rows. Sums of 0 and 1 are exact up to 2^24 users per
    item. `by_item`: X' in CSR, if it is there."""
    return dense_gram(matrix.T.tocsr() if by_item is None else by_item, matrix)


@dataclass(frozen=True)
class _Part:
    order: npt.NDArray[np.uint64]  # [users]
    lengths: npt.NDArray[np.int64]  # [users]
    item: npt.NDArray[np.int32]  # [events]
    ts: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]

    def take(self, users: npt.NDArray[np.int64]) -> _Part:
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        lengths = self.lengths[users]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        events = np.repeat(offsets[users], lengths) + within
        return _Part(self.order[users], lengths, self.item[events], self.ts[events], self.weight[events])


@dataclass
class FitDataCollector:
    """Collects FitData from HISTORY tables: `add` each, then `finish`. Users are sampled by their stable hash.

    Holds at most 1.5 x max_events events plus those of one table.
    """

    items: int
    event_weights: npt.NDArray[np.float32]
    cutoff: int
    max_events: int
    added: int = 0  # positive events before the cutoff so far; above max_events, users are dropped
    _parts: list[_Part] = field(default_factory=list)
    _events: int = 0

    def add(self, table: pa.Table) -> None:
        """Add one HISTORY table. A user must not occur in two tables."""
        item = Ragged.from_arrow(table["item"])
        ts = Ragged.from_arrow(table["ts"]).values
        weight = self.event_weights[Ragged.from_arrow(table["event"]).values]
        positive = (weight > 0) & (ts < self.cutoff)
        positive_items = item.filter(positive)
        part = _Part(
            splitmix64(hash_strings(table["user_id"]) ^ _SALT),
            positive_items.lengths,
            positive_items.values.astype(np.int32, copy=False),
            ts[positive],
            weight[positive],
        )
        self._parts.append(part.take(np.flatnonzero(part.lengths)))
        self.added += len(positive_items.values)
        self._events += len(positive_items.values)
        if self._events > 1.5 * self.max_events:
            self._shrink()

    def finish(self) -> FitData:
        """Raises DataError if no user has a positive event."""
        if not self._events:
            raise DataError(
                "there are no positive events before the date",
                where="data.events",
                hint="check --date, data.window_days and the weights in data.events",
            )
        self._shrink()
        part = self._parts[0]
        offsets = np.concatenate([[0], np.cumsum(part.lengths)])
        matrix = clipped_matrix(part.weight, part.item, offsets, self.items)
        user = np.repeat(np.arange(len(part.lengths), dtype=np.int32), part.lengths)
        return FitData(matrix, user, part.item, part.ts, part.weight, self.cutoff)

    def _shrink(self) -> None:
        """Merge all parts into one of at most max_events events (at least one user), users ordered by hash."""
        whole = _Part(
            *(
                np.concatenate([getattr(part, name) for part in self._parts])
                for name in ("order", "lengths", "item", "ts", "weight")
            )
        )
        users = np.argsort(whole.order, kind="stable")
        fitting = np.count_nonzero(np.cumsum(whole.lengths[users]) <= self.max_events)
        self._parts = [whole.take(users[: max(1, fitting)])]
        self._events = len(self._parts[0].item)
