"""Determinantal point process, greedy MAP (Chen, Zhang & Zhou 2018, Algorithm 1, with incremental Cholesky).

The kernel is L = diag(q) S diag(q) with q = exp(theta * relevance), as in the paper's section 4, so that log det L_Y =
sum_Y 2 theta relevance + log det S_Y. The next candidate has the highest 2 theta relevance + log d^2, with d^2 its
conditional variance in S given those chosen.

S is 0.9 times the similarity, plus 0.1 on the diagonal. Without it two items of one category would have determinant 0,
and the order would end after as many items as there are categories (or factors). With it no conditional variance falls
below 0.1.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.ridge_blocks import batched_vecmat, single_thread
from rayrec.numerics.types import Int64s
from rayrec.slates.diversity import DIVERSIFIERS, Diversifier, GreedyOrder, TopCandidates

_OWN = 0.1  # diagonal share of S


class DppSettings(MethodSettings):
    theta: float = Field(2.0, ge=0)
    """Weight of relevance, 0 or more; larger values are nearer to relevance alone."""
    by: Literal["category", "factors"] = "category"
    """Similarity of two items: equal `category`, or `factors` (the cosine of their iALS vectors)."""


@DIVERSIFIERS.register
class Dpp(Diversifier):
    """Selects a relevant and dissimilar set (determinantal point process, greedy)."""

    name = "dpp"
    settings_class = DppSettings
    settings: DppSettings

    def order(self, head: TopCandidates) -> Int64s:
        similarity, quality = (1 - _OWN) * head.similarity(self.settings.by), 2 * self.settings.theta * head.relevance
        users, longest = head.mask.shape
        greedy, rows = GreedyOrder(head.mask), np.arange(users)
        variance = np.ones(head.mask.shape)
        cholesky = np.empty((users, longest, longest))  # the paper's c_i, one row per choice: [b, rank, n]
        for rank in range(longest):
            pick = greedy.choose(rank, quality + np.log(variance))
            above = cholesky[:, :rank]
            with single_thread():
                known = batched_vecmat(torch.from_numpy(above[rows, :, pick]), torch.from_numpy(above)).numpy()
            step = (similarity[rows, pick] - known) / np.sqrt(variance[rows, pick])[:, None]
            cholesky[:, rank] = step
            variance = np.maximum(variance - np.square(step), _OWN / 2)  # only already chosen items are below _OWN
        return greedy.order
