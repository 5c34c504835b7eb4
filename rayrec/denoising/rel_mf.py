"""Denoising by relevance corrected for exposure: Rel-MF (Saito et al. 2020; REFERENCES section 2).

Popular items are taken because they are shown: a factor model whose positives are weighed by 1 / theta,
theta_i = (n_i / max n)^power clipped at `floor`, estimates relevance p = sigma(s) instead of clicks. Events whose
leave-one-out relevance is below `likelihood_ratio` times the user's median may go, the lowest first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS
from rayrec.denoising.factor_denoiser import FactorModelDenoiser, Floats, median_within
from rayrec.denoising.removal_budget import RemovalBudget
from rayrec.numerics.ragged import Ragged


class PropensitySettings(RemovalBudget):
    power: float = Field(0.5, ge=0)
    """How steeply exposure rises with an item's events; 0: all are shown alike."""
    floor: float = Field(0.1, gt=0, le=1)
    """The least exposure an item is held to have, above 0 and at most 1."""
    likelihood_ratio: float = Field(0.5, gt=0, le=1)
    """Events below this multiple of the user's median relevance may go, above 0 and at most 1."""


@DENOISERS.register
class PropensityDenoiser(FactorModelDenoiser):
    """What a factor model corrected for exposure (Rel-MF) holds to be of no relevance goes."""

    name = "propensity"
    settings_class = PropensitySettings
    settings: PropensitySettings

    @classmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        return RequiredFit("fism", {"objective": "rel_mf", "power": settings.power, "floor": settings.floor})

    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        relevance = 1 / (1 + np.exp(-leave_one_out_scores.astype(np.float64)))
        below = np.maximum(self.settings.likelihood_ratio - relevance / median_within(item, relevance), 0)
        return relevance, below, np.full(len(below), self.settings.removed_weight)
