"""Popularity: how often an item was interacted with, by summed event weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rayrec.config.method_settings import read_settings
from rayrec.retrieval.retriever import FitData, Retriever, UserHistories, register


@dataclass(frozen=True)
class PopularitySettings:
    """There is nothing to set."""


class NonPersonalizedRetriever(Retriever):
    """One score an item, the same for everybody: what the popularities share."""

    personalized = False

    def __init__(self, score: npt.NDArray[np.float32]) -> None:
        self.score = score  # [items]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {"score": self.score}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        return cls(arrays["score"])

    def remap(self, codes: npt.NDArray[np.int64], items: int) -> Self:
        score = np.zeros(items, np.float32)
        score[codes[codes >= 0]] = self.score[codes >= 0]
        return type(self)(score)

    def scores(self, user_histories: UserHistories) -> npt.NDArray[np.float32]:
        return self.score[None, :]


@register
class PopularityRetriever(NonPersonalizedRetriever):
    """What many took within the window; the same for everybody."""

    name = "popularity"
    settings_class = PopularitySettings

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        read_settings(PopularitySettings, settings, "retrieval.sources (popularity)")

    @classmethod
    def fit(cls, data: FitData, settings: Mapping[str, Any]) -> Self:
        cls.check(settings)
        return cls(np.bincount(data.item, data.weight, minlength=data.matrix.shape[1]).astype(np.float32))
