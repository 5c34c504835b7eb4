"""Denoising by a factor model that knows its negatives are noisy: NBPO (Yu & Qin 2020; REFERENCES section 2).

What a user did not take is not always disliked: the model learns for each item how often a liked one still shows up as
a negative, with a prior at `flip`. Events whose leave-one-out probability sigma(s) is below `likelihood_ratio` times the user's
median may go, the lowest first.
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


class NbpoSettings(RemovalBudget):
    flip: float = Field(0.2, gt=0, lt=1)
    """How often an item that is liked shows up as a negative, beforehand; above 0 and below 1."""
    likelihood_ratio: float = Field(0.5, gt=0, le=1)
    """Events below this multiple of the user's median probability may go, above 0 and at most 1."""


@DENOISERS.register
class NbpoDenoiser(FactorModelDenoiser):
    """What a factor model that knows its negatives to be noisy holds to be unlikely goes."""

    name = "nbpo"
    settings_class = NbpoSettings
    settings: NbpoSettings

    @classmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        return RequiredFit("fism", {"objective": "nbpo", "flip": settings.flip})

    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        liked = 1 / (1 + np.exp(-leave_one_out_scores.astype(np.float64)))
        below = np.maximum(self.settings.likelihood_ratio - liked / median_within(item, liked), 0)
        return liked, below, np.full(len(below), self.settings.removed_weight)
