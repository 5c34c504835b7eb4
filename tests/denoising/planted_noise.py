"""Histories with injected noise: users with a few tastes, and random events of other tastes."""

from __future__ import annotations

from typing import Any

import numpy as np

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising import DENOISERS
from rayrec.denoising.denoiser import Denoiser, Histories
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.ease import EaseRetriever, EaseSettings
from rayrec.retrieval.fism import FismRetriever, FismSettings
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.ials import IalsRetriever, IalsSettings
from rayrec.retrieval.user_histories import clipped_matrix


def load(name: str, arrays: dict[str, Any], **settings: Any) -> Denoiser:
    """Load a denoiser with these settings."""
    return DENOISERS[name].load(arrays, DENOISERS.settings(name, settings))


def required_fits(name: str, **settings: Any) -> tuple[RequiredFit, ...]:
    return DENOISERS[name].required_fits(DENOISERS.settings(name, settings))


def histories(item: Ragged, weight: np.ndarray | None = None, value: np.ndarray | None = None) -> Histories:
    total = len(item.values)
    within = np.arange(total) - item.offsets[item.rows]
    return Histories(
        item=item,
        ts=item.like(within * 1_000_000),
        weight=item.like(np.ones(total, np.float32) if weight is None else weight.astype(np.float32)),
        value=item.like(np.full(total, np.nan, np.float32) if value is None else value.astype(np.float32)),
        dwell_ms=item.like(np.full(total, -1, np.int32)),
    )


def random_histories(users: int = 40, items: int = 30, longest: int = 25, seed: int = 0) -> Histories:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest + 1, users)
    return histories(Ragged.from_lengths(random.integers(0, items, lengths.sum()).astype(np.int32), lengths))


def model_arrays(items: int = 30, width: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    arrays = {
        "ials.factors": random.normal(size=(items, width)).astype(np.float32) * 0.5,
        "item.count": random.integers(1, 100, items).astype(np.float32),
        "ease.weights": (random.normal(size=(items, items)) * 0.1).astype(np.float32),
        "ease.active": np.arange(items, dtype=np.int32),
    }
    np.fill_diagonal(arrays["ease.weights"], 0)
    for method in DENOISERS.values():
        for need in method.required_fits(DENOISERS.settings(method.name)):
            if need.method == "fism":
                fitted = [random.normal(size=shape) for shape in ((items, width), (items, width), items)]
                fitted.append(np.sort(random.exponential(size=101)))
                names = [f"{need.name}.{name}" for name in ("source", "target", "bias", "quantiles")]
                arrays |= {name: array.astype(np.float32) for name, array in zip(names, fitted, strict=True)}
            if need.method == "next_item":
                arrays |= {f"{need.name}.{part}": array for part, array in next_item_arrays(items, width, seed).items()}
        if method.requires_fit:
            key = method.fit_key(DENOISERS.settings(method.name))
            arrays[f"{key}.weights"] = np.array([0.5, -2, 1, -1, 1, -1, 0.2, 0.5])
            arrays[f"{key}.tail_quantiles"] = np.linspace(0, 1, 101)
    automatic = DENOISERS["auto"]  # its first contestant has won
    arrays[f"{automatic.fit_key(DENOISERS.settings('auto'))}.choice"] = np.array([0])
    return arrays


def next_item_arrays(items: int, width: int, seed: int) -> dict[str, np.ndarray]:
    """Three checkpoints, with every third item not among the negatives."""
    random = np.random.default_rng(seed)
    return {
        "source": random.normal(size=(3, items, width)).astype(np.float32) * 0.5,
        "target": random.normal(size=(3, items, width + 1)).astype(np.float32) * 0.5,
        "negatives": np.flatnonzero(np.arange(items) % 3).astype(np.int32),
        "weight": random.uniform(1, 4, np.count_nonzero(np.arange(items) % 3)).astype(np.float32),
        "recency": (0.7 ** np.arange(8)).astype(np.float32),
    }


def planted(users: int = 300, tastes: int = 5, seed: int = 0) -> tuple[Histories, np.ndarray, dict[str, np.ndarray]]:
    """Histories, a mask of the noise [events], and a model fitted on them, noise included.

    Noise is drawn by popularity from the whole catalogue, so that popularity alone cannot detect it.
    """
    random = np.random.default_rng(seed)
    per_taste = 30
    items = tastes * per_taste
    chance = 1 / np.arange(1, per_taste + 1) ** 0.5
    chance /= chance.sum()
    rows, noise = [], []
    for user in range(users):
        own = random.choice(per_taste, 16, replace=False, p=chance) + per_taste * (user % tastes)
        other = random.choice(per_taste, 4, replace=False, p=chance) + per_taste * random.integers(0, tastes, 4)
        both = np.concatenate([own, other])
        order = random.permutation(20)
        rows.append(both[order])
        noise.append((both // per_taste != user % tastes)[order])
    item = Ragged.from_lengths(np.concatenate(rows).astype(np.int32), np.full(users, 20))
    data = fit_data(histories(item), items)
    ease = EaseRetriever.fit(data, EaseSettings(regularization=20.0))
    arrays = {
        "ease.weights": ease.weights,
        "ease.active": ease.active,
        "ials.factors": IalsRetriever.fit(data, IalsSettings(factors=16)).factors,
        "item.count": np.bincount(item.values, minlength=items).astype(np.float32),
    }
    return histories(item), np.concatenate(noise), arrays


def fit_data(whole: Histories, items: int) -> FitData:
    item = whole.item
    matrix = clipped_matrix(whole.weight.values, item.values, item.offsets, items)
    return FitData(matrix, item.rows.astype(np.int32), item.values, whole.ts.values, whole.weight.values, 10**9)


def fism_arrays(
    whole: Histories, items: int, cases: list[tuple[str, dict[str, Any]]], settings: dict[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Fit factor models on the histories: those that these methods need, or one with these settings."""
    data = fit_data(whole, items)
    if settings is not None:
        return FismRetriever.fit(data, FismSettings(**settings)).arrays()
    needs = [need for name, given in cases for need in required_fits(name, **given) if need.method == "fism"]
    quick = {"batch_events": 256, "epochs": 8, "factors": 8, "learning_rate": 0.04}
    fits = {need.name: FismRetriever.fit(data, FismSettings(**(need.settings or {}), **quick)) for need in needs}
    return {f"{name}.{part}": array for name, fit in fits.items() for part, array in fit.arrays().items()}


def auc_within(suspicion: np.ndarray, noise: np.ndarray, length: int = 20) -> float:
    """P(a noise event ranks above another event), with ranks within users of this many events."""
    rank = np.argsort(np.argsort(suspicion.reshape(-1, length), axis=1), axis=1).ravel()
    above, below = rank[noise], rank[~noise]
    return float((above[:, None] > below).mean() + (above[:, None] == below).mean() / 2)
