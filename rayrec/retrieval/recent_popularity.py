"""Popularity that fades: each event counts 2^(-age / half-life), its age measured from the date that is scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayrec.config.method_settings import read_settings, require
from rayrec.retrieval.popularity import NonPersonalizedRetriever
from rayrec.retrieval.retriever import FitData, register


@dataclass(frozen=True)
class RecentPopularitySettings:
    half_life_days: float = 7.0
    """Days before the date after which an event counts half, above 0."""

    def __post_init__(self) -> None:
        require(self.half_life_days > 0, "half_life_days must be above 0")


@register
class RecentPopularityRetriever(NonPersonalizedRetriever):
    """What many took lately; the same for everybody."""

    name = "recent_popularity"
    settings_class = RecentPopularitySettings

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        read_settings(RecentPopularitySettings, settings, "retrieval.sources (recent_popularity)")

    @classmethod
    def fit(cls, data: FitData, settings: Mapping[str, Any]) -> Self:
        given = read_settings(RecentPopularitySettings, settings, "retrieval.sources (recent_popularity)")
        faded = data.weight * np.exp2(-data.age_days / given.half_life_days)
        return cls(np.bincount(data.item, faded, minlength=data.matrix.shape[1]).astype(np.float32))
