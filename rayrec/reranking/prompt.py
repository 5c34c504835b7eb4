"""What the model reads, as token ids, for tuning and for scoring alike; vectorised over users.

    <user> words of the instruction <history>  item item <gap> item <gap> item item <gap until now>

Events that share a timestamp are a set: one group. After each group stands one gap token, the time until the next
group (or until now), and there, at a gap token, the model is asked what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.contracts.ragged import Ragged
from rayrec.reranking.vocabulary import GAP_DAYS, Vocabulary

DAY_US = 86_400_000_000
_EDGES = np.array([days * DAY_US for days in GAP_DAYS])


@dataclass(frozen=True)
class Layout:
    """The prompt's shape. `words`: the instruction's tokens; `events`: newest events read; `tokens`: the hard limit."""

    vocabulary: Vocabulary
    words: tuple[int, ...]
    events: int
    tokens: int

    @property
    def prefix(self) -> npt.NDArray[np.int64]:
        """What every prompt starts with, int64 [p]."""
        return np.array([self.vocabulary.user, *self.words, self.vocabulary.history], np.int64)

    def prompts(self, item: Ragged, ts: Ragged, now: int) -> Ragged:
        """Token ids int64, one row a user. `item`: artefact indices >= 0, oldest first; `ts`, `now`: microseconds UTC.

        Rows without events come out empty: there is nothing to read. Rows too long lose their oldest tokens.
        """
        lengths = np.minimum(item.lengths, self.events)
        start = item.offsets[1:] - lengths
        at = np.repeat(start - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        times = ts.values[at]
        until = np.append(times[1:], now)[: len(times)]
        until[np.cumsum(lengths)[lengths > 0] - 1] = now
        return self._with_prefix(interleave(self.vocabulary, item.values[at], times, lengths, until)[0])

    def _with_prefix(self, body: Ragged) -> Ragged:
        prefix = self.prefix
        kept = np.minimum(body.lengths, self.tokens - len(prefix))
        from_end = body.offsets[1:][body.rows] - np.arange(len(body.values))
        tail = body.values[from_end <= kept[body.rows]]
        lengths = np.where(kept > 0, kept + len(prefix), 0)
        out = Ragged.from_lengths(np.empty(lengths.sum(), np.int64), lengths)
        place = np.arange(len(out.values)) - out.offsets[:-1][out.rows]
        out.values[place >= len(prefix)] = tail
        out.values[place < len(prefix)] = np.tile(prefix, int((kept > 0).sum()))
        return out


def group_ends(ts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[events]: true at the last event of each group of equal timestamps; rows follow each other, none needs events."""
    ends = np.ones(len(ts), np.bool_)
    ends[:-1] = ts[1:] != ts[:-1]
    ends[np.cumsum(lengths)[lengths > 0] - 1] = True
    return ends


def interleave(
    vocabulary: Vocabulary,
    item: npt.NDArray[Any],
    ts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    until: npt.NDArray[np.int64],
) -> tuple[Ragged, npt.NDArray[np.int64]]:
    """Rows of events as item and gap tokens, int64, and the event that each token belongs to.

    `until` [events]: for the last event of a group, the time that its gap reaches to; not read elsewhere.
    """
    closing = group_ends(ts, lengths)
    event = np.repeat(np.arange(len(item)), 1 + closing)
    is_gap = np.zeros(len(event), np.bool_)
    is_gap[1:] = event[1:] == event[:-1]
    gaps = vocabulary.first_gap + bucket(until - ts)
    tokens = np.where(is_gap, gaps[event], vocabulary.first_item + item[event])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return Ragged.from_lengths(tokens, lengths + np.bincount(rows[closing], minlength=len(lengths))), event


def bucket(elapsed: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The gap token's number for microseconds elapsed."""
    return np.searchsorted(_EDGES, elapsed, side="right")
