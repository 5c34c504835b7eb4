"""Blending by gradient-boosted trees (LightGBM, Ke et al. 2017) on top of the conditional logit.

The trees start from the blender's scores and reduce the same loss, the listwise softmax over a user's candidates:
gradient p - y, Hessian p (1 - p), with y the shares of what the user consumed. Their features are the blender's, the
LLM's score aside, so that the cap of the LLM's promotion holds as before. Users with a request are left to the logit.

A fifth of the users, by a hash, decides on the number of trees (early stopping), and another fifth whether the trees
enter at all: the interval of their gain in log-likelihood must be above 0. The model is stored as LightGBM's text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from rayrec.blending.blend_features import ItemFeatures, blend_features, user_features
from rayrec.blending.blend_fitting import TrainingWindow, target_weights
from rayrec.blending.blender import Blender, ScorerGain, has_request
from rayrec.blending.held_out_selection import MIN_USERS
from rayrec.blending.score_correction import BLENDING_METHODS, ScoreCorrection
from rayrec.config.section import MethodSettings
from rayrec.data.schemas import CONTENT
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s

_SALT = np.uint64(derive_seed("boosted trees"))
_USERS = 500  # whose features are held at once
_CHECKED, _DECIDED, _PARTS = 0, 1, 5  # of the five parts of the users
_PATIENCE = 20  # trees without a gain before it stops
_INTERVAL = 1.96


class LightGbmSettings(MethodSettings):
    trees: int = Field(300, ge=1)
    """Most trees; early stopping takes fewer."""
    leaves: int = Field(15, ge=2)
    """Leaves of a tree."""
    learning_rate: float = Field(0.05, gt=0)
    """Step of each tree."""
    min_leaf_examples: int = Field(200, ge=1)
    """Fewest candidates in a leaf."""
    max_users: int = Field(5_000, ge=1)
    """Most users per cutoff that the trees are fitted on, chosen by a stable hash."""


@BLENDING_METHODS.register
@dataclass(frozen=True)
class LightGbmCorrection(ScoreCorrection):
    """The conditional logit plus gradient-boosted trees on the same features, if they help held-out users."""

    personalized: tuple[str, ...]
    content: tuple[str, ...]
    feature_means: tuple[float, ...]
    model: str  # LightGBM's text format
    _booster: Any = field(compare=False, repr=False)

    name = "lightgbm"
    settings_class = LightGbmSettings

    @classmethod
    def require(cls) -> None:
        if importlib.util.find_spec("lightgbm") is None:
            raise ConfigError(
                "blend.method lightgbm needs the package lightgbm, which is not installed",
                where="blend.method",
                hint="pip install 'rayrec[lightgbm]', or leave blend.method out",
            )

    @classmethod
    def of(cls, blender: Blender, model: str) -> Self:
        """Create from a blender's features and a model as text."""
        import lightgbm

        booster = lightgbm.Booster(model_str=model)
        return cls(blender.personalized, blender.content, blender.without_llm.feature_means, model, booster)

    @classmethod
    def fit(
        cls, windows: Sequence[TrainingWindow], blender: Blender, settings: LightGbmSettings
    ) -> tuple[Self | None, ScorerGain]:
        examples = _Examples.of(windows, blender, settings.max_users)
        if examples.users < MIN_USERS:
            return None, ScorerGain(cls.name, 0.0, 0.0, 0.0, examples.users, entered=False, l2_factor=None)
        booster, best = _boosted(examples, settings)
        part = examples.part == _DECIDED
        gain = examples.likelihoods(booster.predict(examples.features, num_iteration=best, num_threads=1))[part]
        gain -= examples.likelihoods(np.zeros(len(examples.features)))[part]
        mean = float(gain.mean()) if part.any() else 0.0
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else 0.0
        low, high = mean - _INTERVAL * error, mean + _INTERVAL * error
        enters = low > 0
        found = ScorerGain(cls.name, mean, low, high, int(part.sum()), entered=enters, l2_factor=None)
        return (cls.of(blender, booster.model_to_string(num_iteration=best)) if enters else None), found

    def __call__(self, table: pa.Table, item_features: ItemFeatures) -> Float32s:
        parts = [np.zeros(0, np.float32)]
        for start in range(0, len(table), _USERS):
            rows = table.slice(start, _USERS).combine_chunks()
            matrix = _features(rows, item_features, self.personalized, self.content, self.feature_means)
            added = np.zeros(len(matrix))
            if len(matrix):
                added = np.asarray(self._booster.predict(matrix, num_threads=1), np.float64)
            requesting = np.repeat(has_request(rows), Ragged.from_arrow(rows["candidate"]).lengths)
            parts.append(np.where(requesting, 0, added).astype(np.float32))
        return np.concatenate(parts)

    def to_dict(self) -> dict[str, Any]:
        parts = {"personalized": list(self.personalized), "content": list(self.content)}
        return {**parts, "feature_means": list(self.feature_means), "model": self.model}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        import lightgbm

        personalized, features, means = (tuple(content[name]) for name in ("personalized", "content", "feature_means"))
        return cls(personalized, features, means, content["model"], lightgbm.Booster(model_str=content["model"]))


@dataclass(frozen=True)
class _Examples:
    """Candidates of the users who consumed one of them."""

    features: Float32s  # [candidates, f]
    offsets: Int64s  # [users + 1]
    target: Float64s  # [candidates] weights of what was consumed
    base: Float64s  # [candidates] the blender's scores
    part: Int64s  # [users] in [0, _PARTS)

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, windows: Sequence[TrainingWindow], blender: Blender, max_users: int) -> Self:
        parts, key = [], []
        for window in windows:
            hits = np.bincount(window.consumed.rows, window.consumed.values, minlength=len(window.consumed))
            hashed = splitmix64(hash_strings(window.table["user_id"]) ^ _SALT)
            usable = (hits > 0) & ~has_request(window.table)
            usable[np.flatnonzero(usable)[np.argsort(hashed[usable], kind="stable")[max_users:]]] = False
            chosen = window.filter(usable)
            matrix = _features(
                chosen.table,
                chosen.item_features,
                blender.personalized,
                blender.content,
                blender.without_llm.feature_means,
            )
            base = Blender(blender.personalized, blender.without_llm, content=blender.content)
            score = base.scores(chosen.table, chosen.item_features).values.astype(np.float64)
            parts.append((matrix, chosen.consumed.lengths, target_weights(chosen.consumed).astype(np.float64), score))
            key.append(hashed[usable])
        matrix, lengths, target, score = (np.concatenate(column) for column in zip(*parts, strict=True))
        part = (np.concatenate(key) % np.uint64(_PARTS)).astype(np.int64)
        return cls(matrix, np.concatenate([[0], np.cumsum(lengths)]), target, score, part)

    def likelihoods(self, added: Float64s) -> Float64s:
        """Log-likelihood of what each user consumed, with this added to the scores, [users]."""
        score = self.base + added
        rows, first = self.rows, self.offsets[:-1]
        score -= np.maximum.reduceat(score, first)[rows]
        total = np.log(np.add.reduceat(np.exp(score), first))
        mass = np.add.reduceat(self.target, first)
        return np.asarray(np.add.reduceat(self.target * score, first) - mass * total, np.float64)

    @property
    def rows(self) -> Int64s:
        return np.repeat(np.arange(self.users), np.diff(self.offsets))

    def take(self, users: Bools) -> _Examples:
        """Select these users [users]."""
        cells = np.repeat(users, np.diff(self.offsets))
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[users])])
        return _Examples(self.features[cells], offsets, self.target[cells], self.base[cells], self.part[users])

    def gradients(self, added: Float64s) -> tuple[Float64s, Float64s]:
        """Gradient and Hessian of the summed loss by each candidate's score, [candidates]."""
        score = self.base + added
        rows, first = self.rows, self.offsets[:-1]
        odds = np.exp(score - np.maximum.reduceat(score, first)[rows])
        probability = odds / np.add.reduceat(odds, first)[rows]
        mass = np.add.reduceat(self.target, first)[rows]
        return mass * probability - self.target, np.maximum(mass * probability * (1 - probability), 1e-9)


def _boosted(examples: _Examples, settings: LightGbmSettings) -> tuple[Any, int]:
    """The booster, and the number of trees with the best likelihood on the users that check."""
    import lightgbm

    checked, fitted = examples.take(examples.part == _CHECKED), examples.take(examples.part > _DECIDED)
    parameters = {
        "objective": lambda added, _: fitted.gradients(np.asarray(added, np.float64)),
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "min_data_in_leaf": settings.min_leaf_examples,
        "min_sum_hessian_in_leaf": 1e-3,
        "verbosity": -1,
        "seed": 0,
        "deterministic": True,  # together with the next two: the same trees on any number of cores
        "force_row_wise": True,
        "num_threads": 1,
    }
    best, best_at, at = -np.inf, 0, 0

    def stop(env: Any) -> None:
        nonlocal best, best_at, at
        at = env.iteration + 1
        value = float(checked.likelihoods(env.model.predict(checked.features, num_iteration=at, num_threads=1)).mean())
        if value > best + 1e-9:
            best, best_at = value, at
        elif at - best_at >= _PATIENCE:
            raise lightgbm.callback.EarlyStopException(at - 1, [])

    data = lightgbm.Dataset(fitted.features, free_raw_data=False)
    return lightgbm.train(parameters, data, settings.trees, callbacks=[stop]), max(best_at, 1)


def _features(
    table: pa.Table,
    item_features: ItemFeatures,
    personalized: Sequence[str],
    content: Sequence[str],
    feature_means: Sequence[float],
) -> Float32s:
    """The blender's features without the LLM's, [candidates, f]."""
    user = user_features(table, item_features) - np.array(feature_means, np.float32)
    there = [name for name in content if f"{CONTENT}{name}" in table.column_names]
    found = blend_features(table, item_features, personalized, there, user, llm=False)
    return np.stack(list(found.values()), axis=1)
