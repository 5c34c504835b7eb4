"""Calibrated recommendations (Steck 2018): a slate's categories in the proportions of the user's retained history.

Greedy, as in the paper's section 3.3: the next candidate maximises (1 - lambda) * sum of relevance
- lambda * KL(p || q~). p(c) is the share of category c in the history, q(c) its share in the slate with the candidate,
and q~ = 0.99 q + 0.01 p (equation 7). Events and candidates without a category are not counted. Users without history
keep the order of relevance.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Float64s, Int64s
from rayrec.slates.diversity import DIVERSIFIERS, Diversifier, GreedyOrder, TopCandidates

_SMOOTH = 0.01  # the paper's alpha


class CalibratedSettings(MethodSettings):
    calibration: float = Field(0.5, ge=0, le=1)
    """Weight of calibration (the paper's lambda), 0 to 1; 0 orders by relevance alone."""


@DIVERSIFIERS.register
class Calibrated(Diversifier):
    """Reorders towards the category proportions of the user's history."""

    name = "calibrated"
    settings_class = CalibratedSettings
    settings: CalibratedSettings

    def order(self, head: TopCandidates) -> Int64s:
        share, slot = _history(head)
        weight, rows = self.settings.calibration, np.arange(len(slot))
        greedy, count = GreedyOrder(head.mask), np.zeros(share.shape)
        for rank in range(head.mask.shape[1]):
            now, one_more = (_divergence(share, counts / (rank + 1)) for counts in (count, count + 1))
            # The last slot has no share: candidates of categories outside the history change no term.
            change = np.take_along_axis(one_more - now, slot, axis=1)
            # Sum from left to right: padded slots add an exact zero, so the result does not depend on the batch.
            divergence = np.cumsum(now, axis=1)[:, -1:] + change
            pick = greedy.choose(rank, (1 - weight) * head.relevance - weight * divergence)
            count[rows, slot[rows, pick]] += 1
        return greedy.order


def _divergence(share: Float64s, given: Float64s) -> Float64s:
    """Terms of KL(p || q~), [b, slots]; 0 where p is 0."""
    smooth = (1 - _SMOOTH) * given + _SMOOTH * share
    terms: Float64s = share * np.log(np.where(share > 0, share, 1) / np.where(share > 0, smooth, 1))
    return terms


def _history(head: TopCandidates) -> tuple[Float64s, Int64s]:
    """p of each category in the user's history, [b, slots], the last slot 0; and the slot of each candidate, [b, n]."""
    category = head.items.category[head.history.values].astype(np.int64)
    known = category >= 0
    key, count = np.unique(head.history.rows[known] << 32 | category[known], return_counts=True)
    found = Ragged.from_lengths(key, np.bincount(key >> 32, minlength=len(head.history)))
    place = np.arange(len(key)) - found.offsets[found.rows]
    share = np.zeros((len(head.mask), int(found.lengths.max(initial=0)) + 1))
    total = np.bincount(found.rows, count, minlength=len(found))
    share[found.rows, place] = count / total[found.rows]
    wanted = np.arange(len(head.mask))[:, None] << 32 | np.maximum(head.category, 0).astype(np.int64)
    at = np.minimum(np.searchsorted(key, wanted), max(len(key) - 1, 0))
    there = (key[at] == wanted) & (head.category >= 0) if len(key) else np.zeros(wanted.shape, np.bool_)
    return share, np.where(there, place[at] if len(key) else 0, share.shape[1] - 1)
