"""Queries and targets of an epoch, against a computation one user at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tuning_cases import as_table, settings

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.item_vocabulary import Vocabulary
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.tuning_examples import (
    Sequences,
    TuningExamples,
    batches,
    collate,
    epoch_examples,
    has_examples,
    validation_examples,
)

ITEMS = 12
VOCABULARY = Vocabulary(pad=0, user=20, history=21, first_gap=22, first_item=30, items=ITEMS)
LAYOUT = PromptLayout(VOCABULARY, (5, 6), 100, 300)
PREFIX = 4
NOW = 100 * MICROSECONDS_PER_DAY
History = list[tuple[int, int]]  # (item, hour)
histories = st.lists(
    st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, 2000)), max_size=10), min_size=1, max_size=5
)
_open = hypothesis_settings(max_examples=40, deadline=None)


def sequences(users: list[History], until: int = NOW) -> Sequences:
    ordered = [sorted(user, key=lambda event: event[1]) for user in users]
    item = Ragged.from_lengths(
        np.array([event[0] for user in ordered for event in user], np.int64), [len(user) for user in ordered]
    )
    hours = np.array([event[1] for user in ordered for event in user], np.int64)
    return Sequences.from_tables([as_table(item, hours * (MICROSECONDS_PER_DAY // 24))], np.arange(ITEMS), until)


def queries_of(examples: TuningExamples) -> list[list[tuple[int, frozenset[int]]]]:
    """For each row, its queries: (moment, targets)."""
    out, query = [], 0
    for row in range(len(examples)):
        queries = []
        for _ in range(int(examples.query.lengths[row])):
            queries.append((int(examples.cutoff[query]), frozenset(examples.target[query].tolist())))
            query += 1
        out.append(queries)
    return out


@_open
@given(histories, st.integers(0, 3))
def test_targets_are_the_new_items_within_the_horizon(users: list[History], seed: int) -> None:
    chosen = settings(horizon_days=7.0, item_dropout=0.0, events=100)
    examples = epoch_examples(sequences(users), LAYOUT, chosen, NOW, np.random.default_rng(seed))
    hour, horizon = MICROSECONDS_PER_DAY // 24, 7 * MICROSECONDS_PER_DAY
    rows = [user for user in users if len({when for _, when in user}) > 1]
    assert len(examples) == len(rows)
    for user, queries in zip(rows, queries_of(examples), strict=True):
        moments = sorted({when * hour for _, when in user})
        assert len(queries) == len(moments) - 1
        for (before, after), (cut, targets) in zip(itertools.pairwise(moments), queries, strict=True):
            assert max(before, after - horizon) <= cut <= after
            seen = {item for item, when in user if when * hour <= before}
            later = {item for item, when in user if before < when * hour <= max(cut + horizon, after)}
            assert targets == later - seen


@_open
@given(histories, st.integers(0, 3), st.floats(0, 0.6))
def test_queries_are_at_gap_tokens_after_known_events(users: list[History], seed: int, dropout: float) -> None:
    chosen = settings(item_dropout=dropout, events=100)
    examples = epoch_examples(sequences(users), LAYOUT, chosen, NOW, np.random.default_rng(seed))
    for row in range(len(examples)):
        tokens, places = examples.tokens[row], examples.query[row]
        assert tokens[:PREFIX].tolist() == [VOCABULARY.user, 5, 6, VOCABULARY.history]
        gaps = np.flatnonzero((tokens >= VOCABULARY.first_gap) & (tokens < VOCABULARY.first_item))
        np.testing.assert_array_equal(places, gaps)
        assert places[-1] == len(tokens) - 1  # nothing follows the last query


def test_events_of_one_basket_are_shuffled_in_every_epoch() -> None:
    data = sequences([[(item, 0) for item in range(8)] + [(9, 50)]])
    chosen = settings(item_dropout=0.0)
    seen = {
        tuple(epoch_examples(data, LAYOUT, chosen, NOW, np.random.default_rng(seed)).tokens.values) for seed in range(5)
    }
    assert len(seen) == 5
    assert len({tuple(sorted(tokens)) for tokens in seen}) == 1


def test_long_history_gives_a_random_window() -> None:
    data = sequences([[(k % ITEMS, k) for k in range(60)]])
    chosen = settings(events=10, item_dropout=0.0)
    starts = set()
    for seed in range(12):
        tokens = epoch_examples(data, LAYOUT, chosen, NOW, np.random.default_rng(seed)).tokens[0]
        items = tokens[tokens >= VOCABULARY.first_item]
        assert len(items) == 9  # the tenth is only a target
        starts.add(int(items[0]))
    assert len(starts) > 3


def test_target_weights_combine_keep_weight_share_and_age() -> None:
    item = Ragged.from_lengths(np.array([0, 1, 2]), [3])
    table = as_table(item, [0, MICROSECONDS_PER_DAY, MICROSECONDS_PER_DAY], [1.0, 0.5, 1.0])
    data = Sequences.from_tables([table], np.arange(ITEMS), NOW)
    for half_life in (0.0, 10.0):
        chosen = settings(target_half_life_days=half_life, item_dropout=0.0)
        examples = epoch_examples(data, LAYOUT, chosen, NOW, np.random.default_rng(0))
        weight = dict(zip(examples.target.values.tolist(), examples.weight.values.tolist(), strict=True))
        age = 0.5 ** ((NOW - examples.cutoff[0]) / MICROSECONDS_PER_DAY / half_life) if half_life else 1.0
        assert weight[1] == pytest.approx(0.5 / np.sqrt(2) * age, rel=1e-5)
        assert weight[2] == pytest.approx(1 / np.sqrt(2) * age, rel=1e-5)


@_open
@given(histories, st.integers(10, 2000))
def test_validation_prompts_match_scoring_and_targets_come_after(users: list[History], hour: int) -> None:
    now = hour * (MICROSECONDS_PER_DAY // 24)
    examples = validation_examples(sequences(users, until=NOW), LAYOUT, now)
    expected = []
    for user in users:
        past = {item for item, when in user if when < hour}
        if past and any(when >= hour for _, when in user):
            expected.append(frozenset({item for item, when in user if when >= hour} - past))
    assert [queries[0][1] for queries in queries_of(examples)] == expected
    assert set(examples.cutoff.tolist()) <= {now}
    known = sequences([[event for event in user if event[1] < hour] for user in users], until=NOW)
    prompts = LAYOUT.prompts(known.item, known.ts, now)
    for row in range(len(examples)):
        assert any(np.array_equal(examples.tokens[row], prompts[k]) for k in range(len(prompts)))


@_open
@given(histories, st.integers(8, 64))
def test_batches_contain_every_row_once_within_the_budget(users: list[History], budget: int) -> None:
    examples = epoch_examples(sequences(users), LAYOUT, settings(events=100), NOW, np.random.default_rng(0))
    plan = batches(examples, budget, np.random.default_rng(1))
    assert sorted(row for rows in plan for row in rows) == list(range(len(examples)))
    total = 0
    for rows in plan:
        batch = collate(examples, rows, VOCABULARY.pad)
        assert len(rows) == 1 or batch.tokens.size <= budget
        flat = batch.tokens.reshape(-1)[batch.place]
        assert ((flat >= VOCABULARY.first_gap) & (flat < VOCABULARY.first_item)).all()
        assert len(batch.target) == len(batch.query) == len(batch.weight)
        total += len(batch.target)
    assert total == len(examples.target.values)


@pytest.mark.parametrize(
    ("users", "min_item_events", "enough"),
    [
        ([[(0, 1), (1, 2)]] * 20, 5, True),
        ([[(0, 1), (1, 2)]] * 19, 5, False),
        ([[(0, 1), (1, 2)]] * 20, 21, False),  # no item has so many events
        ([[(0, 1), (1, 1)]] * 20, 5, False),  # one group: nothing follows it
        ([[(0, 1), (0, 2)]] * 20, 5, False),  # nothing new follows
        ([[(0, 1), (n % ITEMS, 2)] for n in range(40)], 5, False),  # what follows has no token
        ([[(0, 1), (1, 2401)]] * 20, 5, False),  # what follows is after the cutoff
        ([], 1, False),
    ],
)
def test_a_tuning_needs_users_to_whom_something_new_with_a_token_happened(
    users: list[History], min_item_events: int, enough: bool
) -> None:
    def tables() -> list[pa.Table]:
        parts = []
        for part in (users[:7], users[7:]):
            item = Ragged.from_lengths(
                np.array([item for user in part for item, _ in user], np.int64), [len(user) for user in part]
            )
            hours = np.array([hour for user in part for _, hour in user], np.int64)
            parts.append(as_table(item, hours * (MICROSECONDS_PER_DAY // 24)))
        return parts

    assert has_examples(tables, ITEMS, settings(min_item_events=min_item_events), NOW) is enough
