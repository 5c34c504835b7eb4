"""Denoising methods and the item model: which fits the arms' denoisers need, and what they learn beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rayrec.config import Denoise
from rayrec.denoising.denoise_stage import denoiser_class
from rayrec.denoising.denoiser import Denoiser, Histories
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.item_model import Arrays, DenoiserFit
from rayrec.retrieval.retriever import FitData, clipped_matrix
from rayrec.storage.artifacts import RequiredFit


def required_fits_of(denoisers: Iterable[Denoise]) -> tuple[RequiredFit, ...]:
    """All fits that these need, perhaps more than once. Raises ConfigError for methods or settings that cannot be."""
    found = [denoiser_class(denoise.method).required_fits(denoise.settings) for denoise in denoisers]
    return tuple(need for needs in found for need in needs)


def required_denoiser_fits(denoisers: Iterable[Denoise]) -> tuple[DenoiserFit, ...]:
    """What these learn once a fit, each once."""
    found: dict[str, DenoiserFit] = {}
    for denoise in denoisers:
        method, settings = denoiser_class(denoise.method), denoise.settings
        if method.requires_fit:
            key = method.fit_key(settings)
            found.setdefault(key, DenoiserFit(key, method.required_fits(settings), _learning(method, settings)))
    return tuple(found.values())


def _learning(
    method: type[Denoiser], settings: Mapping[str, Any]
) -> Callable[[FitData, Callable[[FitData], Arrays]], Arrays]:
    def learn(data: FitData, refit: Callable[[FitData], Arrays]) -> Arrays:
        items = data.matrix.shape[1]
        return method.fit(
            histories_from_fit_data(data), items, lambda other: refit(fit_data(other, items, data.cutoff)), settings
        )

    return learn


def histories_from_fit_data(data: FitData) -> Histories:
    """A fit's events as denoisers see them: no values, no dwell."""
    item = Ragged.from_lengths(data.item, np.bincount(data.user, minlength=data.matrix.shape[0]))
    return Histories(
        item=item,
        ts=item.like(data.ts),
        weight=item.like(data.weight),
        value=item.like(np.full(len(data.item), np.nan, np.float32)),
        dwell_ms=item.like(np.full(len(data.item), -1, np.int32)),
    )


def fit_data(histories: Histories, items: int, cutoff: int) -> FitData:
    """The positive events of histories as what retrievers learn from."""
    positive = histories.weight.values > 0
    item = histories.item.filter(positive)
    weight = histories.weight.values[positive]
    matrix = clipped_matrix(weight, item.values, item.offsets, items)
    return FitData(matrix, item.rows.astype(np.int32), item.values, histories.ts.values[positive], weight, cutoff)
