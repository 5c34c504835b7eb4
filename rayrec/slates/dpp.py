"""Determinantal point process, greedy MAP (Chen, Zhang & Zhou 2018, Algorithm 1, with incremental Cholesky).

The kernel is L = diag(q) S diag(q) with q = exp(theta * relevance), as in the paper's section 4, so that
log det L_Y = sum_Y 2 theta relevance + log det S_Y: the next candidate has the highest 2 theta relevance + log d^2, d^2
its conditional variance in S given those chosen. The larger theta, the nearer to relevance alone.

S is 0.9 times the similarity, plus 0.1 on the diagonal. Without it two items of one category would span no volume at
all: a slate could show no second one at any theta, and the order would end after as many items as there are categories
(or factors). With it no conditional variance falls below 0.1.
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

_OWN = 0.1  # the share of an item that is like nothing else


class DppSettings(MethodSettings):
    theta: float = Field(2.0, ge=0)
    """How much relevance counts, 0 or more: the larger, the nearer to relevance alone."""
    by: Literal["category", "factors"] = "category"
    """When two items are alike: `category`, or `factors` (the cosine of their iALS vectors)."""


@DIVERSIFIERS.register
class Dpp(Diversifier):
    """The most relevant and least alike as a set (determinantal point process, greedily)."""

    name = "dpp"
    settings_class = DppSettings
    settings: DppSettings

    def order(self, head: TopCandidates) -> Int64s:
        similarity, quality = (1 - _OWN) * head.similarity(self.settings.by), 2 * self.settings.theta * head.relevance
        users, longest = head.mask.shape
        greedy, rows = GreedyOrder(head.mask), np.arange(users)
        variance = np.ones(head.mask.shape)
        cholesky = np.empty((users, longest, longest))  # the paper's c_i, one row a choice: [b, rank, n]
        for rank in range(longest):
            pick = greedy.choose(rank, quality + np.log(variance))
            above = cholesky[:, :rank]
            with single_thread():
                known = batched_vecmat(torch.from_numpy(above[rows, :, pick]), torch.from_numpy(above)).numpy()
            step = (similarity[rows, pick] - known) / np.sqrt(variance[rows, pick])[:, None]
            cholesky[:, rank] = step
            variance = np.maximum(variance - np.square(step), _OWN / 2)  # below _OWN only what was chosen itself
        return greedy.order
