"""Tuning examples: prompts and targets of one epoch from users' events; vectorised and deterministic in the seed.

Every gap token (see `prompt_layout`) is a query: which *new* items does the user consume within the horizon? The target
is a set. Events with equal timestamps are a set too, so they are shuffled in every epoch. Scoring happens at a random
moment, so the gap shown ends at a random moment before the user's next event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.config import Tuning
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.prompt_layout import PromptLayout, group_ends, interleave

Int = npt.NDArray[np.int64]
_ENOUGH_USERS = 20  # with an example, to tune at an earlier cutoff: as many as the blender needs
_MAX_TARGETS = 64  # per query, the nearest new items; baskets may be huge


@dataclass(frozen=True)
class Sequences:
    """Event sequences, one row a user, oldest first; all members share their offsets."""

    item: Ragged  # int64 token indices
    ts: Ragged  # int64 microseconds UTC
    weight: Ragged  # float32 > 0: the keep weight

    @classmethod
    def from_tables(cls, tables: Iterable[pa.Table], index: Int, until: int) -> Sequences:
        """From tables of (item list<int32 code>, ts list<int64>, keep list<float32>); `index`: code -> token index or
        -1.

        Excludes events without a token, removed events (keep 0), events at or after `until`, and users without events.
        """
        parts = [_one(table, index, until) for table in tables]
        kinds = (np.int64, np.int64, np.int64, np.float32)  # an untyped empty array would turn all into float64
        empty = tuple(np.empty(0, kind) for kind in kinds)
        lengths, items, ts, weight = (np.concatenate(members) for members in zip(empty, *parts, strict=True))
        item = Ragged.from_lengths(items, lengths)
        return cls(item, item.like(ts), item.like(weight))

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class TuningExamples:
    """The prompts of one epoch. `query`: positions of the queries in each row; the later members are per query."""

    tokens: Ragged  # int64 [rows]
    query: Ragged  # int64 [rows]
    cutoff: Int  # [queries] microseconds UTC
    target: Ragged  # int64 token indices, one row a query
    weight: Ragged  # float32, aligned with target
    request_facets: Int  # [queries, 3] two included facets and an excluded one; -1: none

    def __len__(self) -> int:
        return len(self.tokens)


def no_request(queries: int) -> Int:
    """`TuningExamples.request_facets` of prompts without a request."""
    return np.full((queries, 3), -1)


def epoch_examples(
    events: Sequences, layout: PromptLayout, settings: Tuning, now: int, rng: np.random.Generator
) -> TuningExamples:
    """One example per user: a random window of `settings.events` events, with a query after every group except the
    last."""
    item, ts, weight = _shuffled_ties(events, rng)
    window, lengths = _windows(events.item, settings.events, rng)
    horizon = int(settings.horizon_days * MICROSECONDS_PER_DAY)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    has_query = group_ends(ts[window], lengths)
    has_query[np.cumsum(lengths) - 1] = False  # the events after the last group are unknown
    at = window[has_query]
    cutoff = np.maximum(ts[at], ts[at + 1] - (rng.random(len(at)) * horizon).astype(np.int64))
    target, weights = _targets(events.item.rows, item, ts, weight, at, cutoff, horizon)
    if settings.target_half_life_days:
        age = (now - np.repeat(cutoff, target.lengths)) / MICROSECONDS_PER_DAY
        weights *= np.float32(0.5) ** (age / settings.target_half_life_days).astype(np.float32)

    until = np.append(ts[1:], 0)[window]
    until[has_query] = cutoff
    tokens, place = interleave(layout.vocabulary, item[window], ts[window], lengths, until)
    # Events after the last query of a row are targets only. Some items are hidden at random (dropout).
    last = np.full(len(lengths), -1)
    np.maximum.at(last, rows[has_query], np.flatnonzero(has_query))
    event = tokens.like(place)
    gap = tokens.values < layout.vocabulary.first_item
    hidden = (rng.random(len(window)) < settings.item_dropout)[event.values] & ~gap
    shown = ~hidden & (event.values <= last[tokens.rows])
    is_query = gap & has_query[event.values] & shown
    return _with_prefix(layout, tokens, shown, is_query, cutoff, target, weights)


def validation_examples(events: Sequences, layout: PromptLayout, now: int) -> TuningExamples:
    """Prompts as for scoring at `now`; targets are the new items that the users consumed since."""
    item, ts, weight = events.item.values, events.ts.values, events.weight.values
    known = np.bincount(events.item.rows[ts < now], minlength=len(events))
    start = events.item.offsets[:-1]
    later = np.diff(events.item.offsets) - known
    users = np.flatnonzero((known > 0) & (later > 0))
    at = start[users] + known[users] - 1
    target, weights = _targets(
        events.item.rows, item, ts, weight, at, np.full(len(at), now), int(ts.max(initial=now)) - now
    )
    keep = np.zeros(len(events), np.bool_)
    keep[users] = True
    history = (ts < now) & keep[events.item.rows]
    past = events.item.filter(history)
    prompts = layout.prompts(past, past.like(ts[history]), now)
    read = prompts.lengths > 0
    prompts = Ragged.from_lengths(prompts.values, prompts.lengths[read])
    query = Ragged.from_lengths(prompts.lengths - 1, np.ones(len(prompts), np.int64))
    return TuningExamples(prompts, query, np.full(len(at), now), target, target.like(weights), no_request(len(at)))


@dataclass(frozen=True)
class Batch:
    """Padded token ids [rows, length] and, flat, the positions of the queries and their targets."""

    tokens: Int
    place: Int  # [queries] position in tokens.reshape(-1)
    cutoff: Int  # [queries]
    target: Int  # [targets]
    query: Int  # [targets] the query of each
    weight: npt.NDArray[np.float32]  # [targets]
    request_facets: Int  # [queries, 3]


def batches(examples: TuningExamples, batch_tokens: int, rng: np.random.Generator | None) -> list[Int]:
    """Batches of rows of similar length within the token budget (padding included), as row numbers; shuffled by
    `rng`."""
    lengths = examples.tokens.lengths
    ties = rng.random(len(lengths)) if rng is not None else np.arange(len(lengths))
    order = np.lexsort((ties, lengths))[::-1]
    out = []
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // int(lengths[order[start]]))
        out.append(order[start : start + size])
        start += size
    if rng is not None:
        out = [out[k] for k in rng.permutation(len(out))]
    return out


def collate(examples: TuningExamples, rows: Int, pad: int) -> Batch:
    """One batch from some rows."""
    lengths = examples.tokens.lengths[rows]
    tokens = np.full((len(rows), int(lengths.max(initial=1))), pad)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = examples.tokens.take(rows).values
    per_row = examples.query.lengths[rows]
    place = examples.query.take(rows).values + np.repeat(np.arange(len(rows)) * tokens.shape[1], per_row)
    queries = examples.query.like(np.arange(len(examples.cutoff))).take(rows).values
    counts = examples.target.lengths[queries]
    return Batch(
        tokens,
        place,
        examples.cutoff[queries],
        examples.target.take(queries).values,
        np.repeat(np.arange(len(queries)), counts),
        examples.weight.take(queries).values,
        examples.request_facets[queries],
    )


def item_counts(tables: Iterable[pa.Table], items: int, until: int) -> Int:
    """Number of events of each item code that tuning uses, [items]."""
    total = np.zeros(items, np.int64)
    everything = np.arange(items)
    for table in tables:
        total += np.bincount(_one(table, everything, until)[1], minlength=items)
    return total


def has_examples(tables: Callable[[], Iterable[pa.Table]], items: int, settings: Tuning, now: int) -> bool:
    """Whether at least 20 users have an example before `now`: two groups of events, with a new item that has a token.

    `tables`: opens the tuning sequences, which are read only as far as needed.
    """
    counts, users = np.zeros(items, np.int64), 0
    for table in tables():
        counts += item_counts([table], items, now)
        users += _with_new_items(table, counts >= settings.min_item_events, now)
        if users >= _ENOUGH_USERS:
            return True
    token = counts >= settings.min_item_events
    return sum(_with_new_items(table, token, now) for table in tables()) >= _ENOUGH_USERS


def _with_new_items(table: pa.Table, token: npt.NDArray[np.bool_], now: int) -> int:
    """Number of users whose later events have an item with a token that their first group of events lacks."""
    index = np.where(token, np.arange(len(token)), -1)
    lengths, item, ts, _ = _one(table, index, now)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    key = rows << 32 | item
    first = ts == ts[np.cumsum(lengths) - lengths][rows]
    new = ~first & ~np.isin(key, key[first])
    return len(np.unique(rows[new]))


def _one(table: pa.Table, index: Int, until: int) -> tuple[Int, Int, Int, npt.NDArray[np.float32]]:
    codes, ts, keep = (Ragged.from_arrow(table[name]) for name in ("item", "ts", "keep_weight"))
    items = index[codes.values]
    good = (items >= 0) & (keep.values > 0) & (ts.values < until)
    counts = np.bincount(codes.rows[good], minlength=len(codes))
    return counts[counts > 0], items[good], ts.values[good], keep.values[good]


def _shuffled_ties(events: Sequences, rng: np.random.Generator) -> tuple[Int, Int, npt.NDArray[np.float32]]:
    order = np.lexsort((rng.random(len(events.ts.values)), events.ts.values, events.ts.rows))
    return events.item.values[order], events.ts.values, events.weight.values[order]


def _windows(item: Ragged, most: int, rng: np.random.Generator) -> tuple[Int, Int]:
    """Indices of the events of one random window per user, and the windows' lengths [rows]."""
    lengths = np.minimum(item.lengths, most)
    start = item.offsets[:-1] + (rng.random(len(item)) * (item.lengths - lengths + 1)).astype(np.int64)
    first = np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    return first + np.arange(lengths.sum()), lengths


def _targets(
    rows: Int, item: Int, ts: Int, weight: npt.NDArray[np.float32], at: Int, cutoff: Int, horizon: int
) -> tuple[Ragged, npt.NDArray[np.float32]]:
    """Targets of queries after the events `at`: items new to the user within the horizon of `cutoff`, or else in the
    next group.

    The targets of a query weigh 1/sqrt(their number) each, times their keep weights.

    Events are sorted by row and time, so row x span + time, with a span above all times, is sorted too, and one search
    finds the end event of every query. Targets are the `fresh` events (the first of their row with their item) from
    `at` to there.
    """
    fresh = np.sort(np.unique(rows * (int(item.max(initial=0)) + 1) + item, return_index=True)[1])
    origin = int(ts.min(initial=0))
    span = (int(ts.max(initial=0)) - origin + horizon) // 1000 + 2  # milliseconds, because rows x microseconds overflow
    clock = rows * span + (ts - origin) // 1000
    end = np.searchsorted(clock, rows[at] * span + (cutoff + horizon - origin) // 1000, side="right")
    end = np.maximum(end, np.searchsorted(clock, clock[at + 1], side="right"))
    low, high = np.searchsorted(fresh, at + 1), np.searchsorted(fresh, end)
    counts = np.minimum(high - low, _MAX_TARGETS)
    picked = fresh[np.repeat(low - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())]
    share = 1 / np.sqrt(np.repeat(counts, counts))
    return Ragged.from_lengths(item[picked], counts), (weight[picked] * share).astype(np.float32)


def _with_prefix(
    layout: PromptLayout,
    tokens: Ragged,
    shown: npt.NDArray[np.bool_],
    is_query: npt.NDArray[np.bool_],
    cutoff: Int,
    target: Ragged,
    weights: npt.NDArray[np.float32],
) -> TuningExamples:
    """The shown tokens with the prefix prepended; rows without a query are dropped."""
    body, per_row = tokens.filter(shown), np.bincount(tokens.rows[is_query], minlength=len(tokens))
    query = Ragged.from_lengths(np.flatnonzero(is_query[shown]), per_row)
    rows = np.flatnonzero(query.lengths > 0)
    place = query.like(query.values - body.offsets[:-1][query.rows] + len(layout.prefix)).take(rows)
    prefix = Ragged.from_lengths(np.tile(layout.prefix, len(rows)), np.full(len(rows), len(layout.prefix)))
    tokens = prefix.joined(body.take(rows))
    return TuningExamples(tokens, place, cutoff, target, target.like(weights), no_request(len(cutoff)))
