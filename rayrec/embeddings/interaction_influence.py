"""Leave-one-out influence of single events on users' embeddings, per instruction.

The views are rebuilt without each event in turn, so the influence is exact for the given model (no linearisation).
Events of high influence can be removed from the vector of one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.embeddings.embedder import Embedder, Vectors
from rayrec.embeddings.source_views import ViewBuilder
from rayrec.embeddings.user_events import Events

_EVENTS_AT_ONCE = 500_000  # in the copies that are held in memory


@dataclass(frozen=True)
class InteractionInfluence:
    """Influence of every event under every instruction, float32 [instructions, events]."""

    influence: npt.NDArray[np.float32]  # 1 - cos(vector with all events, vector without this one), in [0, 2]
    alignment: npt.NDArray[np.float32]  # cos(this event's effect, sum of the user's other events' effects), [-1, 1]


def leave_one_out(
    embedder: Embedder, view_builder: ViewBuilder, events: Events, instructions: Sequence[str]
) -> InteractionInfluence:
    """Measure each event's effect: the vector with it minus the one without it. A user's only event has alignment 0."""
    whole = embedder.embed(view_builder(events), instructions)
    influence, alignment = np.empty((2, len(instructions), len(events.item)), np.float32)
    for first, last in _chunks(events.lengths):
        part = events.take(np.arange(first, last))
        copies = part.take(part.user)
        lacking = copies.offsets[:-1] + np.arange(len(copies)) - part.offsets[part.user]
        mask = np.ones(len(copies.item), np.bool_)
        mask[lacking] = False
        without = embedder.embed(view_builder(copies.filter(mask)), instructions)
        chunk = slice(events.offsets[first], events.offsets[last])
        influence[:, chunk], alignment[:, chunk] = _compare(whole[:, first:last], without, part)
    return InteractionInfluence(influence, alignment)


def _compare(whole: Vectors, without: Vectors, events: Events) -> tuple[Vectors, Vectors]:
    """Influence and alignment [instructions, events] of vectors [instructions, users, dim] and [.., events, dim]."""
    effect = whole[:, events.user] - without
    influence = 1 - (whole[:, events.user] * without).sum(-1)
    total = np.zeros_like(whole)
    some = events.lengths > 0
    if some.any():
        total[:, some] = np.add.reduceat(effect, events.offsets[:-1][some], axis=1)
    others = total[:, events.user] - effect
    length = np.linalg.norm(effect, axis=-1) * np.linalg.norm(others, axis=-1)
    alignment = np.where(length > 1e-12, (effect * others).sum(-1) / np.maximum(length, 1e-12), 0)
    return influence.clip(0, 2), alignment.astype(np.float32)


def most_influential(
    events: Events, influence: npt.NDArray[np.floating[Any]], max_removed_share: float, min_retained: int = 5
) -> npt.NDArray[np.bool_]:
    """Select the events of highest influence above 0: mask [events], given influence [events].

    At most `max_removed_share` of each user's events are selected, and at least `min_retained` of them remain.
    """
    order = np.lexsort((np.arange(len(influence)), -influence, events.user))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order)) - events.offsets[events.user]
    limit = np.minimum(np.floor(events.lengths * max_removed_share), np.maximum(events.lengths - min_retained, 0))
    out: npt.NDArray[np.bool_] = (influence > 0) & (rank < limit[events.user])
    return out


def embed_denoised(
    embedder: Embedder, view_builder: ViewBuilder, events: Events, instruction: str, max_removed_share: float
) -> npt.NDArray[np.float32]:
    """Embed users under one instruction without their `most_influential` events: unit vectors [users, dim]."""
    influence = leave_one_out(embedder, view_builder, events, [instruction]).influence[0]
    retained = events.filter(~most_influential(events, influence, max_removed_share))
    vectors: npt.NDArray[np.float32] = embedder.embed(view_builder(retained), [instruction])[0]
    return vectors


def _chunks(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Split the users into ranges whose copies (one per event, without that event) fit into memory."""
    cost = np.cumsum(lengths**2)
    chunks, first = [], 0
    while first < len(lengths):
        base = cost[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(cost, base + _EVENTS_AT_ONCE, side="right")))
        chunks.append((first, last))
        first = last
    return chunks
