"""What denoising takes out of what: counts by event type, age and popularity, summed shard by shard (SUMMARY).

| quantity           | arm     | key                                  | count  |
|--------------------|---------|--------------------------------------|--------|
| out by event       | variant | event type/all, event type/out       | events |
| out by age         | variant | age band/all, age band/out           | events |
| out by popularity  | variant | popularity band/all, .../out         | events |

Popularity is a covariate, not a verdict: a method that takes out the tail alone has learned what is popular.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.evaluation.beyond_accuracy import SHORT_HEAD_SHARE
from rayrec.monitoring.run_statistics import RUN_STATISTICS, merge
from rayrec.numerics.ragged import Ragged

AGES = (
    (0.0, "under a day"),
    (1.0, "1 to 7 days"),
    (7.0, "7 to 28 days"),
    (28.0, "28 to 90 days"),
    (90.0, "older"),
)
POPULAR = ("top tenth of events", f"to {SHORT_HEAD_SHARE:.0%} of events", "tail")
_HIT = 0.1  # share of the events that the most popular items of all have

Ints = npt.NDArray[np.int64]


def popularity_bands(count: npt.NDArray[np.number]) -> Ints:
    """The band of each item, [items], as an index into POPULAR, from the events of each: the most popular items that
    have a tenth of them, those after until 80%, and the rest."""
    events = np.asarray(count, np.float64)
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    bands = np.empty(len(events), np.int64)
    bands[order] = np.searchsorted(np.array([_HIT, SHORT_HEAD_SHARE]) * events.sum(), before, side="right")
    return bands


def summarise_removals(denoised: pa.Table, events: Sequence[str], now: int, bands: Ints) -> pa.Table:
    """SUMMARY of DENOISED_HISTORY rows; `events`: names in the order of `data.events`; `now`: microseconds UTC; `bands`: of
    each item."""
    parts = []
    for variant in pc.unique(denoised["variant"]).to_pylist():
        rows = denoised.filter(pc.equal(denoised["variant"], variant))
        out = Ragged.from_arrow(rows["reason"]).values > 0
        days = (now - Ragged.from_arrow(rows["ts"]).values) / MICROSECONDS_PER_DAY
        age = np.searchsorted([low for low, _ in AGES[1:]], days, side="right")
        parts += [
            _counts("out by event", variant, events, Ragged.from_arrow(rows["event"]).values, out),
            _counts("out by age", variant, [name for _, name in AGES], age, out),
            _counts("out by popularity", variant, POPULAR, bands[Ragged.from_arrow(rows["item"]).values], out),
        ]
    return merge(parts)


def _counts(
    quantity: str, variant: str, names: Sequence[str], code: npt.NDArray[np.integer], out: npt.NDArray[np.bool_]
) -> pa.Table:
    counted = {"all": np.bincount(code, minlength=len(names)), "out": np.bincount(code[out], minlength=len(names))}
    rows = [
        {"quantity": quantity, "arm": variant, "key": f"{name}/{which}", "count": float(count)}
        for which, counts in counted.items()
        for name, count in zip(names, counts, strict=True)
        if counted["all"][names.index(name)]
    ]
    return pa.Table.from_pylist(rows, RUN_STATISTICS)
