"""Ridge regression of user vectors on fixed item factors, batched over users.

With item factors V [items, d] and S the user's events, the user's vector is p = A^-1 sum_k c_k v_k with
A = lambda I + alpha0 V'V + sum_k w_k v_k v_k'   (iALS; Hu, Koren & Volinsky 2008).

The part that all users share is factored once, lambda I + alpha0 V'V = R R', and the factors are whitened,
W = V R^-T, so that A = R (I + sum_k w_k w_k w_k') R'. The remaining block has eigenvalues >= 1 (float32 is enough).
Short histories, n < 1.5 d, are solved in the n x n dual: H = K (I + K)^-1 = I - M with M = (I + K)^-1, K = W_S W_S'.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_DUAL_UP_TO = 1.5  # times d: the longest history solved in the dual; measured break-even on CPU
_WHITENED_ITEMS = 65_536
_BATCH_BYTES = 16 << 20  # of padded floats; fits the cache
_DEVICE_BATCH_BYTES = 512 << 20  # the same on a GPU, which needs many users at once


@dataclass(frozen=True)
class WhitenedFactors:
    """Item factors in coordinates that make the block shared by all users the identity."""

    items: Tensor  # [items, d]
    root: Tensor  # [d, d] lower triangular R

    @classmethod
    def of(
        cls,
        factors: npt.NDArray[np.floating],
        gram: npt.NDArray[np.float64],
        regularization: float,
        alpha0: float,
        dtype: torch.dtype,
    ) -> WhitenedFactors:
        """From V [items, d] and V'V [d, d], computed in float64 for any `dtype`. `regularization` is above 0."""
        shared = alpha0 * torch.from_numpy(np.array(gram, np.float64))
        root = torch.linalg.cholesky(regularization * torch.eye(len(shared), dtype=shared.dtype) + shared)
        items = torch.empty(factors.shape, dtype=dtype)
        for start in range(0, len(factors), _WHITENED_ITEMS):  # in blocks, to bound the float64 copies
            v = torch.from_numpy(np.array(factors[start : start + _WHITENED_ITEMS], np.float64))
            items[start : start + _WHITENED_ITEMS] = torch.linalg.solve_triangular(root, v.T, upper=False).T
        return cls(items, root.to(dtype))

    def to(self, device: torch.device) -> WhitenedFactors:
        """On this device; a copy only if they are elsewhere."""
        return WhitenedFactors(self.items.to(device), self.root.to(device))


def factor_gram(factors: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """V'V [d, d] in float64."""
    v = factors.astype(np.float64)
    return v.T @ v


@dataclass(frozen=True)
class PaddedBatch:
    """Users with histories padded to one length; a user's padded length depends only on their own history."""

    rows: npt.NDArray[np.int64]  # [b] user indices
    take: npt.NDArray[np.int64]  # [b, L] positions in the flat events; 0 where padded
    mask: npt.NDArray[np.bool_]  # [b, L]


def padded_batches(
    offsets: npt.NDArray[np.int64], width: int, device: torch.device | None = None
) -> Iterator[PaddedBatch]:
    """All users with at least one event, in batches of equal padded length and bounded memory; `width` is d. `device`:
    where they are computed; None: the CPU."""
    most = _BATCH_BYTES if device is None or device.type == "cpu" else _DEVICE_BATCH_BYTES
    lengths = np.diff(offsets)
    padded = padded_length(lengths)
    for length in np.unique(padded[lengths > 0]):
        users = np.flatnonzero(padded == length)
        size = max(1, int(most // (4 * length * (2 * length + 3 * width))))
        steps = np.arange(length)
        for start in range(0, len(users), size):
            rows = users[start : start + size]
            mask = steps < lengths[rows, None]
            yield PaddedBatch(rows, np.where(mask, offsets[rows, None] + steps, 0), mask)


def padded_length(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The next multiple of 4 (up to 64), 16 (up to 128) or 64."""
    step = np.where(lengths <= 64, 4, np.where(lengths <= 128, 16, 64))
    padded: npt.NDArray[np.int64] = -(-lengths // step) * step
    return padded


@dataclass(frozen=True)
class RidgeBlocks:
    """Solved blocks of a batch with event weights 1. `solution` is M [b, L, L] (dual) or A^-1 [b, d, d] (primal)."""

    w: Tensor  # [b, L, d] whitened factors of the events, zero where padded
    solution: Tensor
    dual: bool
    one_minus_h: Tensor  # [b, L]: 1 - v_i' A^-1 v_i
    one_minus_y: Tensor  # [b, L]: 1 - v_i' p; 0 where padded
    direction: Tensor  # [b, d]: the user's vector, whitened, so that v_j' p = w_j' direction

    def toward(self, target: Tensor) -> Tensor:
        """v_i' A^-1 g for every event i, [b, L], where target [b, d] is g whitened."""
        if self.dual:  # W (I + W'W)^-1 = (I + W W')^-1 W
            return batched_vecmat(batched_vecmat(target, self.w.transpose(1, 2)), self.solution)
        return batched_vecmat(batched_vecmat(target, self.solution), self.w.transpose(1, 2))


def solve_blocks(w: Tensor, mask: Tensor) -> RidgeBlocks:
    """Solve the blocks of w [b, L, d], zero where padded; mask [b, L] of w's dtype, 1 for events."""
    length, width = w.shape[1:]
    dual = length <= _DUAL_UP_TO * width
    if dual:
        inverse = _inverse_plus_identity(torch.bmm(w, w.transpose(1, 2)))
        one_minus_h = inverse.diagonal(dim1=1, dim2=2)
        one_minus_y = batched_vecmat(mask, inverse) * mask
        direction = batched_vecmat(one_minus_y, w)
        return RidgeBlocks(w, inverse, dual, one_minus_h, one_minus_y, direction)
    inverse = _inverse_plus_identity(torch.bmm(w.transpose(1, 2), w))
    direction = batched_vecmat(w.sum(1), inverse)
    one_minus_h = 1 - (torch.bmm(w, inverse) * w).sum(2)
    one_minus_y = (1 - batched_vecmat(direction, w.transpose(1, 2))) * mask
    return RidgeBlocks(w, inverse, dual, one_minus_h, one_minus_y, direction)


def solve_users(w: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The users' whitened vectors [b, d]: (I + sum_k weight_k w_k w_k')^-1 sum_k target_k w_k.

    w [b, L, d]; weight and target [b, L], 0 where padded; weight > 0 at every event.
    """
    length, width = w.shape[1:]
    scaled = w * weight.sqrt().unsqueeze(2)
    if length <= _DUAL_UP_TO * width:
        kernel = torch.bmm(scaled, scaled.transpose(1, 2))
        aim = torch.where(weight > 0, target / weight.clamp_min(1e-30).sqrt(), 0)
        kernel.diagonal(dim1=1, dim2=2).add_(1)
        solved = torch.cholesky_solve(aim.unsqueeze(2), torch.linalg.cholesky(kernel)).squeeze(2)
        return batched_vecmat(solved, scaled)
    block = torch.bmm(scaled.transpose(1, 2), scaled)
    block.diagonal(dim1=1, dim2=2).add_(1)
    aim = batched_vecmat(target, w)
    return torch.cholesky_solve(aim.unsqueeze(2), torch.linalg.cholesky(block)).squeeze(2)


def batched_vecmat(row: Tensor, matrix: Tensor) -> Tensor:
    """Row [b, k] times matrix [b, k, m]: [b, m]. In MKL 10 times faster than with the vector on the right."""
    return torch.bmm(row.unsqueeze(1), matrix).squeeze(1)


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one torch thread: MKL splits even a 50 x 50 Cholesky over threads, which is 10 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _inverse_plus_identity(square: Tensor) -> Tensor:
    square.diagonal(dim1=1, dim2=2).add_(1)
    return torch.cholesky_inverse(torch.linalg.cholesky(square))
