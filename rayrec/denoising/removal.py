"""Parts shared by the methods: removal budget, trusted events, hard negatives, selection of the events to remove."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from rayrec.config.section import MethodSettings
from rayrec.denoising.denoiser import REASONS, DenoisingDecision, Histories
from rayrec.denoising.within_user import rank_within_user
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import PaddedBatch

Bools = npt.NDArray[np.bool_]
Measured = tuple[PaddedBatch, npt.NDArray[Any], npt.NDArray[Any]]
"""A padded batch of users with self-consistency and negative influence of their events, [b, L]."""

_INCONSISTENT, _NEGATIVE = REASONS.index("inconsistent"), REASONS.index("negative_influence")


class RemovalBudget(MethodSettings):
    """How many events of a user may be removed. Only a few: the influences of single events do not add up."""

    max_removed_share: float = Field(0.2, ge=0, le=1)
    """Largest share of a user's assessed events that may be removed, 0 to 1."""
    min_retained: int = Field(5, ge=0)
    """Assessed events that always remain."""
    min_events: int = Field(6, ge=0)
    """Users with fewer assessed events keep all of them."""
    removed_weight: float = Field(0.0, ge=0, lt=1)
    """Weight of removed events: 0, or up to below 1 to down-weight them instead."""

    def max_removals(self, counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Number of events that may be removed, given counts of assessed events; any shape."""
        limit = np.minimum(np.floor(self.max_removed_share * counts + 1e-9), np.maximum(counts - self.min_retained, 0))
        return np.where(counts < self.min_events, 0, limit).astype(np.int64)


class TrustedInteractions(RemovalBudget):
    """Which events of a user are trusted. Negative influence is an event's effect on these."""

    trusted_newest: int = Field(5, ge=1)
    """Number of trusted events: the user's newest positive events that pass the next two filters."""
    trusted_min_weight: float | None = None
    """Smallest weight in `data.events`; `null`: any."""
    trusted_min_value: float | None = None
    """Smallest value (such as a rating); `null`: any, also a missing one."""


class RemovalThresholds(TrustedInteractions):
    """Thresholds of self-consistency and negative influence beyond which an event is suspicious."""

    hard_negatives: int = Field(10, ge=0)
    """Reference items of negative influence: the user's best-scored items of the pool outside the history."""
    negative_pool: int = Field(256, ge=1)
    """Size of the pool: the most popular items."""
    inconsistent_share: float = Field(0.2, ge=0, le=1)
    """Events in this lowest share of the user's self-consistencies may be inconsistent; see `inconsistent_ratio`."""
    inconsistent_ratio: float = 0.5
    """Inconsistent events are also below this multiple of the user's median self-consistency."""
    negative_influence_share: float = Field(0.05, ge=0, le=1)
    """Events in this highest share of negative influence, above 0 and below that median, may be removed; 0: none."""


def trusted_events(histories: Histories, scored: Bools, trust: TrustedInteractions) -> Bools:
    """Mask of each user's trusted events among the assessed events, [scored]: the newest of enough weight and value.

    A minimum of None accepts all events; an event without a value (NaN) fails any other minimum.
    """
    eligible = np.ones(int(scored.sum()), np.bool_)
    if trust.trusted_min_weight is not None:
        eligible &= histories.weight.values[scored] >= trust.trusted_min_weight
    if trust.trusted_min_value is not None:
        eligible &= histories.value.values[scored] >= trust.trusted_min_value
    rows = histories.item.rows[scored]
    ends = np.searchsorted(rows, rows, side="right")
    through = np.concatenate([[0], np.cumsum(eligible)])
    newer = through[ends] - through[1:]  # eligible events of the same user after this one
    trusted: Bools = eligible & (newer < trust.trusted_newest)
    return trusted


def hard_negatives(scores: Tensor, slot: npt.NDArray[np.int64], count: int) -> tuple[Tensor, Tensor]:
    """Select each user's `count` best-scored items of the pool outside the history, with equal weights, [b, count].

    scores [b, pool] is overwritten; slot [b, L]: position of each event's item in the pool, -1 if it is not in the
    pool.
    """
    row, column = np.nonzero(slot >= 0)
    own = (torch.from_numpy(index).to(scores.device) for index in (row, slot[row, column]))
    scores[tuple(own)] = -torch.inf
    best, place = torch.topk(scores, count, dim=1)
    usable = torch.isfinite(best).to(scores.dtype)
    return place, usable / usable.sum(1, keepdim=True).clamp_min(1)


def gather(batches: Iterable[Measured], events: int, dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Collect self-consistency and negative influence of all events, [events], from padded batches."""
    consistency, negative_influence = np.zeros(events, dtype), np.zeros(events, dtype)
    for batch, y, negative in batches:
        at = batch.take[batch.mask]
        consistency[at], negative_influence[at] = y[batch.mask], negative[batch.mask]
    return consistency, negative_influence


def decide_batches(batches: Iterable[Measured], scored: Bools, thresholds: RemovalThresholds) -> DenoisingDecision:
    """Decide on all events, given padded batches with the measures of the `scored` ones."""
    decision, place = DenoisingDecision.all_retained(len(scored)), np.flatnonzero(scored)
    for batch, consistency, negative in batches:
        keep_weight, reason = select_removals(consistency, negative, batch.mask, thresholds)
        at = place[batch.take[batch.mask]]
        decision.influence[at], decision.negative_influence[at] = consistency[batch.mask], negative[batch.mask]
        decision.keep_weight[at], decision.reason[at] = keep_weight[batch.mask], reason[batch.mask]
    return decision


def select_removals(
    consistency: npt.NDArray[Any], negative_influence: npt.NDArray[Any], mask: Bools, thresholds: RemovalThresholds
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Compute keep weight and reason of each event, [b, L], from measures [b, L]; `mask` marks the events of each row.

    If more events are suspicious than may be removed, those with the highest sum of the two within-user ranks are
    removed first; of ties the newer ones.
    """
    counts = mask.sum(1, keepdims=True)
    by_consistency = _rank(consistency, mask)
    by_influence = _rank(-negative_influence, mask)
    median = _median(consistency, mask, counts)
    inconsistent = (
        mask
        & (by_consistency < thresholds.inconsistent_share * counts)
        & (consistency < thresholds.inconsistent_ratio * median)
    )
    negative = (
        mask
        & (by_influence < thresholds.negative_influence_share * counts)
        & (negative_influence > 0)
        & (consistency < median)
    )
    suspicious = inconsistent | negative
    order = _rank((by_consistency + by_influence).astype(np.float64), suspicious)
    out = suspicious & (order < thresholds.max_removals(counts))
    reason = np.where(out, _INCONSISTENT * inconsistent + _NEGATIVE * negative, 0).astype(np.int8)
    return np.where(out, np.float32(thresholds.removed_weight), np.float32(1)), reason


def most_suspicious(item: Ragged, suspicion: npt.NDArray[Any], scored: Bools, budget: RemovalBudget) -> Bools:
    """Mask of the events to remove, [events]: each user's most suspicious events above 0, within the budget.

    Of ties the newer events are removed first.
    """
    rows = item.rows
    limit = budget.max_removals(np.bincount(rows, scored, minlength=len(item)))
    values = np.where(scored, suspicion, -np.inf)
    result: Bools = (values > 0) & (rank_within_user(item, -values) < limit[rows])
    return result


def _rank(values: npt.NDArray[Any], mask: Bools) -> npt.NDArray[np.int32]:
    """Rank within each row, 0 for the lowest value; of ties the last position first; unmasked events come last."""
    masked = np.where(mask, values, np.inf)[:, ::-1]
    order = np.argsort(masked, axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None, :], axis=1)
    return ranks[:, ::-1]


def _median(values: npt.NDArray[Any], mask: Bools, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The lower median of each row, [b, 1]."""
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    return np.take_along_axis(ordered, np.maximum(counts - 1, 0) // 2, axis=1)
