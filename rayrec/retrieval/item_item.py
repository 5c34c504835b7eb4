"""Base class of retrievers with a sparse item-item matrix: a user's scores are the history times the matrix."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from rayrec.numerics.batch_invariant import sparse_matmul
from rayrec.retrieval.retriever import MAX_DENSE_ITEMS, Retriever
from rayrec.retrieval.user_histories import UserHistories

_DENSE_FROM = 0.05  # density above which a dense product is faster (measured)


class HistorySettings(Protocol):
    @property
    def history_half_life_days(self) -> float | None: ...


class ItemItemRetriever(Retriever):
    """Holds `weights`, float32 CSR [items, items]; row: an item of the history."""

    def __init__(self, weights: sp.csr_matrix, settings: HistorySettings) -> None:
        self.weights = weights
        self.history_half_life_days = settings.history_half_life_days
        self.settings = settings

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "data": self.weights.data,
            "indices": self.weights.indices.astype(np.int32),
            "indptr": self.weights.indptr.astype(np.int64),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Any) -> Self:
        items = len(arrays["indptr"]) - 1
        weights = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(items, items))
        return cls(weights, settings)

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        cells = self.weights.tocoo()
        row, column = codes[cells.row], codes[cells.col]
        stays = (row >= 0) & (column >= 0)
        weights = sp.csr_matrix((cells.data[stays], (row[stays], column[stays])), shape=(items, items))
        return type(self)(weights, self.settings)

    def scores(self, user_histories: UserHistories) -> npt.NDArray[np.float32]:
        matrix = user_histories.matrix(self.history_half_life_days)
        if self._dense is not None:
            return sparse_matmul(matrix, self._dense).numpy()
        dense: npt.NDArray[np.float32] = (matrix @ self.weights).toarray()
        return dense

    @cached_property
    def _dense(self) -> torch.Tensor | None:
        items = self.weights.shape[0]
        if items > MAX_DENSE_ITEMS or self.weights.nnz < _DENSE_FROM * items * items:
            return None
        return torch.from_numpy(self.weights.toarray())
