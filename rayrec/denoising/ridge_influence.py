"""Denoising by closed-form leave-one-out influence in the user's ridge regression on frozen item factors.

With item factors V frozen, A = lambda I + alpha0 V'V + sum_k v_k v_k', p = A^-1 sum_k v_k, a_i = A^-1 v_i,
h_i = v_i'a_i and y_i = v_i'p, the user refitted without event i is p - a_i (1 - y_i) / (1 - h_i), exactly
(Sherman-Morrison). From it follow for each event:

- self-consistency y_i^(-i) = (y_i - h_i) / (1 - h_i): how well the user's other events predict it. It is ranked within
  the user, and finds noise.
- negative influence: the mean of delta s_ij = -v_j'a_i (1 - y_i) / (1 - h_i) over trusted targets j, minus its mean
  over hard negatives. Above 0, removing the event moves the trusted events up. It finds what hurts the ranking.

With `alpha` above 0 events have the confidences of Hu, Koren & Volinsky (2008), c_k = 1 + w_k with w_k = alpha times
the event's weight: A = lambda I + alpha0 V'V + sum_k w_k v_k v_k', p = A^-1 sum_k c_k v_k (theirs has alpha0 = 1). Then
p - a_i (1 + w_i (1 - y_i)) / (1 - w_i h_i) is the user without event i, y_i^(-i) = v_i' of it, and negative influence
as above.

Only positive events whose item has factors are assessed; all others are retained. Events of negative weight are not
used. Nothing at or after the scored date is used: trusted events are the user's own newest positives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.removal import (
    Measured,
    RemovalThresholds,
    decide_batches,
    gather,
    hard_negatives,
    trusted_events,
)
from rayrec.numerics.batch_invariant import dense_matmul
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import (
    PaddedBatch,
    RidgeBlocks,
    WhitenedFactors,
    batched_vecmat,
    factor_gram,
    padded_batches,
    single_thread,
    solve_blocks,
)

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class InfluenceSettings(RemovalThresholds):
    regularization: float = Field(10.0, gt=0)
    """Ridge of the user's vector, above 0."""
    alpha0: float = Field(0.1, ge=0)
    """Weight of items that the user has not consumed; 0: none."""
    alpha: float = Field(0.0, ge=0)
    """Confidence added per unit of event weight; 0: all events have weight 1."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the computation: `float32` or `float64`; with `alpha` above 0 always the latter."""


@DENOISERS.register
class InfluenceDenoiser(Denoiser):
    """Removes events that the others do not predict, or that harm the newest: exact leave-one-out over iALS factors.

    Needs `ials.factors` [items, d] and `item.count` [items] of the item model.
    """

    name = "influence"
    settings_class = InfluenceSettings

    def __init__(self, factors: npt.NDArray[Any], count: npt.NDArray[Any], settings: InfluenceSettings) -> None:
        self.settings = settings
        # With confidences, 1 - w h suffers from cancellation: always float64.
        self.dtype = torch.float64 if settings.alpha else _DTYPES[settings.dtype]
        self.whitened = WhitenedFactors.of(
            factors, factor_gram(factors), settings.regularization, settings.alpha0, self.dtype
        )
        self.known: npt.NDArray[np.bool_] = np.any(factors != 0, axis=1)
        popular = np.lexsort((np.arange(len(count)), -count.astype(np.float64)))
        self.pool = popular[self.known[popular]][: settings.negative_pool]
        self._pool_slot = np.full(len(count), -1, np.int64)
        self._pool_slot[self.pool] = np.arange(len(self.pool))
        self._pool_factors = self.whitened.items[torch.from_numpy(self.pool)]
        self._pool_columns = self._pool_factors.T.contiguous()
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        moved = copy(self)
        moved._device, moved.whitened = device, self.whitened.to(device)
        moved._pool_factors, moved._pool_columns = self._pool_factors.to(device), self._pool_columns.to(device)
        return moved

    @classmethod
    def required_fits(cls, settings: InfluenceSettings) -> tuple[RequiredFit, ...]:
        return (RequiredFit("ials"),)

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: InfluenceSettings) -> Self:
        factors, count = (required_array(arrays, name, cls.name) for name in ("ials.factors", "item.count"))
        return cls(factors, count, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        scored = (histories.weight.values > 0) & self.known[histories.item.values]
        trusted = trusted_events(histories, scored, self.settings)
        batches = self._measured(histories.item.filter(scored), trusted, histories.weight.values[scored])
        return decide_batches(batches, scored, self.settings)

    def measure(
        self, item: Ragged, trusted: npt.NDArray[np.bool_], weight: npt.NDArray[np.float32] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Self-consistency and negative influence of each event, [events], in the settings' dtype; no selection.

        `item`: int32 codes of positive events, all with factors; `trusted` [events]; `weight` [events]: not below 0
        (default: 1), used with `alpha` only.
        """
        given = np.ones(len(item.values), np.float32) if weight is None else weight
        return gather(self._measured(item, trusted, given), len(item.values), self.settings.dtype)

    def _measured(
        self, item: Ragged, trusted: npt.NDArray[np.bool_], weight: npt.NDArray[np.float32]
    ) -> Iterator[Measured]:
        for batch in padded_batches(item.offsets, self.whitened.items.shape[1], self._device):
            with single_thread(), torch.inference_mode():
                consistency, negative_influence = self._measure(batch, item, trusted, weight)
                measured = consistency.cpu().numpy(), negative_influence.cpu().numpy()
            yield batch, *measured

    def _measure(
        self, batch: PaddedBatch, item: Ragged, trusted: npt.NDArray[np.bool_], weight: npt.NDArray[np.float32]
    ) -> tuple[Tensor, Tensor]:
        """Self-consistency and negative influence [b, L], on the device."""
        codes = item.values[batch.take]
        mask = self._tensor(batch.mask)
        w = self.whitened.items[torch.from_numpy(codes).long().to(self._device)] * mask.unsqueeze(2)
        if self.settings.alpha:
            more = self._tensor(weight[batch.take]) * self.settings.alpha * mask
            blocks, leverage, consistency = _solve_confident(w, more, mask)
        else:
            blocks = solve_blocks(w, mask)
            leverage = blocks.one_minus_y / blocks.one_minus_h
            consistency = 1 - leverage
        trust = self._tensor(trusted[batch.take] & batch.mask)
        negative_influence = leverage * (self._toward_negatives(blocks, codes, batch) - _toward_trusted(blocks, trust))
        negative_influence *= (trust.sum(1, keepdim=True) - trust > 0) * mask
        return consistency, negative_influence

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device, self.dtype)

    def _toward_negatives(self, blocks: RidgeBlocks, codes: npt.NDArray[np.int32], batch: PaddedBatch) -> Tensor:
        """The mean of v_j'a_i over the user's hard negatives j, [b, L]."""
        count = min(self.settings.hard_negatives, len(self.pool))
        if not count:
            return torch.zeros_like(blocks.one_minus_y)
        scores = dense_matmul(blocks.direction, self._pool_columns)
        place, share = hard_negatives(scores, np.where(batch.mask, self._pool_slot[codes], -1), count)
        # The weighted mean of the chosen items, summed within each row only.
        mean = torch.nn.functional.embedding_bag(place, self._pool_factors, mode="sum", per_sample_weights=share)
        return blocks.toward(mean)


def _solve_confident(w: Tensor, more: Tensor, mask: Tensor) -> tuple[RidgeBlocks, Tensor, Tensor]:
    """Blocks with event weights `more` [b, L] >= 0 and targets 1 + more; p without event i is p - leverage_i a_i.

    Returns the blocks, leverage and self-consistency [b, L].
    """
    block = torch.bmm((w * more.unsqueeze(2)).transpose(1, 2), w)
    block.diagonal(dim1=1, dim2=2).add_(1)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(block))
    direction = batched_vecmat(batched_vecmat((1 + more) * mask, w), inverse)
    h = (torch.bmm(w, inverse) * w).sum(2)
    y = batched_vecmat(direction, w.transpose(1, 2))
    leverage = (1 + more * (1 - y)) / (1 - more * h) * mask
    return RidgeBlocks(w, inverse, False, 1 - h, (1 - y) * mask, direction), leverage, y - h * leverage


def _toward_trusted(blocks: RidgeBlocks, trust: Tensor) -> Tensor:
    """The mean of v_j'a_i over the trusted events j other than i, [b, L]; 0 if there is none."""
    total = blocks.toward(batched_vecmat(trust, blocks.w))
    own = trust * (1 - blocks.one_minus_h)
    return (total - own) / (trust.sum(1, keepdim=True) - trust).clamp_min(1)
