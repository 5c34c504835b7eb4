"""The pointwise reranker with scripted answers, and the common prefix of its prompts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from oracle import Oracle, load
from small_checkpoints import TITLES

from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.pointwise import _log_odds
from rayrec.reranking.text.text_scorer import RankingQuery


def number(text: str) -> int:
    return int(re.findall(r"Item: item (\d+)", text)[0])


def by_number(text: str, count: int) -> list[float]:
    """Yes by the item's number; with `count` ids: the spellings of yes, then those of no."""
    return [number(text) / 3] * (count // 2) + [1.0] * (count // 2)


def ask(*numbers: int) -> RankingQuery:
    return RankingQuery("anything", tuple(TITLES), tuple(f"item {number}" for number in numbers))


def test_score_is_the_log_odds_of_yes(qwen3: InstructCheckpoint) -> None:
    (scores,) = load("pointwise", Oracle(qwen3, by_number), qwen3).score([ask(6, 0, 3)])
    np.testing.assert_allclose(scores, [1.0, -1.0, 0.0], atol=1e-6)


def test_probabilities_of_spellings_are_summed() -> None:
    answer = np.log([0.3, 0.1, 0.15, 0.05]).astype(np.float32)  # Yes, yes, No, no
    np.testing.assert_allclose(_log_odds([answer]), [np.log(2)], atol=1e-6)


def test_failing_item_is_nan_and_only_all_failing_items_are_a_failure(qwen3: InstructCheckpoint) -> None:
    oracle = Oracle(qwen3, lambda text, n: None if number(text) > 7 else by_number(text, n))
    some, none, empty = load("pointwise", oracle, qwen3).score([ask(6, 8, 3), ask(8, 9), ask()])
    np.testing.assert_allclose(some, [1.0, np.nan, 0.0], atol=1e-6)
    assert none == Failure("it would not be read")
    assert np.asarray(empty).shape == (0,)


def test_prompts_of_a_user_share_everything_before_the_item(checkpoint: InstructCheckpoint) -> None:
    """The prefix does not depend on the item's length, so the engine computes it once."""
    oracle = Oracle(checkpoint)
    query = RankingQuery("tea", tuple(TITLES), ("short", "long " * 500))
    load("pointwise", oracle, checkpoint, events=5).score([query])
    one, two = oracle.prompts
    shared = one[: next(place for place in range(len(one)) if one[place] != two[place])]
    assert shared.rstrip().endswith("Item:")
    assert [title in shared for title in TITLES] == [False] * (len(TITLES) - 5) + [True] * 5
    assert shared.index(TITLES[-2]) < shared.index(TITLES[-1])


@pytest.mark.parametrize("tokens", [290, 310, 330])
def test_short_prompt_keeps_the_newest_events_within_the_limit(qwen3: InstructCheckpoint, tokens: int) -> None:
    oracle = Oracle(qwen3)
    oracle.max_prompt_tokens = tokens
    (scores,) = load("pointwise", oracle, qwen3).score(
        [RankingQuery("tea " * 100, tuple(TITLES), ("x" * 5_000, "short"))]
    )
    assert np.isfinite(np.asarray(scores)).all()
    held = [title in oracle.prompts[0] for title in TITLES]
    assert held == sorted(held)
    assert 0 < sum(held) < len(TITLES)
