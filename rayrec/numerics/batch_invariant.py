"""Batch-invariant matrix products: each row has the same bits in every batch and on any number of threads.

A GEMM chooses its kernels by the number of rows, so the last bit of a user's score would depend on the batch. Here each
row is summed separately, in the order of its entries. For short histories this is also 4 to 10 times faster than a
dense product.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor


def sparse_matmul(rows: sp.csr_matrix, dense: Tensor) -> Tensor:
    """rows [n, k] (CSR) times dense [k, m]: [n, m] of dense's dtype, on its device."""
    return torch.nn.functional.embedding_bag(
        from_numpy(rows.indices).long().to(dense.device),
        dense,
        from_numpy(rows.indptr).long().to(dense.device),
        mode="sum",
        per_sample_weights=from_numpy(rows.data).to(dense.device, dense.dtype),
        include_last_offset=True,
    )


def dense_matmul(rows: Tensor, dense: Tensor) -> Tensor:
    """rows [n, k] times dense [k, m]: [n, m], for a small k."""
    count, width = rows.shape
    return torch.nn.functional.embedding_bag(
        torch.arange(width, device=rows.device).repeat(count),
        dense,
        torch.arange(0, count * width + 1, width, device=rows.device),
        mode="sum",
        per_sample_weights=rows.reshape(-1).to(dense.dtype),
        include_last_offset=True,
    )


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory, also for read-only arrays (Ray's shared memory): never write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
