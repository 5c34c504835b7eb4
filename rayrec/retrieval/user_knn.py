"""Recent user-kNN: what users alike took lately, a popularity that is personal.

A user's score of item j is the sum, over all fitted users v, of the cosine between the two users' histories (items
weighted by inverse document frequency, norms shrunk) times v's events of j, each halved every half_life_days before the
date. The sum over users is linear in the history, so it is done once, at the fit: diag(idf) Xn' W, items by items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from rayrec.retrieval.base import FitData, register
from rayrec.retrieval.item_item import ItemItem
from rayrec.settings import read_settings, require

_FORGOTTEN = 10  # half-lives after which an event is left out (its weight is below 1/1000)


@dataclass(frozen=True)
class UserKnnSettings:
    half_life_days: float = 7.0
    """Days before the date after which what the others took counts half, above 0."""
    shrink: float = 3.0
    """Added to each user's norm: short histories are not trusted."""
    history_half_life_days: float | None = None
    """Days after which an event of the user counts half, from the newest one back; `null`: all count alike. Scoring
    only: sources that differ in nothing else share one fit."""

    def __post_init__(self) -> None:
        require(self.half_life_days > 0, "half_life_days must be above 0")
        require(self.shrink >= 0, "shrink must not be below 0")
        half_life = self.history_half_life_days
        require(half_life is None or half_life > 0, "history_half_life_days must be above 0")


@register
class UserKnn(ItemItem):
    """What users alike took lately: a popularity that is personal."""

    name = "user_knn"
    settings_kind = UserKnnSettings
    scoring_only = frozenset({"history_half_life_days"})

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> UserKnnSettings:
        return read_settings(UserKnnSettings, settings, "retrieval.sources (user_knn)")

    @classmethod
    def fit(cls, data: FitData, settings: Mapping[str, Any]) -> Self:
        given = cls.read(settings)
        users, items = data.matrix.shape
        fresh = data.age_days < _FORGOTTEN * given.half_life_days
        faded = (data.weight[fresh] * np.exp2(-data.age_days[fresh] / given.half_life_days)).astype(np.float32)
        recent = sp.csr_matrix((faded, (data.user[fresh], data.item[fresh])), shape=(users, items))
        seen_by = np.bincount(data.matrix.indices, minlength=items)
        idf = np.log(1 + users / (seen_by + 1.0)).astype(np.float32)
        weighted = data.matrix.multiply(idf[None, :]).tocsr()
        norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1), np.float64).ravel()) + given.shrink
        active = np.diff(recent.indptr) > 0
        alike = (sp.diags((1 / np.maximum(norm, 1e-9)).astype(np.float32)[active]) @ weighted[active]).T.tocsr()
        weights = (sp.diags(idf) @ (alike @ recent[active])).tocsr().astype(np.float32)
        weights.sort_indices()
        return cls(weights, given)
