"""Log-bilinear next-item model (Mnih & Hinton 2007) with closed-form per-example gradients.

An event is an example: its item y, given the user's events before it. With r_j > 0 the recency weight of the j-th last
event and x [items] these weights on the items of the events before, divided by their sum,

    u = P'x,  h = (u, 1),  s_k = q_k'h,  loss = -s_y + log(e^s_y + sum_{k in N, k != y} c_k e^s_k)

with P [items, d] `source` and Q [items, d + 1] `target`. The negatives N are a sample that includes item k with
probability 1 / c_k, so that the sum is unbiased (Horvitz & Thompson 1952); for a full softmax, all items with c = 1.

With softmax probabilities p, e_y the one-hot vector of y, delta = p - e_y and v = Q'delta without its last entry, the
gradient is delta h' in Q and x v' in P: two outer products. So for any two examples a and b

    g_a'g_b = (delta_a'delta_b) (h_a'h_b) + (x_a'x_b) (v_a'v_b),

exactly, without automatic differentiation and without storing a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.numerics.batch_invariant import from_numpy


@dataclass(frozen=True)
class PerExampleGradients:
    """Factors of the loss gradient of each event in a batch of padded histories; 0 where padded."""

    delta: Tensor  # [b, L, negatives]
    outside: Tensor  # [b, L] delta at y where y is not among the negatives, else 0
    code: Tensor  # [b, L] y
    hidden: Tensor  # [b, L, d + 1] h
    recency: Tensor  # [L, L] x: row t weighs the events before t
    backward: Tensor  # [b, L, d] v

    def el2n(self) -> Tensor:
        """EL2N score |p - e_y| (Paul et al. 2021), [b, L]."""
        return (self.delta.square().sum(2) + self.outside.square()).sqrt()

    def gram(self) -> Tensor:
        """g_s'g_t for all pairs of a user's events, [b, L, L]."""
        same = (self.code.unsqueeze(2) == self.code.unsqueeze(1)).to(self.delta.dtype)
        delta = _pairs(self.delta) + same * self.outside.unsqueeze(2) * self.outside.unsqueeze(1)
        weights = self.recency.expand(len(same), -1, -1)
        bags = torch.bmm(torch.bmm(weights, same), weights.transpose(1, 2))
        return delta * _pairs(self.hidden) + bags * _pairs(self.backward)


@dataclass(frozen=True)
class NextItemModel:
    """Checkpoints of one training, oldest first. Items that are zero in `target` are unknown to the model."""

    source: npt.NDArray[np.float32]  # P [checkpoints, items, d]
    target: npt.NDArray[np.float32]  # Q [checkpoints, items, d + 1]
    negatives: npt.NDArray[np.int32]  # codes of N
    weight: npt.NDArray[np.float32]  # c of each negative
    recency: npt.NDArray[np.float32]  # r [window]; older events have no influence

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        known: npt.NDArray[np.bool_] = np.any(self.target[-1] != 0, axis=1)
        return known

    @property
    def checkpoints(self) -> int:
        return len(self.target)

    @property
    def width(self) -> int:
        return int(self.source.shape[2])

    def gradients(
        self, codes: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_], checkpoint: int
    ) -> PerExampleGradients:
        """Gradients for known items [b, L], oldest first, padded at the end.

        Bitwise independent of the other users in the batch: products are per user, and their size depends on L
        alone.
        """
        code, there = torch.from_numpy(codes).long(), torch.from_numpy(mask)
        source, target = from_numpy(self.source[checkpoint]), from_numpy(self.target[checkpoint])
        users, length = code.shape
        recency = torch.from_numpy(recency_rows(length, self.recency))
        hidden = torch.ones(users, length, self.width + 1)
        hidden[:, :, :-1] = torch.bmm(recency.expand(users, -1, -1), source[code] * there.unsqueeze(2))
        own_target = target[code]
        columns = target[from_numpy(self.negatives).long()]
        logits = torch.empty(users, length, len(self.negatives) + 1)
        logits[:, :, :-1] = torch.bmm(hidden, columns.T.expand(users, -1, -1)) + torch.log(from_numpy(self.weight))
        own = (hidden * own_target).sum(2)
        slot = torch.from_numpy(self._slot[codes])
        logits[:, :, -1] = torch.where(slot < 0, own, -torch.inf)
        at = torch.nonzero(slot >= 0, as_tuple=True)
        logits[(*at, slot[at])] = own[at]
        delta = torch.softmax(logits, 2)
        delta[(*at, slot[at])] -= 1
        delta[:, :, -1] -= (slot < 0).float()
        delta *= there.unsqueeze(2)
        among, outside = delta[:, :, :-1].contiguous(), delta[:, :, -1].contiguous()
        backward = torch.bmm(among, columns[:, :-1].contiguous().expand(users, -1, -1))
        backward += outside.unsqueeze(2) * own_target[:, :, :-1]
        return PerExampleGradients(among, outside, code, hidden, recency, backward)

    @cached_property
    def _slot(self) -> npt.NDArray[np.int64]:
        """Position of each item among the negatives, -1 for others: [items]."""
        slot = np.full(self.target.shape[1], -1, np.int64)
        slot[self.negatives] = np.arange(len(self.negatives))
        return slot


def recency_rows(length: int, recency: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[length, length]: row t holds the weights of the events before t; they sum to 1, or are 0 in the first row."""
    back = np.arange(length)[:, None] - np.arange(length)[None, :]  # 1: the last event before t
    reached = (back >= 1) & (back <= len(recency))
    rows = np.where(reached, recency[np.clip(back - 1, 0, len(recency) - 1)], 0).astype(np.float64)
    rows /= np.maximum(rows.sum(1, keepdims=True), 1e-30)
    return rows.astype(np.float32)


def _pairs(rows: Tensor) -> Tensor:
    return torch.bmm(rows, rows.transpose(1, 2))
