"""Denoising by the loss of a robustly trained factor model: T-CE and R-CE (Wang et al. 2021), PLD.

These are ways of training; here the model that they trained (rayrec.retrieval.fism) judges each event by its
leave-one-out loss, as its last epoch would have (REFERENCES section 2):

- t_ce: events whose cross-entropy is within the highest `drop` share of all events of the fit may go.
- r_ce: events are weighed by sigma(s)^power, relative to the user's median; the lightest go down to that weight.
- pld: events that the resampling within the user, P ~ exp(-loss / tau), draws less than `likelihood_ratio` times as often as
  chance may go; the loss is BPR's against a fixed pool of items.

Self-consistency is -loss.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS
from rayrec.denoising.factor_denoiser import FactorModelDenoiser, Floats, median_within, softmax_within
from rayrec.denoising.removal_budget import RemovalBudget
from rayrec.numerics.batch_invariant import dense_matmul, from_numpy
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged

_POOL = 32  # items that stand for the negatives of pld
_ROWS = 65_536  # events whose losses against the pool are held at once


class LossSettings(RemovalBudget):
    objective: Literal["t_ce", "r_ce", "pld"] = "pld"
    """How the model is trained, and so how it judges: `t_ce`, `r_ce` or `pld`."""
    drop: float = Field(0.1, ge=0, lt=1)
    """Of `t_ce`: the share of all events, those of the highest loss, that may go; at least 0 and below 1."""
    power: float = Field(0.5, gt=0)
    """Of `r_ce`: how fast the weight of an event falls with its loss; above 0."""
    tau: float = Field(0.1, gt=0)
    """Of `pld`: the temperature of drawing among the user's events; above 0."""
    likelihood_ratio: float = Field(0.5, gt=0)
    """Of `pld`: events drawn less than so many times as often as chance may go; above 0."""


@DENOISERS.register
class LossDenoiser(FactorModelDenoiser):
    """What a robustly trained factor model of everybody's events fails to learn goes."""

    name = "loss"
    settings_class = LossSettings
    settings: LossSettings

    def __init__(self, model: FismModel, quantiles: npt.NDArray[np.float32], settings: LossSettings) -> None:
        super().__init__(model, quantiles, settings)
        items = np.flatnonzero(self.known)
        random = np.random.default_rng(derive_seed("pld negatives"))
        pool = random.choice(items, min(_POOL, len(items)), replace=False) if len(items) else items
        self._pool_columns = from_numpy(np.ascontiguousarray(model.target[pool].T))
        self._pool_bias = model.bias[pool]

    @classmethod
    def required_fit(cls, settings: Any) -> RequiredFit:
        own = {"t_ce": "drop", "r_ce": "power", "pld": "tau"}[settings.objective]
        return RequiredFit("fism", {"objective": settings.objective, own: getattr(settings, own)})

    def assess(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        given, out = self.settings, np.full(len(leave_one_out_scores), self.settings.removed_weight)
        if given.objective == "pld":
            loss = self._pair_loss(item, leave_one_out_scores)
            often = softmax_within(item, -loss / given.tau) * item.lengths[item.rows]
            # By loss, not by `often`: exp may take many to the same 0.
            return -loss, np.where(often < given.likelihood_ratio, loss + 1e-9, 0), out
        loss = np.logaddexp(0, -leave_one_out_scores.astype(np.float64))
        if given.objective == "t_ce":
            bound = float(np.interp(1 - given.drop, np.linspace(0, 1, 101), self.quantiles))
            return -loss, np.maximum(loss - bound, 0), out
        weight = np.exp(-given.power * loss)  # sigma(s)^power
        relative = weight / median_within(item, weight)
        return -loss, np.maximum(1 - relative, 0), np.minimum(np.maximum(relative, given.removed_weight), 1 - 1e-6)

    def _pair_loss(self, item: Ragged, leave_one_out_scores: npt.NDArray[np.float32]) -> Floats:
        """The mean of softplus(s_j - s_i) over the pool's items j, [total]."""
        with torch.inference_mode():
            scores = dense_matmul(from_numpy(self.model.users(item)), self._pool_columns).numpy() + self._pool_bias
        loss = np.empty(len(leave_one_out_scores))
        for start in range(0, len(leave_one_out_scores), _ROWS):
            at = slice(start, start + _ROWS)
            loss[at] = np.logaddexp(0, scores[item.rows[at]] - leave_one_out_scores[at, None]).mean(1)
        return loss
