"""Denoising methods and the item model: which fits the arms' denoisers need, and what they learn beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rayrec.config import Denoise
from rayrec.contracts.ragged import Ragged
from rayrec.denoising.base import Denoiser, Histories
from rayrec.denoising.stage import denoiser_kind
from rayrec.needs import Need
from rayrec.retrieval.base import FitData, clipped_matrix
from rayrec.retrieval.item_model import Arrays, Learner


def needs_of(denoisers: Iterable[Denoise]) -> tuple[Need, ...]:
    """All fits that these need, perhaps more than once. Raises ConfigError for methods or settings that cannot be."""
    found = [denoiser_kind(denoise.method).needs(denoise.settings) for denoise in denoisers]
    return tuple(need for needs in found for need in needs)


def learners_of(denoisers: Iterable[Denoise]) -> tuple[Learner, ...]:
    """What these learn once a fit, each once."""
    found: dict[str, Learner] = {}
    for denoise in denoisers:
        method, settings = denoiser_kind(denoise.method), denoise.settings
        if method.learns:
            key = method.learned_key(settings)
            found.setdefault(key, Learner(key, method.needs(settings), _learning(method, settings)))
    return tuple(found.values())


def _learning(
    method: type[Denoiser], settings: Mapping[str, Any]
) -> Callable[[FitData, Callable[[FitData], Arrays]], Arrays]:
    def learn(data: FitData, refit: Callable[[FitData], Arrays]) -> Arrays:
        items = data.matrix.shape[1]
        return method.learn(
            histories_of_fit(data), items, lambda other: refit(fit_data(other, items, data.cut)), settings
        )

    return learn


def histories_of_fit(data: FitData) -> Histories:
    """A fit's events as denoisers see them: no values, no dwell."""
    item = Ragged.from_lengths(data.item, np.bincount(data.user, minlength=data.matrix.shape[0]))
    return Histories(
        item=item,
        ts=item.like(data.ts),
        weight=item.like(data.weight),
        value=item.like(np.full(len(data.item), np.nan, np.float32)),
        dwell_ms=item.like(np.full(len(data.item), -1, np.int32)),
    )


def fit_data(histories: Histories, items: int, cut: int) -> FitData:
    """The positive events of histories as what retrievers learn from."""
    positive = histories.weight.values > 0
    item = histories.item.filter(positive)
    weight = histories.weight.values[positive]
    matrix = clipped_matrix(weight, item.values, item.offsets, items)
    return FitData(matrix, item.rows.astype(np.int32), item.values, histories.ts.values[positive], weight, cut)
