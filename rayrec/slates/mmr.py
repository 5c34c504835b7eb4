"""Maximal marginal relevance (MMR, Carbonell & Goldstein 1998)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.types import Int64s
from rayrec.slates.diversity import DIVERSIFIERS, Diversifier, GreedyOrder, TopCandidates


class MmrSettings(MethodSettings):
    relevance: float = Field(0.7, ge=0, le=1)
    """Weight of relevance (the paper's lambda), 0 to 1; 1 orders by relevance alone."""
    by: Literal["category", "factors"] = "category"
    """Similarity of two items: equal `category`, or `factors` (the cosine of their iALS vectors)."""


@DIVERSIFIERS.register
class Mmr(Diversifier):
    """Prefers relevant items that are dissimilar to those above (maximal marginal relevance).

    The next candidate maximises lambda * relevance - (1 - lambda) * the highest similarity to those chosen.
    """

    name = "mmr"
    settings_class = MmrSettings
    settings: MmrSettings

    def order(self, head: TopCandidates) -> Int64s:
        weight, similarity = self.settings.relevance, head.similarity(self.settings.by)
        greedy, rows = GreedyOrder(head.mask), np.arange(len(head.mask))
        pick = greedy.choose(0, head.relevance)  # the first choice has no items above
        nearest = similarity[rows, pick]
        for rank in range(1, head.mask.shape[1]):
            pick = greedy.choose(rank, weight * head.relevance - (1 - weight) * nearest)
            nearest = np.maximum(nearest, similarity[rows, pick])
        return greedy.order
