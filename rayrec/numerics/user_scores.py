"""Users' scores under one model, without a row over all items where the model is sparse.

`top` finds each user's best items, `at` scores given (user, item) pairs. Both depend on that user alone, bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from rayrec.numerics import score_kernels
from rayrec.numerics.batch_invariant import dense_matmul, from_numpy, sparse_matmul
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best
from rayrec.numerics.types import Bools, Float32s, Int32s, Int64s

FACTOR_BLOCK = 16_384  # items whose scores from factors are held at once


@dataclass(frozen=True)
class AllowedItems:
    """The items that may be proposed to each user."""

    available: Bools  # [items]
    excluded: Ragged  # item codes per user, in any order, may repeat

    @property
    def arrays(self) -> tuple[Bools, Int64s, Any]:
        return self.available, self.excluded.offsets, self.excluded.values


class UserScores(ABC):
    """Scores of some users."""

    @abstractmethod
    def top(self, allowed: AllowedItems, count: int) -> Ragged:
        """The int32 codes of each user's `count` best allowed items that score above 0, in any order; ties: the lower
        code."""

    @abstractmethod
    def at(self, candidate: Ragged) -> Float32s:
        """The scores [total] of given items, int32 codes, one row per user; 0 where the model knows nothing."""


@dataclass(frozen=True)
class SharedScores(UserScores):
    """One score per item, the same for all users. `top` proposes also items that score 0 or less."""

    score: Float32s  # [items]
    order: Int64s  # [items] codes, best first

    def top(self, allowed: AllowedItems, count: int) -> Ragged:
        return _ragged(score_kernels.top_of_order(self.order, *allowed.arrays, count))

    def at(self, candidate: Ragged) -> Float32s:
        found: Float32s = self.score[candidate.values]
        return found


@dataclass(frozen=True)
class SparseScores(UserScores):
    """history @ weights; the cost of a user is the number of cells in the rows of the history."""

    history: sp.csr_matrix  # float32 [users, items]
    weights: sp.csr_matrix  # float32 [items, items]

    def top(self, allowed: AllowedItems, count: int) -> Ragged:
        return _ragged(score_kernels.top_of_sparse(*self._arrays, *allowed.arrays, count))

    def at(self, candidate: Ragged) -> Float32s:
        found: Float32s = score_kernels.sparse_at(
            *self._arrays, self.weights.shape[1], candidate.offsets, candidate.values
        )
        return found

    @property
    def _arrays(self) -> tuple[Any, ...]:
        return *csr_parts(self.history), *csr_parts(self.weights)


@dataclass(frozen=True)
class DenseScores(UserScores):
    """history @ weights for dense weights of the items in `active`."""

    history: sp.csr_matrix  # float32 [users, active]
    weights: Float32s  # [active, active]
    active: Int32s  # [active] item codes, ascending
    slot: Int64s  # [items] place in `active`, -1 for others
    on_device: Tensor | None = None  # the weights on the device that multiplies; None: the CPU

    @cached_property
    def _scores(self) -> Float32s:
        weights = from_numpy(self.weights) if self.on_device is None else self.on_device
        scores: Float32s = sparse_matmul(self.history, weights).cpu().numpy()
        return scores

    def top(self, allowed: AllowedItems, count: int) -> Ragged:
        return _ragged(score_kernels.top_of_dense(self._scores, self.active, *allowed.arrays, count))

    def at(self, candidate: Ragged) -> Float32s:
        slot = self.slot[candidate.values]
        if not len(self.active):
            return np.zeros(len(slot), np.float32)
        if "_scores" not in self.__dict__:  # nothing was proposed: a few cells of the rows are cheaper than all
            pairs: Float32s = score_kernels.dense_at(*csr_parts(self.history), self.weights, candidate.offsets, slot)
            return pairs
        found: Float32s = self._scores[candidate.rows, np.maximum(slot, 0)]
        found[slot < 0] = 0
        return found


@dataclass(frozen=True)
class FactorScores(UserScores):
    """The greatest product of a user's vectors with an item's, plus the item's bias; 0 for users without vectors."""

    vectors: Float32s  # [vectors, d]
    offsets: Int64s  # [users + 1]: a user's vectors
    items: Tensor  # [items, d]
    bias: Float32s | None = None  # [items]
    known: Bools | None = None  # [items]; others score 0
    on_device: Tensor | None = None  # `items` on the device that multiplies; None: the CPU

    def top(self, allowed: AllowedItems, count: int) -> Ragged:
        codes, scores = [], []
        for start, block in self._blocks():
            active = np.arange(start, start + block.shape[1], dtype=np.int32)
            found = _ragged(score_kernels.top_of_dense(block, active, *allowed.arrays, count))
            codes.append(found)
            scores.append(found.like(block[found.rows, found.values - start]))
        if not codes:
            return Ragged(np.zeros(0, np.int32), np.zeros(len(self.offsets), np.int64))
        code, score = codes[0], scores[0]
        for more, theirs in zip(codes[1:], scores[1:], strict=True):  # in order of code, so ties stay with the lower
            code, score = code.joined(more), score.joined(theirs)
            place = best(score, count)
            code, score = place.like(code.values[place.values]), place.like(score.values[place.values])
        return code

    def at(self, candidate: Ragged) -> Float32s:
        found: Float32s = score_kernels.factors_at(
            self.vectors, self.offsets, self.items.numpy(), candidate.offsets, candidate.values
        )
        return self._finished(found, candidate.values, np.diff(self.offsets)[candidate.rows] > 0)

    def _blocks(self) -> Iterator[tuple[int, Float32s]]:
        """Scores [users, block] of consecutive items, and the first item's code."""
        users = np.flatnonzero(np.diff(self.offsets))
        items = self.items if self.on_device is None else self.on_device
        for start in range(0, len(items), FACTOR_BLOCK):
            columns = items[start : start + FACTOR_BLOCK].T.contiguous()
            block = np.zeros((len(self.offsets) - 1, columns.shape[1]), np.float32)
            if len(users):
                each = dense_matmul(from_numpy(self.vectors).to(columns.device), columns).cpu().numpy()
                own = each if len(each) == len(users) else np.maximum.reduceat(each, self.offsets[users], axis=0)
                codes = slice(start, start + columns.shape[1])
                block[users] = self._finished(own, codes, True)
            yield start, block

    def _finished(self, scores: Float32s, codes: Any, has_vectors: Any) -> Float32s:
        if self.bias is not None:
            scores = scores + self.bias[codes] * has_vectors
        return scores if self.known is None else scores * self.known[codes]


def csr_parts(matrix: sp.csr_matrix) -> tuple[Int64s, Int32s, Float32s]:
    """Offsets, columns and values in the types of the kernels, without a copy where they have them."""
    indptr, indices = matrix.indptr, matrix.indices
    return indptr.astype(np.int64, copy=False), indices.astype(np.int32, copy=False), matrix.data


def _ragged(found: tuple[Int32s, Int64s]) -> Ragged:
    codes, lengths = found
    return Ragged.from_lengths(codes, lengths)
