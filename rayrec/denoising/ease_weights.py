"""EASE's weights as the denoiser reads them: pairs of a user's items, and columns of popular items. Dense or sparse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from rayrec.denoising.denoiser import required_array
from rayrec.numerics.batch_invariant import from_numpy, sparse_matmul
from rayrec.numerics.score_kernels import cells_of
from rayrec.numerics.types import Float32s, Int32s, Int64s


class EaseWeights(ABC):
    """B_ij by slots, the places of items in the solve. `pool`: the slots of the pool's items, in its order."""

    slot: Int64s  # [items], -1: not in the solve
    slots: int  # one more than the greatest slot
    on_devices: bool = False  # whether they can be on another device than the CPU

    def to(self, device: torch.device) -> EaseWeights:
        """The weights on this device; a copy only if they are elsewhere."""
        return self

    @abstractmethod
    def among(self, slot: Tensor) -> Tensor:
        """B_ij of all pairs of each row of `slot` [b, L]: [b, L, L]."""

    @abstractmethod
    def toward_pool(self, rows: sp.csr_matrix) -> Tensor:
        """rows [b, slots] times B's columns of the pool: [b, pool]."""

    @abstractmethod
    def pool_cells(self, slot: Tensor, place: Tensor) -> Tensor:
        """B_ij for i in `slot` [b, L] and j the pool's item at `place` [b, count]: [b, count, L]."""


def ease_weights(
    arrays: Mapping[str, npt.NDArray[Any]], pool_size: int, count: npt.NDArray[Any], method: str
) -> tuple[EaseWeights, Int64s]:
    """The weights of a fit, and the pool's slots: the most popular items of the solve, ties by code."""
    active = required_array(arrays, "ease.active", method)
    popular = np.lexsort((active, -count[active].astype(np.float64)))[:pool_size]
    if "ease.indptr" not in arrays:
        weights = required_array(arrays, "ease.weights", method)
        return DenseEaseWeights(weights, active, len(count), popular), popular
    parts = tuple(required_array(arrays, f"ease.{name}", method) for name in ("indptr", "indices", "data"))
    pool = active[popular].astype(np.int64)
    return SparseEaseWeights(parts, active, len(count), pool), pool


class DenseEaseWeights(EaseWeights):
    on_devices = True

    def __init__(self, weights: Float32s, active: Int32s, items: int, pool: Int64s) -> None:
        self._weights = from_numpy(weights)
        self._to_pool = self._weights[:, torch.from_numpy(pool)].contiguous()
        self.slots = len(active)
        self.slot = np.full(items, -1, np.int64)
        self.slot[active] = np.arange(len(active))

    def to(self, device: torch.device) -> EaseWeights:
        moved = copy(self)
        moved._weights, moved._to_pool = self._weights.to(device), self._to_pool.to(device)
        return moved

    def among(self, slot: Tensor) -> Tensor:
        return self._weights[slot.unsqueeze(2), slot.unsqueeze(1)]

    def toward_pool(self, rows: sp.csr_matrix) -> Tensor:
        return sparse_matmul(rows, self._to_pool)

    def pool_cells(self, slot: Tensor, place: Tensor) -> Tensor:
        return self._to_pool[slot.unsqueeze(1), place.unsqueeze(2)]


class SparseEaseWeights(EaseWeights):
    """A slot is the item's code."""

    def __init__(self, csr: tuple[npt.NDArray[Any], ...], active: Int32s, items: int, pool: Int64s) -> None:
        self._csr = csr  # offsets, sorted columns, values
        self._pool = torch.from_numpy(pool)
        place = np.full(items, -1, np.int64)
        place[pool] = np.arange(len(pool))
        offsets, columns, values = csr
        cells = np.flatnonzero(place[columns] >= 0)
        indptr = np.searchsorted(cells, offsets)
        self._to_pool = sp.csr_matrix((values[cells], place[columns[cells]], indptr), shape=(items, len(pool)))
        self.slots = items
        self.slot = np.full(items, -1, np.int64)
        self.slot[active] = active

    def among(self, slot: Tensor) -> Tensor:
        return self._cells(slot.unsqueeze(2), slot.unsqueeze(1))

    def toward_pool(self, rows: sp.csr_matrix) -> Tensor:
        return torch.from_numpy((rows @ self._to_pool).toarray())

    def pool_cells(self, slot: Tensor, place: Tensor) -> Tensor:
        return self._cells(slot.unsqueeze(1), self._pool[place].unsqueeze(2))

    def _cells(self, row: Tensor, column: Tensor) -> Tensor:
        row, column = torch.broadcast_tensors(row, column)  # type: ignore[no-untyped-call]
        found = cells_of(*self._csr, row.reshape(-1).numpy(), column.reshape(-1).numpy())
        return torch.from_numpy(found).reshape(row.shape)
