"""Ranks, medians and softmax within each user's events, over flat arrays [events] of ragged rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.numerics.ragged import Ragged

Floats = npt.NDArray[np.float64]


def rank_within_user(item: Ragged, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Rank of each value in its row, 0 for the lowest; of ties the later event comes first."""
    rows = item.rows
    order = np.lexsort((-np.arange(len(rows)), values, rows))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - item.offsets[rows[order]]
    return place


def median_within_user(item: Ragged, values: Floats) -> Floats:
    """The lower median of each row, repeated for each of its values."""
    ordered = values[np.lexsort((values, item.rows))]
    middle = item.offsets[:-1] + np.maximum(item.lengths - 1, 0) // 2
    result: Floats = ordered[middle[item.rows]]
    return result


def softmax_within_user(item: Ragged, values: Floats) -> Floats:
    """exp(values), normalised to a sum of 1 within each row."""
    some = item.lengths > 0
    starts = item.offsets[:-1][some]
    lengths = item.lengths[some]
    shifted = np.exp(values - np.repeat(np.maximum.reduceat(values, starts), lengths))
    share: Floats = shifted / np.repeat(np.add.reduceat(shifted, starts), lengths)
    return share
