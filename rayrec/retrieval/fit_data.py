"""From a stream of HISTORY tables to FitData: positives only, users in the order of their stable hash, bounded."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.errors import DataError
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.retriever import FitData, clipped_matrix

_SALT = np.uint64(
    derive_seed("rayrec fit sample")
)  # shards use the plain hash: a sample must not be some of the shards


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
    """Add tables, then finish. Holds at most 1.5 x max_events events plus one table's."""

    items: int
    event_weights: npt.NDArray[np.float32]
    cutoff: int
    max_events: int
    added: int = 0  # positive events before the cut, so far: more than max_events, and users are left out
    _parts: list[_Part] = field(default_factory=list)
    _events: int = 0

    def add(self, table: pa.Table) -> None:
        """One HISTORY table; no user may come twice."""
        item = Ragged.from_arrow(table["item"])
        ts = Ragged.from_arrow(table["ts"]).values
        weight = self.event_weights[Ragged.from_arrow(table["event"]).values]
        positive = (weight > 0) & (ts < self.cutoff)
        kept = item.filter(positive)
        part = _Part(
            splitmix64(hash_strings(table["user_id"]) ^ _SALT),
            kept.lengths,
            kept.values.astype(np.int32, copy=False),
            ts[positive],
            weight[positive],
        )
        self._parts.append(part.take(np.flatnonzero(part.lengths)))
        self.added += len(kept.values)
        self._events += len(kept.values)
        if self._events > 1.5 * self.max_events:
            self._shrink()

    def finish(self) -> FitData:
        """Raises DataError where no user has a positive event."""
        if not self._events:
            raise DataError(
                "there is no positive event to learn from before the date",
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
        """One part, users by hash, as many as fit into max_events (at least one)."""
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
