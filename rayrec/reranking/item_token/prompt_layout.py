"""The layout of item-token prompts as token ids, for tuning and scoring; vectorised over users.

    <user> words of the instruction <history>  item item <gap> item <gap> item item <gap until now>

Events with equal timestamps form a group. A gap token after each group encodes the time until the next group (or now).
At gap tokens the model predicts the next item. With an instruction and no events, the longest gap follows <history>.
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
    """The shape of prompts. `words`: the default instruction; `events`: newest events used; `tokens`: the length
    limit."""

    vocabulary: Vocabulary
    words: tuple[int, ...]
    events: int
    tokens: int

    @property
    def prefix(self) -> Int:
        """The prefix of prompts with the default instruction, int64 [p]."""
        return self.prefixes(Ragged.from_lengths(np.array(self.words, np.int64), [len(self.words)])).values

    def prefixes(self, words: Ragged) -> Ragged:
        """The prefixes of prompts: <user>, the words of each row (int64 token ids), <history>."""
        one = np.ones(len(words), np.int64)
        marks = [Ragged.from_lengths(mark * one, one) for mark in (self.vocabulary.user, self.vocabulary.history)]
        return marks[0].joined(words).joined(marks[1])

    def prompts(self, item: Ragged, ts: Ragged, now: int, words: Ragged | None = None) -> Ragged:
        """Prompts as token ids int64, one row a user. `item`: token indices >= 0, oldest first; `ts`, `now`:
        microseconds UTC.

        `words`: token ids of each user's instruction; rows without any get the default. Rows with neither events nor
        words are empty. Rows that are too long lose their oldest events.
        """
        newest = np.minimum(item.lengths, self.events)
        item, ts = item.tails(newest), ts.tails(newest)
        until = np.append(ts.values[1:], now)[: len(ts.values)]  # time of the next event, or `now`
        until[ts.offsets[1:][newest > 0] - 1] = now
        body = interleave(self.vocabulary, item.values, ts.values, newest, until)[0]

        has_words = np.zeros(len(item), np.bool_) if words is None else words.lengths > 0
        alone = has_words & (newest == 0)
        body = body.joined(Ragged.from_lengths(np.full(alone.sum(), self.longest_gap), alone.astype(np.int64)))

        others = Ragged.from_lengths(
            np.tile(self.words, int((~has_words).sum())), np.where(has_words, 0, len(self.words))
        )
        prefix = self.prefixes(others if words is None else words.joined(others))
        space = np.minimum(body.lengths, self.tokens - prefix.lengths)
        return prefix.filter((space > 0)[prefix.rows]).joined(body.tails(space))

    @property
    def longest_gap(self) -> int:
        """The token id of the longest gap."""
        return self.vocabulary.first_gap + len(GAP_DAYS)


def group_ends(ts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each event is the last of its group of equal timestamps, [events]; rows are consecutive and may be
    empty."""
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
    """Rows of events as item and gap tokens, int64, and the event of each token.

    `until` [events]: end of the gap after the last event of a group; ignored for other events.
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
    """The gap bucket of elapsed microseconds."""
    return np.searchsorted(_EDGES, elapsed, side="right")
