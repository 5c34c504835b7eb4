from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.item_vocabulary import Vocabulary
from rayrec.reranking.item_token.prompt_layout import PromptLayout, bucket

VOCABULARY = Vocabulary(pad=0, user=100, history=101, first_gap=102, first_item=110, items=50)
NOW = 1_000 * MICROSECONDS_PER_DAY
_open = settings(max_examples=40, deadline=None)
events = st.lists(st.tuples(st.integers(0, 49), st.integers(0, 900)), max_size=12)


def layout(events: int = 100, tokens: int = 1000) -> PromptLayout:
    return PromptLayout(VOCABULARY, (7, 8), events, tokens)


def ragged(users: list[list[tuple[int, int]]]) -> tuple[Ragged, Ragged]:
    users = [sorted(user, key=lambda event: event[1]) for user in users]
    lengths = [len(user) for user in users]
    item = np.array([event[0] for user in users for event in user], np.int64)
    ts = np.array([event[1] for user in users for event in user], np.int64) * MICROSECONDS_PER_DAY
    return Ragged.from_lengths(item, lengths), Ragged.from_lengths(ts, lengths)


def slowly(item: npt.NDArray[np.int64], ts: npt.NDArray[np.int64]) -> list[int]:
    """The same prompt, one event at a time."""
    if len(item) == 0:
        return []
    out = [VOCABULARY.user, 7, 8, VOCABULARY.history]
    for k in range(len(item)):
        out.append(VOCABULARY.first_item + int(item[k]))
        until = int(ts[k + 1]) if k + 1 < len(item) else NOW
        if k + 1 == len(item) or until != ts[k]:
            out.append(VOCABULARY.first_gap + int(bucket(np.array([until - ts[k]]))[0]))
    return out


@_open
@given(st.lists(events, max_size=6))
def test_prompts_match_a_loop_over_events(users: list[list[tuple[int, int]]]) -> None:
    item, ts = ragged(users)
    prompts = layout().prompts(item, ts, NOW)
    assert [prompts[row].tolist() for row in range(len(users))] == [slowly(item[k], ts[k]) for k in range(len(users))]


@_open
@given(st.lists(events, min_size=1, max_size=4), st.integers(1, 12), st.integers(6, 20))
def test_long_prompts_keep_the_instruction_and_the_newest_events(
    users: list[list[tuple[int, int]]], most: int, tokens: int
) -> None:
    item, ts = ragged(users)
    prompts = layout(most, tokens).prompts(item, ts, NOW)
    for row in range(len(users)):
        newest = slowly(item[row][-most:], ts[row][-most:])
        expected = newest if len(newest) <= tokens else newest[:4] + newest[4 - tokens :]
        assert prompts[row].tolist() == expected


def test_gap_buckets() -> None:
    days = np.array([0, 0.2, 0.25, 1, 2.9, 3, 59, 60, 4000])
    assert bucket((days * MICROSECONDS_PER_DAY).astype(np.int64)).tolist() == [0, 0, 1, 2, 2, 3, 6, 7, 7]
