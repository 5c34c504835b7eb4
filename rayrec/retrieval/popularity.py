"""Popularity: the summed event weights of each item, optionally with exponential decay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.user_scores import SharedScores, UserScores
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever, remap_rows
from rayrec.retrieval.user_histories import UserHistories


class PopularitySettings(RetrieverSettings):
    """Popularity has no settings."""


class RecentPopularitySettings(RetrieverSettings):
    half_life_days: float = Field(7.0, gt=0)
    """Half-life of events before the date, in days, above 0."""


class NonPersonalizedRetriever(Retriever):
    """Base class: one score per item, the same for all users."""

    personalized = False

    def __init__(self, score: npt.NDArray[np.float32]) -> None:
        self.score = score  # [items]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"score": self.score}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: RetrieverSettings) -> Self:
        return cls(arrays["score"])

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        return type(self)(remap_rows(self.score, codes, items))

    def user_scores(self, user_histories: UserHistories) -> UserScores:
        return SharedScores(self.score, self._order)

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        """All items, best first, ties by code."""
        return np.argsort(-self.score, kind="stable")


@RETRIEVERS.register
class PopularityRetriever(NonPersonalizedRetriever):
    """The most popular items of the window, the same for all users."""

    name = "popularity"
    settings_class = PopularitySettings

    @classmethod
    def fit(cls, data: FitData, settings: PopularitySettings) -> Self:
        return cls(np.bincount(data.item, data.weight, minlength=data.matrix.shape[1]).astype(np.float32))


@RETRIEVERS.register
class RecentPopularityRetriever(NonPersonalizedRetriever):
    """Popularity in which an event counts 2^(-age / half-life), with its age at the date. The same for all users."""

    name = "recent_popularity"
    settings_class = RecentPopularitySettings

    @classmethod
    def fit(cls, data: FitData, settings: RecentPopularitySettings) -> Self:
        decayed = data.weight * np.exp2(-data.age_days / settings.half_life_days)
        return cls(np.bincount(data.item, decayed, minlength=data.matrix.shape[1]).astype(np.float32))
