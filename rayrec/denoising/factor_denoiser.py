"""Denoising by the leave-one-out scores of a factor model of all users' events (rayrec.numerics.fism_model).

The leave-one-out score s measures how likely an event's item is, given the user's other items. NBPO and Rel-MF differ
in how the model is trained. Both give a probability sigma(s), and remove events whose probability is below
`likelihood_ratio` times the user's median, the lowest first:

- nbpo: noisy-label robust BPR (Yu & Qin 2020). Items that a user did not consume are not always disliked: the model
  learns for each item how often a liked one occurs as a negative, with a prior at `flip`.
- propensity: Rel-MF (Saito et al. 2020). Popular items are consumed because they are shown: positives are weighted by
  1 / theta, theta_i = (n_i / max n)^power clipped at `floor`, so that sigma(s) estimates relevance instead of clicks.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, REASONS, Arrays, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.removal import RemovalBudget, most_suspicious
from rayrec.denoising.within_user import Floats, median_within_user
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.ragged import Ragged


class FactorModelDenoiser(Denoiser):
    """Base class. Needs a `fism` fit: `source`, `target` [items, d], `bias` [items], `quantiles` [101]."""

    def __init__(self, model: FismModel, quantiles: npt.NDArray[np.float32], settings: RemovalBudget) -> None:
        self.model, self.quantiles, self.settings = model, quantiles, settings
        self.known = model.known

    @classmethod
    @abstractmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        """The fit for these checked settings."""

    @abstractmethod
    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Self-consistency, suspicion (> 0: may be removed, highest first), and keep weight if removed; [events] each.

        leave_one_out_scores [events]: score of each event's item given the user's other items.
        """

    @classmethod
    def required_fits(cls, settings: Any) -> tuple[RequiredFit, ...]:
        return (cls.required_fit(settings),)

    @classmethod
    def load(cls, arrays: Arrays, settings: Any) -> Self:
        prefix = cls.required_fit(settings).name
        source, target, bias, quantiles = (
            required_array(arrays, f"{prefix}.{name}", cls.name) for name in ("source", "target", "bias", "quantiles")
        )
        return cls(FismModel(source, target, bias), quantiles, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        scored = (histories.weight.values > 0) & self.known[histories.item.values]
        decision = DenoisingDecision.all_retained(len(scored))
        item = histories.item.filter(scored)
        if not len(item.values):
            return decision
        consistency, suspicion, weight = self.assess(item, self.model.leave_one_out_scores(item))
        out = most_suspicious(item, suspicion, np.ones(len(item.values), np.bool_), self.settings)
        decision.influence[scored] = consistency
        decision.keep_weight[scored] = np.where(out, weight, 1)
        decision.reason[scored] = np.where(out, REASONS.index("low_likelihood"), 0)
        return decision


class NbpoSettings(RemovalBudget):
    flip: float = Field(0.2, gt=0, lt=1)
    """Prior probability that a liked item occurs as a negative; above 0 and below 1."""
    likelihood_ratio: float = Field(0.5, gt=0, le=1)
    """Events below this multiple of the user's median probability may be removed, above 0 and at most 1."""


class PropensitySettings(RemovalBudget):
    power: float = Field(0.5, ge=0)
    """How steeply exposure rises with an item's events; 0: equal exposure."""
    floor: float = Field(0.1, gt=0, le=1)
    """Smallest exposure of an item, above 0 and at most 1."""
    likelihood_ratio: float = Field(0.5, gt=0, le=1)
    """Events below this multiple of the user's median relevance may be removed, above 0 and at most 1."""


class ProbabilityDenoiser(FactorModelDenoiser):
    """Base class: removes events of low probability sigma(s), relative to the user's median."""

    settings: NbpoSettings | PropensitySettings

    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        probability = 1 / (1 + np.exp(-leave_one_out_scores.astype(np.float64)))
        below = np.maximum(self.settings.likelihood_ratio - probability / median_within_user(item, probability), 0)
        return probability, below, np.full(len(below), self.settings.removed_weight)


@DENOISERS.register
class NbpoDenoiser(ProbabilityDenoiser):
    """Removes events that are unlikely under a factor model with noisy negatives (NBPO)."""

    name = "nbpo"
    settings_class = NbpoSettings

    @classmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        return RequiredFit("fism", {"objective": "nbpo", "flip": settings.flip})


@DENOISERS.register
class PropensityDenoiser(ProbabilityDenoiser):
    """Removes events of low relevance under a factor model corrected for exposure (Rel-MF)."""

    name = "propensity"
    settings_class = PropensitySettings

    @classmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        return RequiredFit("fism", {"objective": "rel_mf", "power": settings.power, "floor": settings.floor})
