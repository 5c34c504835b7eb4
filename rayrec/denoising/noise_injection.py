"""Injection of random events into histories, for methods that learn to recognise noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.denoising.denoiser import Histories
from rayrec.numerics.ragged import Ragged


def inject_noise(
    histories: Histories, items: int, share: float, random: np.random.Generator
) -> tuple[Histories, npt.NDArray[np.bool_]]:
    """Insert random events into histories, about `share` of all; also return a mask of them, [events].

    Items are drawn in proportion to their popularity, so that popularity alone does not reveal the noise; items of the
    user's history are skipped. Time, weight, value and dwell are copied from one of the user's own events.
    """
    item = histories.item
    popularity = np.bincount(item.values, histories.weight.values > 0, minlength=items)
    number = np.floor(item.lengths * share / (1 - share) + random.random(len(item))).astype(np.int64)
    number[item.lengths == 0] = 0
    rows = np.repeat(np.arange(len(item)), number)
    drawn = random.choice(items, len(rows), p=popularity / max(popularity.sum(), 1)) if len(rows) else rows
    new = ~np.isin(rows * items + drawn, item.rows * items + item.values)
    rows, drawn = rows[new], drawn[new]
    like = item.offsets[rows] + (random.random(len(rows)) * item.lengths[rows]).astype(np.int64)
    source = np.concatenate([np.arange(len(item.values)), like])
    noise = np.arange(len(source)) >= len(item.values)
    order = np.lexsort((random.random(len(source)) * noise, source, np.concatenate([item.rows, rows])))
    codes = np.concatenate([item.values, drawn.astype(np.int32)])[order]
    lengths = item.lengths + np.bincount(rows, minlength=len(item))

    def with_noise(part: Ragged) -> Ragged:
        return Ragged.from_lengths(part.values[source[order]], lengths)

    noisy = Histories(
        item=Ragged.from_lengths(codes, lengths),
        ts=with_noise(histories.ts),
        weight=with_noise(histories.weight),
        value=with_noise(histories.value),
        dwell_ms=with_noise(histories.dwell_ms),
    )
    return noisy, noise[order]
