"""Fitting of the blender's weights on training windows, by conditional logit.

A scorer (a retriever, a content feature, the LLM) gets a weight only if it helps on held-out users; see
`held_out_selection`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rayrec.blending.blend_features import (
    LLM,
    ItemFeatures,
    impute_missing,
    scorer_features,
    scorer_of,
    user_features,
)
from rayrec.blending.blender import Blender, BlenderWeights, ScorerGain, has_request
from rayrec.blending.conditional_logit import LogitData, fit_logit
from rayrec.blending.held_out_selection import MIN_USERS, penalties, select_scorers
from rayrec.blending.training_matrix import MatrixPart, TrainingMatrix
from rayrec.data.schemas import CONTENT
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s

L2 = 1e-3


@dataclass(frozen=True)
class TrainingWindow:
    """Candidates as of an earlier cutoff, and which of them the user consumed after it."""

    table: pa.Table  # candidate_schema, or scored rows with `llm_score`
    consumed: Ragged  # bool, aligned with `candidate`; float32 targets with `weighted`
    item_features: ItemFeatures
    weighted: bool = False  # of feedback: the targets count as they are

    def filter(self, rows: Bools) -> TrainingWindow:
        """Select these rows [rows]."""
        if rows.all():
            return self
        table = self.table.filter(pa.array(rows)).combine_chunks()
        return replace(self, table=table, consumed=self.consumed.take(np.flatnonzero(rows)))

    @property
    def targets(self) -> Float32s:
        """The weight of each candidate as a target, [candidates]."""
        return self.consumed.values.astype(np.float32) if self.weighted else target_weights(self.consumed)


def fit_blender(
    windows: Sequence[TrainingWindow],
    personalized: Sequence[str],
    l2: float = L2,
    content: Sequence[str] = (),
    item_features: Sequence[str] = (),
) -> Blender:
    """Fit a blender on training windows, on users who consumed at least one of their candidates.

    `content`: the content features in the tables. With fewer than MIN_USERS such users, return the default blender, in
    which the LLM counts for users with a request only. Users with a request (column `has_request`) are used only for
    the weights of users with a request. Without windows, return the default blender of `item_features`.
    """
    names, features = tuple(personalized), tuple(content)
    if not windows:
        return Blender.default(names, item_features)
    default = Blender.default(names, windows[0].item_features.names)
    requesting = [window.filter(has_request(window.table)) for window in windows]
    windows = [window.filter(~has_request(window.table)) for window in windows]
    scored = all("llm_score" in window.table.column_names for window in windows)
    columns = _Columns(names, features)
    plain = _fit(windows, columns, columns.content_columns, l2)
    if plain is None:
        return replace(default, with_llm=None, with_request=default.with_llm)
    blender = Blender(names, plain.weights, content=features, gains=plain.gains)
    if not scored:
        return blender
    columns = replace(columns, llm=True, dropped=tuple(gain.scorer for gain in plain.gains if not gain.entered))
    with_llm, with_request = (_fit(each, columns, (LLM,), l2) for each in (windows, requesting))
    gains = [*plain.gains]
    for fit, request in ((with_llm, False), (with_request, True)):
        gains += [replace(gain, request=request) for gain in (fit.gains if fit else ()) if gain.scorer == LLM]
    return replace(
        blender,
        with_llm=with_llm.weights_with(LLM) if with_llm else None,
        with_request=_for_requests(plain.weights, with_llm, with_request),
        gains=tuple(gains),
    )


def _for_requests(plain: BlenderWeights, with_llm: _Fit | None, with_request: _Fit | None) -> BlenderWeights | None:
    """Weights for users with a request. Without enough examples of requests, those for other users if the LLM has
    entered, else its default weight: what a user asks for is not in the other features."""
    if with_request is not None:
        return with_request.weights_with(LLM)
    learned = with_llm.weights_with(LLM) if with_llm else None
    return learned or replace(plain, by_name={**plain.by_name, LLM: 1.0})


@dataclass(frozen=True)
class _Columns:
    """The scorers of a fit."""

    personalized: tuple[str, ...]
    content: tuple[str, ...]
    llm: bool = False
    dropped: tuple[str, ...] = ()  # those of these that do not take part

    @property
    def content_columns(self) -> tuple[str, ...]:
        return tuple(f"{CONTENT}{name}" for name in self.content)


@dataclass(frozen=True)
class _Fit:
    weights: BlenderWeights
    gains: tuple[ScorerGain, ...]

    def weights_with(self, scorer: str) -> BlenderWeights | None:
        """The weights, if the scorer has entered."""
        return self.weights if any(gain.scorer == scorer and gain.entered for gain in self.gains) else None


def _fit(windows: Sequence[TrainingWindow], columns: _Columns, tested: Collection[str], l2: float) -> _Fit | None:
    """Fit the weights; the scorers in `tested` must help on held-out users. None with fewer than MIN_USERS users."""
    usable = [window for window in (_usable(window, columns.llm) for window in windows) if len(window.table)]
    ids = [window.table["user_id"].combine_chunks().cast(pa.string()) for window in usable]
    users = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
    if len(users.unique()) < MIN_USERS:
        return None
    user = [user_features(window.table, window.item_features) for window in usable]
    feature_means = np.concatenate(user).mean(0, dtype=np.float64)
    centred = [each - feature_means.astype(np.float32) for each in user]
    matrix = _matrix(usable, centred, columns)
    names = matrix.names
    scorers = [name for name in (*columns.personalized, *tested) if name not in columns.dropped]
    lengths = np.concatenate([window.consumed.lengths for window in usable])
    consumed = np.concatenate([window.targets for window in usable])
    data = LogitData(matrix, np.concatenate([[0], np.cumsum(lengths)]), consumed)
    fit = fit_logit(data, np.full(len(names), l2))
    groups = {scorer: [at for at, name in enumerate(names) if scorer_of(name) == scorer] for scorer in scorers}
    gains = select_scorers(data, users, groups, tested, l2, fit)
    factors = penalties(
        len(names), groups, {gain.scorer: np.inf if gain.l2_factor is None else gain.l2_factor for gain in gains}
    )
    kept = np.flatnonzero(np.isfinite(factors))
    if (factors != 1).any():
        fit = fit_logit(data.select(kept), l2 * factors[kept], fit.select(kept))
    by_name = {names[at]: float(weight) for at, weight in zip(kept, fit.raw, strict=True)}
    llm_mean = _llm_mean(usable) if columns.llm else 0.0
    return _Fit(BlenderWeights(by_name, tuple(feature_means.tolist()), llm_mean), gains)


def _matrix(windows: Sequence[TrainingWindow], user: Sequence[Float32s], columns: _Columns) -> TrainingMatrix:
    """`user`: centred user features of each window."""

    def part(window: TrainingWindow, centred: Float32s) -> MatrixPart:
        def of_scorers(users: slice) -> dict[str, Float32s]:
            table = window.table.slice(users.start, users.stop - users.start)
            found = scorer_features(table, columns.personalized, columns.content, centred[users], columns.llm)
            return {name: values for name, values in found.items() if scorer_of(name) not in columns.dropped}

        return MatrixPart(Ragged.from_arrow(window.table["candidate"]), window.item_features, centred, of_scorers)

    return TrainingMatrix.of([part(window, centred) for window, centred in zip(windows, user, strict=True)])


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


def target_weights(consumed: Ragged) -> Float32s:
    """Weights [candidates] that sum to sqrt(n) for a user who consumed n candidates (up to 10), instead of to n."""
    hits = np.bincount(consumed.rows, consumed.values, minlength=len(consumed))
    weights: Float32s = (consumed.values / np.sqrt(np.clip(hits, 1, 10))[consumed.rows]).astype(np.float32)
    return weights
