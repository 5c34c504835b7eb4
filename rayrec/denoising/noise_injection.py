"""Injection of random events into histories, for methods that learn to recognise noise.

popularity   items in proportion to their popularity, so that popularity alone does not reveal the noise
uniform      any item with events, each with the same chance
taste_swap   items of one other user, as when an account is shared
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from rayrec.denoising.denoiser import Histories
from rayrec.numerics.ragged import Ragged

NoiseKind = Literal["popularity", "uniform", "taste_swap"]


def inject_noise(
    histories: Histories,
    items: int,
    share: float,
    random: np.random.Generator,
    kinds: Sequence[NoiseKind] = ("popularity",),
) -> tuple[Histories, npt.NDArray[np.bool_]]:
    """Insert random events into histories, about `share` of all; also return a mask of them, [events].

    Each user gets noise of one of the `kinds`, drawn at random; items of the user's history are skipped. Time, weight,
    value and dwell are copied from one of the user's own events.
    """
    item = histories.item
    number = np.floor(item.lengths * share / (1 - share) + random.random(len(item))).astype(np.int64)
    number[item.lengths == 0] = 0
    rows = np.repeat(np.arange(len(item)), number)
    kind = random.integers(len(kinds), size=len(item)) if len(kinds) > 1 else np.zeros(len(item), np.int64)
    drawn = np.zeros(len(rows), np.int64)
    for place, name in enumerate(kinds):
        own = kind[rows] == place
        drawn[own] = _drawn(name, histories, items, rows[own], random)
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


def _drawn(
    kind: NoiseKind, histories: Histories, items: int, rows: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """An item for each of these rows (users), [rows]."""
    item, positive = histories.item, histories.weight.values > 0
    if not len(rows) or not positive.any():
        return np.zeros(len(rows), np.int64)
    if kind == "taste_swap":
        liked = item.filter(positive)
        donors = np.flatnonzero(liked.lengths > 0)
        donor = random.choice(donors, len(item))[rows]  # one for each user
        place = liked.offsets[donor] + (random.random(len(rows)) * liked.lengths[donor]).astype(np.int64)
        return np.asarray(liked.values[place], np.int64)
    popularity = np.bincount(item.values, positive, minlength=items)
    chance = popularity if kind == "popularity" else (popularity > 0).astype(np.float64)
    return np.asarray(random.choice(items, len(rows), p=chance / chance.sum()), np.int64)
