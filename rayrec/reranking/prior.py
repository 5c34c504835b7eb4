"""Decayed popularity on every day of the tuning window: what the model need not learn.

The loss adds log prior(item on the day of the query) to the logits as a constant, so that the model spends itself on
what popularity cannot know; the blend of the slate brings popularity back in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.reranking.prompt import DAY_US
from rayrec.reranking.tuning_data import Sequences

_FLOOR = 1e-5  # share of an item that nobody takes


class Prior:
    """log(share + floor) of each item before each day, float32 [days, items]."""

    def __init__(self, events: Sequences, items: int, now: int, half_life_days: float) -> None:
        ts = events.ts.values
        known = ts < now
        self._origin = int(ts.min(initial=now)) // DAY_US * DAY_US
        days = max(0, -(-(now - self._origin) // DAY_US)) + 1
        elapsed = (ts[known] - self._origin) / DAY_US
        day = elapsed.astype(np.int64)
        decayed = 0.5 ** ((day + 1 - elapsed) / half_life_days)
        mass = np.bincount(day * items + events.item.values[known], decayed, minlength=days * items)
        mass = mass.reshape(days, items)[:days].astype(np.float32)
        self._table = np.zeros((days + 1, items), np.float32)
        for d in range(days):
            self._table[d + 1] = self._table[d] * np.float32(0.5 ** (1 / half_life_days)) + mass[d]
        total = np.maximum(self._table.sum(1, keepdims=True), 1e-9)
        self._table = np.log(self._table / total + _FLOOR)

    def rows(self, cut: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """For moments [queries], microseconds UTC: log prior [queries, items] of what was known before their day."""
        day = np.clip((cut - self._origin) // DAY_US, 0, len(self._table) - 1)
        picked: npt.NDArray[np.float32] = self._table[day]
        return picked
