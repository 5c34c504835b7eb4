"""Which interactions denoising removes: counts by event type, age and item popularity (RUN_STATISTICS).

Popularity is a covariate: a method that removes only tail items has learned popularity instead of noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.monitoring.run_statistics import count_statistics, merge
from rayrec.numerics.popularity_bands import SHORT_HEAD_SHARE
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Int64s

AGES = ((0.0, "under a day"), (1.0, "1 to 7 days"), (7.0, "7 to 28 days"), (28.0, "28 to 90 days"), (90.0, "older"))
POPULARITY_BANDS = ("top tenth of events", f"to {SHORT_HEAD_SHARE:.0%} of events", "tail")  # in the bands' order


def summarise_removals(denoised: pa.Table, events: Sequence[str], now: int, bands: Int64s) -> pa.Table:
    """RUN_STATISTICS of DENOISED_HISTORY rows.

    `events`: names in the order of `data.events`; `now`: microseconds UTC; `bands` [items]: see `popularity_bands`.
    """
    parts = []
    for variant in pc.unique(denoised["variant"]).to_pylist():
        rows = denoised.filter(pc.equal(denoised["variant"], variant))
        removed = Ragged.from_arrow(rows["reason"]).values > 0
        days = (now - Ragged.from_arrow(rows["ts"]).values) / MICROSECONDS_PER_DAY
        age = np.searchsorted([low for low, _ in AGES[1:]], days, side="right")
        band = bands[Ragged.from_arrow(rows["item"]).values]
        counts = {
            "removed by event": _counts(events, Ragged.from_arrow(rows["event"]).values, removed),
            "removed by age": _counts([name for _, name in AGES], age, removed),
            "removed by popularity": _counts(POPULARITY_BANDS, band, removed),
        }
        parts += [count_statistics(statistic, {variant: by_key}) for statistic, by_key in counts.items()]
    return merge(parts)


def _counts(names: Sequence[str], code: npt.NDArray[np.integer], removed: Bools) -> dict[str, float]:
    """Number of interactions and of removed ones, by `name/all` and `name/removed`; names without any are omitted."""
    every = np.bincount(code, minlength=len(names))
    out = np.bincount(code[removed], minlength=len(names))
    there = [(number, name) for number, name in enumerate(names) if every[number]]
    removed_by_name = {f"{name}/removed": float(out[n]) for n, name in there}
    return {f"{name}/all": float(every[n]) for n, name in there} | removed_by_name
