"""What EASE says of each event of a history: its support, and whether dropping it helps the trusted events.

With EASE's weights B (B_jj = 0, scores s = x B; REFERENCES section 2) and x the user's items, each at most 1:

- support_i = sum_j (B_ji + B_ij) x_j / (n_j + 10)^partner_power: how well the other items predict item i, and item i
  the others; that a popular item, with n_j events, goes along says less. Item i itself has no part in it, so this is
  leave-one-out; it is ranked within the user. It finds noise.
- dropping event i changes score j by exactly -B_ij d_i, where d_i is what x_i loses (nothing while the user has the
  item by other events). harm_i = mean over trusted events j - mean over hard negatives j of that change.

Only positive events whose item is in EASE's solve are judged; the others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.event_selection import select_removals
from rayrec.denoising.removal_budget import RemovalThresholds
from rayrec.denoising.trusted_events import trusted_events
from rayrec.numerics.batch_invariant import from_numpy, sparse_matmul
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import PaddedBatch, batched_vecmat, padded_batches, single_thread

_PRIOR_EVENTS = 10.0  # added to an item's events before the power: the rarest are not worth everything


class EaseDenoiserSettings(RemovalThresholds):
    partner_power: float = Field(0.35, ge=0)
    """How much less a popular item says of the others: its part is divided by its events to this power; 0: not."""


@DENOISERS.register
class EaseDenoiser(Denoiser):
    """What the user's other events do not predict goes, by EASE's weights.

    Needs `ease.weights` [active, active], `ease.active` [active] and `item.count` [items] of the item model.
    """

    name = "ease"
    settings_class = EaseDenoiserSettings

    def __init__(
        self,
        weights: npt.NDArray[np.float32],
        active: npt.NDArray[np.int32],
        count: npt.NDArray[Any],
        settings: EaseDenoiserSettings,
    ) -> None:
        self.settings = settings
        self._weights = from_numpy(weights)
        self._slot = np.full(len(count), -1, np.int64)
        self._slot[active] = np.arange(len(active))
        popular = np.lexsort((active, -count[active].astype(np.float64)))
        self._pool = popular[: settings.negative_pool]  # slots
        self._to_pool = self._weights[:, torch.from_numpy(self._pool)].contiguous()
        self._partner = ((count + _PRIOR_EVENTS) ** -settings.partner_power).astype(np.float32)  # by item
        self._pool_place = np.full(len(active), -1, np.int64)
        self._pool_place[self._pool] = np.arange(len(self._pool))

    @classmethod
    def required_fits(cls, settings: EaseDenoiserSettings) -> tuple[RequiredFit, ...]:
        return (RequiredFit("ease"),)

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: EaseDenoiserSettings) -> Self:
        weights, active, count = (
            required_array(arrays, name, cls.name) for name in ("ease.weights", "ease.active", "item.count")
        )
        return cls(weights, active, count, settings)

    def decide(self, histories: Histories) -> DenoisingDecision:
        scored = (histories.weight.values > 0) & (self._slot[histories.item.values] >= 0)
        decision = DenoisingDecision.all_retained(len(scored))
        given = self.settings
        trusted = trusted_events(histories, scored, given)
        item = histories.item.filter(scored)
        support, negative_influence = np.empty(len(item.values), np.float32), np.empty(len(item.values), np.float32)
        keep, reason = np.ones(len(item.values), np.float32), np.zeros(len(item.values), np.int8)
        for batch, supported, harmful in self._measured(item, histories.weight.values[scored], trusted):
            kept, why = select_removals(supported, harmful, batch.mask, self.settings)
            at = batch.take[batch.mask]
            support[at], negative_influence[at] = supported[batch.mask], harmful[batch.mask]
            keep[at], reason[at] = kept[batch.mask], why[batch.mask]
        decision.influence[scored], decision.negative_influence[scored] = support, negative_influence
        decision.keep[scored], decision.reason[scored] = keep, reason
        return decision

    def measure(
        self, item: Ragged, weight: npt.NDArray[np.float32], trusted: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Support and harm of each event, [total]: the maths without the selection.

        `item`: int32 codes of positive events, all in the solve; `weight` [total] > 0; `trusted` [total].
        """
        support, negative_influence = np.empty(len(item.values), np.float32), np.empty(len(item.values), np.float32)
        for batch, supported, harmful in self._measured(item, weight, trusted):
            at = batch.take[batch.mask]
            support[at], negative_influence[at] = supported[batch.mask], harmful[batch.mask]
        return support, negative_influence

    def _measured(
        self, item: Ragged, weight: npt.NDArray[np.float32], trusted: npt.NDArray[np.bool_]
    ) -> Iterator[tuple[PaddedBatch, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        part, loss = profile_parts(item, weight)
        partner = part * self._partner[item.values]
        for batch in padded_batches(item.offsets, 2 * self.settings.hard_negatives):
            with single_thread(), torch.inference_mode():
                mask = torch.from_numpy(batch.mask)
                slot = torch.from_numpy(self._slot[item.values[batch.take]])
                x = torch.from_numpy(part[batch.take]) * mask
                among = self._weights[slot.unsqueeze(2), slot.unsqueeze(1)]  # B_ij [b, L, L]
                y = torch.from_numpy(partner[batch.take]) * mask
                support = batched_vecmat(y, among) + batched_vecmat(y, among.transpose(1, 2))
                trust = torch.from_numpy(trusted[batch.take] & batch.mask).float()
                others = trust.sum(1, keepdim=True) - trust  # B_ii = 0: an event is no target of its own
                toward = batched_vecmat(trust, among.transpose(1, 2)) / others.clamp_min(1)
                lost = torch.from_numpy(loss[batch.take])
                negative_influence = lost * (self._toward_negatives(slot, x, batch) - toward) * (others > 0) * mask
            yield batch, support.numpy(), negative_influence.numpy()

    def _toward_negatives(self, slot: Tensor, x: Tensor, batch: PaddedBatch) -> Tensor:
        """The mean of B_ij over the user's hard negatives j: [b, L]."""
        count = min(self.settings.hard_negatives, len(self._pool))
        if not count:
            return torch.zeros_like(x)
        lengths = batch.mask.sum(1)
        rows = sp.csr_matrix(
            (x.numpy()[batch.mask], slot.numpy()[batch.mask], np.concatenate([[0], np.cumsum(lengths)])),
            shape=(len(lengths), len(self._weights)),
        )
        scores = sparse_matmul(rows, self._to_pool)
        place = np.where(batch.mask, self._pool_place[slot.numpy()], -1)
        row, column = np.nonzero(place >= 0)
        scores[torch.from_numpy(row), torch.from_numpy(place[row, column])] = -torch.inf
        best, where = torch.topk(scores, count, dim=1)
        usable = torch.isfinite(best).float()
        share = usable / usable.sum(1, keepdim=True).clamp_min(1)
        return batched_vecmat(share, self._to_pool[slot.unsqueeze(1), where.unsqueeze(2)])  # [b, count, L]


def profile_parts(
    item: Ragged, weight: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of each event, [total]: its part of x (x of its item, over the events of it), and what x loses without it.

    x of an item is the sum of the weights of its events, at most 1.
    """
    cell = item.rows * (int(item.values.max(initial=0)) + 1) + item.values
    _, place, events = np.unique(cell, return_inverse=True, return_counts=True)
    total = np.bincount(place, weight, minlength=len(events))
    x = np.minimum(total, 1)
    part = (x / events)[place]
    without = np.where(events[place] > 1, np.minimum(total[place] - weight, 1), 0)
    return part.astype(np.float32), (x[place] - without).astype(np.float32)
