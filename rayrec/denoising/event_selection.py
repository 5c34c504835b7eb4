"""From two measures per event to a verdict: ranks within the user, thresholds, and a cap on what may go."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.denoising.denoiser import REASONS
from rayrec.denoising.removal_budget import RemovalBudget, RemovalThresholds
from rayrec.numerics.ragged import Ragged

Bools = npt.NDArray[np.bool_]

_INCONSISTENT, _HARMFUL = REASONS.index("inconsistent"), REASONS.index("negative_influence")


def select_removals(
    consistency: npt.NDArray[Any],
    negative_influence: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    limits: RemovalThresholds,
    max_removals: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Keep weight and reason of each event, [b, L], from measures [b, L]; `mask` marks the events of each row.

    `allowed` [b]: how many may go, where it is not what the limits say of the events in the mask. Where more events
    are suspect, those with the highest sum of the two within-user ranks go first, newer before older ones on ties.
    """
    counts = mask.sum(1, keepdims=True)
    by_consistency = _rank(consistency, mask)
    by_harm = _rank(-negative_influence, mask)
    median = _median(consistency, mask, counts)
    inconsistent = (
        mask
        & (by_consistency < limits.inconsistent_share * counts)
        & (consistency < limits.inconsistent_ratio * median)
    )
    harmful = (
        mask & (by_harm < limits.negative_influence_share * counts) & (negative_influence > 0) & (consistency < median)
    )
    most = limits.max_removals(counts) if max_removals is None else max_removals[:, None]
    suspect = inconsistent | harmful
    out = suspect & (_rank((by_consistency + by_harm).astype(np.float64), suspect) < most)
    reason = np.where(out, _INCONSISTENT * inconsistent + _HARMFUL * harmful, 0).astype(np.int8)
    return np.where(out, np.float32(limits.removed_weight), np.float32(1)), reason


def most_suspicious(
    item: Ragged, suspicion: npt.NDArray[Any], scored: npt.NDArray[np.bool_], cap: RemovalBudget
) -> Bools:
    """Which events [total] go: of each user's judged events those with the highest suspicion above 0, within the cap.

    Newer events go before older ones on ties.
    """
    rows = item.rows
    most = cap.max_removals(np.bincount(rows, scored, minlength=len(item)))
    values = np.where(scored, suspicion, -np.inf)
    place = rank_within_user(item, -values)
    result: Bools = (values > 0) & (place < most[rows])
    return result


def rank_within_user(item: Ragged, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """0 for the lowest value [total] among its row's, and so on; the later event comes first on ties."""
    rows = item.rows
    order = np.lexsort((-np.arange(len(rows)), values, rows))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - item.offsets[rows[order]]
    return place


def _rank(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """0 for the lowest value of each row, ties by position from the right; what is not in the mask comes last."""
    masked = np.where(mask, values, np.inf)[:, ::-1]
    order = np.argsort(masked, axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None, :], axis=1)
    return ranks[:, ::-1]


def _median(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The lower median of each row, [b, 1]."""
    ordered = np.sort(np.where(mask, values, np.inf), axis=1)
    return np.take_along_axis(ordered, np.maximum(counts - 1, 0) // 2, axis=1)
