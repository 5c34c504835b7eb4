"""Bands of items by popularity: the most popular ones, the rest of the short head, the tail."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayrec.numerics.types import Int64s

SHORT_HEAD_SHARE = 0.8  # share of all events on items of the short head
TOP, HEAD, TAIL = 0, 1, 2
_TOP_SHARE = 0.1  # share of all events on the most popular items


def popularity_bands(count: npt.NDArray[np.number]) -> Int64s:
    """The band of each item, [items]: TOP, HEAD or TAIL, from each item's number of events.

    TOP: the most popular items with a tenth of all events; HEAD: the items after those up to 80%; TAIL: the rest.
    """
    events = np.asarray(count, np.float64)
    order = np.argsort(-events, kind="stable")
    before = np.cumsum(events[order]) - events[order]
    bands = np.empty(len(events), np.int64)
    bands[order] = np.searchsorted(np.array([_TOP_SHARE, SHORT_HEAD_SHARE]) * events.sum(), before, side="right")
    return bands
