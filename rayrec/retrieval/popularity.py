"""Popularity: how often an item was interacted with, by summed event weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.retrieval.retriever import RETRIEVERS, FitData, Retriever, UserHistories


class PopularitySettings(RetrieverSettings):
    """There is nothing to set."""


class NonPersonalizedRetriever(Retriever):
    """One score an item, the same for everybody: what the popularities share."""

    personalized = False

    def __init__(self, score: npt.NDArray[np.float32]) -> None:
        self.score = score  # [items]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"score": self.score}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: PopularitySettings) -> Self:
        return cls(arrays["score"])

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        score = np.zeros(items, np.float32)
        score[codes[codes >= 0]] = self.score[codes >= 0]
        return type(self)(score)

    def scores(self, user_histories: UserHistories) -> npt.NDArray[np.float32]:
        return self.score[None, :]


@RETRIEVERS.register
class PopularityRetriever(NonPersonalizedRetriever):
    """What many took within the window; the same for everybody."""

    name = "popularity"
    settings_class = PopularitySettings

    @classmethod
    def fit(cls, data: FitData, settings: PopularitySettings) -> Self:
        return cls(np.bincount(data.item, data.weight, minlength=data.matrix.shape[1]).astype(np.float32))
