from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_model import INSTRUCTION, KNOWN, catalogue
from small_tables import candidate_table

from rayrec.data.schemas import MICROSECONDS_PER_DAY, reranked_schema
from rayrec.reranking.engines.engine import Engine, Failure
from rayrec.reranking.item_token import item_token_ranker
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

NOW = 100 * MICROSECONDS_PER_DAY
SOURCES = ("ease", "popularity")
Row = tuple[str, list[int], list[int]]  # user, history codes, candidate codes


def table(rows: list[Row]) -> pa.Table:
    """The newest event of each history is one day old, the one before two days, and so on."""
    users, items, candidates = [[row[k] for row in rows] for k in range(3)]
    ts = [[NOW - (len(row) - k) * MICROSECONDS_PER_DAY for k in range(len(row))] for row in items]
    scores = {name: [[0.5] * len(row) for row in candidates] for name in SOURCES}
    return candidate_table(users, items, candidates, ts=ts, **scores)


def random_rows(users: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        (f"u{user}", rng.integers(0, 300, rng.integers(1, 50)).tolist(), rng.permutation(300)[:40].tolist())
        for user in range(users)
    ]


@pytest.fixture
def reranker(vllm_engine: Engine, small_model: LocalCheckpoint) -> ItemTokenRanker:
    return ItemTokenRanker(vllm_engine, small_model, catalogue(), INSTRUCTION, NOW)


def scores(out: pa.Table) -> list[Any]:
    return [None if row is None else np.asarray(row, np.float32) for row in out["llm_score"].to_pylist()]


def test_rows_are_returned_in_order_with_their_scores(reranker: ItemTokenRanker) -> None:
    given = table(random_rows(12))
    out = reranker(given)
    assert out.schema == reranked_schema(SOURCES)
    assert out.select(given.column_names).equals(given)
    assert out["error"].null_count == 12
    for codes, row in zip(given["candidate"].to_pylist(), scores(out), strict=True):
        known = np.array(codes) % 2 == 0
        assert np.isfinite(row[known]).all()
        assert np.isnan(row[~known]).all()  # items newer than the tuning


def test_user_scores_are_bit_identical_alone_and_in_a_shard(reranker: ItemTokenRanker) -> None:
    rows = random_rows(20)
    together = scores(reranker(table(rows)))
    for k in (0, 7, 19):
        np.testing.assert_array_equal(scores(reranker(table([rows[k]])))[0], together[k])


def asking(rows: list[Row], asks: list[str | None]) -> pa.Table:
    return table(rows).append_column("instruction", pa.array(asks, pa.string()))


def test_instruction_replaces_the_default_and_requests_are_guided(reranker: ItemTokenRanker) -> None:
    rows = random_rows(3)
    texts = [None, INSTRUCTION, "something else"]
    plain, other = scores(reranker(table(rows))), scores(reranker(asking(rows, texts)))
    np.testing.assert_array_equal(other[0], plain[0])
    np.testing.assert_array_equal(other[1], plain[1])
    assert not np.array_equal(other[2], plain[2], equal_nan=True)
    requests = pa.array([None, None, "something else"], pa.string())
    guided = scores(reranker(asking(rows, texts).append_column("request", requests)))
    np.testing.assert_array_equal(guided[1], plain[1])
    assert not np.array_equal(guided[2], other[2], equal_nan=True)


@pytest.mark.parametrize(
    ("history", "instruction", "scored"), [([], None, False), ([1, 3, 5], None, False), ([], "a lamp", True)]
)
def test_user_without_known_events_is_scored_by_the_instruction_alone(
    reranker: ItemTokenRanker, history: list[int], instruction: str | None, scored: bool
) -> None:
    out = reranker(asking([("new", history, [2, 4, 6]), ("u", [2], [2, 4])], [instruction, None]))
    assert out["error"].null_count == 2
    one, other = scores(out)
    assert len(one) == 3
    assert (np.isfinite(one) == scored).all()
    assert np.isfinite(other).all()


def test_rows_with_equal_prompts_are_computed_once(reranker: ItemTokenRanker, monkeypatch: pytest.MonkeyPatch) -> None:
    history = [2, 4, 6, 7]
    rows: list[Row] = [("u", history, [10, 12, 11]), ("u", history, [12, 20]), ("v", [2], [12])]
    honest, prompt_counts = reranker._engine.last_hidden_states, []

    def watch(prompts: Any) -> Any:
        prompt_counts.append(len(prompts))
        return honest(prompts)

    monkeypatch.setattr(reranker._engine, "last_hidden_states", watch)
    one, two, _ = scores(reranker(table(rows)))
    assert prompt_counts == [2]
    assert one[1] == two[0]
    np.testing.assert_array_equal(scores(reranker(table(rows[:1])))[0], one)


def test_blocks_are_bit_identical_and_compute_no_prompt_twice(
    reranker: ItemTokenRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every user has two distant rows: without a request, and with one, whose guidance includes the history prompt."""
    plain = [*random_rows(15), ("new", [], [2, 4])]
    asks = [None] * 16 + ["a lamp", "a red lamp"] * 8
    given = asking([*plain, *((user, items, offers[::-1]) for user, items, offers in plain)], asks)
    given = given.append_column("request", pa.array(asks, pa.string()))
    honest, read = reranker._engine.last_hidden_states, []

    def watch(prompts: Any) -> Any:
        read.append([tuple(prompt) for prompt in prompts])
        return honest(prompts)

    monkeypatch.setattr(reranker._engine, "last_hidden_states", watch)
    whole = reranker(given)
    monkeypatch.setattr(item_token_ranker, "_BLOCK", 6)
    out = reranker(given)
    for one, other in zip(scores(out), scores(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    at_once, *blocks = read
    assert len(blocks) == 6
    assert max(map(len, blocks)) <= 3 * 4  # of three users: both, history, request, neither
    items = range(reranker._layout.vocabulary.first_item, reranker._layout.vocabulary.size)
    with_items = [[prompt for prompt in prompts if set(prompt) & set(items)] for prompts in (at_once, chain(*blocks))]
    assert sorted(with_items[0]) == sorted(with_items[1])


def test_failing_prompt_has_a_reason_and_affects_no_other_row(
    reranker: ItemTokenRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(5)
    expected = scores(reranker(table(rows)))
    honest = reranker._engine.last_hidden_states

    def failing(prompts: Any) -> Any:
        answers = honest(prompts)
        answers[3] = Failure("it would not be read")
        return answers

    monkeypatch.setattr(reranker._engine, "last_hidden_states", failing)
    out = reranker(table(rows))
    assert out["error"].to_pylist() == [None, None, None, "it would not be read", None]
    assert out["llm_score"].is_null().to_pylist() == [False, False, False, True, False]
    np.testing.assert_array_equal(scores(out)[4], expected[4])


def test_empty_tables_and_rows_without_candidates(reranker: ItemTokenRanker) -> None:
    assert reranker(table([])).schema == reranked_schema(SOURCES)
    assert len(scores(reranker(table([("u", [2, 4], [])])))[0]) == 0


def test_long_history_is_truncated_to_the_newest_events(reranker: ItemTokenRanker) -> None:
    """The model uses the newest 30 known events."""
    known = [int(name[1:]) for name in KNOWN]
    long, short = known[:80], known[50:80]
    rows: list[Row] = [("long", long, [2, 4, 8]), ("short", short, [2, 4, 8])]
    one, two = scores(reranker(table(rows)))
    np.testing.assert_array_equal(one, two)


def test_chunked_tables_give_the_same_scores(reranker: ItemTokenRanker) -> None:
    rows = random_rows(6)
    chunked = pa.concat_tables([table(rows[:2]), table(rows[2:])])
    assert chunked["item"].num_chunks == 2
    for one, two in zip(scores(reranker(chunked)), scores(reranker(table(rows))), strict=True):
        np.testing.assert_array_equal(one, two)
