"""Denoising by a learned ensemble of the other methods' measures.

Each feature is an event's rank within its user, from 0 (lowest) to 1: EASE's support and negative influence, the ridge
influence's self-consistency and negative influence, the factor model's leave-one-out score (its loss), the age of the
event, and the item's popularity, which separates unpopular items from unlikely ones. A logistic regression on the
features gives the probability that the event is noise, at a noise share of `noise_share`.

It is fitted with each item model, on the events of the models' fit with injected noise of several kinds. The models are
fitted on the noisy events too. Events at or after the cutoff are not used, nor are dwell times, which the fit lacks.

Of the tail's events at most a share of `max_tail_share` is removed: the fit stores how the probabilities of the tail's
own events are distributed, and a tail event is removed only beyond that quantile. What is unpopular is not noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import minimize

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, REASONS, Arrays, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.ease_support import EaseDenoiser, EaseDenoiserSettings
from rayrec.denoising.noise_injection import NoiseKind, inject_noise
from rayrec.denoising.removal import RemovalBudget, most_suspicious
from rayrec.denoising.ridge_influence import InfluenceDenoiser, InfluenceSettings
from rayrec.denoising.within_user import Floats, rank_within_user
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.hashing import derive_seed, digest
from rayrec.numerics.popularity_bands import TAIL, popularity_bands
from rayrec.numerics.ragged import Ragged

_FISM = RequiredFit("fism", {"objective": "bpr"})
_EASE, _INFLUENCE = EaseDenoiserSettings(), InfluenceSettings()
_L2 = 1e-3


class EnsembleSettings(RemovalBudget):
    min_probability: float = Field(0.35, ge=0, le=1)
    """Probability of noise from which an event may be removed, 0 to 1."""
    max_tail_share: float = Field(0.1, ge=0, le=1)
    """Largest share of the tail's events that may be removed, as measured on those of the fit. The tail: the least
    popular items, with a fifth of all events."""
    noise: tuple[NoiseKind, ...] = Field(("popularity", "uniform", "taste_swap"), min_length=1, strict=False)
    """Kinds of injected noise, one for each user at random: items by popularity, any items, items of another user."""
    noise_share: float = Field(0.2, gt=0, lt=1)
    """Share of noise among the training events, above 0 and below 1."""
    max_events: int = Field(500_000, ge=1)
    """Most training events, in whole users."""
    seed: int = 0
    """Seed of the injected noise."""


@DENOISERS.register
class EnsembleDenoiser(Denoiser):
    """Removes events that are probably noise, by a logistic regression fitted once per run on injected noise.

    Needs the fits of its members, the learned `weights` [1 + features] and `tail_quantiles` [101].
    """

    name = "ensemble"
    settings_class = EnsembleSettings
    requires_fit = True

    def __init__(
        self, features: NoiseFeatures, weights: Floats, tail_quantiles: Floats, settings: EnsembleSettings
    ) -> None:
        self.features, self.weights, self.settings = features, weights, settings
        bound = float(np.interp(1 - settings.max_tail_share, np.linspace(0, 1, len(tail_quantiles)), tail_quantiles))
        in_tail = popularity_bands(features.count) == TAIL
        self._threshold = np.where(in_tail, max(settings.min_probability, bound), settings.min_probability)  # [items]

    @classmethod
    def required_fits(cls, settings: EnsembleSettings) -> tuple[RequiredFit, ...]:
        return (*EaseDenoiser.required_fits(_EASE), *InfluenceDenoiser.required_fits(_INFLUENCE), _FISM)

    @classmethod
    def fit_key(cls, settings: EnsembleSettings) -> str:
        return f"{cls.name}-{digest(settings.model_dump(include={'noise', 'noise_share', 'max_events', 'seed'}))}"

    @classmethod
    def fit(
        cls, histories: Histories, items: int, refit: Callable[[Histories], Arrays], settings: EnsembleSettings
    ) -> dict[str, npt.NDArray[Any]]:
        users = max(int(np.searchsorted(histories.item.offsets, settings.max_events, side="right")) - 1, 1)
        rng = np.random.default_rng(derive_seed("ensemble", settings.seed))
        noisy, noise = inject_noise(_first(histories, users), items, settings.noise_share, rng, settings.noise)
        measures = NoiseFeatures.load(refit(noisy))
        features, scored = measures.of(noisy)
        weights = _logistic(features[scored], noise[scored])
        own_tail = scored & ~noise & (popularity_bands(measures.count)[noisy.item.values] == TAIL)
        probability = _probability(weights, features[own_tail]) if own_tail.any() else np.zeros(1)
        return {"weights": weights, "tail_quantiles": np.quantile(probability, np.linspace(0, 1, 101))}

    @classmethod
    def load(cls, arrays: Arrays, settings: EnsembleSettings) -> Self:
        weights, quantiles = (
            required_array(arrays, f"{cls.fit_key(settings)}.{name}", cls.name).astype(np.float64)
            for name in ("weights", "tail_quantiles")
        )
        return cls(NoiseFeatures.load(arrays), weights, quantiles, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        decision = DenoisingDecision.all_retained(len(histories.item.values))
        if not len(histories.item.values):
            return decision
        features, scored = self.features.of(histories)
        noise = _probability(self.weights, features)
        suspicion = np.where(noise >= self._threshold[histories.item.values], noise, 0)
        out = most_suspicious(histories.item, suspicion, scored, self.settings)
        decision.influence[scored] = 1 - noise[scored]
        decision.keep_weight[out] = self.settings.removed_weight
        decision.reason[out] = REASONS.index("likely_noise")
        return decision


@dataclass(frozen=True)
class NoiseFeatures:
    """The members of the ensemble, which measure the features."""

    ease: EaseDenoiser
    influence: InfluenceDenoiser
    factors: FismModel
    count: npt.NDArray[np.float32]  # [items]

    @classmethod
    def load(cls, arrays: Arrays) -> Self:
        parts = (
            required_array(arrays, f"{_FISM.name}.{name}", EnsembleDenoiser.name)
            for name in ("source", "target", "bias")
        )
        count = required_array(arrays, "item.count", EnsembleDenoiser.name)
        return cls(
            EaseDenoiser.load(arrays, _EASE), InfluenceDenoiser.load(arrays, _INFLUENCE), FismModel(*parts), count
        )

    def of(self, histories: Histories) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Ranks within the user [events, features], 0.5 if not measured, and a mask of the assessed events [events].

        Positive events whose item at least one model knows are assessed.
        """
        item, positive = histories.item, histories.weight.values > 0
        by_ease, by_influence = self.ease.decide(histories), self.influence.decide(histories)
        known = positive & self.factors.known[item.values]
        leave_one_out_scores = np.full(len(positive), np.nan)
        leave_one_out_scores[known] = self.factors.leave_one_out_scores(item.filter(known))
        in_ease, in_influence = np.isfinite(by_ease.influence), np.isfinite(by_influence.influence)
        scored = in_ease | in_influence | known
        columns = (
            (by_ease.influence, in_ease),
            (by_ease.negative_influence, in_ease),
            (by_influence.influence, in_influence),
            (by_influence.negative_influence, in_influence),
            (leave_one_out_scores, known),
            (histories.ts.values, scored),
            (self.count[item.values], scored),
        )
        return np.stack([_rank(item, values, measured) for values, measured in columns], axis=1), scored


def _rank(item: Ragged, values: npt.NDArray[Any], measured: npt.NDArray[np.bool_]) -> Floats:
    """Rank within the user's measured events, scaled to [0, 1]; 0.5 for all other events; [events]."""
    own = item.filter(measured)
    result = np.full(len(measured), 0.5)
    place, last = rank_within_user(own, values[measured]), np.maximum(own.lengths - 1, 0)[own.rows]
    result[measured] = np.where(last > 0, place / np.maximum(last, 1), 0.5)
    return result


def _probability(weights: Floats, features: Floats) -> Floats:
    """P(noise), [events]. einsum sums each row in the same order, for any number of rows."""
    logit = weights[0] + np.einsum("ij,j->i", features, weights[1:])
    return np.asarray(1 / (1 + np.exp(-logit)), np.float64)


def _logistic(features: Floats, noise: npt.NDArray[np.bool_]) -> Floats:
    """Weights [1 + features] of P(noise), the constant first; a small L2 penalty on all others."""
    design = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    target = noise.astype(np.float64)
    penalty = np.append(0.0, np.full(features.shape[1], _L2))

    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = design @ weights
        value = np.mean(np.logaddexp(0, logit) - target * logit) + 0.5 * penalty @ weights**2
        return float(value), design.T @ (1 / (1 + np.exp(-logit)) - target) / len(target) + penalty * weights

    found: Floats = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    return found


def _first(histories: Histories, users: int) -> Histories:
    offsets = histories.item.offsets[: users + 1]
    parts = (histories.item, histories.ts, histories.weight, histories.value, histories.dwell_ms)
    return Histories(*(Ragged(part.values[: offsets[-1]], offsets) for part in parts))
