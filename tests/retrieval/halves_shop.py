"""A small dataset with known structure: two kinds of users, each consuming one half of the catalogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from small_tables import item_table

from rayrec.data.schemas import DENOISED_HISTORY, HISTORY, MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.fit_data import FitData, FitDataCollector
from rayrec.retrieval.user_histories import UserHistories

ITEMS, CUT = 40, 100 * MICROSECONDS_PER_DAY


def history_table(histories: dict[str, list[tuple[int, float, int]]]) -> pa.Table:
    """user -> [(item, days before the cutoff, event)], oldest first."""
    lengths = [len(events) for events in histories.values()]
    flat = [event for events in histories.values() for event in events]

    def column(values: list[float], kind: pa.DataType) -> pa.ListArray:
        return Ragged.from_lengths(np.array(values), lengths).to_arrow(kind)

    return pa.table(
        [
            pa.array(list(histories), pa.string()),
            column([item for item, _, _ in flat], pa.int32()),
            column([CUT - int(days * MICROSECONDS_PER_DAY) for _, days, _ in flat], pa.int64()),
            column([event for _, _, event in flat], pa.int8()),
            column([np.nan for _ in flat], pa.float32()),
            column([-1 for _ in flat], pa.int32()),
            pa.array([[]] * len(histories), pa.list_(pa.int32())),
        ],
        schema=HISTORY,
    )


def two_halves(users: int = 60, seed: int = 0) -> pa.Table:
    """Even users consume even items, odd users odd ones; 6 to 11 events each, over 50 days."""
    random = np.random.default_rng(seed)
    histories = {}
    for user in range(users):
        items = random.choice(np.arange(user % 2, ITEMS, 2), random.integers(6, 12), replace=False)
        days = np.sort(random.uniform(0.1, 50, len(items)))[::-1]
        histories[f"user {user}"] = [(int(item), float(day), 0) for item, day in zip(items, days, strict=True)]
    return history_table(histories)


def fit_data(table: pa.Table, items: int = ITEMS) -> FitData:
    """The catalogue names the half of each item."""
    collected = FitDataCollector(items, np.array([1.0, -1.0], np.float32), CUT, 10**6)
    collected.add(table)
    titles = [("leather thing", "wooden thing")[code % 2] for code in range(items)]
    return replace(collected.finish(), catalogue=item_table(title=titles))


def profiles_of(table: pa.Table, items: int = ITEMS) -> UserHistories:
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    return UserHistories(item, ts, item.like(np.ones(len(item.values), np.float32)), items)


def denoised(table: pa.Table, keep: list[float] | None = None) -> pa.Table:
    item = Ragged.from_arrow(table["item"])
    events = len(item.values)
    like = item.like
    columns = [
        *table.columns,
        pa.array(["v"] * len(table)),
        like(np.array(keep if keep is not None else np.ones(events), np.float32)).to_arrow(pa.float32()),
        like(np.zeros(events, np.float32)).to_arrow(pa.float32()),
        like(np.zeros(events, np.float32)).to_arrow(pa.float32()),
        like(np.zeros(events, np.int8)).to_arrow(pa.int8()),
    ]
    return pa.table(columns, schema=DENOISED_HISTORY)
