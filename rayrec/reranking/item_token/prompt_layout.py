"""What the model reads, as token ids, for tuning and for scoring alike; vectorised over users.

    <user> words of the instruction <history>  item item <gap> item <gap> item item <gap until now>

Events that share a timestamp are a set: one group. After each group stands one gap token, the time until the next
group (or until now), and there, at a gap token, the model is asked what comes next. A user without events who asks for
something is asked at the longest gap, right after <history>.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.item_vocabulary import GAP_DAYS, Vocabulary

Int = npt.NDArray[np.int64]
_EDGES = np.array([days * MICROSECONDS_PER_DAY for days in GAP_DAYS])


@dataclass(frozen=True)
class PromptLayout:
    """The prompt's shape. `words`: the instruction's tokens; `events`: newest events read; `tokens`: the hard limit."""

    vocabulary: Vocabulary
    words: tuple[int, ...]
    events: int
    tokens: int

    @property
    def prefix(self) -> Int:
        """What a prompt with the layout's own instruction starts with, int64 [p]."""
        return self.prefixes(Ragged.from_lengths(np.array(self.words, np.int64), [len(self.words)])).values

    def prefixes(self, words: Ragged) -> Ragged:
        """What prompts start with: <user>, each row's words (int64 token ids), <history>."""
        one = np.ones(len(words), np.int64)
        marks = [Ragged.from_lengths(mark * one, one) for mark in (self.vocabulary.user, self.vocabulary.history)]
        return marks[0].joined(words).joined(marks[1])

    def prompts(self, item: Ragged, ts: Ragged, now: int, words: Ragged | None = None) -> Ragged:
        """Token ids int64, one row a user. `item`: artefact indices >= 0, oldest first; `ts`, `now`: microseconds UTC.

        `words`: token ids of what each user asks for; a row without any has the layout's own instruction. Rows with
        neither events nor words come out empty: there is nothing to read. Rows too long lose their oldest events.
        """
        newest = np.minimum(item.lengths, self.events)
        item, ts = item.tails(newest), ts.tails(newest)
        until = np.append(ts.values[1:], now)[: len(ts.values)]  # the next event's time
        until[ts.offsets[1:][newest > 0] - 1] = now  # where there is none
        body = interleave(self.vocabulary, item.values, ts.values, newest, until)[0]

        asks = np.zeros(len(item), np.bool_) if words is None else words.lengths > 0
        alone = asks & (newest == 0)
        body = body.joined(Ragged.from_lengths(np.full(alone.sum(), self.longest_gap), alone.astype(np.int64)))

        others = Ragged.from_lengths(np.tile(self.words, int((~asks).sum())), np.where(asks, 0, len(self.words)))
        prefix = self.prefixes(others if words is None else words.joined(others))
        kept = np.minimum(body.lengths, self.tokens - prefix.lengths)
        return prefix.filter((kept > 0)[prefix.rows]).joined(body.tails(kept))

    @property
    def longest_gap(self) -> int:
        """The token of the longest gap."""
        return self.vocabulary.first_gap + len(GAP_DAYS)


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
