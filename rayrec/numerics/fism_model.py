"""FISM (Kabbur et al. 2013): a factor model that derives user vectors from item vectors, so it serves new users.

With a user's distinct items S, score_j = b_j + q_j' u_j and u_j = |S \ j|^-1/2 sum_{k in S, k != j} p_k: an item of the
history is scored by the other items alone, which is leave-one-out without a refit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from rayrec.numerics.batch_invariant import from_numpy, sparse_matmul
from rayrec.numerics.ragged import Ragged


@dataclass(frozen=True)
class FismModel:
    source: npt.NDArray[np.float32]  # p [items, d]; zero for unknown items
    target: npt.NDArray[np.float32]  # q [items, d]; zero for unknown items
    bias: npt.NDArray[np.float32]  # b [items]

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        known: npt.NDArray[np.bool_] = np.any(self.target != 0, axis=1)
        return known

    def leave_one_out_scores(self, item: Ragged) -> npt.NDArray[np.float32]:
        """Score of each event given the user's other items, [total]; `item`: int32 codes of known items."""
        sums, distinct = self._sums(item)
        others = np.sqrt(np.maximum(distinct[item.rows] - 1, 1))
        code = item.values
        # einsum sums each row separately in a fixed order, regardless of the number of rows.
        towards = np.einsum("ij,ij->i", self.target[code], sums[item.rows] - self.source[code])
        score: npt.NDArray[np.float32] = (self.bias[code] + towards / others).astype(np.float32)
        return score

    def users(self, item: Ragged) -> npt.NDArray[np.float32]:
        """User vectors u [users, d] over all of a user's items; zero for an empty history."""
        sums, distinct = self._sums(item)
        users: npt.NDArray[np.float32] = (sums / np.sqrt(np.maximum(distinct, 1))[:, None]).astype(np.float32)
        return users

    def _sums(self, item: Ragged) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """The sum of p over each user's distinct items [users, d], and their number [users]."""
        ones = np.ones(len(item.values), np.float32)
        rows = sp.csr_matrix((ones, item.values, item.offsets), shape=(len(item), len(self.source)), copy=True)
        rows.sum_duplicates()
        rows.data[:] = 1
        with torch.inference_mode():
            return sparse_matmul(rows, from_numpy(self.source)).numpy(), np.diff(rows.indptr).astype(np.int64)
