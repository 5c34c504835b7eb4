"""Bottom-k sample: the k rows with the smallest keys over many tables; bounded memory, independent of sharding."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa


@dataclass
class BottomKSample:
    """Collects tables and retains the rows with the smallest keys. Holds at most 2 k rows and those of one table."""

    k: int
    _tables: list[pa.Table] = field(default_factory=list)
    _keys: list[npt.NDArray[np.uint64]] = field(default_factory=list)

    def add(self, table: pa.Table, keys: npt.NDArray[np.uint64]) -> None:
        """Add rows, with keys [rows]; all calls share one schema."""
        if table.num_rows > self.k:
            table, keys = _first(table, keys, self.k)
        self._tables.append(table)
        self._keys.append(keys)
        if sum(len(one) for one in self._keys) > 2 * self.k:
            self._shrink()

    def table(self) -> pa.Table:
        """The sample, smallest key first, as one chunk; requires at least one added table."""
        self._shrink()
        return self._tables[0]

    def _shrink(self) -> None:
        table, keys = _first(pa.concat_tables(self._tables), np.concatenate(self._keys), self.k)
        self._tables, self._keys = [table], [keys]


def _first(table: pa.Table, keys: npt.NDArray[np.uint64], k: int) -> tuple[pa.Table, npt.NDArray[np.uint64]]:
    order = np.argsort(keys, kind="stable")[:k]
    return table.take(pa.array(order)).combine_chunks(), keys[order]
