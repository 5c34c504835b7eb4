"""Fitting of the blender's weights on training windows, by conditional logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rayrec.blending.blend_features import ItemFeatures, blend_features, impute_missing, user_features
from rayrec.blending.blender import Blender, BlenderWeights, has_request
from rayrec.blending.conditional_logit import fit_conditional_logit
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s

L2 = 1e-3
_MIN_USERS = 20


@dataclass(frozen=True)
class TrainingWindow:
    """Candidates as of an earlier cutoff, and which of them the user consumed after it."""

    table: pa.Table  # candidate_schema, or scored rows with `llm_score`
    consumed: Ragged  # bool, aligned with `candidate`
    item_features: ItemFeatures

    def filter(self, rows: Bools) -> TrainingWindow:
        """Select these rows [rows]."""
        if rows.all():
            return self
        table = self.table.filter(pa.array(rows)).combine_chunks()
        return TrainingWindow(table, self.consumed.take(np.flatnonzero(rows)), self.item_features)


def fit_blender(windows: Sequence[TrainingWindow], personalized: Sequence[str], l2: float = L2) -> Blender:
    """Fit a blender on training windows, on users who consumed at least one of their candidates.

    With fewer than 20 such users, return the default blender. Users with a request (column `has_request`) are used only
    for the weights of users with a request.
    """
    names = tuple(personalized)
    requesting = [window.filter(has_request(window.table)) for window in windows]
    windows = [window.filter(~has_request(window.table)) for window in windows]
    without_llm = _fit(windows, names, False, l2)
    if without_llm is None:
        return Blender.default(names, windows[0].item_features.names if windows else ())
    if not all("llm_score" in window.table.column_names for window in windows):
        return Blender(names, without_llm)
    return Blender(names, without_llm, _fit(windows, names, True, l2), _fit(requesting, names, True, l2))


def _fit(
    windows: Sequence[TrainingWindow], personalized: tuple[str, ...], llm: bool, l2: float
) -> BlenderWeights | None:
    usable = [window for window in (_usable(window, llm) for window in windows) if len(window.table)]
    if sum(len(window.table) for window in usable) < _MIN_USERS:
        return None
    user = [user_features(window.table, window.item_features) for window in usable]
    feature_means = np.concatenate(user).mean(0, dtype=np.float64)
    parts = [
        blend_features(window.table, window.item_features, personalized, u - feature_means.astype(np.float32), llm)
        for window, u in zip(usable, user, strict=True)
    ]
    names = list(parts[0])
    matrix = np.concatenate([np.stack([part[name] for name in names], axis=1) for part in parts])
    lengths = np.concatenate([window.consumed.lengths for window in usable])
    consumed = np.concatenate([_target_weights(window.consumed) for window in usable])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = fit_conditional_logit(matrix, offsets, consumed, l2)
    by_name = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return BlenderWeights(by_name, tuple(feature_means.tolist()), _llm_mean(usable) if llm else 0.0)


def _llm_mean(windows: Sequence[TrainingWindow]) -> float:
    """Mean LLM score of the candidates that have one."""
    values = np.concatenate([Ragged.from_arrow(window.table["llm_score"]).values for window in windows])
    return float(values[np.isfinite(values)].mean(dtype=np.float64))


def _usable(window: TrainingWindow, llm: bool) -> TrainingWindow:
    """Select the users who consumed a candidate and, with `llm`, have an LLM score."""
    usable = np.bincount(window.consumed.rows, window.consumed.values, minlength=len(window.consumed)) > 0
    if llm:
        usable &= impute_missing(Ragged.from_arrow(window.table["llm_score"]))[1]
    return window.filter(usable)


def _target_weights(consumed: Ragged) -> Float32s:
    """Weights [candidates] that sum to sqrt(n) for a user who consumed n candidates (up to 10), instead of to n."""
    hits = np.bincount(consumed.rows, consumed.values, minlength=len(consumed))
    weights: Float32s = (consumed.values / np.sqrt(np.clip(hits, 1, 10))[consumed.rows]).astype(np.float32)
    return weights
