"""Denoising with EASE (Steck 2019): the support of each event, and the effect of removing it on the trusted events.

With EASE's weights B (B_jj = 0, scores s = x B) and x the user's items, each at most 1:

- support_i = sum_j (B_ji + B_ij) x_j / (n_j + 10)^partner_power: how well the other items predict item i, and item i
  the others; popular items, with n_j events, count less. Item i itself is not included, so this is leave-one-out. It is
  ranked within the user, and finds noise.
- removing event i changes score j by exactly -B_ij d_i, where d_i is the decrease of x_i (0 if the user has other
  events of the item). The negative influence of i is the mean of this change over the trusted events j, minus its mean
  over the hard negatives j.

Only positive events whose item is in EASE's solve are assessed; all others are retained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.ease_weights import EaseWeights, ease_weights
from rayrec.denoising.removal import (
    Measured,
    RemovalThresholds,
    decide_batches,
    gather,
    hard_negatives,
    trusted_events,
)
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import PaddedBatch, batched_vecmat, padded_batches, single_thread
from rayrec.numerics.types import Float32s, Int64s

_PRIOR_EVENTS = 10.0  # added to an item's events, so that the rarest items do not dominate


class EaseDenoiserSettings(RemovalThresholds):
    partner_power: float = Field(0.35, ge=0)
    """Down-weighting of popular items: an item's contribution is divided by its events to this power; 0: none."""


@DENOISERS.register
class EaseDenoiser(Denoiser):
    """Removes events that the user's other events do not predict, by EASE's weights.

    Needs the weights of an `ease` fit, dense or sparse, `ease.active` and `item.count` [items] of the item model.
    """

    name = "ease"
    settings_class = EaseDenoiserSettings

    def __init__(
        self, weights: EaseWeights, pool: Int64s, count: npt.NDArray[Any], settings: EaseDenoiserSettings
    ) -> None:
        self.settings = settings
        self._weights = weights
        self._partner = ((count + _PRIOR_EVENTS) ** -settings.partner_power).astype(np.float32)  # by item
        self._pool_size = len(pool)
        self._pool_place = np.full(weights.slots, -1, np.int64)
        self._pool_place[pool] = np.arange(len(pool))
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        if not self._weights.on_devices:
            return self
        moved = copy(self)
        moved._device, moved._weights = device, self._weights.to(device)
        return moved

    @classmethod
    def required_fits(cls, settings: EaseDenoiserSettings) -> tuple[RequiredFit, ...]:
        return (RequiredFit("ease"),)

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: EaseDenoiserSettings) -> Self:
        count = required_array(arrays, "item.count", cls.name)
        return cls(*ease_weights(arrays, settings.negative_pool, count, cls.name), count, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        scored = (histories.weight.values > 0) & (self._weights.slot[histories.item.values] >= 0)
        trusted = trusted_events(histories, scored, self.settings)
        batches = self._measured(histories.item.filter(scored), histories.weight.values[scored], trusted)
        return decide_batches(batches, scored, self.settings)

    def measure(
        self, item: Ragged, weight: npt.NDArray[np.float32], trusted: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Support and negative influence of each event, [events], without the selection.

        `item`: int32 codes of positive events, all in the solve; `weight` [events] > 0; `trusted` [events].
        """
        return gather(self._measured(item, weight, trusted), len(item.values), np.float32)

    def _measured(
        self, item: Ragged, weight: npt.NDArray[np.float32], trusted: npt.NDArray[np.bool_]
    ) -> Iterator[Measured]:
        part, loss = profile_parts(item, weight)
        partner = part * self._partner[item.values]
        for batch in padded_batches(item.offsets, 2 * self.settings.hard_negatives, self._device):
            with single_thread(), torch.inference_mode():
                support, negative_influence = self._measure(batch, item, (part, partner, loss), trusted)
                measured = support.cpu().numpy(), negative_influence.cpu().numpy()
            yield batch, *measured

    def _measure(
        self,
        batch: PaddedBatch,
        item: Ragged,
        parts: tuple[Float32s, Float32s, Float32s],
        trusted: npt.NDArray[np.bool_],
    ) -> tuple[Tensor, Tensor]:
        """Support and negative influence [b, L], on the device. `parts` [events]: the event's part of x, that divided
        by its item's popularity, and the decrease of x without it."""
        part, partner, loss = parts
        mask = self._tensor(batch.mask)
        slots = self._weights.slot[item.values[batch.take]]
        slot = self._tensor(slots)
        among = self._weights.among(slot)  # B_ij [b, L, L]
        y = self._tensor(partner[batch.take]) * mask
        support = batched_vecmat(y, among) + batched_vecmat(y, among.transpose(1, 2))
        trust = self._tensor(trusted[batch.take] & batch.mask).float()
        others = trust.sum(1, keepdim=True) - trust  # B_ii = 0: an event is not its own target
        toward = batched_vecmat(trust, among.transpose(1, 2)) / others.clamp_min(1)
        negatives = self._toward_negatives(slots, slot, part[batch.take], batch)
        return support, self._tensor(loss[batch.take]) * (negatives - toward) * (others > 0) * mask

    def _toward_negatives(self, slots: Int64s, slot: Tensor, x: Float32s, batch: PaddedBatch) -> Tensor:
        """The mean of B_ij over the user's hard negatives j, [b, L]; `slot` is `slots` on the device."""
        count = min(self.settings.hard_negatives, self._pool_size)
        if not count:
            return self._tensor(np.zeros_like(x))
        lengths = batch.mask.sum(1)
        rows = sp.csr_matrix(
            (x[batch.mask], slots[batch.mask], np.concatenate([[0], np.cumsum(lengths)])),
            shape=(len(lengths), self._weights.slots),
        )
        pool_slot = np.where(batch.mask, self._pool_place[slots], -1)
        place, share = hard_negatives(self._weights.toward_pool(rows), pool_slot, count)
        return batched_vecmat(share, self._weights.pool_cells(slot, place))  # of [b, count, L]

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def profile_parts(
    item: Ragged, weight: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Each event's part of x (x of its item / number of its events), and the decrease of x without it; [events] each.

    x of an item is the sum of the weights of its events, at most 1.
    """
    cell = item.rows * (int(item.values.max(initial=0)) + 1) + item.values
    _, place, events = np.unique(cell, return_inverse=True, return_counts=True)
    total = np.bincount(place, weight, minlength=len(events))
    x = np.minimum(total, 1)
    part = (x / events)[place]
    without = np.where(events[place] > 1, np.minimum(total[place] - weight, 1), 0)
    return part.astype(np.float32), (x[place] - without).astype(np.float32)
