"""Which events matter for a purpose: the embedding without each event, one at a time, per instruction.

Every view is made anew without the event, so this is exact for the model at hand (no linearisation). An instruction's
own noise can then be left out: what pulls the vector against everything else the user did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.embeddings.embedder import Embedder, Vectors
from rayrec.embeddings.source_events import Events
from rayrec.embeddings.source_views import ViewBuilder

_EVENTS_AT_ONCE = 500_000  # events of the copies that are held at a time


@dataclass(frozen=True)
class InteractionInfluence:
    """Of every event, for every instruction: float32 [instructions, events]."""

    influence: npt.NDArray[np.float32]  # 1 - cos(with all events, without this one), in [0, 2]
    alignment: npt.NDArray[np.float32]  # cos(where this event pulls, where the user's others pull together), [-1, 1]


def leave_one_out(
    embedder: Embedder, viewer: ViewBuilder, events: Events, instructions: Sequence[str]
) -> InteractionInfluence:
    """The pull of an event is the embedding with it less the embedding without it. A user's only event agrees (0)."""
    whole = embedder.embed(viewer(events), instructions)
    influence, alignment = np.empty((2, len(instructions), len(events.item)), np.float32)
    for first, last in _chunks(events.lengths):
        part = events.take(np.arange(first, last))
        copies = part.take(part.user)
        lacking = copies.offsets[:-1] + np.arange(len(copies)) - part.offsets[part.user]
        mask = np.ones(len(copies.item), np.bool_)
        mask[lacking] = False
        without = embedder.embed(viewer(copies.filter(mask)), instructions)
        own = slice(events.offsets[first], events.offsets[last])
        influence[:, own], alignment[:, own] = _compared(whole[:, first:last], without, part)
    return InteractionInfluence(influence, alignment)


def _compared(whole: Vectors, without: Vectors, events: Events) -> tuple[Vectors, Vectors]:
    """Influence and agreement [instructions, events] of vectors [instructions, users, dim] and [.., events, dim]."""
    pull = whole[:, events.user] - without
    influence = 1 - (whole[:, events.user] * without).sum(-1)
    together = np.zeros_like(whole)
    some = events.lengths > 0
    if some.any():
        together[:, some] = np.add.reduceat(pull, events.offsets[:-1][some], axis=1)
    others = together[:, events.user] - pull
    length = np.linalg.norm(pull, axis=-1) * np.linalg.norm(others, axis=-1)
    alignment = np.where(length > 1e-12, (pull * others).sum(-1) / np.maximum(length, 1e-12), 0)
    return influence.clip(0, 2), alignment.astype(np.float32)


def least_aligned(
    events: Events, alignment: npt.NDArray[np.floating[Any]], max_share: float, min_keep: int = 5
) -> npt.NDArray[np.bool_]:
    """The events to leave out for one purpose, [events]: those that disagree (below 0), the most first.

    agreement: [events]. Of each user at most `max_share`, and never so many that fewer than `min_keep` stay.
    """
    return _first(events, -alignment, max_share, min_keep)


def most_influential(
    events: Events, influence: npt.NDArray[np.floating[Any]], max_share: float, min_keep: int = 5
) -> npt.NDArray[np.bool_]:
    """The events to leave out for one purpose, [events]: those of greatest influence; otherwise as `disagreeing`."""
    return _first(events, influence, max_share, min_keep)


def removed(events: Events, found: InteractionInfluence, k: int, max_share: float) -> npt.NDArray[np.bool_]:
    """The events that the nightly job leaves out of vectors under the k-th instruction, [events]."""
    return most_influential(events, found.influence[k], max_share)


def embed_denoised(
    embedder: Embedder, viewer: ViewBuilder, events: Events, instruction: str, max_share: float
) -> npt.NDArray[np.float32]:
    """Unit vectors [users, dim] under one instruction, made without `left_out`."""
    gone = removed(events, leave_one_out(embedder, viewer, events, [instruction]), 0, max_share)
    vectors: npt.NDArray[np.float32] = embedder.embed(viewer(events.filter(~gone)), [instruction])[0]
    return vectors


def _first(
    events: Events, score: npt.NDArray[np.floating[Any]], max_share: float, min_keep: int
) -> npt.NDArray[np.bool_]:
    """Each user's events of highest score, above 0."""
    order = np.lexsort((np.arange(len(score)), -score, events.user))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - events.offsets[events.user]
    room = np.minimum(np.floor(events.lengths * max_share), np.maximum(events.lengths - min_keep, 0))
    out: npt.NDArray[np.bool_] = (score > 0) & (rank < room[events.user])
    return out


def _chunks(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Users in a row whose copies (one an event, of all but one of them) are few enough to be held."""
    cost = np.cumsum(lengths**2)
    chunks, first = [], 0
    while first < len(lengths):
        base = cost[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(cost, base + _EVENTS_AT_ONCE, side="right")))
        chunks.append((first, last))
        first = last
    return chunks
