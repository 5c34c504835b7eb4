"""Denoising by the loss of a robustly trained factor model: T-CE and R-CE (Wang et al. 2021), PLD.

These methods train the factor model (rayrec.retrieval.fism); here each event is assessed by its leave-one-out loss, as
in the last epoch of the training:

- t_ce: events whose cross-entropy is in the highest `drop` share of all events of the fit may be removed.
- r_ce: events are weighted by sigma(s)^power, relative to the user's median; the lowest weights are applied.
- pld: events that the resampling within the user, P ~ exp(-loss / tau), draws less than `likelihood_ratio` times as
  often as uniform sampling may be removed; the loss is BPR's against a fixed pool of items.

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
from rayrec.denoising.factor_denoiser import FactorModelDenoiser
from rayrec.denoising.removal import RemovalBudget
from rayrec.denoising.within_user import Floats, median_within_user, softmax_within_user
from rayrec.numerics.batch_invariant import dense_matmul, from_numpy
from rayrec.numerics.fism_model import FismModel
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged

_POOL = 32  # sampled items, the negatives of pld
_ROWS = 65_536  # events per block of losses against the pool


class LossSettings(RemovalBudget):
    objective: Literal["t_ce", "r_ce", "pld"] = "pld"
    """Training objective of the model, and so the assessment: `t_ce`, `r_ce` or `pld`."""
    drop: float = Field(0.1, ge=0, lt=1)
    """Of `t_ce`: share of all events, those of the highest loss, that may be removed; at least 0 and below 1."""
    power: float = Field(0.5, gt=0)
    """Of `r_ce`: how fast the weight of an event decreases with its loss; above 0."""
    tau: float = Field(0.1, gt=0)
    """Of `pld`: temperature of the resampling among the user's events; above 0."""
    likelihood_ratio: float = Field(0.5, gt=0)
    """Of `pld`: events that are drawn less often than this multiple of uniform sampling may be removed; above 0."""


@DENOISERS.register
class LossDenoiser(FactorModelDenoiser):
    """Removes events of high loss under a robustly trained factor model of all users' events."""

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
            often = softmax_within_user(item, -loss / given.tau) * item.lengths[item.rows]
            # Ranked by loss, not by `often`, which may underflow to 0 for many events.
            return -loss, np.where(often < given.likelihood_ratio, loss + 1e-9, 0), out
        loss = np.logaddexp(0, -leave_one_out_scores.astype(np.float64))
        if given.objective == "t_ce":
            bound = float(np.interp(1 - given.drop, np.linspace(0, 1, 101), self.quantiles))
            return -loss, np.maximum(loss - bound, 0), out
        weight = np.exp(-given.power * loss)  # sigma(s)^power
        relative = weight / median_within_user(item, weight)
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
