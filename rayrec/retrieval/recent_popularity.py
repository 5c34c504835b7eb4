"""Popularity that fades: each event counts 2^(-age / half-life), its age measured from the date that is scored."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.retrieval.popularity import NonPersonalizedRetriever
from rayrec.retrieval.retriever import RETRIEVERS, FitData


class RecentPopularitySettings(RetrieverSettings):
    half_life_days: float = Field(7.0, gt=0)
    """Days before the date after which an event counts half, above 0."""


@RETRIEVERS.register
class RecentPopularityRetriever(NonPersonalizedRetriever):
    """What many took lately; the same for everybody."""

    name = "recent_popularity"
    settings_class = RecentPopularitySettings

    @classmethod
    def fit(cls, data: FitData, settings: RecentPopularitySettings) -> Self:
        faded = data.weight * np.exp2(-data.age_days / settings.half_life_days)
        return cls(np.bincount(data.item, faded, minlength=data.matrix.shape[1]).astype(np.float32))
