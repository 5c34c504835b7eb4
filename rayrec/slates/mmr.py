"""Maximal marginal relevance (Carbonell & Goldstein 1998): next comes what is relevant and unlike all above it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.types import Int64s
from rayrec.slates.diversity import DIVERSIFIERS, Diversifier, GreedyOrder, TopCandidates


class MmrSettings(MethodSettings):
    relevance: float = Field(0.7, ge=0, le=1)
    """The paper's lambda, 0 to 1: 1 is relevance alone."""
    by: Literal["category", "factors"] = "category"
    """When two items are alike: `category`, or `factors` (the cosine of their iALS vectors)."""


@DIVERSIFIERS.register
class Mmr(Diversifier):
    """Next comes what is relevant and unlike all above it (maximal marginal relevance).

    argmax of lambda * relevance - (1 - lambda) * the highest similarity to those chosen.
    """

    name = "mmr"
    settings_class = MmrSettings
    settings: MmrSettings

    def order(self, head: TopCandidates) -> Int64s:
        weight, similarity = self.settings.relevance, head.similarity(self.settings.by)
        greedy, rows = GreedyOrder(head.mask), np.arange(len(head.mask))
        pick = greedy.choose(0, head.relevance)  # nothing stands above the first
        nearest = similarity[rows, pick]
        for rank in range(1, head.mask.shape[1]):
            pick = greedy.choose(rank, weight * head.relevance - (1 - weight) * nearest)
            nearest = np.maximum(nearest, similarity[rows, pick])
        return greedy.order
