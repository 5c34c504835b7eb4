"""Base class of retrievers with an item-item matrix: a user's scores are the history times the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from rayrec.numerics.batch_invariant import from_numpy
from rayrec.numerics.types import Float32s
from rayrec.numerics.user_scores import DenseScores, SparseScores, UserScores
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS, Retriever, remap_rows
from rayrec.retrieval.user_histories import UserHistories

DENSE_FROM = 0.08  # share of cells above which the matrix is stored and multiplied densely: faster (measured)


class HistorySettings(Protocol):
    @property
    def history_half_life_days(self) -> float | None: ...


class ItemItemRetriever(Retriever):
    """Holds float32 weights [items, items], row: an item of the history; CSR, or dense if most cells are there."""

    def __init__(self, weights: sp.csr_matrix | Float32s, settings: HistorySettings) -> None:
        self.items = weights.shape[0]
        if not isinstance(weights, np.ndarray):
            weights.sort_indices()
            if self.items <= MAX_DENSE_ITEMS and weights.nnz >= DENSE_FROM * self.items**2:
                weights = weights.toarray()
        self._weights = weights
        self.settings = settings
        self._on_device: torch.Tensor | None = None

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu" or not isinstance(self._weights, np.ndarray):
            return self
        moved = copy(self)
        moved._on_device = from_numpy(self._weights).to(device)
        return moved

    @property
    def weights(self) -> sp.csr_matrix:
        """The weights in CSR."""
        return sp.csr_matrix(self._weights) if isinstance(self._weights, np.ndarray) else self._weights

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        if isinstance(self._weights, np.ndarray):
            return {"dense": self._weights}
        return csr_arrays(self._weights)

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self:
        return cls(arrays["dense"] if "dense" in arrays else csr_of(arrays), settings)

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        if isinstance(self._weights, np.ndarray) and items <= MAX_DENSE_ITEMS:
            columns = remap_rows(np.ascontiguousarray(self._weights.T), codes, items)
            return type(self)(remap_rows(np.ascontiguousarray(columns.T), codes, items), self.settings)
        return type(self)(remap_cells(self.weights, codes, items), self.settings)

    @property
    def bytes_per_user(self) -> int:
        return 4 * self.items if isinstance(self._weights, np.ndarray) else 0

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        matrix = user_histories.matrix(self.settings.history_half_life_days)
        if isinstance(self._weights, np.ndarray):
            return DenseScores(matrix, self._weights, self._all.astype(np.int32), self._all, self._on_device)
        return SparseScores(matrix, self._weights)

    @cached_property
    def _all(self) -> npt.NDArray[np.int64]:
        return np.arange(self.items)


def csr_arrays(weights: sp.csr_matrix) -> dict[str, npt.NDArray[Any]]:
    return {
        "data": weights.data,
        "indices": weights.indices.astype(np.int32, copy=False),
        "indptr": weights.indptr.astype(np.int64, copy=False),
    }


def csr_of(arrays: Mapping[str, npt.NDArray[Any]]) -> sp.csr_matrix:
    """A square CSR matrix that shares these arrays' memory."""
    items = len(arrays["indptr"]) - 1
    matrix = sp.csr_matrix((items, items), dtype=np.float32)
    # Assigned, not passed: the constructor would copy int32 indices to the type of the offsets.
    matrix.data, matrix.indices, matrix.indptr = arrays["data"], arrays["indices"], arrays["indptr"]
    matrix.has_sorted_indices = True
    return matrix


def remap_cells(weights: sp.csr_matrix, codes: npt.NDArray[np.int64], items: int) -> sp.csr_matrix:
    """The cells of an item-item matrix by the codes of another catalogue, see `Retriever.remap`."""
    if len(codes) and codes[0] >= 0 and (np.diff(codes) > 0).all():  # same cells in the same order: nothing to sort
        weights.sort_indices()
        length = np.zeros(items + 1, np.int64)
        length[codes + 1] = np.diff(weights.indptr)
        moved = {"data": weights.data, "indices": codes.astype(np.int32)[weights.indices], "indptr": np.cumsum(length)}
        return csr_of(moved)
    rows = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    row, column = codes[rows], codes[weights.indices]
    stays = (row >= 0) & (column >= 0)
    return sp.csr_matrix((weights.data[stays], (row[stays], column[stays])), shape=(items, items))
