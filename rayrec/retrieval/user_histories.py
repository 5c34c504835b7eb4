"""Users' retained positive events as input of retrievers, and as sparse matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged


@dataclass(frozen=True)
class UserHistories:
    """Users' retained positive events, oldest first; ragged members share their offsets."""

    item: Ragged  # int32 codes
    ts: Ragged  # int64 microseconds UTC
    weight: Ragged  # float32: event weight x keep weight, > 0
    items: int  # size of the catalogue

    def __len__(self) -> int:
        return len(self.item)

    def matrix(self, half_life_days: float | None = None) -> sp.csr_matrix:
        """Convert to float32 CSR [users, items]: summed weights, at most 1, indices sorted.

        With a half-life, weights decay with the time between an event and the user's newest event.
        """
        weight = self.weight.values.astype(np.float32)
        if half_life_days is not None and len(weight):
            newest = np.maximum.reduceat(self.ts.values, self.item.offsets[:-1][self.item.lengths > 0])
            distance = np.repeat(newest, self.item.lengths[self.item.lengths > 0]) - self.ts.values
            weight = weight * np.exp2(-distance / (half_life_days * MICROSECONDS_PER_DAY)).astype(np.float32)
        return clipped_matrix(weight, self.item.values, self.item.offsets, self.items)

    def __getitem__(self, users: slice) -> UserHistories:
        start, stop, _ = users.indices(len(self))
        item, ts, weight = (_rows(part, start, stop) for part in (self.item, self.ts, self.weight))
        return UserHistories(item, ts, weight, self.items)


def clipped_matrix(
    weight: npt.NDArray[np.float32], item: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64], items: int
) -> sp.csr_matrix:
    """float32 CSR [users, items] whose cells are the sums of their events' weights, at most 1."""
    index = np.int32 if offsets[-1] < np.iinfo(np.int32).max else np.int64
    matrix = sp.csr_matrix(
        (weight.copy(), item.astype(index), offsets.astype(index)), shape=(len(offsets) - 1, items), copy=False
    )
    matrix.sum_duplicates()
    np.minimum(matrix.data, 1, out=matrix.data)
    return matrix


def _rows(part: Ragged, start: int, stop: int) -> Ragged:
    offsets = part.offsets[start : stop + 1]
    return Ragged(part.values[offsets[0] : offsets[-1]], offsets - offsets[0])
