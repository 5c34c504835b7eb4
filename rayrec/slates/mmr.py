"""Maximal marginal relevance (Carbonell & Goldstein 1998): next comes what is relevant and unlike all above it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayrec.config.method_settings import read_settings, require
from rayrec.slates.diversity import Diversifier, GreedyOrder, TopCandidates, register, require_similarity
from rayrec.slates.scored_candidates import Ints


@dataclass(frozen=True)
class MmrSettings:
    relevance: float = 0.7
    """The paper's lambda, 0 to 1: 1 is relevance alone."""
    by: str = "category"
    """When two items are alike: `category`, or `factors` (the cosine of their iALS vectors)."""

    def __post_init__(self) -> None:
        require(0 <= self.relevance <= 1, "relevance must be between 0 and 1")
        require_similarity(self.by)


@register
class Mmr(Diversifier):
    """Next comes what is relevant and unlike all above it (maximal marginal relevance).

    argmax of lambda * relevance - (1 - lambda) * the highest similarity to those chosen.
    """

    name = "mmr"
    settings_class = MmrSettings

    def __init__(self, settings: MmrSettings) -> None:
        self.settings = settings

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        return cls(read_settings(MmrSettings, settings, "slate.diversity.settings (mmr)"))

    @property
    def needs_factors(self) -> bool:
        return self.settings.by == "factors"

    def order(self, head: TopCandidates) -> Ints:
        weight, similarity = self.settings.relevance, head.similarity(self.settings.by)
        greedy, rows = GreedyOrder(head.mask), np.arange(len(head.mask))
        pick = greedy.choose(0, head.relevance)  # nothing stands above the first
        nearest = similarity[rows, pick]
        for rank in range(1, head.mask.shape[1]):
            pick = greedy.choose(rank, weight * head.relevance - (1 - weight) * nearest)
            nearest = np.maximum(nearest, similarity[rows, pick])
        return greedy.order
