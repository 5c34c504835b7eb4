"""Sorting and top-k of scores in a total order: score descending, then position in the row ascending.

A stable argsort takes 1.7 times as long at 200 candidates, 3.9 times at 20,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.numerics.ragged import Ragged

_BLOCK_CELLS = 4 << 20  # padded cells sorted at once
_POSITION = np.int64(0xFFFFFFFF)


@dataclass(frozen=True)
class PaddedRows:
    """Consecutive rows of a ragged array, padded to the longest."""

    rows: slice
    take: npt.NDArray[np.int64]  # [b, L] positions in the flat values; 0 where padded
    mask: npt.NDArray[np.bool_]  # [b, L]


def padded_rows(offsets: npt.NDArray[np.int64]) -> Iterator[PaddedRows]:
    """All rows in order, in blocks of bounded size; blocks with only empty rows are skipped."""
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    step = max(1, _BLOCK_CELLS // max(1, longest))
    for start in range(0, len(lengths), step):
        block = lengths[start : start + step]
        width = int(block.max(initial=0))
        if width:
            steps = np.arange(width)
            mask = steps < block[:, None]
            take = np.where(mask, offsets[start : start + len(block), None] + steps, 0)
            yield PaddedRows(slice(start, start + len(block)), take, mask)


def descending_keys(scores: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Keys [b, L] that sort ascending in the order of this module; NaN comes after all scores, masked cells last.

    `positions_of` extracts the position in the row. A stable `np.argsort` gives the same order 1.7 to 3.9 times slower.
    """
    bits = (-(scores + np.float32(0))).astype(np.float32, copy=False).view(np.int32)  # + 0 turns -0 into 0
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    ordered = np.where(np.isnan(scores), np.int32(0x7FFFFFFE), ordered)
    ordered = np.where(mask, ordered, np.int32(0x7FFFFFFF)).astype(np.int64)
    return (ordered << 32) | np.arange(scores.shape[1], dtype=np.int64)


def positions_of(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return keys & _POSITION


def ranks(scores: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Rank of each cell in its row, [b, L]; 0 is the best."""
    order = positions_of(np.sort(descending_keys(scores, mask), axis=1))
    result = np.empty(order.shape, np.int32)
    np.put_along_axis(result, order, np.arange(order.shape[1], dtype=np.int32)[None, :], axis=1)
    return result


def best(scores: Ragged, count: int) -> Ragged:
    """Positions in `scores.values` of the best `count` cells of each row, best first."""
    counts = np.minimum(scores.lengths, count)
    parts = []
    for block in padded_rows(scores.offsets):
        keys = descending_keys(scores.values[block.take], block.mask)
        order = positions_of(np.sort(keys, axis=1)[:, :count])
        inside = np.arange(order.shape[1]) < counts[block.rows, None]
        parts.append((order + scores.offsets[block.rows, None])[inside])
    positions = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return Ragged.from_lengths(positions, counts)


def reassign_scores(
    scores: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], below: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Scores [b, n], best first, reassigned to the rows in a new order: without ties, and all above `below` [b].

    The k-th place gets the k-th highest score, so a policy explores around the new order with the same spread. Ties
    would fall back to the old order, so the smallest float step upwards separates them. Padded cells are unchanged.
    """
    result, floor = scores.copy(), below
    for rank in reversed(range(scores.shape[1])):
        raised = np.maximum(result[:, rank], np.nextafter(floor, np.float32(np.inf)))
        result[:, rank] = np.where(mask[:, rank], raised, result[:, rank])
        floor = np.where(mask[:, rank], raised, floor)
    return result
