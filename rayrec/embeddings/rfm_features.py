"""Recency, frequency and value (RFM) features: one row of numbers per user.

They are the model's `profile` source, and a baseline for the embeddings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings.user_events import Events, Items

FEATURES = (
    "recency_days",
    "events",
    "active_days",
    "span_days",
    "gap_days",
    "events_7",
    "events_30",
    "events_90",
    "active_days_30",
    "items_share",
    "value_mean",
    "value_spread",
    "value_sum",
    "price_mean",
    "price_newest",
    "spent",
    "against_share",
    "items",
)
"""Column names. A day has 24 hours; `against_share`: share of events with negative weight; `gap_days`: mean between
active days; `*_newest`: over the newest tenth of the events, at least one; `items`: distinct items."""


def features(events: Events, items: Items) -> npt.NDArray[np.float64]:
    """[users, FEATURES], on a logarithmic scale, sign(x) log(1 + |x|); NaN where a feature is undefined."""
    count = events.lengths.astype(np.float64)
    some = count > 0
    price = items.price[events.item]
    value = events.value.astype(np.float64)
    quantity = np.where(np.isnan(value), 1, value)
    day = events.ts // MICROSECONDS_PER_DAY
    first_of_day = _changes(events.user, day)
    rank = events.offsets[1:][events.user] - np.arange(len(events.item))  # 1: the newest
    newest = rank <= np.maximum(1, np.ceil(count[events.user] / 10))
    first, last = events.offsets[:-1][some], events.offsets[1:][some] - 1
    recency, span = np.full(len(events), np.nan), np.full(len(events), np.nan)
    recency[some] = events.age_days[last]
    span[some] = (events.ts[last] - events.ts[first]) / MICROSECONDS_PER_DAY
    active = _sums(events, first_of_day)
    distinct = _distinct(events)
    recent = {days: events.age_days <= days for days in (7, 30, 90)}
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = _sums(events, np.nan_to_num(value)) / _sums(events, ~np.isnan(value))
        spread = np.sqrt(_mean(events, (value - mean[events.user]) ** 2))
        columns = [
            recency,
            count,
            active,
            span,
            np.where(active > 1, span / (active - 1), np.nan),
            *(_sums(events, recent[days]) for days in (7, 30, 90)),
            _sums(events, first_of_day & recent[30]),
            distinct / count,
            mean,
            spread,
            _sums(events, np.nan_to_num(value)),
            _mean(events, price),
            _mean(events, np.where(newest, price, np.nan)),
            _sums(events, np.nan_to_num(price * quantity)),
            _sums(events, events.weight < 0) / count,
            distinct,
        ]
    table = np.stack(columns, axis=1)
    table[~some] = np.nan
    return np.asarray(np.sign(table) * np.log1p(np.abs(table)))


def _sums(events: Events, of: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    return np.bincount(events.user, of.astype(np.float64), minlength=len(events)).astype(np.float64)


def _mean(events: Events, of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of the values that are not NaN; NaN if there is none."""
    return np.asarray(_sums(events, np.nan_to_num(of)) / _sums(events, ~np.isnan(of)))


def _distinct(events: Events) -> npt.NDArray[np.float64]:
    pairs = np.unique(events.user << 32 | events.item)
    return np.bincount(pairs >> 32, minlength=len(events)).astype(np.float64)


def _changes(*keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """True where any key differs from the row before, and in the first row."""
    changed = np.ones(len(keys[0]), np.bool_)
    if len(changed) > 1:
        changed[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return changed
